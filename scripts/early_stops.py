#!/usr/bin/env python3
"""Stops commands at random moments while they work on very long documents, and tells how long they take to end.

    python3 scripts/early_stops.py --binary target/release/bertstream --text fixtures/toy.docs.txt --times 20

The corpus is made of the text: five documents of 15.8 MB, nearly the longest that are read, a document a line. For each
tokenizer and number of workers, `train` gets SIGTERM and SIGINT by turns, from its first step on; `sample` and `collate`
lose the reader of their output; `bench sample`, `bench collate` and `tokenize` get SIGTERM, and `bench collate` ends by
itself behind random times as well, where it tells how long its threads took to end. Prints a table of the longest and the
median times in milliseconds, and ends with status 1 where one is longer than a second.
"""

import argparse
import itertools
import json
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = 15_800_000
DOCUMENTS = 5
TRAIN = "train {corpus} --hidden 32 --layers 1 --attn-heads 2 -b 8 --seq-len 64 --steps 1000000 --log-freq 1"
SPAN = 3.0


class Stops:
    def __init__(self, binary, text, work, seed):
        self.binary, self.work, self.random = binary, work, random.Random(seed)
        self.corpus = work / "books.txt"
        lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
        with self.corpus.open("w", encoding="utf-8") as out:
            for number in range(DOCUMENTS):
                start = number * len(lines) // DOCUMENTS
                self.write_document(out, itertools.cycle(lines[start:] + lines[:start]))
        self.vocabularies = {"words": work / "vocab.json", "Unigram": work / "unigram.json"}
        self.call(f"vocab -c {text} --vocab-size 8192 -o {self.vocabularies['words']}")
        self.call(f"tokenizer train --corpus {text} --model unigram --vocab-size 8192 "
                  f"--output {self.vocabularies['Unigram']}")

    def write_document(self, out, lines):
        size = 0
        for line in lines:
            size += len(line.encode()) + 1
            if size > DOCUMENT:
                break
            out.write(line + " ")
        out.write("\n")

    def start(self, flags, **streams):
        return subprocess.Popen([str(self.binary), *flags.split()], **streams)

    def call(self, flags):
        subprocess.run([str(self.binary), *flags.split()], check=True, capture_output=True)

    def ended(self, process):
        """Milliseconds until the process has ended."""
        began = time.monotonic()
        process.wait()
        return 1e3 * (time.monotonic() - began)

    def train(self, flags, number):
        run = self.work / "run"
        shutil.rmtree(run, ignore_errors=True)
        told = self.work / "told"
        with told.open("wb") as out:
            process = self.start(f"{TRAIN.format(corpus=flags)} -o {run}", stdout=subprocess.DEVNULL, stderr=out)
        while b"\nstep " not in told.read_bytes():
            assert process.poll() is None, told.read_text()
            time.sleep(0.02)
        time.sleep(self.random.uniform(0, SPAN))
        process.send_signal([signal.SIGTERM, signal.SIGINT][number % 2])
        took = self.ended(process)
        assert process.returncode == [75, 130][number % 2], told.read_text()
        return took

    def unread(self, command, flags):
        process = self.start(f"{command} {flags} --seq-len 64", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        until = time.monotonic() + self.random.uniform(0, SPAN)
        process.stdout.read(1)
        while time.monotonic() < until and process.stdout.read1(1 << 16):
            pass
        process.stdout.close()
        return self.ended(process)

    def terminated(self, flags):
        process = self.start(flags, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.random.uniform(0.1, SPAN))
        process.send_signal(signal.SIGTERM)
        took = self.ended(process)
        for part in self.work.glob("*.part"):
            part.unlink()
        return took

    def measured(self, flags):
        flags = f"bench collate {flags} --seq-len 64 --seconds {self.random.uniform(0.01, SPAN):.3f} --json"
        line = subprocess.run([str(self.binary), *flags.split()], check=True, capture_output=True).stdout
        return json.loads(line)["stop_ms"]

    def rows(self, workers, train):
        for (name, vocabulary), count in itertools.product(self.vocabularies.items(), workers):
            def flags(pair):
                return f"-c {self.corpus} --corpus-format text -v {vocabulary} -w {count} --pair {pair}"

            for pair in ["nsp", "none"]:
                yield f"train --pair {pair}", name, count, lambda n: self.train(flags(pair), n)
                if train:
                    continue
                yield f"bench collate --pair {pair}", name, count, lambda _: self.measured(flags(pair))
            if train:
                continue
            yield "sample, unread", name, count, lambda _: self.unread("sample", flags("nsp"))
            yield "collate, unread", name, count, lambda _: self.unread("collate", flags("nsp"))
            corpus = f"-c {self.corpus} --corpus-format text -v {vocabulary} -w {count}"
            for command in ["bench sample", "bench collate", "tokenize"]:
                yield f"{command}, SIGTERM", name, count, lambda _: self.terminated(f"{command} {corpus}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/bertstream")
    parser.add_argument("--text", type=pathlib.Path, required=True, help="text of any size, a sentence a line")
    parser.add_argument("--times", type=int, default=20, help="stops of each kind")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 8])
    parser.add_argument("--train", action="store_true", help="nothing but train")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    longest = 0
    with tempfile.TemporaryDirectory() as work:
        stops = Stops(args.binary.resolve(), args.text, pathlib.Path(work), args.seed)
        print(f"{'command':28} {'tokenizer':10} {'workers':>7} {'longest ms':>11} {'median ms':>10}")
        for command, name, count, stop in stops.rows(args.workers, args.train):
            times = [stop(number) for number in range(args.times)]
            longest = max(longest, *times)
            print(f"{command:28} {name:10} {count:7} {max(times):11.1f} {statistics.median(times):10.1f}", flush=True)
    sys.exit(int(longest > 1000))


if __name__ == "__main__":
    main()
