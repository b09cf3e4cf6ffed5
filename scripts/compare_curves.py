#!/usr/bin/env python3
"""Sets the curve of the reference beside that of a run of bertstream, at equal numbers of tokens.

Prints a Markdown table of the held-out losses and accuracies: for each evaluation of the reference, the run's
last evaluation that had seen no more tokens. Once the reference's curve has ended, the run goes on alone. Both
evaluate the same lines without dropout, each with its own fixed masks; where bertstream does not predict
unknown words, `known` is the figure of the reference to compare with.

    scripts/compare_curves.py REFERENCE.jsonl RUN/metrics.jsonl     # files of reference_curve.py, `train`

`--svg FILE` draws both curves too, `--every N` thins the part of the table that the run has for itself.
"""

import argparse
import json
import pathlib


STYLE = (
    "svg{background:#fff} text{font:11px sans-serif;fill:#334155} .title{font-weight:bold;font-size:13px}"
    " .end{text-anchor:end} .middle{text-anchor:middle} .grid{stroke:#e2e8f0}"
    " .base{stroke:#64748b;stroke-dasharray:4 4} polyline{fill:none;stroke-width:2}"
)


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


def panel(left, title, unit, series, baseline, tokens):
    """One chart of 400 x 260 at x = `left`: lines of (tokens, value), a dashed baseline, axes with ticks."""
    values = [value for _, points, _ in series for _, value in points] + [baseline]
    low, high = min(values), max(values)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    x = lambda t: left + 60 + 320 * t / tokens
    y = lambda v: 240 - 200 * (v - low) / (high - low)
    parts = [f'<text x="{left + 60}" y="24" class="title">{title}</text>']
    for k in range(5):
        value = low + (high - low) * k / 4
        parts.append(f'<path d="M{left + 60} {y(value):.1f}h320" class="grid"/>')
        parts.append(f'<text x="{left + 54}" y="{y(value) + 4:.1f}" class="tick end">{unit(value)}</text>')
        million = tokens * k / 4 / 1e6
        parts.append(f'<text x="{x(tokens * k / 4):.1f}" y="258" class="tick middle">{million:.0f} M</text>')
    parts.append(f'<path d="M{left + 60} {y(baseline):.1f}h320" class="base"/>')
    parts.append(f'<text x="{left + 378}" y="{y(baseline) - 5:.1f}" class="tick end">guessing</text>')
    for name, points, colour in series:
        line = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points)
        parts.append(f'<polyline points="{line}" stroke="{colour}"/>')
        t, v = points[-1]
        # A line that ends early is named behind its end, the other one above it.
        place = f'x="{x(t) + 6:.1f}" y="{y(v) + 4:.1f}" class="tick"'
        if t > tokens / 2:
            place = f'x="{x(t):.1f}" y="{y(v) - 10:.1f}" class="tick end"'
        parts.append(f'<text {place} style="fill:{colour}">{name}</text>')
    return parts


def draw(path, start, theirs, ours):
    """Held-out loss of the masked words and accuracy of the pairs against tokens seen, as SVG."""
    tokens = max(e["tokens"] for e in theirs + ours)
    line = lambda evaluations, key: [(e["tokens"], e[key]) for e in evaluations]
    theirs = [e for e in theirs if e["step"] > 0]
    words = [
        ("bert-pytorch", line(theirs, "mlm_loss_known"), "#c2410c"),
        ("bertstream", line(ours, "mlm_loss"), "#2563eb"),
    ]
    pairs = [
        ("bert-pytorch", line(theirs, "nsp_accuracy"), "#c2410c"),
        ("bertstream", line(ours, "nsp_accuracy"), "#2563eb"),
    ]
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 270">', f"<style>{STYLE}</style>"]
    guess = start["unigram_mlm_loss_known"]
    parts += panel(0, "Masked words: loss, nats (held out)", "{:.1f}".format, words, guess, tokens)
    majority = start["majority_nsp_accuracy"]
    parts += panel(410, "Pairs: accuracy (held out)", "{:.0%}".format, pairs, majority, tokens)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--svg", type=pathlib.Path, help="draw the curves into this file")
    parser.add_argument("--every", type=int, default=1, help="show every N-th of the run's own rows [%(default)s]")
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
    alone = [e for e in ours if e["tokens"] > end]
    for ours_now in [*alone[: -1 : args.every], *alone[-1:]]:
        print(row([f"{ours_now['tokens']:,}", *cells(None, their_names), *cells(ours_now, our_names)]))
    if args.svg:
        draw(args.svg, start, theirs, ours)


if __name__ == "__main__":
    main()
