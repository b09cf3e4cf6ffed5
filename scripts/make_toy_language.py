#!/usr/bin/env python3
"""Writes the toy language that the quickstart trains on.

Two sentences a line with a tab between, the reference's format. The language is small (a few hundred
words), but both pretraining tasks can be learnt from it, each for a reason that can be named:

* Masked words. Determiner, noun, pronoun and verb agree in number; each subject has its own adjective,
  each verb its own objects or its own place; the second sentence often repeats the first one's subject.
* Next sentence. Each line has a hidden topic with words of its own, and its second sentence goes on about
  the first one's subject. A second sentence from another line has another topic seven times out of eight,
  and mostly another subject or number otherwise. Some random pairs are perfectly good ones, so the
  accuracy that can be reached lies a little below 100 %.

Only the standard library, one fixed seed, and `random.Random.random()` alone (the one method whose numbers
Python promises to keep), so the files are the same bytes wherever this runs.

    scripts/make_toy_language.py [DIRECTORY]        # default: fixtures/ of this repository
"""

import pathlib
import random
import sys

SEED = 20
TRAINING_LINES = 5500
HELD_OUT_LINES = 330

# Topic by topic: subjects (singular, plural, adjective), transitive verbs (singular, plural, objects),
# intransitive verbs (singular, plural, where). No content word belongs to two topics.
TOPICS = {
    "forest": (
        [("fox", "foxes", "red"), ("wolf", "wolves", "gray"), ("bear", "bears", "brown"), ("owl", "owls", "silent")],
        [("chases", "chase", ["rabbit", "deer"]), ("hunts", "hunt", ["deer", "mouse"]), ("smells", "smell", ["mushroom", "rabbit"])],
        [("sleeps", "sleep", "in the cave"), ("hides", "hide", "behind the bush"), ("drinks", "drink", "from the river")],
    ),
    "sea": (
        [("sailor", "sailors", "brave"), ("captain", "captains", "bearded"), ("pirate", "pirates", "greedy"), ("diver", "divers", "wet")],
        [("steers", "steer", ["ship", "boat"]), ("loads", "load", ["boat", "cargo"]), ("catches", "catch", ["fish", "crab"])],
        [("swims", "swim", "under the waves"), ("rests", "rest", "on the beach"), ("fights", "fight", "against the storm")],
    ),
    "kitchen": (
        [("cook", "cooks", "hungry"), ("baker", "bakers", "friendly"), ("waiter", "waiters", "polite"), ("guest", "guests", "happy")],
        [("bakes", "bake", ["bread", "cake"]), ("tastes", "taste", ["soup", "cake"]), ("orders", "order", ["soup", "meal"])],
        [("waits", "wait", "beside the oven"), ("eats", "eat", "at the table"), ("chats", "chat", "near the pantry")],
    ),
    "school": (
        [("teacher", "teachers", "patient"), ("pupil", "pupils", "curious"), ("student", "students", "lazy"), ("professor", "professors", "famous")],
        [("reads", "read", ["book", "letter"]), ("writes", "write", ["letter", "essay"]), ("solves", "solve", ["riddle", "problem"])],
        [("studies", "study", "in the library"), ("speaks", "speak", "before the class"), ("sits", "sit", "by the blackboard")],
    ),
    "farm": (
        [("farmer", "farmers", "busy"), ("cow", "cows", "spotted"), ("goat", "goats", "stubborn"), ("hen", "hens", "fat")],
        [("finds", "find", ["grain", "hay"]), ("tramples", "trample", ["hay", "clover"]), ("ignores", "ignore", ["dog", "tractor"])],
        [("stands", "stand", "inside the barn"), ("wanders", "wander", "across the field"), ("returns", "return", "through the gate")],
    ),
    "music": (
        [("singer", "singers", "proud"), ("drummer", "drummers", "loud"), ("pianist", "pianists", "gentle"), ("dancer", "dancers", "graceful")],
        [("hears", "hear", ["song", "melody"]), ("learns", "learn", ["melody", "rhythm"]), ("repeats", "repeat", ["chorus", "song"])],
        [("performs", "perform", "on the stage"), ("practises", "practise", "in the studio"), ("bows", "bow", "to the audience")],
    ),
    "sky": (
        [("pilot", "pilots", "calm"), ("astronaut", "astronauts", "weightless"), ("robot", "robots", "shiny"), ("scientist", "scientists", "clever")],
        [("repairs", "repair", ["rocket", "engine"]), ("tests", "test", ["engine", "signal"]), ("observes", "observe", ["planet", "comet"])],
        [("floats", "float", "around the station"), ("lands", "land", "on the moon"), ("flies", "fly", "above the clouds")],
    ),
    "court": (
        [("king", "kings", "old"), ("queen", "queens", "wise"), ("knight", "knights", "noble"), ("servant", "servants", "loyal")],
        [("guards", "guard", ["crown", "castle"]), ("steals", "steal", ["crown", "jewel"]), ("polishes", "polish", ["sword", "jewel"])],
        [("kneels", "kneel", "before the throne"), ("rides", "ride", "toward the village"), ("feasts", "feast", "in the hall")],
    ),
}

# Singular and plural, at the first mention and at the second.
FIRST_DETERMINERS = (["the", "a", "every"], ["the", "many", "two"])
SECOND_DETERMINERS = (["the", "this"], ["the", "these"])
PRONOUNS = ("it", "they")
ADVERBS = ["today", "again", "slowly", "often"]


def choose(rng, items):
    return items[int(rng.random() * len(items))]


def chance(rng, probability):
    return rng.random() < probability


def with_article(words):
    """`a` becomes `an` where the next word begins with a vowel."""
    following = words[1:] + [""]
    return ["an" if word == "a" and after[0:1] in tuple("aeiou") else word for word, after in zip(words, following)]


def verb_phrase(rng, topic, number, transitive):
    """A verb that agrees in number with what comes before it, and what belongs to that verb."""
    _, with_object, with_place = topic
    if transitive:
        verb = choose(rng, with_object)
        return [verb[number], choose(rng, ["the", "a"]), choose(rng, verb[2])]
    verb = choose(rng, with_place)
    return [verb[number], *verb[2].split()]


def line(rng):
    """One document: 4 to 8 words, a tab, 4 to 8 words about the same subject."""
    topic = choose(rng, list(TOPICS.values()))
    subject = choose(rng, topic[0])
    number = int(chance(rng, 0.5))
    noun, adjective = subject[number], subject[2]

    first_is_transitive = chance(rng, 0.7)
    first = [choose(rng, FIRST_DETERMINERS[number])]
    if chance(rng, 0.6):
        first.append(adjective)
    first += [noun, *verb_phrase(rng, topic, number, first_is_transitive)]

    if chance(rng, 0.7):
        second = [choose(rng, SECOND_DETERMINERS[number])]
        if chance(rng, 0.3):
            second.append(adjective)
        second.append(noun)
    else:
        second = [PRONOUNS[number]]
    second += verb_phrase(rng, topic, number, transitive=not first_is_transitive)
    if chance(rng, 0.3):
        second.append(choose(rng, ADVERBS))
    return " ".join(with_article(first)) + "\t" + " ".join(with_article(second))


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "fixtures"
    directory.mkdir(parents=True, exist_ok=True)

    rng = random.Random(SEED)
    lines = {}  # Keeps the order of insertion; no line occurs twice, in neither file.
    while len(lines) < TRAINING_LINES + HELD_OUT_LINES:
        lines[line(rng)] = None
    lines = list(lines)
    for name, part in [("toy.pairs.tsv", lines[:TRAINING_LINES]), ("toy.held-out.pairs.tsv", lines[TRAINING_LINES:])]:
        content = "".join(f"{document}\n" for document in part).encode()
        (directory / name).write_bytes(content)
        words = {word for document in part for word in document.split()}
        lengths = [len(sentence.split()) for document in part for sentence in document.split("\t")]
        print(
            f"{directory / name}: {len(part)} lines, {len(content)} bytes, {len(words)} distinct words, "
            f"sentences of {min(lengths)} to {max(lengths)} words"
        )


if __name__ == "__main__":
    main()
