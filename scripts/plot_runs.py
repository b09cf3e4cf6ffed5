#!/usr/bin/env python3
"""Draws the held-out curves of one or several runs: both losses and both accuracies against tokens seen.

    scripts/plot_runs.py --svg curves.svg NAME=RUN/metrics.jsonl [NAME=RUN/metrics.jsonl ...]

The dashed lines are what guessing reaches on the first run's masks and pairs. Prints the last evaluation of each
run as a Markdown table.
"""

import argparse
import pathlib

from compare_curves import STYLE, panel, row, run_evaluations

COLOURS = ["#2563eb", "#c2410c", "#15803d", "#7c3aed", "#b45309", "#0f766e"]


def named(text):
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError("NAME=FILE is needed")
    return name, pathlib.Path(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=named, metavar="NAME=FILE")
    parser.add_argument("--svg", type=pathlib.Path, required=True)
    args = parser.parse_args()

    runs = [(name, run_evaluations(path)) for name, path in args.runs]
    tokens = max(e["tokens"] for _, evaluations in runs for e in evaluations)
    first = runs[0][1][-1]
    panels = [
        ("Masked tokens: loss, nats", "mlm_loss", first["unigram_loss"], "{:.1f}".format),
        ("Masked tokens: accuracy", "mlm_accuracy", first["majority_accuracy"], "{:.0%}".format),
        ("Pairs: loss, nats", "nsp_loss", first["nsp_chance_loss"], "{:.2f}".format),
        ("Pairs: accuracy", "nsp_accuracy", first["nsp_majority_accuracy"], "{:.0%}".format),
    ]
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 540">', f"<style>{STYLE}</style>"]
    for number, (title, key, guess, unit) in enumerate(panels):
        if guess is None:
            continue
        series = [
            (name, [(e["tokens"], e[key]) for e in evaluations], COLOURS[i % len(COLOURS)])
            for i, (name, evaluations) in enumerate(runs)
            if evaluations[-1]["pairs"] or not key.startswith("nsp")
        ]
        parts.append(f'<g transform="translate(0 {270 * (number // 2)})">')
        parts += panel(410 * (number % 2), title + " (held out)", unit, series, guess, tokens)
        parts.append("</g>")
    args.svg.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")

    print(row(["run", "step", "tokens", "masked: loss", "guess", "right", "guess", "pairs: loss", "right", "guess"]))
    print("|---|" + "---:|" * 9)
    for name, evaluations in runs:
        e = evaluations[-1]
        share = lambda value: "" if value is None else f"{value:.1%}"
        nats = lambda value: "" if value is None else f"{value:.3f}"
        pairs = [nats(e["nsp_loss"]), share(e["nsp_accuracy"]), share(e["nsp_majority_accuracy"])]
        print(
            row(
                [name, f"{e['step']:,}", f"{e['tokens']:,}", nats(e["mlm_loss"]), nats(e["unigram_loss"])]
                + [share(e["mlm_accuracy"]), share(e["majority_accuracy"])]
                + (pairs if e["pairs"] else [""] * 3)
            )
        )


if __name__ == "__main__":
    main()
