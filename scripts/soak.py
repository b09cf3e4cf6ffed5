#!/usr/bin/env python3
"""Kills the program at random, over and over, and compares what it comes to with what it comes to undisturbed.

    python3 scripts/soak.py --binary target/release/bertstream --minutes 30 --seed 1

Each round is a training that is met at random times by a random fault (SIGKILL, SIGTERM, SIGINT, SIGUSR1, two
signals, a full disk) and gone on with under other workers, another reader and another number of threads, until it is
done: weights, moments and state must then be those of the training that nothing met, byte for byte. Between the
rounds, indexing, encoding and building the vocabulary are killed at random times and run again: their files must be
those of an undisturbed run. Faults and times are drawn from the seed; what the kernel makes of them is not.

Prints the counts as JSON and ends with status 1 at the first difference. The full disk is a small tmpfs, which takes
root; without that its part is left out, and that is told.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAIN = ("train -c {text} -t {held_out} -v {vocab} -H 16 -l 1 -a 2 -s 16 -b 8 --steps 200 --save-every 20 "
         "--eval-every 100 --eval-lines 16 --log-freq 10 --quiet")
RESULTS = ["model.safetensors", "optimizer.safetensors", "state.json"]
TMPFS_BYTES = 8 << 20


class Difference(Exception):
    """What was promised did not hold."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def sums(directory, patterns):
    files = sorted(path for pattern in patterns for path in directory.glob(pattern))
    if len(files) != len(patterns):
        raise Difference(f"{directory} holds {files} where {patterns} was expected")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Soak:
    def __init__(self, binary, seed, work):
        self.binary, self.random, self.work = binary, random.Random(seed), work
        self.counts = collections.Counter()
        # Seconds and files of each stage.
        self.undisturbed = {}
        self.text, self.held_out = work / "train.tsv", work / "held-out.tsv"
        shutil.copy(ROOT / "fixtures/toy.pairs.tsv", self.text)
        shutil.copy(ROOT / "fixtures/toy.held-out.pairs.tsv", self.held_out)
        self.vocab = work / "vocab.json"
        self.call(f"vocab -c {self.text} -o {self.vocab}")
        began = time.monotonic()
        self.call(self.train(work / "whole"))
        self.whole = time.monotonic() - began
        self.expected = sums(work / "whole", RESULTS)
        say(f"undisturbed: {self.whole:.2f} s")

    def train(self, output):
        return TRAIN.format(text=self.text, held_out=self.held_out, vocab=self.vocab) + f" -o {output}"

    def start(self, flags):
        words = [str(self.binary), *flags.split()]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "XDG_CACHE_HOME": str(self.work / "cache")})

    def call(self, flags):
        process = self.start(flags)
        told = process.communicate()[1]
        if process.returncode != 0:
            raise Difference(f"{flags}: status {process.returncode}: {told}")

    def way(self):
        """How to go on: nothing of it may change a weight."""
        io = self.random.choice(["mmap", "pread", "memory"])
        workers, threads = self.random.choice([0, 1, 2, 3, 8]), self.random.choice([1, 2])
        return f"--io {io} --workers {workers} --threads {threads}"

    def wait(self, process, longest):
        """Whether the process ended by itself within a random time, a short one rather than a long one: the machine
        may have less to do than when it was measured."""
        try:
            process.wait(longest * self.random.random() ** 3)
            return True
        except subprocess.TimeoutExpired:
            return False

    def signalled(self, process, kind):
        """Sends a signal, or two, and holds the status to what is promised."""
        kinds = {
            "SIGKILL": ([signal.SIGKILL], {-9}),
            # Before there is anything to save, a signal ends the process as it ends any.
            "SIGTERM": ([signal.SIGTERM], {75, -15}),
            "SIGINT": ([signal.SIGINT], {130, -2}),
            "SIGUSR1": ([signal.SIGUSR1], {75, -10}),
            "two signals": ([signal.SIGTERM, signal.SIGKILL], {75, -15, -9}),
        }
        signals, statuses = kinds[kind]
        for number in signals:
            process.send_signal(number)
            if len(signals) > 1:
                time.sleep(self.random.uniform(0, 0.02))
        told = process.communicate()[1]
        # It may have been done a moment before.
        if process.returncode not in statuses | {0}:
            raise Difference(f"{kind}: status {process.returncode}: {told}")

    def disk_fills(self, process, directory):
        """Fills the disk under a training for a while; whether that ended it, which only its last checkpoint may."""
        filler = directory / "filler"
        try:
            with open(filler, "wb") as out:
                while True:
                    out.write(bytes(1 << 16))
                    out.flush()
        except OSError:
            pass
        ended = self.wait(process, self.whole)
        if ended and process.returncode not in (0, 74):
            raise Difference(f"a full disk: status {process.returncode}: {process.communicate()[1]}")
        filler.unlink()
        return ended

    def trained(self, place):
        """One training under faults, to its end."""
        run, faults = place / "run", self.random.randint(1, 8)
        while True:
            begun = (run / "config.json").exists()
            process = self.start(f"train --resume {run} --quiet {self.way()}" if begun
                                 else f"{self.train(run)} {self.way()}")
            ended = faults <= 0 and process.wait() is not None or self.wait(process, self.whole)
            if not ended:
                faults -= 1
                kinds = ["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1", "two signals"]
                kind = self.random.choice(kinds + (["full disk"] * 2 if place.is_mount() else []))
                self.counts[kind] += 1
                if kind == "full disk":
                    ended = self.disk_fills(process, place)
                    if not ended:
                        self.signalled(process, "SIGKILL")
                else:
                    self.signalled(process, kind)
            if ended:
                told = process.communicate()[1]
                if process.returncode == 0:
                    break
                if process.returncode != 74 or not place.is_mount():
                    raise Difference(f"status {process.returncode}: {told}")
        found = sums(run, RESULTS)
        if found != self.expected:
            raise Difference(f"{run}: {found} where {self.expected} was expected")
        strays = [str(path) for path in run.rglob(".bertstream-*")]
        if strays:
            raise Difference(f"left behind: {strays}")
        self.counts["trainings"] += 1

    def stage(self, name, flags, results):
        """Kills a stage at a random time, runs it again to its end, and compares its files."""
        place = self.work / name
        place.mkdir(exist_ok=True)
        if not (self.work / "large.tsv").exists():
            (self.work / "large.tsv").write_bytes(self.text.read_bytes() * 20)
        for path in place.glob("*"):
            path.unlink()
        text = place / "text.tsv"
        os.link(self.work / "large.tsv", text)
        flags = flags.format(text=text, vocab=self.vocab, place=place)
        if name not in self.undisturbed:
            began = time.monotonic()
            self.call(flags)
            self.undisturbed[name] = time.monotonic() - began, sums(place, results)
            return
        seconds, expected = self.undisturbed[name]
        process = self.start(flags)
        if not self.wait(process, seconds):
            self.signalled(process, "SIGKILL")
            self.counts[f"{name} killed"] += 1
        else:
            process.communicate()
        self.call(flags)
        if sums(place, results) != expected:
            raise Difference(f"{name}: another file than undisturbed")

    def stages(self):
        self.stage("index", "corpus -c {text} --index-dir {place}", ["*.bsidx"])
        self.stage("tokenize", "tokenize -c {text} -v {vocab} -o {place}/ids.bstok --workers 2", ["ids.bstok"])
        self.stage("vocab", "vocab -c {text} -o {place}/vocab.json", ["vocab.json"])


def mounted(work):
    """A small disk of its own, or an ordinary directory where none can be mounted."""
    place = work / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
        say("no tmpfs can be mounted here: full disks are left out")
    return place


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/bertstream")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="bertstream-soak-"))
    disk = mounted(work)
    end = time.monotonic() + 60 * args.minutes
    status = 0
    try:
        soak = Soak(args.binary.resolve(), args.seed, work)
        while time.monotonic() < end:
            for place in (work / "place", disk):
                place.mkdir(exist_ok=True)
                soak.trained(place)
                shutil.rmtree(place / "run")
            for _ in range(5):
                soak.stages()
            say(json.dumps(soak.counts))
    except Difference as difference:
        print(f"difference: {difference}", file=sys.stderr)
        status = 1
    finally:
        if disk.is_mount():
            subprocess.run(["umount", str(disk)], check=True)
        if status == 0:
            shutil.rmtree(work)
        else:
            say(f"what is left lies in {work}")
    print(json.dumps({"seed": args.seed, "minutes": args.minutes, **soak.counts}))
    return status


if __name__ == "__main__":
    sys.exit(main())
