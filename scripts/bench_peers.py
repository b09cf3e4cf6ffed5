#!/usr/bin/env python3
"""Training steps side by side with PyTorch: same model, same batch shapes, same dropout, same threads.

    scripts/setup_peers.sh                       # prints the environment's python
    PYTHON scripts/bench_peers.py --bertstream target/release/bertstream [--rows short,long] [--rounds 3]

Every round runs each side once, in turn, each in a process of its own; a side's figure is the median over the
rounds of its median step. The peer is `bert_pytorch` as published (its BERTLM, its Adam, its dropout of 0.1),
with gradients clipped and both tasks counted, as here: eager f32, bf16 autocast, and both under
torch.compile. Memory is the peak resident size of the process. Prints a Markdown table.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ROWS = {
    # name: hidden, layers, heads, batch, sequence, vocabulary
    "short": (256, 8, 8, 64, 20, 8192),
    "long": (256, 8, 8, 32, 128, 8192),
    "wide": (512, 8, 8, 16, 128, 30522),
    "base": (768, 12, 12, 8, 128, 30522),
}
PEERS = ("eager f32", "eager bf16", "compiled f32", "compiled bf16")


def peer_step(row, variant, steps, threads):
    """Runs in a process of its own: the median seconds of a step, and the peak resident size."""
    import torch
    from bert_pytorch.model import BERT, BERTLM

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    hidden, layers, heads, batch, sequence, vocabulary = ROWS[row]
    model = BERTLM(BERT(vocabulary, hidden, layers, heads), vocabulary).train()
    forward = torch.compile(model) if variant.startswith("compiled") else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=0.01)
    masked_loss = torch.nn.NLLLoss(ignore_index=0)
    pair_loss = torch.nn.NLLLoss()
    ids = torch.randint(5, vocabulary, (batch, sequence))
    segments = torch.ones_like(ids)
    segments[:, sequence // 2 :] = 2
    flat = torch.arange(batch * sequence)
    labels = torch.where(flat * 3 % 20 < 3, torch.randint(5, vocabulary, flat.shape), 0).view(batch, sequence)
    is_next = torch.arange(batch) % 2

    seconds = []
    for step in range(steps + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.endswith("bf16")):
            pairs, words = forward(ids, segments)
        loss = pair_loss(pairs.float(), is_next) + masked_loss(words.float().transpose(1, 2), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= 2:  # the first steps compile and warm up
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds_per_step": statistics.median(seconds), "peak_rss_bytes": peak}


def run(command, threads):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args, row, side):
    if side != "bertstream":
        command = [sys.executable, __file__, "--peer", side, "--rows", row]
        return run(command + ["--steps", str(args.steps), "--threads", str(args.threads)], args.threads)
    hidden, layers, heads, batch, sequence, vocabulary = map(str, ROWS[row])
    shape = ["--hidden", hidden, "--layers", layers, "--attn-heads", heads, "--batch-size", batch]
    shape += ["--seq-len", sequence, "--vocab-size", vocabulary]
    rest = ["--dropout", "0.1", "--threads", str(args.threads), "--steps", str(args.steps), "--json"]
    return run([args.bertstream, "bench", "step", *shape, *rest], args.threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bertstream", default="target/release/bertstream", help="the program")
    parser.add_argument("--rows", default=",".join(ROWS), help="which shapes, comma between: %(default)s")
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers, comma between: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs [%(default)s]")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a run [%(default)s]")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side [%(default)s]")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(peer_step(args.rows, args.peer, args.steps, args.threads)))
        return

    peers = args.peers.split(",")
    print("| shape | side | s a step | against bertstream f32 | peak MiB |")
    print("|---|---|---|---|---|")
    for row in args.rows.split(","):
        figures = {side: [] for side in ["bertstream", *peers]}
        for _ in range(args.rounds):
            for side, runs in figures.items():
                runs.append(measure(args, row, side))
        hidden, layers, heads, batch, sequence, vocabulary = ROWS[row]
        shape = f"{hidden} x {layers}, {heads} heads, {batch} x {sequence}, {vocabulary} words"
        medians = {s: statistics.median(r["seconds_per_step"] for r in runs) for s, runs in figures.items()}
        for side, runs in figures.items():
            peak = statistics.median(r["peak_rss_bytes"] for r in runs) / 2**20
            ratio = medians[side] / medians["bertstream"]
            print(f"| {shape} | {side} | {medians[side]:.3f} | {ratio:.2f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
