//! One line that names the slow stage of a pipeline, and what helps.
//!
//! Takes how the stages spent their time, gives the line: a pure function of both, so that a table tests it.

use std::time::Duration;

use super::train::cores;
use crate::corpus::Corpus;
use crate::flow::{FlowReport, StageReport};

/// Below this most of the time is that of starting: nothing is said of it.
const SHORTEST: Duration = Duration::from_millis(200);

/// Share of the time without data from which on data is what is slow.
pub const WAITING: f64 = 0.01;

/// Below this share no stage is at its limit. Where the consumer waits all the same, results wait for their turn
/// to be computed.
const IDLE: f64 = 0.6;

/// What a remedy depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'s> {
    /// What takes the samples or batches.
    pub consumer: &'s str,
    /// Cores of the machine.
    pub cores: usize,
    /// Whether the ids of the corpus are read from a file.
    pub encoded: bool,
}

impl<'s> Situation<'s> {
    /// That of what is taken from this corpus on this machine.
    pub fn here(consumer: &'s str, corpus: &dyn Corpus) -> Self {
        Self { consumer, cores: cores(), encoded: corpus.tokens().is_some() }
    }
}

/// `sample (93 % busy, collate idle 71 %): try --workers 3`; `None` of a pipeline too short to tell.
pub fn bottleneck(report: &FlowReport, situation: Situation<'_>) -> Option<String> {
    let slow = slowest(&report.stages)?;
    if report.wall < SHORTEST {
        return None;
    }
    if report.data_wait < WAITING {
        return Some(format!(
            "{} (waits {:.1} % of the time{}): data is ready before it is asked for",
            situation.consumer,
            100.0 * report.data_wait,
            idlest(&report.stages, situation.consumer)
        ));
    }
    let share = match slow.threads {
        0 => format!("{:.0} % of the time of the only thread", 100.0 * slow.busy),
        _ => format!("{:.0} % busy{}", 100.0 * slow.busy, idlest(&report.stages, &slow.name)),
    };
    if slow.threads > 0 && slow.busy < IDLE && report.data_wait > 1.0 - IDLE {
        return Some(format!("none ({} {share}): other work has the cores", slow.name));
    }
    Some(format!("{} ({share}): {}", slow.name, remedy(slow, report, situation)))
}

/// The busiest stage.
pub fn slowest(stages: &[StageReport]) -> Option<&StageReport> {
    stages.iter().max_by(|a, b| a.busy.total_cmp(&b.busy))
}

/// `, collate idle 71 %`: the stage with threads, this one apart, that waits most.
fn idlest(stages: &[StageReport], but: &str) -> String {
    let others = stages.iter().filter(|stage| stage.threads > 0 && stage.name != but);
    others
        .min_by(|a, b| a.busy.total_cmp(&b.busy))
        .map_or(String::new(), |stage| format!(", {} idle {:.0} %", stage.name, 100.0 * (1.0 - stage.busy)))
}

/// What makes the slow stage faster.
fn remedy(slow: &StageReport, report: &FlowReport, situation: Situation<'_>) -> String {
    let Situation { cores, encoded, .. } = situation;
    if slow.name == "sample" {
        match slow.threads {
            threads if threads < cores => format!("try --workers {}", workers_wanted(slow, report, cores)),
            _ if !encoded => "encode the corpus once, by `bertstream tokenize`".to_owned(),
            threads => format!("{threads} workers have all of the {cores} cores"),
        }
    } else {
        "one thread does that, which is at its limit".to_owned()
    }
}

/// As many workers as make the next slow stage the slowest, within the cores.
fn workers_wanted(slow: &StageReport, report: &FlowReport, cores: usize) -> usize {
    // Without threads nothing can be told but that one would help.
    let others = report.stages.iter().filter(|stage| stage.name != slow.name).map(|stage| stage.busy);
    let next = others.chain([1.0 - report.data_wait]).fold(0.0, f64::max);
    let wanted = if slow.threads == 0 { 1.0 } else { slow.threads as f64 * slow.busy / next.max(1e-3) };
    (wanted.ceil() as usize).clamp(slow.threads + 1, cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &'static str, threads: usize, busy: f64) -> StageReport {
        StageReport { name: name.into(), threads, busy, ready: 0.0, queue: 2 }
    }

    /// A pipeline whose workers, collator and waiting are these, on so many cores.
    fn check(workers: usize, busy: [f64; 2], data_wait: f64, cores: usize, encoded: bool, expected: &str) {
        let stages =
            vec![stage("sample", workers, busy[0]), stage("collate", usize::from(workers > 0), busy[1])];
        let report = FlowReport { wall: Duration::from_secs(1), stages, data_wait };
        let line = bottleneck(&report, Situation { consumer: "train", cores, encoded });
        assert_eq!(line.as_deref(), Some(expected));
    }

    #[test]
    fn the_slow_stage_is_named_with_what_helps() {
        let sample = "sample (93 % busy, collate idle 71 %): ";
        check(2, [0.93, 0.29], 0.75, 3, false, &format!("{sample}try --workers 3"));
        check(2, [0.93, 0.29], 0.75, 16, false, &format!("{sample}try --workers 7"));
        check(
            2,
            [0.93, 0.29],
            0.75,
            2,
            false,
            &format!("{sample}encode the corpus once, by `bertstream tokenize`"),
        );
        check(2, [0.93, 0.29], 0.75, 2, true, &format!("{sample}2 workers have all of the 2 cores"));
        // The model would take twice the data.
        check(1, [0.98, 0.1], 0.5, 8, false, "sample (98 % busy, collate idle 90 %): try --workers 2");
        check(
            4,
            [0.4, 0.97],
            0.5,
            8,
            true,
            "collate (97 % busy, sample idle 60 %): one thread does that, which is at its limit",
        );
        check(
            1,
            [0.99, 0.2],
            0.004,
            8,
            true,
            "train (waits 0.4 % of the time, collate idle 80 %): data is ready before it is asked for",
        );
    }

    #[test]
    fn no_stage_is_blamed_where_none_is_busy() {
        check(
            2,
            [0.42, 0.2],
            0.97,
            2,
            false,
            "none (sample 42 % busy, collate idle 80 %): other work has the cores",
        );
    }

    #[test]
    fn one_thread_for_all_is_said_to_be_one() {
        check(
            0,
            [0.8, 0.15],
            0.95,
            4,
            false,
            "sample (80 % of the time of the only thread): try --workers 1",
        );
        check(
            0,
            [0.002, 0.001],
            0.003,
            4,
            false,
            "train (waits 0.3 % of the time): data is ready before it is asked for",
        );
    }

    #[test]
    fn samples_have_no_stage_behind_them() {
        let report = FlowReport {
            wall: Duration::from_secs(1),
            stages: vec![stage("sample", 1, 0.9)],
            data_wait: 0.3,
        };
        let situation = Situation { consumer: "output", cores: 2, encoded: false };
        assert_eq!(bottleneck(&report, situation).unwrap(), "sample (90 % busy): try --workers 2");
    }

    #[test]
    fn a_start_tells_nothing() {
        let report = FlowReport { wall: SHORTEST / 2, stages: vec![stage("sample", 1, 0.9)], data_wait: 0.3 };
        assert_eq!(bottleneck(&report, Situation { consumer: "train", cores: 2, encoded: false }), None);
    }
}
