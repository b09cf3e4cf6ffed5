//! From measurements to flags: a pure function of a table.

use serde::Serialize;

use super::super::bottleneck::WAITING;
use super::super::output::{counted, grouped};

/// Below this share of the best rate more workers are worth it; above, they only take cores from the training.
const AS_GOOD: f64 = 0.95;

/// How much faster than its consumer a pipeline should be, so that an uneven step or a busy machine does not make
/// the consumer wait.
const MARGIN: f64 = 1.25;

/// [`MARGIN`]; without threads data is made between two steps, where it may take [`WAITING`] of the time.
fn margin(workers: usize) -> f64 {
    if workers == 0 { 1.0 / WAITING } else { MARGIN }
}

/// A stage that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub stage: &'static str,
    /// Without the stages before it.
    pub alone: bool,
    /// `None` of a stage that has no workers.
    pub workers: Option<usize>,
    pub samples_per_second: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub bytes_per_second: Option<f64>,
}

/// What the recommendation depends on besides the measurements.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What the training takes, where that is known.
    pub samples_per_second: Option<f64>,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Whether the ids of the corpus are read from a file.
    pub encoded: bool,
}

/// What to set, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    pub workers: usize,
    /// As they are typed.
    pub flags: String,
    /// One reason a line.
    pub why: Vec<String>,
}

/// The rows of the whole pipeline: what each number of workers gives a training.
fn together(rows: &[Row]) -> impl Iterator<Item = (usize, f64)> + Clone + '_ {
    rows.iter()
        .filter(|row| row.stage == "collate" && !row.alone)
        .filter_map(|row| Some((row.workers?, row.samples_per_second?)))
}

/// The fewest workers that are enough: for what is wanted where that is known, else for nearly the best rate.
/// `None` where the whole pipeline was not measured.
pub fn recommend(rows: &[Row], wanted: Wanted) -> Option<Advice> {
    // Without threads nothing is made while the consumer works: only a slow one is served well by that.
    let ahead = together(rows).filter(|&(workers, _)| workers > 0);
    let by_rate = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
    let (most, best) = ahead.clone().max_by(by_rate).or_else(|| together(rows).max_by(by_rate))?;
    let enough = |(workers, rate): &(usize, f64)| match wanted.samples_per_second {
        Some(needed) => *rate >= margin(*workers) * needed,
        None => (*workers > 0 || most == 0) && *rate >= AS_GOOD * best,
    };
    let fewest = together(rows).filter(enough).min_by_key(|&(workers, _)| workers);
    let (workers, rate) = fewest.unwrap_or((most, best));
    let shortest_step = |workers: usize, rate: f64| 1e3 * margin(workers) * wanted.batch_size as f64 / rate;

    let mut why = vec![match (wanted.samples_per_second, fewest) {
        (Some(needed), Some(_)) => format!(
            "{} samples/s with {}, {:.1} times the {} that the training takes",
            per_second(rate),
            workers_in_words(workers),
            rate / needed,
            per_second(needed)
        ),
        (Some(needed), None) => format!(
            "no number of workers is enough: the training takes {} samples/s, and the most are {} with {}",
            per_second(needed),
            per_second(rate),
            workers_in_words(workers)
        ),
        (None, _) => format!(
            "{} samples/s with {}, {:.0} % of the best: enough for steps of {:.2} ms or longer",
            per_second(rate),
            workers_in_words(workers),
            100.0 * rate / best,
            shortest_step(workers, rate)
        ),
    }];
    if wanted.samples_per_second.is_none()
        && let Some((fewer, rate)) = ahead.min_by_key(|&(workers, _)| workers)
        && fewer < workers
    {
        why.push(format!(
            "training on the CPU needs the cores itself: {} will do for steps of {:.2} ms or longer \
             (--consumer-ms says how long they are)",
            workers_in_words(fewer),
            shortest_step(fewer, rate)
        ));
    }
    why.extend(slowest(rows, workers));
    if !wanted.encoded && (fewest.is_none() || wanted.samples_per_second.is_none()) {
        why.push("text is encoded anew each epoch: `bertstream tokenize` does it once for all".to_owned());
    }
    Some(Advice { workers, flags: format!("--workers {workers}"), why })
}

/// Which stage is the slowest by itself, and how far ahead the others are. Reading and sampling are compared by the
/// text that they work off, sampling and collating by their samples. Where ids are stored, no text is read.
fn slowest(rows: &[Row], workers: usize) -> Option<String> {
    let alone = |stage: &str| {
        let rows = rows.iter().filter(move |row| row.alone && row.stage == stage);
        rows.min_by_key(|row| row.workers.unwrap_or(workers).abs_diff(workers))
    };
    let sample = alone("sample")?;
    let collating = alone("collate")?.samples_per_second? / sample.samples_per_second?;
    let reading =
        alone("corpus").and_then(|corpus| Some(corpus.bytes_per_second? / sample.bytes_per_second?));
    Some(match reading {
        Some(reading) if reading < collating.min(1.0) => format!(
            "reading is the slowest stage: alone, it does {reading:.2} times as much as building samples; --io memory \
             holds the corpus in memory"
        ),
        _ if collating < 1.0 => format!(
            "collating is the slowest stage: alone, its one thread does {collating:.2} times as much as building \
             samples"
        ),
        Some(reading) => format!(
            "building samples is the slowest stage: alone, reading does {reading:.1} times as much and collating \
             {collating:.1} times"
        ),
        None => format!(
            "building samples is the slowest stage: alone, collating does {collating:.1} times as much"
        ),
    })
}

fn workers_in_words(workers: usize) -> String {
    if workers == 0 { "no worker".to_owned() } else { counted(workers, "worker") }
}

fn per_second(rate: f64) -> String {
    grouped(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stage: &'static str, alone: bool, workers: Option<usize>, samples: f64, bytes: f64) -> Row {
        Row {
            stage,
            alone,
            workers,
            samples_per_second: Some(samples),
            tokens_per_second: Some(40.0 * samples),
            bytes_per_second: Some(bytes),
        }
    }

    /// A table whose whole pipeline gives these rates with 0, 1, 2, ... workers, and whose stages alone do so
    /// much as many times as sampling does.
    fn table(rates: &[f64], reading: f64, collating: f64) -> Vec<Row> {
        let together = rates.iter().enumerate().map(|(n, &rate)| row("collate", false, Some(n), rate, 1e6));
        let alone = [
            row("corpus", true, Some(1), 0.0, 100.0 * reading),
            row("sample", true, Some(1), 1000.0, 100.0),
            row("collate", true, None, 1000.0 * collating, 0.0),
        ];
        alone.into_iter().chain(together).collect()
    }

    #[test]
    fn the_fewest_workers_that_are_enough_are_recommended() {
        let check = |rates: &[f64], wanted, expected: usize, part: &str| {
            let wanted = Wanted { samples_per_second: wanted, batch_size: 64, encoded: false };
            let advice = recommend(&table(rates, 5.0, 9.0), wanted).unwrap();
            assert_eq!(
                (advice.workers, advice.flags),
                (expected, format!("--workers {expected}")),
                "{rates:?}"
            );
            assert!(advice.why[0].contains(part), "{part:?} in {:?}", advice.why);
        };
        check(&[100.0, 200.0, 400.0, 410.0], None, 2, "400 samples/s with 2 workers, 98 % of the best");
        check(&[100.0, 200.0, 400.0, 500.0], None, 3, "100 % of the best: enough for steps of 160.00 ms");
        // Without threads the consumer waits for all of it, however fast that is.
        check(&[400.0, 390.0], None, 1, "390 samples/s with 1 worker, 100 % of the best");
        check(
            &[400.0],
            None,
            0,
            "400 samples/s with no worker, 100 % of the best: enough for steps of 16000",
        );
        check(&[1000.0, 2000.0, 4000.0], Some(100.0), 1, "20.0 times the 100 that the training takes");
        check(&[10_000.0, 20_000.0], Some(100.0), 0, "100.0 times the 100 that the training takes");
        check(&[100.0, 200.0, 400.0], Some(100.0), 1, "2.0 times");
        // Just as fast as the training is not fast enough.
        check(&[100.0, 110.0, 400.0], Some(100.0), 2, "4.0 times");
        check(&[100.0, 300.0, 200.0], Some(1000.0), 1, "no number of workers is enough");
    }

    #[test]
    fn the_slowest_stage_and_stored_ids_are_reasons() {
        let why = |reading, collating, samples_per_second, encoded| {
            let wanted = Wanted { samples_per_second, batch_size: 64, encoded };
            recommend(&table(&[100.0, 200.0, 400.0], reading, collating), wanted).unwrap().why.join("; ")
        };
        let check = |text: String, parts: &[&str], not: &[&str]| {
            parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} in {text}"));
            not.iter().for_each(|part| assert!(!text.contains(part), "{part:?} in {text}"));
        };
        let tokenize = "bertstream tokenize";
        check(why(5.0, 9.0, None, false), &["building samples is", "5.0 times", tokenize, "on the CPU"], &[]);
        check(why(0.5, 9.0, None, true), &["reading is the slowest", "--io memory"], &[tokenize]);
        check(why(0.5, 0.25, None, true), &["collating is the slowest"], &["reading is"]);
        let stored = [&table(&[100.0, 200.0], 5.0, 9.0)[1..]].concat();
        let wanted = Wanted { samples_per_second: None, batch_size: 64, encoded: true };
        let stored = recommend(&stored, wanted).unwrap().why.join("; ");
        check(stored, &["alone, collating does 9.0 times"], &["reading", tokenize]);
        check(why(5.0, 9.0, Some(10.0), false), &["building samples is"], &[tokenize, "on the CPU"]);
        check(why(5.0, 9.0, Some(1000.0), false), &["no number", tokenize], &["on the CPU"]);
    }

    #[test]
    fn nothing_is_recommended_of_nothing() {
        let wanted = Wanted { samples_per_second: None, batch_size: 64, encoded: false };
        assert_eq!(recommend(&[row("sample", true, Some(1), 1.0, 1.0)], wanted), None);
    }
}
