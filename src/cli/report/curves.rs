//! The records of a run as columns that can be drawn.
//!
//! Takes the text of `metrics.jsonl`, gives one list of numbers a figure, all as long as the list of steps, `None`
//! where nothing was measured or what was measured is not a number. Fields are looked up by name, so that a record
//! of an older or a newer program is a record with gaps.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Most points of a curve. More than a wide screen can tell apart; a page with ten curves of four runs stays at
/// some megabytes.
const MOST_POINTS: usize = 4000;

/// What is drawn of the records of training steps and of evaluations alike.
const FIGURES: [&str; 8] = [
    "mlm_loss",
    "mlm_accuracy",
    "nsp_loss",
    "nsp_accuracy",
    "unigram_loss",
    "majority_accuracy",
    "nsp_chance_loss",
    "nsp_majority_accuracy",
];

/// What is drawn of the records of training steps besides.
const OF_STEPS: [&str; 6] = ["lr", "grad_norm", "tokens_per_second", "data_wait", "tokens", "seconds"];

/// A column for each figure, by its name in `metrics.jsonl`.
type Columns = BTreeMap<String, Vec<Option<f64>>>;

/// All curves of a run.
#[derive(Debug, Default, Serialize)]
pub struct Curves {
    pub training: Curve,
    /// How busy each stage was, by its name, at the steps of `training`.
    pub stages: Columns,
    pub evaluations: Curve,
    /// Steps at which a checkpoint was written, and those whose update was left out.
    pub checkpoints: Vec<u64>,
    pub skipped: Vec<u64>,
    /// Records that share a point, where there were too many.
    pub records_a_point: usize,
}

/// Figures at steps.
#[derive(Debug, Default, Serialize)]
pub struct Curve {
    pub steps: Vec<u64>,
    pub figures: Columns,
}

impl Curve {
    /// The last value of a figure.
    pub fn last(&self, figure: &str) -> Option<f64> {
        self.figures.get(figure)?.iter().rev().find_map(|&value| value)
    }

    /// The last step, 0 before there is any.
    pub fn reached(&self) -> u64 {
        self.steps.last().copied().unwrap_or(0)
    }
}

/// The curves of these records; lines that are none are passed over.
pub fn curves(metrics: &str) -> Curves {
    thinned(metrics, MOST_POINTS)
}

fn thinned(metrics: &str, most: usize) -> Curves {
    let mut curves = Curves { records_a_point: 1, ..Curves::default() };
    let (mut training, mut evaluations) = (Vec::new(), Vec::new());
    for line in metrics.lines() {
        let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
        let Some(step) = record["step"].as_u64() else { continue };
        match record["kind"].as_str() {
            Some("step") => training.push((step, record)),
            Some("evaluation") => evaluations.push((step, record)),
            Some("checkpoint") => curves.checkpoints.push(step),
            Some("skipped_update") => curves.skipped.push(step),
            _ => {}
        }
    }
    let mut seconds = 0.0;
    for (_, record) in &mut training {
        seconds += record["seconds"].as_f64().unwrap_or(0.0);
        record["seconds"] = seconds.into();
    }
    let group = training.len().div_ceil(most).max(1);
    let evaluation_group = evaluations.len().div_ceil(most).max(1);
    curves.training = curve(&training, group, FIGURES.into_iter().chain(OF_STEPS));
    curves.evaluations = curve(&evaluations, evaluation_group, FIGURES.into_iter());
    curves.records_a_point = group;
    let mut names: Vec<String> = Vec::new();
    for stage in training.iter().flat_map(|(_, record)| record["stages"].as_array().into_iter().flatten()) {
        if let Some(name) = stage["name"].as_str()
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    for name in names {
        let busy = |record: &Value| {
            let stages = record["stages"].as_array()?;
            stages.iter().find(|stage| stage["name"] == name.as_str())?["busy"].as_f64()
        };
        let column = training.chunks(group).map(|records| mean(records, busy)).collect();
        curves.stages.insert(name, column);
    }
    curves
}

/// Figures over groups of records. What only grows is that of the group's last record, like its step.
fn curve<'f>(records: &[(u64, Value)], group: usize, figures: impl Iterator<Item = &'f str>) -> Curve {
    let groups = || records.chunks(group);
    let last = |records: &[(u64, Value)], figure: &str| records.last().and_then(|(_, r)| r[figure].as_f64());
    let column = |figure: &str| match figure {
        "tokens" | "seconds" => groups().map(|records| last(records, figure).map(short)).collect(),
        _ => groups().map(|records| mean(records, |record| measured(record, figure))).collect(),
    };
    Curve {
        steps: groups().filter_map(|records| records.last().map(|&(step, _)| step)).collect(),
        figures: figures.map(|figure| (figure.to_owned(), column(figure))).collect(),
    }
}

/// A figure of a record, where it was measured on anything.
fn measured(record: &Value, figure: &str) -> Option<f64> {
    let of = match figure {
        _ if figure.starts_with("mlm") => "masked",
        _ if figure.starts_with("nsp") => "pairs",
        _ => return record[figure].as_f64(),
    };
    if record[of].as_u64() == Some(0) { None } else { record[figure].as_f64() }
}

/// The mean over those records that have a value.
fn mean(records: &[(u64, Value)], value: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
    let (sum, count) = records
        .iter()
        .filter_map(|(_, record)| value(record))
        .fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| short(sum / count))
}

/// With six digits, which is more than a curve shows, and half of the page's size.
fn short(value: f64) -> f64 {
    if value.fract() == 0.0 { value } else { format!("{value:.5e}").parse().unwrap_or(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, mlm_loss: &str, masked: u64, busy: f64) -> String {
        format!(
            r#"{{"kind":"step","step":{step},"mlm_loss":{mlm_loss},"masked":{masked},"seconds":2.0,"grad_norm":null,
               "tokens":{},"stages":[{{"name":"sample","busy":{busy}}}]}}"#,
            step * 100
        )
        .replace('\n', "")
            + "\n"
    }

    #[test]
    fn what_is_no_number_is_a_gap() {
        let text =
            step(1, "7.5", 3, 0.5) + &step(2, "null", 3, 0.25) + &step(3, "0.0", 0, 0.0) + "{\"kind\":";
        let curves = curves(&text);
        assert_eq!(curves.training.steps, [1, 2, 3]);
        assert_eq!(curves.training.figures["mlm_loss"], [Some(7.5), None, None]);
        assert_eq!(curves.training.figures["grad_norm"], [None; 3]);
        assert_eq!(curves.training.figures["lr"], [None; 3]);
        assert_eq!(curves.training.figures["seconds"], [Some(2.0), Some(4.0), Some(6.0)]);
        assert_eq!(curves.stages["sample"], [Some(0.5), Some(0.25), Some(0.0)]);
        assert_eq!(curves.training.last("mlm_loss"), Some(7.5));
    }

    #[test]
    fn kinds_are_told_apart() {
        let text = "{\"kind\":\"evaluation\",\"step\":4,\"mlm_loss\":6.123456789,\"masked\":1,\"best\":true}\n\
                    {\"kind\":\"checkpoint\",\"step\":4,\"path\":\"a\"}\n{\"kind\":\"skipped_update\",\"step\":5}\n\
                    {\"kind\":\"from a later program\",\"step\":6}\n";
        let curves = curves(text);
        assert_eq!(curves.evaluations.steps, [4]);
        assert_eq!(curves.evaluations.figures["mlm_loss"], [Some(6.12346)]);
        assert_eq!((&curves.checkpoints[..], &curves.skipped[..]), (&[4][..], &[5][..]));
        assert_eq!(curves.training.reached(), 0);
    }

    #[test]
    fn long_runs_are_thinned_by_means() {
        let text: String = (1..=5).map(|n| step(n, &format!("{n}.0"), 1, 0.5)).collect();
        let curves = thinned(&text, 3);
        assert_eq!((curves.records_a_point, &curves.training.steps[..]), (2, &[2, 4, 5][..]));
        assert_eq!(curves.training.figures["mlm_loss"], [Some(1.5), Some(3.5), Some(5.0)]);
        assert_eq!(curves.training.figures["tokens"], [Some(200.0), Some(400.0), Some(500.0)]);
        assert_eq!(curves.training.figures["seconds"], [Some(4.0), Some(8.0), Some(10.0)]);
        assert_eq!(curves.stages["sample"].len(), 3);
    }
}
