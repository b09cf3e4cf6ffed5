#!/usr/bin/env python3
"""Trains the reference itself (PyPI `bert-pytorch`) on a corpus and records its losses against steps.

Model, vocabulary, dataset with its masking and pairs, Adam and schedule are the package's own classes. What
is done around them, because its trainer cannot say how it is doing:

* Not-next pairs count in the loss: the package's one `NLLLoss(ignore_index=0)` drops them, so that its head
  learns "always next". `--as-published` keeps the package's criterion.
* The warm-up is a flag (there it is fixed at 10,000 steps), and so is the seed (there is none).
* The vocabulary is built with the tab as white space; the package glues the words on both sides of it.
* Both losses and accuracies are recorded apart, on the training batches and on held-out ones that are made
  once (same masks at every evaluation) and evaluated without dropout.

Run it with the Python that `scripts/setup_peers.sh` prints. The output is JSON lines: `start` (settings and
the losses of guessing), `train` every 10 steps (means since the last line), `eval` every 100.
"""

import argparse
import json
import pathlib
import random
import time

import torch
from bert_pytorch.dataset import BERTDataset, WordVocab
from bert_pytorch.model import BERT, BERTLM
from bert_pytorch.trainer.optim_schedule import ScheduledOptim
from safetensors.torch import save_file
from torch.utils.data import DataLoader

UNKNOWN = 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="training pairs, a tab between")
    parser.add_argument("--held-out", required=True, help="pairs to evaluate on")
    parser.add_argument("--vocab", help="vocab.json of `bertstream vocab`; default: built from the corpus")
    parser.add_argument("--vocab-size", type=int, default=8192, help="words besides the five special tokens")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="JSON lines")
    parser.add_argument("--eval-batches", help="also write the held-out batches to this safetensors file")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--attn-heads", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1250)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--as-published", action="store_true", help="not-next pairs give no gradient")
    return parser.parse_args()


def vocabulary(args):
    """The package's vocabulary; words as lists, since it would drop the tab between two words."""
    if args.vocab is None:
        with open(args.corpus, encoding="utf-8") as lines:
            return WordVocab([line.split() for line in lines], max_size=args.vocab_size)
    vocab = WordVocab([])
    vocab.itos = json.loads(pathlib.Path(args.vocab).read_text(encoding="utf-8"))["tokens"]
    vocab.vocab_rerank()
    return vocab


def unigram_log_probabilities(corpus, vocab):
    """Log-probability of each id as a share of the corpus' words; what is never seen counts once."""
    counts = torch.zeros(len(vocab), dtype=torch.float64)
    with open(corpus, encoding="utf-8") as lines:
        for line in lines:
            for word in line.split():
                counts[vocab.stoi.get(word, UNKNOWN)] += 1
    return (counts.clamp(min=1) / counts.clamp(min=1).sum()).log()


class Sums:
    """Sums over batches, and the means that follow."""

    def __init__(self):
        self.mlm = self.mlm_correct = self.masked = self.known = self.known_count = 0.0
        self.nsp = self.nsp_correct = self.pairs = 0.0

    def add(self, next_output, mask_output, batch):
        labels, is_next = batch["bert_label"], batch["is_next"]
        masked = labels != 0
        true = labels[masked]
        at_masked = mask_output.detach()[masked]
        nll = -at_masked.gather(1, true.unsqueeze(1)).squeeze(1).double()
        self.mlm += nll.sum().item()
        self.masked += true.numel()
        self.mlm_correct += (at_masked.argmax(1) == true).sum().item()
        self.known += nll[true != UNKNOWN].sum().item()
        self.known_count += (true != UNKNOWN).sum().item()
        next_output = next_output.detach()
        self.nsp -= next_output.gather(1, is_next.unsqueeze(1)).double().sum().item()
        self.nsp_correct += (next_output.argmax(1) == is_next).sum().item()
        self.pairs += is_next.numel()

    def means(self):
        return {
            "mlm_loss": self.mlm / max(self.masked, 1),
            "nsp_loss": self.nsp / max(self.pairs, 1),
            "mlm_accuracy": self.mlm_correct / max(self.masked, 1),
            "nsp_accuracy": self.nsp_correct / max(self.pairs, 1),
            # The package predicts words outside the vocabulary too, as <unk>; without those:
            "mlm_loss_known": self.known / max(self.known_count, 1),
        }


def evaluate(model, batches):
    model.eval()
    sums = Sums()
    with torch.no_grad():
        for batch in batches:
            sums.add(*model(batch["bert_input"], batch["segment_label"]), batch)
    model.train()
    return sums.means() | {"masked": int(sums.masked), "pairs": int(sums.pairs)}


def held_out_batches(args, vocab):
    """The held-out samples, made once from a seed of their own."""
    random.seed(args.seed + 1)
    dataset = BERTDataset(args.held_out, vocab, seq_len=args.seq_len)
    return list(DataLoader(dataset, batch_size=args.batch_size))


def guesses(batches, log_probabilities):
    """What always guessing costs: each word by its share of the training corpus, pairs by a coin."""
    labels = torch.cat([batch["bert_label"][batch["bert_label"] != 0] for batch in batches])
    is_next = torch.cat([batch["is_next"] for batch in batches]).double().mean().item()
    return {
        "unigram_mlm_loss": -log_probabilities[labels].mean().item(),
        "unigram_mlm_loss_known": -log_probabilities[labels[labels != UNKNOWN]].mean().item(),
        "unigram_mlm_accuracy": (labels == log_probabilities.argmax()).double().mean().item(),
        "majority_nsp_accuracy": max(is_next, 1 - is_next),
        "unknown_share_of_labels": (labels == UNKNOWN).double().mean().item(),
    }


def main():
    args = arguments()
    vocab = vocabulary(args)
    held_out = held_out_batches(args, vocab)
    if args.eval_batches:
        columns = {name: torch.cat([b[name] for b in held_out]) for name in held_out[0]}
        save_file({name: column.contiguous() for name, column in columns.items()}, args.eval_batches)

    random.seed(args.seed)
    torch.manual_seed(args.seed)
    dataset = BERTDataset(args.corpus, vocab, seq_len=args.seq_len)
    loader = DataLoader(dataset, batch_size=args.batch_size)
    model = BERTLM(BERT(len(vocab), args.hidden, args.layers, args.attn_heads), len(vocab))
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.999), weight_decay=0.01)
    schedule = ScheduledOptim(optimizer, args.hidden, n_warmup_steps=args.warmup)
    ignore_padding = torch.nn.NLLLoss(ignore_index=0)
    next_criterion = ignore_padding if args.as_published else torch.nn.NLLLoss()

    out = open(args.out, "w", encoding="utf-8")

    def record(**fields):
        out.write(json.dumps(fields) + "\n")
        out.flush()

    settings = {name: value for name, value in vars(args).items() if isinstance(value, (int, bool))}
    baseline = guesses(held_out, unigram_log_probabilities(args.corpus, vocab))
    record(kind="start", **settings, vocabulary=len(vocab), torch=torch.__version__, **baseline)
    record(kind="eval", step=0, tokens=0, **evaluate(model, held_out))

    started, step, tokens, sums = time.monotonic(), 0, 0, Sums()
    model.train()
    while step < args.steps:
        for batch in loader:
            next_output, mask_output = model(batch["bert_input"], batch["segment_label"])
            loss = next_criterion(next_output, batch["is_next"]) + ignore_padding(
                mask_output.transpose(1, 2), batch["bert_label"]
            )
            schedule.zero_grad()
            loss.backward()
            schedule.step_and_update_lr()

            step += 1
            tokens += (batch["segment_label"] > 0).sum().item()
            sums.add(next_output, mask_output, batch)
            seconds = time.monotonic() - started
            finished = step == args.steps or seconds > 60 * args.minutes
            place = {"step": step, "tokens": tokens, "seconds": round(seconds, 1)}
            if step % 10 == 0 or finished:
                record(kind="train", **place, lr=optimizer.param_groups[0]["lr"], **sums.means())
                sums = Sums()
            if step % 100 == 0 or finished:
                record(kind="eval", **place, **evaluate(model, held_out))
            if finished:
                return


if __name__ == "__main__":
    main()
