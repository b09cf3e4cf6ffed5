#!/usr/bin/env python3
"""Loads a trained run into the reference's own BERTLM and compares the losses on the same batches.

`RUN/model.safetensors` goes into PyPI `bert-pytorch`'s model with `load_state_dict(strict=True)`: every name
and shape must be there and nothing else. Both programs then evaluate the batches that `bertstream collate
--format safetensors` wrote. Exits with 1 where a loss or an accuracy differs by more than the tolerance.

Run it with the Python that `scripts/setup_peers.sh` prints; `scripts/check_in_pytorch.sh` does everything.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import torch
from bert_pytorch.model import BERT, BERTLM
from safetensors.torch import load_file

ROWS_AT_ONCE = 64


def evaluate_in_pytorch(run, batches):
    """Mean NLL and accuracy of the masked tokens and of the pairs, over all rows of the file."""
    shape = json.loads((run / "config.json").read_text(encoding="utf-8"))["model"]
    model = BERTLM(
        BERT(shape["vocab_size"], hidden=shape["hidden"], n_layers=shape["layers"], attn_heads=shape["heads"]),
        shape["vocab_size"],
    )
    model.load_state_dict(load_file(run / "model.safetensors"), strict=True)
    model.eval()

    masked = pairs = mlm = nsp = mlm_correct = nsp_correct = 0
    with torch.no_grad():
        for start in range(0, len(batches["bert_input"]), ROWS_AT_ONCE):
            ids, segments, labels, is_next = (
                batches[name][start : start + ROWS_AT_ONCE]
                for name in ("bert_input", "segment_label", "bert_label", "is_next")
            )
            next_output, mask_output = model(ids, segments)
            predicted = labels != 0
            true = labels[predicted]
            at_masked = mask_output[predicted]
            mlm -= at_masked.gather(1, true.unsqueeze(1)).double().sum().item()
            mlm_correct += (at_masked.argmax(1) == true).sum().item()
            masked += true.numel()
            nsp -= next_output.gather(1, is_next.unsqueeze(1)).double().sum().item()
            nsp_correct += (next_output.argmax(1) == is_next).sum().item()
            pairs += is_next.numel()
    return {
        "mlm_loss": mlm / masked,
        "nsp_loss": nsp / pairs,
        "mlm_accuracy": mlm_correct / masked,
        "nsp_accuracy": nsp_correct / pairs,
    }, f"{pairs} rows, {masked} masked tokens"


def evaluate_in_bertstream(program, run, batches):
    command = [program, "eval", "--run", run, "--batches", batches, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=pathlib.Path)
    parser.add_argument("--batches", required=True, type=pathlib.Path)
    parser.add_argument("--bertstream", required=True, help="the program")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    batches = load_file(args.batches)
    if "is_next" not in batches:
        sys.exit(f"{args.batches}: no is_next: write the batches with the pair task on")
    theirs, counted = evaluate_in_pytorch(args.run, batches)
    ours = evaluate_in_bertstream(args.bertstream, args.run, args.batches)

    print(counted)
    print(f"{'':14}{'bertstream':>14}{'bert-pytorch':>14}{'difference':>12}")
    # Written so that a NaN on either side counts as a difference.
    agree = True
    for name, expected in theirs.items():
        difference = abs(ours[name] - expected)
        agree &= difference <= args.tolerance
        print(f"{name:14}{ours[name]:14.6f}{expected:14.6f}{difference:12.1e}")
    print("equal" if agree else "DIFFERENT", f"within {args.tolerance:g}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
