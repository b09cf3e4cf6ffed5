#!/usr/bin/env python3
"""Training steps side by side with PyTorch: same model, same batch shapes, same dropout, same threads.

    scripts/setup_peers.sh                       # prints the environment's python
    PYTHON scripts/bench_peers.py --bertstream target/release/bertstream [--rows short,long] [--rounds 3]

Every round runs each side once, in turn, each in a process of its own; a side's figure is the median over the
rounds of its median step. Two families: `seed` is bert_pytorch's BERTLM as published with its Adam, beside
`--arch reference`; `hf` is transformers' BertForPreTraining with AdamW, beside `--arch bert`. Peers run eager
and under torch.compile, each in f32 and with bf16 autocast; bertstream in f32 and in bf16. Dropout is 0.1,
gradients are clipped, both tasks count, and every gradient is computed. Memory is the peak resident size.

The row `text` is real: --text (the seed's format, two sentences a line), batches of 32 at most 128 tokens long,
from the file to the update, until 200,000 tokens that are no padding are trained; its figure is the time of
200,000 such tokens. Prints Markdown: a table of all sides, and one of the ratios against the best peer.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROWS = {
    # name: hidden, layers, heads, batch, sequence, vocabulary
    "short": (256, 8, 8, 64, 20, 8192),
    "long": (256, 8, 8, 32, 128, 8192),
    "wide": (512, 8, 8, 16, 128, 30522),
    "base": (768, 12, 12, 8, 128, 30522),
    "text": (256, 8, 8, 32, 128, 8192),
}
FAMILIES = {"seed": "reference", "hf": "bert"}
PEERS = ("eager f32", "eager bf16", "compiled f32", "compiled bf16")
OWN = ("bertstream f32", "bertstream bf16")
REAL_TOKENS = 200_000


def seed_model(row):
    import torch
    from bert_pytorch.model import BERT, BERTLM

    hidden, layers, heads, _, _, vocabulary = ROWS[row]
    model = BERTLM(BERT(vocabulary, hidden, layers, heads), vocabulary).train()
    masked_loss, pair_loss = torch.nn.NLLLoss(ignore_index=0), torch.nn.NLLLoss()

    def loss_of(forward, ids, segments, labels, is_next):
        pairs, words = forward(ids, segments)
        return pair_loss(pairs.float(), is_next) + masked_loss(words.float().transpose(1, 2), labels)

    return model, torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=0.01), loss_of


def hf_model(row):
    import torch
    from transformers import BertConfig, BertForPreTraining

    hidden, layers, heads, _, _, vocabulary = ROWS[row]
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    model = BertForPreTraining(BertConfig(vocab_size=vocabulary, intermediate_size=4 * hidden, **shape)).train()

    def loss_of(forward, ids, segments, labels, is_next):
        labels = labels.masked_fill(labels == 0, -100)
        segments = segments - 1
        return forward(ids, token_type_ids=segments, labels=labels, next_sentence_label=is_next).loss

    return model, torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01), loss_of


def made_up(row):
    """Full rows for ever, every 7th token or so masked."""
    import torch

    _, _, _, batch, sequence, vocabulary = ROWS[row]
    ids = torch.randint(5, vocabulary, (batch, sequence))
    segments = torch.ones_like(ids)
    segments[:, sequence // 2 :] = 2
    flat = torch.arange(batch * sequence)
    labels = torch.where(flat * 3 % 20 < 3, torch.randint(5, vocabulary, flat.shape), 0).view(batch, sequence)
    is_next = torch.arange(batch) % 2
    while True:
        yield ids, segments, labels, is_next


def from_text(path):
    """The seed's own dataset and loader."""
    from bert_pytorch.dataset import BERTDataset, WordVocab
    from torch.utils.data import DataLoader

    _, _, _, batch, sequence, vocabulary = ROWS["text"]
    with open(path, encoding="utf-8") as lines:
        vocab = WordVocab(lines, max_size=vocabulary - 5)  # and 5 special tokens
    dataset = BERTDataset(path, vocab, seq_len=sequence)
    while True:
        for columns in DataLoader(dataset, batch_size=batch, num_workers=1):
            if len(columns["bert_input"]) == batch:
                yield tuple(columns[c] for c in ("bert_input", "segment_label", "bert_label", "is_next"))


def peer(family, row, variant, args):
    """Runs in a process of its own: the median seconds of a step, and the peak resident size."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model, optimizer, loss_of = (seed_model if family == "seed" else hf_model)(row)
    forward = torch.compile(model) if variant.startswith("compiled") else model
    batches = from_text(args.text) if row == "text" else made_up(row)

    seconds, tokens = [], 0
    start = time.perf_counter()
    for step, (ids, segments, labels, is_next) in enumerate(batches):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.endswith("bf16")):
            loss = loss_of(forward, ids, segments, labels, is_next)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        now = time.perf_counter()
        if step >= 2:  # the first steps compile and warm up
            seconds.append(now - start)
            tokens += int((ids != 0).sum())
        start = now
        if tokens >= REAL_TOKENS if row == "text" else len(seconds) == args.steps:
            break
    figure = sum(seconds) * REAL_TOKENS / tokens if row == "text" else statistics.median(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": figure, "peak_rss_bytes": peak}


def own(family, row, precision, args):
    """The same of bertstream."""
    hidden, layers, heads, batch, sequence, vocabulary = map(str, ROWS[row])
    shape = ["--hidden", hidden, "--layers", layers, "--attn-heads", heads, "--batch-size", batch]
    shape += ["--seq-len", sequence, "--dropout", "0.1", "--arch", FAMILIES[family]]
    shape += ["--precision", precision, "--threads", str(args.threads)]
    if row != "text":
        bench = ["bench", "step", *shape, "--vocab-size", vocabulary, "--steps", str(args.steps), "--json"]
        done = json.loads(output_of([args.bertstream, *bench]).splitlines()[-1])
        return {"seconds": done["seconds_per_step"], "peak_rss_bytes": done["peak_rss_bytes"]}

    with tempfile.TemporaryDirectory() as place:
        corpus, vocab, run = (os.path.join(place, name) for name in ("pairs.tsv", "vocab.json", "run"))
        os.symlink(os.path.abspath(args.text), corpus)
        output_of([args.bertstream, "vocab", "-c", corpus, "--vocab-size", vocabulary, "-o", vocab])
        # Some 52 tokens a pair: steps enough for the tokens wanted, and for the records that are left out.
        length = ["--steps", "160", "--log-freq", "5", "--save-every", "0"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        output_of([args.bertstream, "train", "-c", corpus, "-v", vocab, "-o", run, *shape, *length])
        peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as lines:
            records = [r for r in map(json.loads, lines) if r["kind"] == "step"]
    tokens, seconds = 0, 0.0
    for earlier, record in zip(records, records[1:]):  # the first record warms up
        if tokens < REAL_TOKENS:
            tokens += record["tokens"] - earlier["tokens"]
            seconds += (record["tokens"] - earlier["tokens"]) / record["tokens_per_second"]
    return {"seconds": seconds * REAL_TOKENS / tokens, "peak_rss_bytes": peak}


def output_of(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout


def measure(family, row, side, args):
    """Each side in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--alone", f"{family}/{row}/{side}", "--bertstream", args.bertstream]
    command += ["--steps", str(args.steps), "--threads", str(args.threads), "--text", args.text]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bertstream", default="target/release/bertstream", help="the program")
    parser.add_argument("--rows", default=",".join(ROWS), help="which shapes, comma between: %(default)s")
    parser.add_argument("--families", default=",".join(FAMILIES), help="which peers: %(default)s")
    parser.add_argument("--peers", default=",".join(PEERS), help="which variants of them: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs [%(default)s]")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a run [%(default)s]")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side [%(default)s]")
    parser.add_argument("--text", default="peps.pairs.tsv", help="pairs for the row `text` [%(default)s]")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        family, row, side = args.alone.split("/")
        name, _, precision = side.partition(" ")
        done = own(family, row, precision, args) if name == "bertstream" else peer(family, row, side, args)
        print(json.dumps(done))
        return

    ratios = []
    print("| shape | side | seconds | peak MiB |")
    print("|---|---|---:|---:|")
    for row in args.rows.split(","):
        for family in args.families.split(","):
            if row == "text" and family != "seed":
                continue  # transformers brings no reader of its own for this format
            figures = {side: [] for side in [*OWN, *args.peers.split(",")]}
            for _ in range(args.rounds):
                for side, runs in figures.items():
                    runs.append(measure(family, row, side, args))
            medians = {s: statistics.median(r["seconds"] for r in runs) for s, runs in figures.items()}
            for side, runs in figures.items():
                peak = statistics.median(r["peak_rss_bytes"] for r in runs) / 2**20
                name = side if side in OWN else f"{family} {side}"
                print(f"| {row}, {family} | {name} | {medians[side]:.3f} | {peak:.0f} |", flush=True)
            peers = {side: s for side, s in medians.items() if side not in OWN}
            single = {side: s for side, s in peers.items() if side.endswith("f32")}
            best_of = lambda sides: min(sides.items(), key=lambda item: item[1], default=("none", float("nan")))
            ratios.append((row, family, medians, best_of(single), best_of(peers)))
    print("\n| shape | f32 against the best f32 peer | bf16 against the best peer |")
    print("|---|---:|---:|")
    for row, family, medians, (single, f32), (best, any_precision) in ratios:
        f32, bf16 = f32 / medians[OWN[0]], any_precision / medians[OWN[1]]
        print(f"| {row}, {family} | {f32:.2f} ({single}) | {bf16:.2f} ({best}) |")


if __name__ == "__main__":
    main()
