#!/usr/bin/env python3
"""Training steps on one GPU side by side with PyTorch: BERT-base and BERT-large, bfloat16, dropout on.

    scripts/setup_peers.sh                       # prints the environment's python
    PYTHON scripts/bench_gpu.py --bertstream target/release/bertstream [--rows base-128,...] [--rounds 3]

The peer is transformers' BertForPreTraining with scaled-dot-product attention, bf16 autocast and fused AdamW, eager
and under torch.compile; bertstream is `bench step --arch bert --precision bf16`. Every round runs each side once, in
a process of its own; figures are medians over the rounds. Rows are full: no side gains by padding. The share of the
peak counts 6 N operations a token (N parameters) and attention's 12 * layers * hidden * length, against the best of
three large products of torch's in bfloat16 on the same device. Prints Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROWS = {
    # name: hidden, layers, heads, batch, sequence
    "base-128": (768, 12, 12, 256, 128),
    "base-512": (768, 12, 12, 64, 512),
    "large-128": (1024, 24, 16, 128, 128),
    "large-512": (1024, 24, 16, 32, 512),
}
VOCABULARY = 30522
PEERS = ("eager", "compiled")


def peer(row, variant, steps):
    """Tokens a second of the median step, and the number of parameters."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    hidden, layers, heads, batch, sequence = ROWS[row]
    torch.manual_seed(1)
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = BertConfig(vocab_size=VOCABULARY, intermediate_size=4 * hidden, attn_implementation="sdpa", **shape)
    model = BertForPreTraining(config).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    forward = torch.compile(model) if variant == "compiled" else model
    ids = torch.randint(5, VOCABULARY, (batch, sequence), device="cuda")
    segments = torch.zeros_like(ids)
    segments[:, sequence // 2 :] = 1
    flat = torch.arange(batch * sequence, device="cuda")
    labels = torch.where(flat * 3 % 20 < 3, ids.view(-1), -100).view(batch, sequence)
    is_next = torch.arange(batch, device="cuda") % 2
    seconds = []
    for step in range(steps + 5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(ids, token_type_ids=segments, labels=labels, next_sentence_label=is_next).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch.cuda.synchronize()
        if step >= 5:  # the first steps compile and warm up
            seconds.append(time.perf_counter() - start)
    parameters = sum(p.numel() for p in model.parameters())
    return {"tokens_per_second": batch * sequence / statistics.median(seconds), "parameters": parameters}


def own(row, program, steps):
    hidden, layers, heads, batch, sequence = map(str, ROWS[row])
    shape = ["--arch", "bert", "--hidden", hidden, "--layers", layers, "--attn-heads", heads, "--batch-size", batch]
    shape += ["--seq-len", sequence, "--vocab-size", str(VOCABULARY), "--dropout", "0.1"]
    command = [program, "bench", "step", *shape, "--device", "cuda:0", "--precision", "bf16"]
    done = subprocess.run([*command, "--steps", str(steps), "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak():
    """Operations a second of a large product in bfloat16."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            a @ b
        torch.cuda.synchronize()
        best = max(best, 20 * 2 * 8192**3 / (time.perf_counter() - start))
    return {"operations_per_second": best, "device": torch.cuda.get_device_name()}


def alone(what, args):
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--alone", what, "--steps", str(args.steps), "--bertstream", args.bertstream]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bertstream", default="target/release/bertstream", help="the program, built with CUDA")
    parser.add_argument("--rows", default=",".join(ROWS), help="which shapes, comma between: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs [%(default)s]")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a run [%(default)s]")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        row, _, side = args.alone.partition("/")
        measured = {"peak": peak, "own": lambda: own(row, args.bertstream, args.steps)}
        print(json.dumps(measured.get(side, lambda: peer(row, side, args.steps))()))
        return

    best = alone("/peak", args)
    if best is None:
        sys.exit("bench_gpu.py: torch finds no GPU")
    print(f"{best['device']}: {best['operations_per_second'] / 1e12:.0f} TFLOP/s in a product of bfloat16\n")
    print("| shape | side | tokens/s | of the peak | against the best peer |")
    print("|---|---|---:|---:|---:|")
    for row in args.rows.split(","):
        hidden, layers, _, _, sequence = ROWS[row]
        runs = {side: [] for side in ("own", *PEERS)}
        for _ in range(args.rounds):
            for side, done in runs.items():
                done.append(alone(f"{row}/{side}", args))
        figures = {side: [d for d in done if d is not None] for side, done in runs.items()}
        speeds = {s: statistics.median(d["tokens_per_second"] for d in done) for s, done in figures.items() if done}
        peers = [speed for side, speed in speeds.items() if side != "own"]
        for side, speed in speeds.items():
            operations = 6 * figures[side][0]["parameters"] + 12 * layers * hidden * sequence
            share = speed * operations / best["operations_per_second"]
            name = "bertstream" if side == "own" else f"PyTorch, {side}"
            ratio = f"{speed / max(peers):.2f}" if side == "own" and peers else ""
            print(f"| {row} | {name} | {speed:,.0f} | {100 * share:.0f} % | {ratio} |", flush=True)
        for side in runs.keys() - speeds.keys():
            print(f"| {row} | {side} | failed | | |", flush=True)


if __name__ == "__main__":
    main()
