#!/usr/bin/env python3
"""Models here and in transformers, in both directions, compared number by number.

Out: a tiny BERT is trained for a few steps and exported; `BertForPreTraining.from_pretrained` must find every
weight and no other, give the same logits of both heads, the same five tokens for 100 masked sentences, and
sentence-transformers the same mean vectors. In: a `BertForPreTraining` with random weights is evaluated by
`bertstream eval`, and again after `train --init` with a learning rate of almost nothing; BertModel and a sharded
checkpoint in half precision are loaded as well. Prints a table, exits with 1 where something differs.

Run it with the Python that `scripts/setup_peers.sh` prints; `scripts/check_in_transformers.sh` does everything.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

import numpy
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAIN, HELD_OUT = ROOT / "fixtures/toy.pairs.tsv", ROOT / "fixtures/toy.held-out.pairs.tsv"
ROLES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
SENTENCES = 100
ROWS_ALONE = 12


class Check:
    """The table, and whether all of it held."""

    def __init__(self, bertstream, vocabulary):
        self.bertstream, self.vocabulary, self.failed = bertstream, vocabulary, False
        print(f"\n{'vocabulary: ' + vocabulary:<58}{'found':>14}{'allowed':>10}")

    def row(self, what, found, allowed):
        good = found <= allowed
        self.failed |= not good
        print(f"{what:<58}{found:>14.3g}{allowed:>10.3g}{'' if good else '   FAILED'}", flush=True)

    def run(self, *words, text=None):
        words = [str(word) for word in (self.bertstream, *words)]
        done = subprocess.run(words, input=text, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(words)}\n{done.stderr}")
        return done.stdout


def make_vocabulary(check, work):
    """A vocabulary of the toy language: words by this program, WordPiece by the tokenizers library."""
    if check.vocabulary == "words":
        path = work / "vocab.json"
        check.run("vocab", "--corpus", work / TRAIN.name, "--output", path)
        return path
    path = work / "tokenizer.json"
    pieces = tokenizers.BertWordPieceTokenizer()
    # Fewer than there are words, so that some are cut.
    pieces.train(str(TRAIN), vocab_size=200, min_frequency=1, show_progress=False)
    pieces.save(str(path))
    return path


def batches_in_transformers(model, batches):
    """Both losses of a file of batches, and each row's log-probabilities of its pair's classes."""
    ids, labels = batches["bert_input"], batches["bert_label"]
    with torch.no_grad():
        output = model(
            input_ids=ids, token_type_ids=(batches["segment_label"] - 1).clamp(min=0), attention_mask=(ids != 0).long()
        )
    predicted = labels != 0
    tokens = torch.log_softmax(output.prediction_logits[predicted].double(), -1)
    pairs = torch.log_softmax(output.seq_relationship_logits.double(), -1)
    mlm = -tokens.gather(1, labels[predicted].unsqueeze(1)).mean().item()
    # Class 0 is "is next" there.
    nsp = -pairs.gather(1, (1 - batches["is_next"]).unsqueeze(1)).squeeze(1)
    return mlm, nsp.mean().item(), nsp.tolist()


def compare_losses(check, what, directory, model, work, batches_file):
    batches = load_file(batches_file)
    mlm, nsp, pairs = batches_in_transformers(model, batches)
    ours = json.loads(check.run("eval", "--run", directory, "--batches", batches_file, "--json"))
    check.row(f"{what}: masked-token loss of the batches", abs(ours["mlm_loss"] - mlm), 1e-4)
    check.row(f"{what}: pair loss of the batches", abs(ours["nsp_loss"] - nsp), 1e-4)
    return batches, pairs


def logits(check, directory, model, tokenizer, work, batches, pairs):
    """Every logit, but for the constant that a softmax does not see."""
    worst, alone = 0.0, work / "row.safetensors"
    for row in range(ROWS_ALONE):
        save_file({name: values[row : row + 1].clone() for name, values in batches.items()}, alone)
        ours = json.loads(check.run("eval", "--run", directory, "--batches", alone, "--json"))
        worst = max(worst, abs(ours["nsp_loss"] - pairs[row]))
    check.row(f"out: pair log-probabilities of {ROWS_ALONE} rows", worst, 1e-4)
    texts = masked_sentences(tokenizer.mask_token)[:ROWS_ALONE]
    lines = check.run("fill-mask", directory, "-", "--json", "--top", model.config.vocab_size, text="\n".join(texts))
    worst = 0.0
    for text, line in zip(texts, lines.splitlines(), strict=True):
        with torch.no_grad():
            inputs = tokenizer(text, return_tensors="pt")
            output = model(**inputs).prediction_logits[0]
        theirs = torch.softmax(output[inputs["input_ids"][0] == tokenizer.mask_token_id][0].double(), -1)
        [guesses] = json.loads(line)["masks"]
        assert len(guesses) == len(theirs)
        ours = torch.zeros_like(theirs)
        for guess in guesses:
            ours[guess["id"]] = guess["probability"]
        worst = max(worst, (ours.log() - theirs.log()).abs().max().item())
    check.row(f"out: log-probabilities of every token, {len(texts)} texts", worst, 1e-4)


def masked_sentences(mask):
    """Held-out sentences with one word masked, a different one in each."""
    sentences = [side for line in HELD_OUT.read_text(encoding="utf-8").splitlines() for side in line.split("\t")]
    texts = []
    for number, sentence in enumerate(sentences[:SENTENCES]):
        words = sentence.split()
        words[number % len(words)] = mask
        texts.append(" ".join(words))
    return texts


def fill_mask(check, directory, tokenizer):
    texts = masked_sentences(tokenizer.mask_token)
    lines = check.run("fill-mask", directory, "-", "--json", "--top", 5, text="\n".join(texts)).splitlines()
    pipeline = transformers.pipeline("fill-mask", model=str(directory), device="cpu")
    differing, worst = 0, 0.0
    for text, line in zip(texts, lines, strict=True):
        theirs = pipeline(text, top_k=5)
        [ours] = json.loads(line)["masks"]
        differing += [guess["id"] for guess in ours] != [guess["token"] for guess in theirs]
        worst = max(worst, *(abs(a["probability"] - b["score"]) for a, b in zip(ours, theirs, strict=True)))
    check.row(f"out: fill-mask, sentences of {len(texts)} with another top 5", differing, 0)
    check.row("out: fill-mask, probabilities", worst, 1e-5)


def vectors(check, directory, work):
    import sentence_transformers

    sentences = [line.replace("\t", " ") for line in HELD_OUT.read_text(encoding="utf-8").splitlines()[:SENTENCES]]
    lines = work / "lines.txt"
    lines.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    check.run("embed", directory, lines, "--pool", "mean", "--format", "npy", "--output", work / "vectors.npy")
    ours = numpy.load(work / "vectors.npy")
    theirs = sentence_transformers.SentenceTransformer(str(directory), device="cpu").encode(sentences)
    check.row(f"out: sentence-transformers, {len(ours)} mean vectors", abs(ours - theirs).max(), 1e-5)


def out(check, work, vocabulary, batches_file):
    run, directory = work / "run", work / "exported"
    check.run(
        "train", "--corpus", work / TRAIN.name, "--vocab", vocabulary, "--output", run, "--arch", "bert", "--hidden", 64,
        "--layers", 3, "--attn-heads", 4, "--seq-len", 48, "--batch-size", 32, "--steps", 60, "--quiet",
    )  # fmt: skip
    check.run("export", run, directory)
    model, loading = transformers.BertForPreTraining.from_pretrained(directory, output_loading_info=True)
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        check.row(f"out: {name.replace('_', ' ')}", len(loading[name]), 0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    batches, pairs = compare_losses(check, "out", run, model.eval(), work, batches_file)
    logits(check, directory, model, tokenizer, work, batches, pairs)
    fill_mask(check, directory, tokenizer)
    vectors(check, directory, work)


def back(check, work, vocabulary, batches_file):
    size = json.loads(vocabulary.read_text(encoding="utf-8"))
    size = len(size["tokens"] if check.vocabulary == "words" else size["model"]["vocab"])
    torch.manual_seed(7)
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
        max_position_embeddings=64, initializer_range=0.1,
    )  # fmt: skip
    model = transformers.BertForPreTraining(config).eval()
    with torch.no_grad():
        # Norms and biases begin at 1 and 0, where an exchange would not be seen.
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name or "bias" in name:
                parameter += 0.1 * torch.randn_like(parameter)

    def save(name, model, **options):
        directory = work / name
        model.save_pretrained(directory, **options)
        if check.vocabulary == "words":
            shutil.copy(vocabulary, directory / "vocab.json")
        else:
            transformers.PreTrainedTokenizerFast(tokenizer_file=str(vocabulary), **ROLES).save_pretrained(directory)
        return directory

    def init(directory, name):
        run = work / name
        check.run(
            "train", "--init", directory, "--corpus", work / TRAIN.name, "--output", run, "--seq-len", 48, "--batch-size",
            8, "--steps", 1, "--lr", 1e-12, "--warmup", 0, "--quiet",
        )  # fmt: skip
        return run

    directory = save("random", model)
    compare_losses(check, "back: eval DIR", directory, model, work, batches_file)
    compare_losses(check, "back: train --init DIR", init(directory, "from-random"), model, work, batches_file)
    init(save("body", model.bert), "from-body")
    half = transformers.BertForPreTraining.from_pretrained(directory, dtype=torch.bfloat16)
    sharded = save("sharded", half, max_shard_size="50KB")
    check.row("back: shards of a checkpoint in half precision, fewer than 2", len(list(sharded.glob("*-of-*"))) < 2, 0)
    compare_losses(check, "back: sharded bfloat16", sharded, half.float().eval(), work, batches_file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", required=True, choices=["wordpiece", "words"])
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--bertstream", required=True, type=pathlib.Path)
    args = parser.parse_args()

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    # An index is written beside a corpus.
    for corpus in (TRAIN, HELD_OUT):
        shutil.copy(corpus, args.work)
    check = Check(args.bertstream.resolve(), args.vocabulary)
    vocabulary = make_vocabulary(check, args.work)
    batches_file = args.work / "held-out.safetensors"
    check.run(
        "collate", "--corpus", args.work / HELD_OUT.name, "--vocab", vocabulary, "--seq-len", 48, "--batch-size", 32,
        "--format", "safetensors", "--output", batches_file,
    )  # fmt: skip
    out(check, args.work, vocabulary, batches_file)
    back(check, args.work, vocabulary, batches_file)
    sys.exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
