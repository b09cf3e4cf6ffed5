//! `bertstream fill-mask`: what a model would put in place of the mask.

use std::io::BufRead;
use std::path::PathBuf;

use serde::Serialize;

use super::output::{Printer, percent};
use super::train::ComputeFlags;
use super::trained::Trained;
use crate::train::run_dir::Which;
use crate::{Error, Result};

/// Flags of `fill-mask`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of a run, or of a model of transformers.
    #[arg(value_name = "RUN|DIR")]
    model: PathBuf,
    /// Texts with the mask token in them; `-`: a text a line from stdin.
    #[arg(value_name = "TEXT", required = true)]
    texts: Vec<String>,
    /// Tokens to show for each mask.
    #[arg(short = 'k', long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Of a run: best, latest or a step.
    #[arg(long, value_name = "WHICH", default_value = "latest")]
    checkpoint: Which,
    /// The vocabulary [default: the model's own].
    #[arg(short = 'v', long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Print a line of JSON for each text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeFlags,
}

/// What is predicted for one text.
#[derive(Serialize)]
struct Filled<'t> {
    text: &'t str,
    /// For each mask in the text's order, the most probable tokens.
    masks: Vec<Vec<Guess>>,
}

#[derive(Serialize)]
struct Guess {
    id: u32,
    token: String,
    probability: f32,
}

/// Texts of one batch.
const AT_ONCE: usize = 32;

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    if args.top == 0 {
        return Err(Error::usage("--top 0: at least 1"));
    }
    let mut trained = Trained::open(&args.model, args.checkpoint, args.vocab.as_deref(), &args.compute)?;
    trained.needs_masked_head(&args.model)?;
    let texts = texts(&args.texts)?;
    let rows: Vec<Vec<u32>> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| encode(&trained, text).map_err(|e| e.context(format!("text {}", i + 1))))
        .collect::<Result<_>>()?;
    let mut printer = Printer::new();
    for (texts, rows) in texts.chunks(AT_ONCE).zip(rows.chunks(AT_ONCE)) {
        for filled in fill(&mut trained, texts, rows, args.top)? {
            match args.json {
                true => printer
                    .line(serde_json::to_string(&filled).map_err(|e| {
                        Error::internal("fill-mask: the line cannot be written").caused_by(e)
                    })?)?,
                false => printer.line(shown(&filled))?,
            }
        }
    }
    printer.finish().map(|_| ())
}

/// The texts that the command line names.
fn texts(given: &[String]) -> Result<Vec<String>> {
    match given {
        [one] if one == "-" => std::io::stdin()
            .lock()
            .lines()
            .map(|line| line.map_err(|e| Error::data("stdin: cannot be read as UTF-8").caused_by(e)))
            .collect(),
        _ => Ok(given.to_vec()),
    }
}

/// The ids of a text, which must hold a mask and fit into the model.
fn encode(trained: &Trained, text: &str) -> Result<Vec<u32>> {
    let mask = trained.tokenizer.specials().mask;
    let ids = trained.encode(text);
    if !ids.contains(&mask) {
        let spelling = trained.tokenizer.token(mask).unwrap_or_default();
        return Err(Error::usage(format!(
            "there is no {spelling} in it: write {spelling} where a word is missing"
        )));
    }
    match trained.longest() {
        most if ids.len() > most => Err(Error::data(format!(
            "{} tokens with those around it, and the model reads {most}: shorten it around the mask",
            ids.len()
        ))),
        _ => Ok(ids),
    }
}

fn fill<'t>(
    trained: &mut Trained,
    texts: &'t [String],
    rows: &[Vec<u32>],
    top: usize,
) -> Result<Vec<Filled<'t>>> {
    let batch = trained.batch(rows);
    let predictions = trained.engine.predict(&batch)?;
    let mut distributions = predictions.mlm.chunks_exact(trained.model.vocab_size);
    let tokenizer = &trained.tokenizer;
    let guess = |(id, log_probability): (u32, f32)| Guess {
        id,
        token: tokenizer.token(id).map_or_else(|| format!("<{id}>"), str::to_owned),
        probability: log_probability.exp(),
    };
    let filled = texts.iter().enumerate().map(|(row, text)| Filled {
        text,
        masks: (distributions.by_ref().take(batch.predicted(row).len()))
            .map(|distribution| best(distribution, top).into_iter().map(guess).collect())
            .collect(),
    });
    Ok(filled.collect())
}

/// The `top` most probable entries, best first; of equal ones the smaller id first.
pub fn best(log_probabilities: &[f32], top: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(log_probabilities.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top < all.len() {
        all.select_nth_unstable_by(top, order);
        all.truncate(top);
    }
    all.sort_unstable_by(order);
    all
}

/// A text with a table of what fits below it.
fn shown(filled: &Filled<'_>) -> String {
    let mut text = format!("{}\n", filled.text);
    for (i, guesses) in filled.masks.iter().enumerate() {
        if filled.masks.len() > 1 {
            text += &format!("  mask {}\n", i + 1);
        }
        let width = guesses.iter().map(|g| g.token.chars().count()).max().unwrap_or(0);
        for Guess { token, probability, .. } in guesses {
            text += &format!("  {:>9}  {token:<width$}\n", percent(f64::from(*probability)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_ties_by_id() {
        let check = |values: &[f32], top, expected: &[u32]| {
            let ids: Vec<u32> = best(values, top).into_iter().map(|(id, _)| id).collect();
            assert_eq!(ids, expected, "{values:?}, {top}");
        };
        check(&[-3.0, -1.0, -2.0], 2, &[1, 2]);
        check(&[-3.0, -1.0, -2.0], 9, &[1, 2, 0]);
        check(&[-1.0, -1.0, -1.0, -0.5], 3, &[3, 0, 1]);
        check(&[], 3, &[]);
    }
}
