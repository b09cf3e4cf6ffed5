#!/usr/bin/env python3
"""Sets the curve of the reference beside that of a run of bertstream, at equal numbers of tokens.

Prints a Markdown table of the held-out losses and accuracies: for each evaluation of the reference, the run's
last evaluation that had seen no more tokens. Once the reference's curve has ended, the run goes on alone. Both
evaluate the same lines without dropout, each with its own fixed masks; where bertstream does not predict
unknown words, `known` is the figure of the reference to compare with.

    scripts/compare_curves.py REFERENCE.jsonl RUN/metrics.jsonl     # files of reference_curve.py, `train`
"""

import argparse
import json
import pathlib


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_evaluations(path):
    """The run's evaluations, each with the tokens seen by then, which its step records tell."""
    found, tokens = [], {}
    for record in records(path):
        if record["kind"] == "step":
            tokens[record["step"]] = record["tokens"]
        elif record["kind"] == "evaluation":
            found.append(record)
    for evaluation in found:
        seen = [count for step, count in tokens.items() if step <= evaluation["step"]]
        evaluation["tokens"] = max(seen, default=0)
    return found


def cells(evaluation, names):
    if evaluation is None:
        return [""] * (1 + len(names))
    shown = [f"{evaluation[n]:.3f}" if n.endswith(("loss", "known")) else f"{evaluation[n]:.1%}" for n in names]
    return [str(evaluation["step"]), *shown]


def row(columns):
    return "| " + " | ".join(columns) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    args = parser.parse_args()

    reference = records(args.reference)
    start = reference[0]
    theirs = [record for record in reference if record["kind"] == "eval"]
    ours = run_evaluations(args.run)

    print(
        f"Guessing: MLM {start['unigram_mlm_loss']:.3f} ({start['unigram_mlm_loss_known']:.3f} known) by unigram "
        f"frequency, {start['unigram_mlm_accuracy']:.1%}; pairs {start['majority_nsp_accuracy']:.1%}."
    )
    if ours:
        last = ours[-1]
        print(
            f"On the run's own masks: MLM {last['unigram_loss']:.3f}, {last['majority_accuracy']:.1%}; "
            f"pairs {last['nsp_majority_accuracy']:.1%}."
        )
    print()
    print(row(["tokens", "reference: step", "MLM", "known", "words", "pairs", "bertstream: step", "MLM", "words", "pairs"]))
    print("|" + "---:|" * 10)
    their_names = ["mlm_loss", "mlm_loss_known", "mlm_accuracy", "nsp_accuracy"]
    our_names = ["mlm_loss", "mlm_accuracy", "nsp_accuracy"]
    for theirs_now in theirs:
        upto = [e for e in ours if e["tokens"] <= theirs_now["tokens"]]
        ours_now = max(upto, key=lambda e: e["step"], default=None)
        print(row([f"{theirs_now['tokens']:,}", *cells(theirs_now, their_names), *cells(ours_now, our_names)]))
    end = theirs[-1]["tokens"]
    for ours_now in (e for e in ours if e["tokens"] > end):
        print(row([f"{ours_now['tokens']:,}", *cells(None, their_names), *cells(ours_now, our_names)]))


if __name__ == "__main__":
    main()
