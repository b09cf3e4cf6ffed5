"""Compares the ids of `bertstream tokenizer encode` with those of Python's `tokenizers`, line by line.

Called by check_tokenizers.sh. With --fixture it writes fixtures/tokenizers instead: small tokenizers of each
model, trained by this program on fixtures/toy.pairs.tsv, and the ids that Python gives to hostile lines.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tokenizers import BertWordPieceTokenizer, Tokenizer

MODELS = ["wordpiece", "bpe", "unigram"]

# Lines as no corpus should have them; every one is also a line of the fixture.
HOSTILE = [
    "",
    " ",
    "\t \u00a0\u3000 ",
    "Hello, World! Don't stop-me now...",
    "\u6771\u4eac\u30bf\u30ef\u30fc and \uc11c\uc6b8 \uc5ed \U00020000\U0002a6d6",
    "e\u0301 \u00e9 E\u0301 n\u0303 \u0130stanbul \u00df \ufb01 \u1e9b\u0323 a\u0300\u0301\u0302\u0303\u0304",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\u0001\u0007a\u0008b\u001bc\u007fd\u0085e\u001cf\u001dg\u001eh\u001fi",
    "a\u0000b \u0000",
    "\ufffd \ufeffx \uffff \U0010ffff \ue000",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c \u200fx",
    "[CLS] a [MASK] b[SEP] [PAD][UNK] [mask] <mask> <s> ##a [unused1]",
    "##ing ## # \u0120a \u2581b \u2581",
    "1234567890 3.14 1e-9 \u0661\u0662\u0663 \u00b2 \u2167",
    "https://example.org/a?b=c&d=%20e#f user@example.org C:\\dir\\file",
    "a\u200bb a\u2028b a\u2029b a\u00adb\rc\r",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u1780\u1798\u17d2",
    "\u01c5 \u03a3\u03b1\u03c2 \u03a3\u0391\u03a3 \u1e9e \u212a\u212b",
]

# Too large for a fixture.
HUGE = [
    "a" * (1 << 20),
    "\u6771" * 100_000,
    "\u0301" * 100_000,
    "\U0001f469\u200d" * 50_000,
    "word " * 200_000,
    "[MASK]" * 50_000,
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101,
    "." * 100_000,
]


def ours(program, tokenizer, lines):
    """The ids that the program gives to each line."""
    text = "".join(line + "\n" for line in lines).encode("utf-8")
    command = [program, "tokenizer", "encode", "--tokenizer", str(tokenizer), "--json"]
    printed = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True).stdout
    return [json.loads(line)["ids"] for line in printed.split(b"\n") if line]


def compare(name, program, path, peer, lines):
    """Refuses the first line whose ids differ; gives the number of lines and ids."""
    found = ours(program, path, lines)
    if len(found) != len(lines):
        sys.exit(f"{name}: {len(found)} answers to {len(lines)} lines")
    ids = 0
    for number, (line, mine) in enumerate(zip(lines, found), 1):
        theirs = peer.encode(line, add_special_tokens=False).ids
        if mine != theirs:
            sys.exit(f"{name}: line {number} differs: {line[:80]!r}\n  ours   {mine[:20]}\n  theirs {theirs[:20]}")
        ids += len(mine)
    print(f"{name:<40} {len(lines):>8} lines {ids:>10} ids  identical")


def train(program, corpus, model, size, output, *flags):
    command = [program, "tokenizer", "train", "--corpus", str(corpus), "--model", model]
    command += ["--vocab-size", str(size), "--output", str(output), *flags]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def check(program, corpus, work):
    lines = corpus.read_bytes().decode("utf-8").split("\n")
    for model in MODELS:
        for flags in [[], ["--cased"]]:
            path = work / f"{model}{'-cased' if flags else ''}.json"
            train(program, corpus, model, 8192, path, *flags)
            peer = Tokenizer.from_file(str(path))
            compare(f"{path.stem}, corpus", program, path, peer, lines)
            compare(f"{path.stem}, hostile", program, path, peer, HOSTILE + HUGE)
    for cased in [False, True]:
        directory = work / ("cased" if cased else "uncased")
        directory.mkdir(exist_ok=True)
        vocabulary = json.loads((work / ("wordpiece-cased.json" if cased else "wordpiece.json")).read_text())
        tokens = vocabulary["model"]["vocab"]
        (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in sorted(tokens, key=tokens.get)))
        peer = BertWordPieceTokenizer(str(directory / "vocab.txt"), lowercase=not cased)
        for name in ["corpus", "hostile"]:
            text = lines if name == "corpus" else HOSTILE + HUGE
            compare(f"{directory.name} vocab.txt, {name}", program, directory / "vocab.txt", peer, text)


def fixture(program, repository):
    """Writes what the tests compare with."""
    directory = repository / "fixtures/tokenizers"
    directory.mkdir(exist_ok=True)
    expected = {"lines": HOSTILE}
    for model in MODELS:
        path = directory / f"{model}.json"
        train(program, repository / "fixtures/toy.pairs.tsv", model, 320, path)
        peer = Tokenizer.from_file(str(path))
        encoded = [peer.encode(line, add_special_tokens=False) for line in HOSTILE]
        expected[model] = {"ids": [e.ids for e in encoded], "words": [e.word_ids for e in encoded]}
    text = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in expected.items())
    (directory / "expected.json").write_text(f"{{\n{text}\n}}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bertstream", required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--fixture", action="store_true")
    args = parser.parse_args()
    if args.fixture:
        fixture(args.bertstream, Path(__file__).resolve().parent.parent)
    else:
        args.work.mkdir(parents=True, exist_ok=True)
        check(args.bertstream, args.corpus, args.work)


main()
