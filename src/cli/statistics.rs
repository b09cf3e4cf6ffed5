//! What samples look like in numbers: for `sample --stats`, and for the page of `report`.

use serde::Serialize;

use super::output::{Table, grouped, percent, share};
use crate::Result;
use crate::collate::HostBatch;
use crate::corpus::check::RARE;
use crate::pipeline::Plan;
use crate::sample::{Cursor, Tally};
use crate::vocab::{Specials, Tokenizer};

/// Ranges of lengths that are counted.
const BARS: usize = 24;

/// A token as the vocabulary spells it, ids beyond it as `<id>`.
pub fn spelled(tokenizer: &dyn Tokenizer, id: u32) -> String {
    tokenizer.token(id).map_or_else(|| format!("<{id}>"), str::to_owned)
}

/// Counts over the first samples of a corpus. Field names are those of `--json`; `docs/FORMATS.md` has them.
#[derive(Debug, Serialize)]
pub struct Statistics {
    #[serde(flatten)]
    pub tally: Tally,
    /// Whether these are all samples of an epoch.
    pub whole: bool,
    /// Samples by length: the shortest of each range and how many; ranges are equally wide.
    pub lengths: Vec<(usize, u64)>,
    /// Share of padding in rows as long as the longest sample of their batch, and in rows of full length.
    pub padding_longest: f64,
    pub padding_fixed: f64,
    /// Different tokens that came, of so many that can, special ones apart.
    pub distinct: usize,
    pub vocabulary: usize,
    /// Those of them that came fewer than ten times.
    pub rare: usize,
    /// Tokens that came most often, special ones apart, with their counts.
    pub frequent: Vec<(String, u64)>,
    /// How often the tokens came, most frequent first: the counts at ranks 1, 2, 4, 8, ...
    pub ranks: Vec<(usize, u64)>,
}

/// Counts over the first samples of `plan`, `most` at the most, in batches of so many rows.
pub fn statistics(plan: Plan<'_>, batch_size: usize, most: u64) -> Result<Statistics> {
    let Plan { tokenizer, sample, .. } = plan;
    let specials = tokenizer.specials();
    let bar = sample.seq_len.div_ceil(BARS).max(1);
    let mut tally = Tally::default();
    let mut lengths = vec![0; sample.seq_len / bar + 1];
    let mut counts = vec![0; tokenizer.len()];
    let (mut cells, mut longest, mut rows) = (0, 0, 0);
    let whole = plan.samples(Cursor::default(), 1, |parts| {
        for part in parts {
            for sample in part?.iter() {
                if tally.samples == most {
                    return Ok(false);
                }
                tally.add(&sample, &specials);
                lengths[sample.ids.len() / bar] += 1;
                sample.count_tokens(&mut counts);
                (longest, rows) = (longest.max(sample.ids.len()), rows + 1);
                if rows == batch_size {
                    cells += rows * longest;
                    (longest, rows) = (0, 0);
                }
            }
        }
        Ok(true)
    })?;
    cells += rows * longest;
    let padding = |cells: usize| 1.0 - tally.tokens as f64 / (cells as f64).max(1.0);
    let ordinary: Vec<u32> = (0..tokenizer.ordinary_len()).map(|k| tokenizer.ordinary(k)).collect();
    let mut ranked: Vec<(u32, u64)> = ordinary.iter().map(|&id| (id, counts[id as usize])).collect();
    ranked.retain(|&(_, count)| count > 0);
    ranked.sort_by_key(|&(id, count)| (std::cmp::Reverse(count), id));
    let ranks = (0..).map(|power| 1usize << power).take_while(|&rank| rank <= ranked.len());
    Ok(Statistics {
        tally,
        whole,
        lengths: lengths.into_iter().enumerate().map(|(i, count)| (i * bar, count)).collect(),
        padding_longest: padding(cells),
        padding_fixed: padding(tally.samples as usize * sample.seq_len),
        distinct: ranked.len(),
        vocabulary: ordinary.len(),
        rare: ranked.iter().filter(|&&(_, count)| count < RARE).count(),
        frequent: ranked.iter().take(20).map(|&(id, count)| (spelled(tokenizer, id), count)).collect(),
        ranks: ranks.map(|rank| (rank, ranked[rank - 1].1)).collect(),
    })
}

/// Counts the samples of a batch.
pub fn add_batch(tally: &mut Tally, batch: &HostBatch, specials: &Specials) {
    for i in 0..batch.samples() {
        tally.add(&batch.as_sample(i, &batch.places(i)), specials);
    }
}

/// What a person can check of samples, wherever they come from.
pub fn tell_tally(table: &mut Table, tally: &Tally) {
    let [masked, randomised, kept] = tally.split().map(percent);
    table.row("samples", grouped(tally.samples));
    table.row("tokens", format!("{} ({} of the text)", grouped(tally.tokens), grouped(tally.words)));
    table.row("unknown", format!("{} of the words", percent(tally.unknown_rate())));
    table.row(
        "predicted",
        format!(
            "{} of the words: {masked} masked, {randomised} random, {kept} kept; {:.2} in a row",
            percent(tally.predicted_rate()),
            tally.mean_run()
        ),
    );
    let next = match tally.next_rate() {
        Some(rate) => format!("{} of the pairs", percent(rate)),
        None if tally.samples == 0 => "no samples".to_owned(),
        None => "no pair task".to_owned(),
    };
    table.row("is next", next);
}

impl Statistics {
    /// For people.
    pub fn table(&self) -> Table {
        let mut table = Table::default();
        table.row("counted", if self.whole { "all of an epoch" } else { "the first of an epoch" });
        tell_tally(&mut table, &self.tally);
        table.row(
            "padding",
            format!(
                "{} with rows as long as the longest of their batch, {} with rows of full length",
                percent(self.padding_longest),
                percent(self.padding_fixed)
            ),
        );
        table.row(
            "vocabulary",
            format!(
                "{} of {} tokens came ({}), {} of them fewer than {RARE} times",
                grouped(self.distinct as u64),
                grouped(self.vocabulary as u64),
                percent(share(self.distinct as u64, self.vocabulary as u64)),
                grouped(self.rare as u64)
            ),
        );
        let words: Vec<&str> = self.frequent.iter().map(|(token, _)| &**token).collect();
        table.row("most frequent", words.join(" "));
        table.gap();
        let most = self.lengths.iter().map(|&(_, count)| count).max().unwrap_or(0).max(1);
        for &(from, count) in self.lengths.iter().filter(|&&(_, count)| count > 0) {
            let bar = "#".repeat((40 * count).div_ceil(most) as usize);
            table.row(&format!("from {from} tokens"), format!("{bar:<40} {}", grouped(count)));
        }
        table
    }
}
