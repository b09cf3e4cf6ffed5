//! `bertstream bench mask`: choosing the tokens of a row that are predicted, and replacing them.

use std::time::Instant;

use serde_json::json;

use super::{Count, Line, MeasureFlags};
use crate::Result;
use crate::rng::{Domain, SampleRng};
use crate::sample::{MaskUnit, Masker, SampleConfig};
use crate::vocab::{Specials, Tokenizer, WordVocab};

/// Words of the made-up vocabulary.
const WORDS: u32 = 8192;

/// Rows between two looks at the clock.
const ROWS: u64 = 1 << 12;

/// Flags of `bench mask`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tokens of a row, special ones included.
    #[arg(short, long, value_name = "N", default_value_t = 128)]
    seq_len: usize,
    /// What is masked together.
    #[arg(long, value_name = "UNIT", default_value = "token")]
    mask_unit: MaskUnit,
    #[command(flatten)]
    measure: MeasureFlags,
}

/// Runs the subcommand: on one thread, full rows of made-up words, in two segments.
pub fn run(args: &Args) -> Result<()> {
    let config = SampleConfig { seq_len: args.seq_len, mask_unit: args.mask_unit, ..SampleConfig::default() };
    let words: String = (0..WORDS).map(|word| format!("w{word} ")).collect();
    let vocab = WordVocab::from_texts([words], None, 1);
    let mut masker = Masker::new(&vocab, &config)?;
    let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
    let mut ids: Vec<u32> =
        (0..args.seq_len).map(|_| vocab.ordinary(rng.below(u64::from(WORDS)) as u32)).collect();
    let Specials { classify, separator, .. } = vocab.specials();
    let (middle, end) = (args.seq_len / 2, args.seq_len - 1);
    (ids[0], ids[middle], ids[end]) = (classify, separator, separator);
    let begins = vec![true; args.seq_len];
    let (mut rows, mut masked) = (0, 0);
    let started = Instant::now();
    while rows == 0 || started.elapsed() < args.measure.seconds {
        for row in rows..rows + ROWS {
            let mut rng = SampleRng::new(Domain::Sample, config.seed, &[0, row, 0]);
            let texts = [(1..middle, &begins[1..middle]), (middle + 1..end, &begins[middle + 1..end])];
            masker.mask(&mut ids, texts, &mut rng);
            masked += masker.masked().len() as u64;
            // The next row is the same one.
            for (&position, &label) in masker.masked().iter().zip(masker.labels()) {
                ids[position as usize] = label;
            }
        }
        rows += ROWS;
    }
    let elapsed = started.elapsed();
    let tokens = rows * args.seq_len as u64;
    let count = Count { samples: Some(rows), tokens: Some(tokens), bytes: None, elapsed };
    let more = vec![
        ("nanoseconds_per_row", json!(elapsed.as_secs_f64() * 1e9 / rows as f64)),
        ("masked_per_row", json!(masked as f64 / rows as f64)),
    ];
    Line { stage: "mask", workers: None, count, flow: None, more }.print(&args.measure)
}
