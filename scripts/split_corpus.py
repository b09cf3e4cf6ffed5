#!/usr/bin/env python3
"""Splits a corpus into a part to train on and a part held out, the same way every time.

Every 20th block of 50 consecutive lines is held out: all domains of the corpus are in both parts, while
neighbouring lines (which often share words) mostly stay on the same side. Bytes are copied as they are.

    scripts/split_corpus.py CORPUS DIRECTORY        # writes DIRECTORY/train.tsv and DIRECTORY/held-out.tsv
"""

import argparse
import pathlib

BLOCK = 50
EVERY = 20


def is_held_out(line_number):
    """Whether the line (from 0) belongs to the held-out part: the last block of each run of `EVERY`."""
    return line_number // BLOCK % EVERY == EVERY - 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("directory", type=pathlib.Path)
    args = parser.parse_args()

    args.directory.mkdir(parents=True, exist_ok=True)
    names = {False: args.directory / "train.tsv", True: args.directory / "held-out.tsv"}
    counts = {False: 0, True: 0}
    with open(args.corpus, "rb") as corpus, open(names[False], "wb") as train, open(names[True], "wb") as held_out:
        for number, line in enumerate(corpus):
            part = is_held_out(number)
            (held_out if part else train).write(line)
            counts[part] += 1
    for part, name in names.items():
        print(f"{name}: {counts[part]} lines")


if __name__ == "__main__":
    main()
