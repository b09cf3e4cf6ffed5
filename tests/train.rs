//! The loop: what it hands to the engine, what it records, when it evaluates, saves and stops.

use std::fs;

use bertstream::sample::Cursor;
use bertstream::train::checkpoint::Manifest;
use bertstream::train::{Ending, Record, StepRecord, Stop, run_dir};

mod fake;
use fake::{Script, batches, config, run};

fn steps(records: &[Record]) -> Vec<&StepRecord> {
    records.iter().filter_map(|r| if let Record::Step(s) = r { Some(s) } else { None }).collect()
}

fn evaluations(records: &[Record]) -> Vec<(u64, bool)> {
    records
        .iter()
        .filter_map(|r| if let Record::Evaluation(e) = r { Some((e.step, e.best)) } else { None })
        .collect()
}

#[test]
fn micro_batches_of_a_step_share_its_totals_and_number_their_rows() {
    let directory = tempfile::tempdir().unwrap();
    // 4 batches an epoch in steps of 3 and 1; rows 2, 2, 2, 1; the second epoch's first batch is unmasked.
    let left = run(directory.path(), &config(3), &Script::default());
    let passes: Vec<_> =
        left.passes.iter().map(|p| (p.step, p.first_row, p.masked_in_step, p.pairs_in_step)).collect();
    let expected = [
        (1, 0, 3, 6),
        (1, 2, 3, 6),
        (1, 4, 3, 6),
        (2, 0, 1, 1),
        (3, 0, 2, 6),
        (3, 2, 2, 6),
        (3, 4, 2, 6),
        (4, 0, 1, 1),
        (5, 0, 3, 6),
        (5, 2, 3, 6),
        (5, 4, 3, 6),
        (6, 0, 1, 1),
    ];
    assert_eq!(passes, expected);
    assert_eq!((left.progress.samples, left.progress.tokens), (21, 84));
    assert_eq!(left.progress.cursor, Cursor { epoch: 3, position: 0, part: 0 });
}

/// A batch without a masked token gives NaN in the reference.
#[test]
fn a_step_without_a_masked_token_has_loss_zero_and_not_nan() {
    let directory = tempfile::tempdir().unwrap();
    let left = run(directory.path(), &config(1), &Script::default());
    let records = steps(&left.records);
    assert_eq!(records.len(), 12);
    assert_eq!((records[4].figures.masked, records[4].figures.mlm_loss), (0, 0.0));
    assert!(records.iter().all(|r| r.figures.loss.is_finite() && r.figures.pairs > 0));
    assert!(left.state.weights.iter().all(|w| w.is_finite()));
}

/// The reference reports the sum of both losses and one accuracy, without anything beside them.
#[test]
fn every_line_of_the_metrics_is_json_with_both_losses_and_their_baselines() {
    let directory = tempfile::tempdir().unwrap();
    let script = Script { test: Some(batches(Cursor::default(), 1)), ..Script::default() };
    run(directory.path(), &config(1), &script).ending.unwrap();
    let text = fs::read_to_string(directory.path().join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|l| l["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of("step").len(), of("evaluation").len(), of("checkpoint").len()), (12, 3, 12));
    let both = [
        "step",
        "epoch",
        "loss",
        "mlm_loss",
        "nsp_loss",
        "mlm_accuracy",
        "nsp_accuracy",
        "nsp_majority_accuracy",
        "nsp_chance_loss",
        "perplexity",
        "masked",
        "pairs",
    ];
    let step_only = [
        "lr",
        "grad_norm",
        "tokens",
        "samples",
        "tokens_per_second",
        "samples_per_second",
        "data_wait",
        "seconds",
        "skipped_updates",
    ];
    for line in of("step") {
        assert!(both.iter().chain(&step_only).all(|field| line[field].is_number()), "{line}");
        assert_eq!(line["digest"].as_str().map(str::len), Some(32), "{line}");
        // The fake vocabulary has no counts.
        assert!(line["unigram_loss"].is_null() && line["majority_accuracy"].is_null());
    }
    for line in of("evaluation") {
        assert!(both.iter().all(|field| line[field].is_number()) && line["best"].is_boolean(), "{line}");
    }
    // Each reading of the fake clock is a millisecond after the last: 1 of waiting, 1 of computing.
    assert_eq!(of("step")[0]["data_wait"], 0.5);
    assert_eq!(of("step")[0]["tokens_per_second"], 4000.0);
    assert_eq!(of("step")[0]["stages"], serde_json::json!([fake::stage()]));
}

#[test]
fn records_cover_the_steps_between_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(1);
    config.runtime.log_freq = 3;
    let left = run(directory.path(), &config, &Script::default());
    let records = steps(&left.records);
    let numbers: Vec<_> = records.iter().map(|r| (r.step, r.epoch, r.figures.pairs)).collect();
    // Every third step and every epoch's end (4 steps).
    let expected = [(3, 0, 6), (4, 0, 1), (6, 1, 4), (8, 1, 3), (9, 2, 2), (12, 2, 5)];
    assert_eq!(numbers, expected);
    assert_eq!(records[0].lr, config.schedule.lr(3, 12));
}

#[test]
fn the_test_corpus_is_measured_at_each_epoch_s_end_and_when_asked() {
    let test = Some(batches(Cursor::default(), 1));
    let check = |eval_every, expected: &[u64]| {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(1);
        config.runtime.eval_every = eval_every;
        config.runtime.save_every = None;
        config.runtime.keep = 1;
        let left = run(directory.path(), &config, &Script { test: test.clone(), ..Script::default() });
        let found = evaluations(&left.records);
        assert_eq!(found.iter().map(|e| e.0).collect::<Vec<_>>(), expected);
        // The best is kept however old, and the link leads to it.
        let best = left.progress.best.unwrap().step;
        assert_eq!(found.iter().rev().find(|e| e.1).unwrap().0, best);
        assert_eq!(Manifest::read(&directory.path().join("best/state.json")).unwrap().progress.step, best);
        let kept = bertstream::train::checkpoint::list(&run_dir::checkpoints(directory.path())).unwrap();
        assert!(kept.len() <= 2 && kept[0].0 == 12, "{kept:?}");
    };
    check(None, &[4, 8, 12]);
    check(Some(3), &[3, 4, 6, 8, 9, 12]);
}

#[test]
fn a_request_to_stop_saves_and_one_during_an_evaluation_is_made_up_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(1);
    config.runtime.save_every = None;
    let script = Script { stop_after: Some(2), ..Script::default() };
    let left = run(directory.path(), &config, &script);
    assert_eq!(left.ending.unwrap(), Ending::Stopped(Stop::Interrupt));
    assert_eq!(Manifest::read(&directory.path().join("state.json")).unwrap().progress.step, 2);

    // Two more steps, then a question before each of four batches of the evaluation: stopped in its midst.
    let test = Some(batches(Cursor::default(), 1));
    let script = Script { stop_after: Some(4), test: test.clone(), ..Script::default() };
    let left = run(directory.path(), &config, &script);
    assert_eq!(left.ending.unwrap(), Ending::Stopped(Stop::Interrupt));
    assert_eq!((left.progress.step, evaluations(&left.records)), (4, vec![]));
    let left = run(directory.path(), &config, &Script { test, ..Script::default() });
    assert_eq!(evaluations(&left.records).iter().map(|e| e.0).collect::<Vec<_>>(), [4, 8, 12]);
}

#[test]
fn data_that_fails_ends_the_run_with_its_place_after_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(1);
    config.runtime.save_every = None;
    let left = run(directory.path(), &config, &Script { fail_at: Some(2), ..Script::default() });
    let error = left.ending.unwrap_err();
    assert_eq!(error.to_string(), "train: no data for step 3: corpus a.tsv: line 41: no tab");
    assert_eq!(error.kind().exit_code(), 65);
    assert_eq!(Manifest::read(&directory.path().join("state.json")).unwrap().progress.step, 2);
}

#[test]
fn a_gradient_that_is_not_finite_is_skipped_and_counted_and_five_in_a_row_end_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let script = Script { poisoned: vec![2, 3, 5], ..Script::default() };
    let left = run(directory.path(), &config(1), &script);
    assert_eq!(left.ending.unwrap(), Ending::Finished);
    assert_eq!(left.progress.skipped_updates, 3);
    assert!(left.state.weights.iter().all(|w| w.is_finite()));
    let skipped: Vec<_> = left
        .records
        .iter()
        .filter_map(|r| match r {
            Record::SkippedUpdate { step, skipped_updates, .. } => Some((*step, *skipped_updates)),
            _ => None,
        })
        .collect();
    assert_eq!(skipped, [(2, 1), (3, 2), (5, 3)]);

    let directory = tempfile::tempdir().unwrap();
    let script = Script { poisoned: (3..=12).collect(), ..Script::default() };
    let left = run(directory.path(), &config(1), &script);
    assert!(left.ending.unwrap_err().to_string().contains("step 7: the gradient was not finite in 5 steps"));
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_training() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = run_dir::checkpoints(directory.path());
    fs::create_dir_all(&checkpoints).unwrap();
    fs::write(checkpoints.join("step-00000005"), "in the way").unwrap();
    let left = run(directory.path(), &config(1), &Script::default());
    assert_eq!(left.ending.unwrap(), Ending::Finished);
    assert_eq!(fs::read(checkpoints.join("step-00000005")).unwrap(), b"in the way");
    let failed: Vec<_> =
        left.records.iter().filter(|r| matches!(r, Record::CheckpointFailed { step: 5, .. })).collect();
    assert_eq!(failed.len(), 1, "and it is told");
    assert_eq!(Manifest::read(&directory.path().join("state.json")).unwrap().progress.step, 12);
}
