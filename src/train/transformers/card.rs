//! The model card of a run: what it was trained on, how, and what it reaches beside guessing.
//!
//! Takes a run's configuration and records, gives Markdown with the front matter that model hubs read. Names
//! files, never where they lie.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::corpus::{CorpusConfig, Sources};
use crate::sample::SampleConfig;
use crate::train::checkpoint::Progress;
use crate::train::config::RunConfig;
use crate::train::metrics::{EvaluationRecord, Figures, Record, StepRecord};
use crate::vocab::Tokenizer;

/// What a card tells of.
pub struct Facts<'f> {
    /// Title of the card.
    pub name: &'f str,
    pub config: &'f RunConfig,
    /// Where the exported checkpoint stands.
    pub progress: &'f Progress,
    pub tokenizer: &'f dyn Tokenizer,
    /// The run's records.
    pub records: &'f [Record],
}

/// The card.
pub fn text(facts: &Facts<'_>) -> String {
    let Facts { name, config, progress, tokenizer, .. } = facts;
    let mask = tokenizer.token(tokenizer.specials().mask).unwrap_or_default();
    let sections = [
        "---\nlibrary_name: transformers\npipeline_tag: fill-mask\ntags:\n- bert\n- fill-mask\n- \
         feature-extraction\n- bertstream\n---\n"
            .to_owned(),
        format!("# {name}\n"),
        format!(
            "A BERT (`BertForPreTraining`, both pretraining heads), trained with \
             bertstream {}.\n",
            env!("CARGO_PKG_VERSION")
        ),
        format!(
            "```python\nfrom transformers import pipeline\n\nfill = pipeline(\"fill-mask\", model=\"DIRECTORY\")\n\
             fill(\"some text with {mask} in it\")\n```\n"
        ),
        model(config),
        data(facts),
        training(config, progress),
        figures(facts),
        samples(&config.sample),
        format!("## To reproduce\n\n```\n{}\n```\n", command_line(config)),
        "## Limits\n\nA model pretrained on one corpus predicts that corpus, with what is wrong in it. It has not \
         been fine-tuned for anything.\n"
            .to_owned(),
    ];
    sections.join("\n")
}

fn model(config: &RunConfig) -> String {
    let m = &config.model;
    format!(
        "## Model\n\n| | |\n|---|---|\n| width | {} |\n| layers | {} |\n| attention heads | {} |\n| feed-forward \
         width | {} |\n| positions | {} |\n| tokens | {} |\n| dropout | {} |\n",
        m.hidden,
        m.layers,
        m.heads,
        m.feed_forward(),
        m.max_positions,
        m.vocab_size,
        m.dropout
    )
}

fn data(facts: &Facts<'_>) -> String {
    let (data, tokenizer) = (&facts.config.data, facts.tokenizer);
    let mut text = format!(
        "## Data\n\n- corpus: {}, {} documents (fingerprint {})\n- vocabulary: `{}`, {} tokens (fingerprint {})\n",
        listed(&data.corpus),
        data.documents,
        data.corpus_fingerprint,
        file_name(&data.vocab),
        tokenizer.len(),
        data.vocab_fingerprint
    );
    if let (Some(test), Some(fingerprint)) = (&data.test, &data.test_fingerprint) {
        let _ = writeln!(text, "- held out: {} (fingerprint {fingerprint})", listed(test));
    }
    if let Some(from) = &facts.config.init_from {
        let _ = writeln!(
            text,
            "- weights started from: `{}` (fingerprint {})",
            file_name(&from.directory),
            from.fingerprint
        );
    }
    text
}

fn training(config: &RunConfig, progress: &Progress) -> String {
    format!(
        "## Training\n\n| | |\n|---|---|\n| steps | {} of {} |\n| samples a step | {} |\n| tokens seen | {} |\n| \
         samples seen | {} |\n| steps left out (gradient not finite) | {} |\n| digest of all batches | {} |\n",
        progress.step,
        config.length.total,
        config.collate.batch_size * config.accumulate,
        progress.tokens,
        progress.samples,
        progress.skipped_updates,
        progress.digest
    )
}

/// The newest figures up to the exported step: on held-out text where there was one, and in training.
fn figures(facts: &Facts<'_>) -> String {
    let last = facts.progress.step;
    let evaluation: Option<&EvaluationRecord> = facts.records.iter().rev().find_map(|r| match r {
        Record::Evaluation(e) if e.step <= last => Some(e),
        _ => None,
    });
    let step: Option<&StepRecord> = facts.records.iter().rev().find_map(|r| match r {
        Record::Step(s) if s.step <= last => Some(s),
        _ => None,
    });
    let mut text =
        "## Figures\n\nLosses are in nats; beside each what guessing by frequency reaches on the same \
                    labels.\n"
            .to_owned();
    match (evaluation, step) {
        (Some(e), _) => {
            let _ =
                write!(text, "\nHeld-out text, after step {}, dropout off:\n\n{}", e.step, table(&e.figures));
        }
        (None, Some(s)) => {
            let _ = write!(
                text,
                "\nTraining batches up to step {}, dropout on; there was no held-out text:\n\n{}",
                s.step,
                table(&s.figures)
            );
        }
        (None, None) => text += "\nNone were recorded.\n",
    }
    text
}

fn table(figures: &Figures) -> String {
    let nats = |x: f64| format!("{x:.4}");
    let share = |x: f64| format!("{:.2} %", 100.0 * x);
    let guess = |x: Option<f64>, show: &dyn Fn(f64) -> String| x.map_or("-".to_owned(), show);
    let mut text = "| | model | guessing |\n|---|---|---|\n".to_owned();
    let mut row = |name: &str, value: String, guess: String| {
        let _ = writeln!(text, "| {name} | {value} | {guess} |");
    };
    if figures.masked > 0 {
        row("masked tokens: loss", nats(figures.mlm_loss), guess(figures.unigram_loss, &nats));
        let perplexity = |x: f64| format!("{:.1}", x.exp());
        row(
            "masked tokens: perplexity",
            perplexity(figures.mlm_loss),
            guess(figures.unigram_loss, &perplexity),
        );
        row("masked tokens: accuracy", share(figures.mlm_accuracy), guess(figures.majority_accuracy, &share));
    }
    if figures.pairs > 0 {
        row("pairs: loss", nats(figures.nsp_loss), guess(figures.nsp_chance_loss, &nats));
        row("pairs: accuracy", share(figures.nsp_accuracy), guess(figures.nsp_majority_accuracy, &share));
    }
    let _ = writeln!(text, "\nOver {} masked tokens and {} pairs.", figures.masked, figures.pairs);
    text
}

/// Pairs and masks, every setting under its name.
fn samples(sample: &SampleConfig) -> String {
    let mut text = "## Pairs and masks\n\n| | |\n|---|---|\n".to_owned();
    for (name, value) in fields(sample) {
        let _ = writeln!(text, "| {} | {} |", name.replace('_', " "), shown(&value));
    }
    text
}

/// The command that made the run. Settings of samples that are the defaults are left out.
fn command_line(config: &RunConfig) -> String {
    let RunConfig { model, schedule, optimizer, .. } = config;
    let mut words = vec!["bertstream train".to_owned()];
    let mut flag = |name: &str, value: String| words.push(format!("--{name} {}", quoted(&value)));
    config.data.corpus.iter().for_each(|source| flag("corpus", weighted(source)));
    config.data.test.iter().flat_map(|test| test.iter()).for_each(|source| flag("test", weighted(source)));
    flag("vocab", file_name(&config.data.vocab));
    flag("output", "run".to_owned());
    match &config.init_from {
        Some(from) => flag("init", file_name(&from.directory)),
        None => {
            flag("arch", "bert".to_owned());
            flag("hidden", model.hidden.to_string());
            flag("layers", model.layers.to_string());
            flag("attn-heads", model.heads.to_string());
        }
    }
    flag("dropout", model.dropout.to_string());
    flag("batch-size", config.collate.batch_size.to_string());
    flag("accumulate", config.accumulate.to_string());
    match (config.length.epochs, config.length.steps) {
        (None, None) => flag("steps", config.length.total.to_string()),
        (epochs, steps) => {
            epochs.iter().for_each(|n| flag("epochs", n.to_string()));
            steps.iter().for_each(|n| flag("steps", n.to_string()));
        }
    }
    flag("lr", schedule.lr.to_string());
    flag("warmup", schedule.warmup.to_string());
    flag("adam-weight-decay", optimizer.weight_decay.to_string());
    flag("clip", config.clip.unwrap_or(0.0).to_string());
    let defaults = fields(&SampleConfig::default());
    for (name, value) in fields(&config.sample).into_iter().filter(|field| !defaults.contains(field)) {
        match name.as_str() {
            "skip_bad_lines" => flag("on-bad-line", "skip".to_owned()),
            "short_rate" => flag("short-seq-prob", shown(&value)),
            _ => flag(&name.replace('_', "-"), shown(&value)),
        }
    }
    words.join(" \\\n    ")
}

fn fields(sample: &SampleConfig) -> Vec<(String, Value)> {
    let value = serde_json::to_value(sample).expect("no map with keys that are not strings");
    value.as_object().map_or_else(Vec::new, |fields| fields.clone().into_iter().collect())
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+/=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The files of a corpus in words.
fn listed(sources: &Sources) -> String {
    sources.iter().map(|source| format!("`{}`", weighted(source))).collect::<Vec<_>>().join(", ")
}

/// A source as the flags take it: its file, and its weight where it has one.
fn weighted(source: &CorpusConfig) -> String {
    let weight = source.weight.map_or(String::new(), |weight| format!(":{weight}"));
    file_name(&source.path) + &weight
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
