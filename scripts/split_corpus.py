#!/usr/bin/env python3
"""Splits a corpus into a part to train on and a part held out, the same way every time.

Pairs (a pair a line): every 20th block of 50 consecutive lines is held out, so that all domains of the corpus
are in both parts, while neighbouring lines (which often share words) mostly stay on the same side. With
`--documents` (a sentence a line, blank lines between documents): every 20th document. Bytes are copied as they
are.

    scripts/split_corpus.py CORPUS DIRECTORY                # writes DIRECTORY/{train,held-out}.tsv
    scripts/split_corpus.py --documents CORPUS DIRECTORY    # writes DIRECTORY/{train,held-out}.txt
"""

import argparse
import pathlib

BLOCK = 50
EVERY = 20


def blocks_of_lines(corpus):
    """Every line with the number of its block."""
    for number, line in enumerate(corpus):
        yield number // BLOCK, line


def documents(corpus):
    """Every line with the number of its document; blank lines belong to the document before them."""
    number, ended = 0, False
    for line in corpus:
        if not line.strip():
            ended = True
        elif ended:
            number, ended = number + 1, False
        yield number, line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--documents", action="store_true", help="hold out documents, not blocks of lines")
    args = parser.parse_args()

    args.directory.mkdir(parents=True, exist_ok=True)
    cut, suffix, unit = (documents, ".txt", "documents") if args.documents else (blocks_of_lines, ".tsv", "blocks")
    names = {part: args.directory / (part + suffix) for part in ("train", "held-out")}
    units = {part: set() for part in names}
    lines = dict.fromkeys(names, 0)
    with open(args.corpus, "rb") as corpus, open(names["train"], "wb") as train, open(names["held-out"], "wb") as held:
        files = {"train": train, "held-out": held}
        for number, line in cut(corpus):
            part = "held-out" if number % EVERY == EVERY - 1 else "train"
            files[part].write(line)
            units[part].add(number)
            lines[part] += 1
    for part, name in names.items():
        print(f"{name}: {lines[part]} lines, {len(units[part])} {unit}")


if __name__ == "__main__":
    main()
