"""What TensorBoard's own reader finds in the event files of a run, compared with the run's records.

    python scripts/check_tensorboard.py RUN     # needs tensorboard; scripts/check_tensorboard.sh does it all
"""

import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = pathlib.Path(sys.argv[1])
configuration = json.loads((run / "config.json").read_text())["runtime"]["tensorboard"]
records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
everything = {"scalars": 0, "tensors": 0, "histograms": 0, "compressedHistograms": 1}
events = EventAccumulator(str(run / "tensorboard"), size_guidance=everything)
events.Reload()
tags = events.Tags()


def single(value):
    """As TensorBoard stores it."""
    return struct.unpack("f", struct.pack("f", value))[0]


def expect(tag, kind, field):
    """Every record of a kind is there once, with its value."""
    wanted = [(r["step"], single(r[field])) for r in records if r["kind"] == kind and r[field] is not None]
    found = [(e.step, e.value) for e in events.Scalars(tag)]
    assert wanted and found == wanted, f"{tag}: {len(found)} values, {len(wanted)} wanted"


for part, kind in (("train", "step"), ("test", "evaluation")):
    for field in ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"):
        expect(f"{part}/{field}", kind, field)
    expect(f"{part}/guessing/mlm_loss", kind, "unigram_loss")
expect("optimizer/learning_rate", "step", "lr")
expect("optimizer/gradient_norm", "step", "grad_norm")
expect("speed/tokens_per_second", "step", "tokens_per_second")

last = max(r["step"] for r in records)
every = configuration["histogram_every"]
for tag in tags["histograms"]:
    histograms = events.Histograms(tag)
    assert [h.step for h in histograms] == list(range(every, last + 1, every)), tag
    for h in histograms:
        value = h.histogram_value
        assert value.num == sum(value.bucket) > 0, tag
        assert value.bucket_limit == sorted(value.bucket_limit), tag
        assert value.min <= value.sum / value.num <= value.max, tag
assert {tag.split("/")[0] for tag in tags["histograms"]} == {"weights", "gradients"}

texts = [tag for tag in tags["tensors"] if events.SummaryMetadata(tag).plugin_data.plugin_name == "text"]
every = configuration["examples_every"]
for tag in texts:
    found = events.Tensors(tag)
    assert [t.step for t in found] == list(range(every, last + 1, every)), tag
    assert "| guesses |" in found[-1].tensor_proto.string_val[0].decode(), tag
assert texts == ["examples/held_out"], texts

print(f"{len(tags['scalars'])} scalars, {len(tags['histograms'])} histograms, {len(texts)} texts: each step once")
print(events.Tensors(texts[0])[-1].tensor_proto.string_val[0].decode().split("\n\n")[0])
