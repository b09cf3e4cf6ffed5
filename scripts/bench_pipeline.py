#!/usr/bin/env python3
"""The data pipeline side by side with others that make batches, ids and vocabularies of the same text.

    scripts/setup_peers.sh                       # prints the environment's python
    PYTHON scripts/bench_pipeline.py --pairs peps.pairs.tsv --docs peps.docs.txt [--rounds 3] [--rows batches,ids]

Every round runs each side once, in turn, each in a process of its own; a side's figure is the median over the
rounds, and a row compares the best side of each. Batches are 64 rows of 128 tokens at most; both have two cores.

    batches    bert_pytorch's DataLoader with 0, 1 and 2 workers, on the pairs in memory
    collator   transformers' DataCollatorForLanguageModeling on ids that are ready: what it does not do is encode
    ids        tokenizers' WordPiece, whole corpus as one batch: what it does not do is mask and collate
    documents  Google's create_pretraining_data.py, which needs TensorFlow: its figure is stated, not measured
    vocab      bert_pytorch's WordVocab in memory; bertstream's whole command, from the start of the process to the
               30,000 most frequent words synced to disk, median of seven; and counting the same text repeated (--repeat)
    order      bertstream's samples with 2 workers, as they are finished and in their order: what keeping it costs

bertstream's other sides are `bertstream bench collate` and `bench vocab`: from text on disk to collated batches, with
0, 1 and 2 workers. `stored` is the same from ids that `bertstream tokenize` has written. Prints Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH, LENGTH, SUBWORDS = 64, 128, 8192
WORKERS = (0, 1, 2)

# Samples a second of one process on peps.docs.txt, measured on another day.
GOOGLE = 2364


def per_second(amount, run):
    start = time.perf_counter()
    run()
    return amount / (time.perf_counter() - start)


def loader(workers, place, _):
    """bert_pytorch's batches of one epoch: samples a second."""
    from bert_pytorch.dataset import BERTDataset, WordVocab
    from torch.utils.data import DataLoader

    with open(place / "pairs.tsv", encoding="utf-8") as lines:
        vocab = WordVocab(lines)
    dataset = BERTDataset(str(place / "pairs.tsv"), vocab, seq_len=LENGTH)
    batches = DataLoader(dataset, batch_size=BATCH, num_workers=workers)
    return per_second(len(dataset), lambda: [None for _ in batches])


def word_vocab(_, place, __):
    """bert_pytorch's vocabulary: bytes a second."""
    from bert_pytorch.dataset import WordVocab

    def build():
        with open(place / "pairs.tsv", encoding="utf-8") as lines:
            WordVocab(lines)

    return per_second((place / "pairs.tsv").stat().st_size, build)


def word_pieces(_, place, __):
    """tokenizers' ids of all sentences, on all cores: bytes a second."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    text = (place / "pairs.tsv").read_text(encoding="utf-8")
    sentences = text.replace("\t", "\n").split("\n")
    tokenizer.encode_batch(sentences[:1000], add_special_tokens=False)
    size = len(text.encode("utf-8"))
    return per_second(size, lambda: tokenizer.encode_batch(sentences, add_special_tokens=False))


def collator(_, place, __):
    """transformers' masked batches of ready ids: samples a second."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(place / "tokenizer.json"), **special)
    lines = (place / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    columns = [list(side) for side in zip(*pairs)]
    encoded = tokenizer(*columns, truncation=True, max_length=LENGTH, return_special_tokens_mask=True)
    ready = [{name: encoded[name][i] for name in encoded} for i in range(len(pairs))]
    collate = DataCollatorForLanguageModeling(tokenizer)
    starts = range(0, len(ready), BATCH)
    return per_second(len(ready), lambda: [None for at in starts if collate(ready[at : at + BATCH])])


def bench(program, stage, figure, flags):
    command = [program, "bench", stage, "--seconds", "3", "--json", *map(str, flags)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)[figure]


def own_batches(corpus, vocab, figure, tokens=None):
    """bertstream's batches of a corpus: the figure of `bench collate`."""

    def measure(workers, place, program):
        flags = ["--corpus", place / corpus, "--vocab", place / vocab, "--workers", workers]
        flags += ["--batch-size", BATCH, "--seq-len", LENGTH]
        flags += ["--tokens", place / tokens] if tokens else []
        return bench(program, "collate", figure, flags)

    return measure


def own_samples(*more):
    """bertstream's samples of the pairs: samples a second."""

    def measure(workers, place, program):
        flags = ["--corpus", place / "pairs.tsv", "--vocab", place / "vocab.json", "--workers", workers]
        return bench(program, "sample", SAMPLES, [*flags, "--seq-len", LENGTH, *more])

    return measure


def own_vocab_command(corpus):
    """bertstream's vocabulary as people make it: bytes a second."""

    def measure(workers, place, program):
        command = [program, "vocab", "--corpus", place / corpus, "--workers", str(workers)]
        command += ["--output", place / "timed.json", "--json"]
        size = (place / corpus).stat().st_size
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return statistics.median(per_second(size, lambda: subprocess.run(command, **quiet)) for _ in range(7))

    return measure


def own_vocab(corpus):
    def measure(workers, place, program):
        return bench(program, "vocab", "bytes_per_second", ["--corpus", place / corpus, "--workers", workers])

    return measure


SAMPLES, BYTES = "samples_per_second", "bytes_per_second"
# name: unit, its divisor, {side: (function, numbers of workers)}; the peer's first.
ROWS = {
    "batches": (
        "samples/s",
        1,
        {
            "bert_pytorch's DataLoader": (loader, WORKERS),
            "bertstream, words": (own_batches("pairs.tsv", "vocab.json", SAMPLES), WORKERS),
        },
    ),
    "collator": (
        "samples/s",
        1,
        {
            "transformers' MLM collator, ids ready": (collator, (0,)),
            "bertstream, WordPiece from text": (own_batches("pairs.tsv", "tokenizer.json", SAMPLES), WORKERS),
            "bertstream, stored WordPiece ids": (
                own_batches("pairs.tsv", "tokenizer.json", SAMPLES, "ids.bstok"),
                WORKERS,
            ),
        },
    ),
    "ids": (
        "MB/s",
        1e6,
        {
            "tokenizers, WordPiece, ids only": (word_pieces, (2,)),
            "bertstream, WordPiece to batches": (own_batches("pairs.tsv", "tokenizer.json", BYTES), WORKERS),
        },
    ),
    "documents": (
        "samples/s",
        1,
        {
            "create_pretraining_data.py (not measured here)": (lambda *_: GOOGLE, (1,)),
            "bertstream, WordPiece from text": (own_batches("docs.txt", "tokenizer.json", SAMPLES), WORKERS),
        },
    ),
    "vocab": (
        "MB/s",
        1e6,
        {
            "bert_pytorch's WordVocab": (word_vocab, (0,)),
            "bertstream, the whole command": (own_vocab_command("pairs.tsv"), WORKERS),
            "bertstream, the text repeated": (own_vocab("repeated.tsv"), WORKERS),
        },
    ),
    "order": (
        "samples/s",
        1,
        {
            "bertstream, as they are finished": (own_samples("--unordered"), (2,)),
            "bertstream, in order": (own_samples(), (2,)),
        },
    ),
}


def prepare(place, args):
    """All that is measured, in one directory: corpora, and what is made of them beforehand."""
    text = Path(args.pairs).read_bytes()
    (place / "pairs.tsv").write_bytes(text)
    (place / "docs.txt").write_bytes(Path(args.docs).read_bytes())
    with open(place / "repeated.tsv", "wb") as repeated:
        for _ in range(args.repeat):
            repeated.write(text)

    def run(*words):
        subprocess.run([args.bertstream, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    corpus, tokenizer = place / "pairs.tsv", place / "tokenizer.json"
    run("vocab", "--corpus", corpus, "--output", place / "vocab.json")
    shape = ["--model", "wordpiece", "--vocab-size", SUBWORDS]
    run("tokenizer", "train", "--corpus", corpus, *shape, "--output", tokenizer)
    run("tokenize", "--corpus", corpus, "--vocab", tokenizer, "--output", place / "ids.bstok")


def measure(row, side, workers, place, args):
    """Peers in a process of their own, with two threads at most."""
    command = [sys.executable, __file__, "--alone", f"{row}/{side}/{workers}/{place}"]
    command += ["--bertstream", args.bertstream, "--pairs", args.pairs, "--docs", args.docs]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    # What peers show of their progress is read only where they fail.
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{row}, {side}: {done.stderr}")
    return float(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bertstream", default="target/release/bertstream", help="the program")
    parser.add_argument("--pairs", default="peps.pairs.tsv", help="two sentences a line [%(default)s]")
    parser.add_argument("--docs", default="peps.docs.txt", help="a sentence a line, blank lines between documents")
    parser.add_argument("--rows", default=",".join(ROWS), help="what is compared, comma between: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs [%(default)s]")
    parser.add_argument("--repeat", type=int, default=64, help="how often text is repeated for vocab [%(default)s]")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        row, side, workers, place = args.alone.split("/", 3)
        print(ROWS[row][2][side][0](int(workers), Path(place), args.bertstream))
        return

    print("| what | side | workers | median | unit | times the peer | least to most |")
    print("|---|---|---:|---:|---|---:|---|")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        prepare(place, args)
        for row in args.rows.split(","):
            unit, divisor, sides = ROWS[row]
            figures = {(side, n): [] for side, (_, workers) in sides.items() for n in workers}
            for _ in range(args.rounds):
                for (side, workers), runs in figures.items():
                    runs.append(measure(row, side, workers, place, args) / divisor)
            peer = None
            for side, (_, workers) in sides.items():
                best, runs = max(
                    ((n, figures[side, n]) for n in workers), key=lambda it: statistics.median(it[1])
                )
                median = statistics.median(runs)
                peer = peer or median
                spread = f"{min(runs):,.1f} to {max(runs):,.1f}" if "not measured" not in side else ""
                times = f"{median / peer:.{1 if median > 2 * peer else 2}f}"
                print(f"| {row} | {side} | {best} | {median:,.1f} | {unit} | {times} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
