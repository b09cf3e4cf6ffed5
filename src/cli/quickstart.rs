//! `bertstream quickstart`: a small model on a made-up language, from text to filled masks.

use std::path::{Path, PathBuf};

use super::eval;
use super::flags::{Preset, TokensFlag, corpus_at};
use super::output::{grouped, print, tell};
use super::train::{Opened, begin, check, defaults, execute, introduce};
use crate::collate::{CollateConfig, HostBatch};
use crate::corpus::Corpus;
use crate::model::{Engine, ModelConfig};
use crate::sample::{PairLabel, SEGMENT_A, SEGMENT_B, SampleConfig};
use crate::train::schedule::default_warmup;
use crate::train::{DataConfig, Ending, Length, RunConfig, Runtime, Schedule, Stop};
use crate::vocab::{Tokenizer, WordVocab};
use crate::{Error, ErrorKind, Result, durable};

/// The language: made by `scripts/make_toy_language.py`.
const TRAIN: &[u8] = include_bytes!("../../fixtures/toy.pairs.tsv");
const HELD_OUT: &[u8] = include_bytes!("../../fixtures/toy.held-out.pairs.tsv");

/// Flags of `quickstart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for corpus, vocabulary and run; where it is taken, the same name with a number.
    #[arg(short = 'o', long, value_name = "DIR", default_value = "runs/quickstart")]
    output: PathBuf,
    /// Training steps.
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Key of all randomness.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Show no progress.
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    let directory = fresh(&args.output)?;
    let (train, held_out) = (directory.join("toy.pairs.tsv"), directory.join("toy.held-out.pairs.tsv"));
    durable::write_file(&train, TRAIN)?;
    durable::write_file(&held_out, HELD_OUT)?;
    let text = std::str::from_utf8(TRAIN).map_err(|e| Error::internal("toy corpus").caused_by(e))?;
    let vocab = WordVocab::from_texts(text.lines(), None, 1);
    let (corpus, test) = (corpus_at(&train).into(), corpus_at(&held_out).into());
    let opened = Opened::open(Box::new(vocab), &corpus, Some(&test), &TokensFlag::default())?;
    let base = opened.settle(small(
        &args,
        defaults(Preset::Default, opened.data(directory.join("vocab.json")), &*opened.tokenizer),
    ));
    let survey = opened.survey(&base)?;
    let config = RunConfig { data: DataConfig { epoch: survey.epoch, ..base.data }, ..base };
    check(&config)?;
    let run = begin(&config, &opened, &survey, &directory)?;
    if !args.quiet {
        tell(format_args!(
            "a made-up language: {} pairs of sentences to learn it from, {} to measure with",
            grouped(opened.corpus.len()),
            grouped(opened.test.as_ref().map_or(0, |test| test.len()))
        ));
        introduce(&config, &opened, &run, &survey);
    }
    let mut done = execute(&config, &opened, &survey, &run, None, args.quiet)?;
    if let Ending::Stopped(stop) = done.ending {
        return Err(Error::new(
            ErrorKind::Stopped { interrupt: stop == Stop::Interrupt },
            format!("stopped by a signal; go on with `{} train --resume {}`", program(), directory.display()),
        ));
    }
    if let Some(test) = &done.last_test {
        print(format_args!("\non text that it never saw:\n{}", eval::table(&test.figures)))?;
    }
    if let Some(held_out) = &opened.test {
        let guesses = fill(&mut *done.engine, &**held_out, &*opened.tokenizer)?;
        print(format_args!("\nits guesses for one hidden word, the true one in brackets:\n{guesses}"))?;
    }
    print(format_args!("\n{}", next(&program(), &directory)))
}

/// What to type to get here again: the program may lie outside the path.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "bertstream".to_owned())
}

/// What to type next, and what for.
fn next(program: &str, run: &Path) -> String {
    let run = run.display();
    format!(
        "what it saw at the first step, and its figures with masked, random and kept words told apart:\n  \
         {program} inspect --run {run} --step 1 --limit 5\n  \
         {program} eval --run {run} --by-corruption\n\
         with a text of your own, two sentences a line and a tab between them:\n  \
         {program} vocab -c TEXT -o vocab.json\n  \
         {program} train -c TEXT -v vocab.json -o runs/mine\n"
    )
}

/// A directory that was not there: `wanted`, or that with the first free number. What others keep there
/// stays theirs.
fn fresh(wanted: &Path) -> Result<PathBuf> {
    if let Some(parent) = wanted.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::writing(parent, e))?;
    }
    for number in 1u32.. {
        let path = match number {
            1 => wanted.to_owned(),
            n => PathBuf::from(format!("{}-{n}", wanted.display())),
        };
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::writing(&path, e)),
        }
    }
    Err(Error::new(ErrorKind::CannotCreate, format!("{}: every number is taken", wanted.display())))
}

/// A model that learns the language within half a minute on two idle cores. Without dropout: a language this
/// regular leaves nothing to overfit, and both tasks are learnt in half the steps.
fn small(args: &Args, base: RunConfig) -> RunConfig {
    let sample = SampleConfig { seed: args.seed, seq_len: 32, ..base.sample };
    let collate = CollateConfig { batch_size: 32, seq_len: sample.seq_len, ..base.collate };
    // By steps alone: how many an epoch has does not matter.
    let length = Length::new(None, Some(args.steps), 0);
    RunConfig {
        model: ModelConfig { hidden: 64, layers: 2, heads: 4, dropout: 0.0, ..base.model },
        schedule: Schedule {
            lr: 2e-3,
            hidden: 64,
            warmup: default_warmup(base.schedule.kind, length.total),
            ..base.schedule
        },
        runtime: Runtime { log_freq: (args.steps / 15).max(1), ..base.runtime },
        sample,
        collate,
        length,
        ..base
    }
}

/// Hides the last word of a few pairs and tells what the model takes for it, a line each.
fn fill(engine: &mut dyn Engine, corpus: &dyn Corpus, tokenizer: &dyn Tokenizer) -> Result<String> {
    const SHOWN: u64 = 5;
    const GUESSES: usize = 3;
    let mut text = String::new();
    for k in 0..SHOWN.min(corpus.len()) {
        let document = corpus.document(k * corpus.len() / SHOWN)?;
        let [a, b] = &document.sentences[..] else { continue };
        let Some((batch, hidden)) = hide_last(&a.text, &b.text, tokenizer) else { continue };
        let predictions = engine.predict(&batch)?;
        let spell = |id: u32| tokenizer.token(id).unwrap_or("?");
        let guesses: Vec<String> = likeliest(&predictions.mlm, GUESSES)
            .into_iter()
            .map(|(id, p)| format!("{} {:.0} %", spell(id), 100.0 * p))
            .collect();
        let shown = b.text.trim_end().rsplit_once(char::is_whitespace).map_or("", |(front, _)| front);
        text += &format!("  {} | {shown} ____: {}  [{}]\n", a.text, guesses.join(", "), spell(hidden));
    }
    Ok(text)
}

/// Both sentences as one row whose last word is masked, and that word's id.
fn hide_last(a: &str, b: &str, tokenizer: &dyn Tokenizer) -> Option<(HostBatch, u32)> {
    let specials = tokenizer.specials();
    let mut ids = vec![specials.classify];
    tokenizer.encode(a, &mut ids);
    ids.push(specials.separator);
    let first = ids.len();
    tokenizer.encode(b, &mut ids);
    let masked = ids.len() - 1;
    if masked < first {
        return None;
    }
    let hidden = std::mem::replace(&mut ids[masked], specials.mask);
    ids.push(specials.separator);
    let mut segments = vec![SEGMENT_A; first];
    segments.resize(ids.len(), SEGMENT_B);
    let batch = HostBatch {
        rows: 1,
        seq_len: ids.len(),
        starts: vec![],
        lengths: vec![ids.len() as u32],
        masked: vec![masked as u32],
        labels: vec![hidden],
        corruptions: vec![crate::sample::Corruption::Mask],
        pairs: vec![PairLabel::IsNext],
        origins: vec![crate::sample::Origin::default()],
        ids,
        segments,
        ..HostBatch::default()
    };
    Some((batch, hidden))
}

/// The `count` most probable ids of a row of log-probabilities, with their probabilities.
fn likeliest(log_probabilities: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut ranked: Vec<(u32, f32)> =
        log_probabilities.iter().enumerate().map(|(id, p)| (id as u32, p.exp())).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.truncate(count);
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_ties_by_id() {
        let half = 0.5f32.ln();
        let quarter = 0.25f32.ln();
        let ids: Vec<u32> =
            likeliest(&[quarter, half, f32::NEG_INFINITY, quarter], 3).iter().map(|x| x.0).collect();
        assert_eq!(ids, [1, 0, 3]);
    }

    #[test]
    fn a_directory_that_is_there_stays_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let wanted = parent.path().join("deep/quickstart");
        assert_eq!(fresh(&wanted).unwrap(), wanted);
        std::fs::write(wanted.join("mine"), "kept").unwrap();
        assert_eq!(fresh(&wanted).unwrap(), parent.path().join("deep/quickstart-2"));
        assert_eq!(fresh(&wanted).unwrap(), parent.path().join("deep/quickstart-3"));
        assert_eq!(std::fs::read(wanted.join("mine")).unwrap(), b"kept");
    }
}
