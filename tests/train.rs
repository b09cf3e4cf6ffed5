//! The loop: what it hands to the engine, what it records, when it evaluates, saves and stops.

use std::fs;
use std::path::Path;

use bertstream::model::{Layout, State};
use bertstream::sample::Cursor;
use bertstream::train::checkpoint::Manifest;
use bertstream::train::{Ending, Length, Record, RunConfig, Skips, StepRecord, Stop, run_dir};

mod fake;
use fake::{Left, Script, batches, config, run};

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
    // Each reading of the fake clock is a millisecond after the last: 1 of waiting, 2 of computing, for before the
    // update there is a pause to look on.
    assert_eq!(of("step")[0]["data_wait"], 1e-3 / 3e-3);
    assert_eq!(of("step")[0]["tokens_per_second"], 8.0 / 3e-3);
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
        let kept = run_dir::checkpoints(directory.path()).steps().unwrap();
        assert!(kept.len() <= 2 && kept[0] == 12, "{kept:?}");
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
fn what_is_not_finite_is_skipped_and_counted_and_changes_no_bit() {
    let check = |script: Script| {
        let directory = tempfile::tempdir().unwrap();
        let left = run(directory.path(), &config(1), &script);
        assert_eq!(left.ending.unwrap(), Ending::Finished);
        assert_eq!((left.progress.skipped_updates, left.progress.left_out), (3, 0));
        let skipped: Vec<_> = left
            .records
            .iter()
            .filter_map(|r| match r {
                Record::SkippedUpdate { step, skipped_updates, .. } => Some((*step, *skipped_updates)),
                _ => None,
            })
            .collect();
        assert_eq!(skipped, [(2, 1), (3, 2), (5, 3)]);
        // The checkpoints, one a step: those of skipped steps hold what the one before held.
        let checkpoints = run_dir::checkpoints(directory.path());
        let layout = Layout::new(&config(1).model);
        let states: Vec<State> = (1..=12).map(|s| checkpoints.load(s, &layout).unwrap().state).collect();
        for (step, pair) in (2..).zip(states.windows(2)) {
            assert_eq!(pair[0] == pair[1], [2, 3, 5].contains(&step), "step {step}");
        }
        assert!(states.iter().all(|state| state.weights.iter().all(|w| w.is_finite())));
        left.state
    };
    let by_gradient = check(Script { poisoned: vec![2, 3, 5], ..Script::default() });
    let by_loss = check(Script { lossless: vec![2, 3, 5], ..Script::default() });
    assert!(by_gradient == by_loss);
}

#[test]
fn a_run_that_diverged_goes_back_and_a_replay_of_it_does_the_same() {
    let test = Some(batches(Cursor::default(), 1));
    for (poisoned, save_every, to, step) in [
        (vec![6, 7, 8, 9, 10], 3, 4, 10),
        ((6..=10).collect(), 1, 5, 10),
        // The checkpoint gone back to first was not good either.
        ((3..=12).collect(), 1, 1, 12),
    ] {
        let diverged = tempfile::tempdir().unwrap();
        let mut config = config(1);
        config.runtime.save_every = Some(save_every);
        let script = Script { poisoned, test: test.clone(), ..Script::default() };
        let left = run(diverged.path(), &config, &script);
        assert_eq!(left.ending.unwrap(), Ending::Finished);
        assert_eq!((left.progress.step, left.progress.left_out), (12, step - to));
        let went_back = left
            .records
            .iter()
            .rev()
            .find(|r| matches!(r, Record::RolledBack { .. }))
            .expect("it is recorded");
        assert_eq!(*went_back, Record::RolledBack { step, to });

        // From its configuration: no value that is not finite comes up, and all is as it was.
        let replayed = tempfile::tempdir().unwrap();
        let recorded = RunConfig::read(&diverged.path().join("config.json")).unwrap();
        assert_eq!(recorded.skip_steps, Skips::default().and(to + 1..step + 1));
        assert_eq!(recorded.fingerprint(), config.fingerprint());
        let again = run(replayed.path(), &recorded, &Script { test: test.clone(), ..Script::default() });
        assert_eq!(again.progress, left.progress);
        assert!(again.state == left.state);
        assert!(again.records.iter().any(|r| *r == Record::LeftOut { step, from: to + 1 }));
        for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
            let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
            assert!(read(replayed.path()) == read(diverged.path()), "{file}");
        }
    }
}

/// A run of 160 steps, long enough to know what a spike is.
fn long() -> RunConfig {
    let mut config = config(1);
    config.length = Length::new(Some(40), None, config.data.epoch.steps(1));
    config.runtime.save_every = Some(10);
    config
}

#[test]
fn a_spike_changes_no_bit_and_is_judged_alike_after_any_stop() {
    let skipped = |left: &Left| -> Vec<u64> {
        let of = |r: &Record| match r {
            Record::SkippedUpdate { step, loss: Some(loss), .. } if *loss > 5.0 => Some(*step),
            _ => None,
        };
        left.records.iter().filter_map(of).collect()
    };
    let script = Script { spiky: vec![20, 90, 91, 130], ..Script::default() };
    let whole = tempfile::tempdir().unwrap();
    let left = run(whole.path(), &long(), &script);
    assert_eq!(left.ending.as_ref().unwrap(), &Ending::Finished);
    // The first one comes before anything is known.
    assert_eq!((skipped(&left), left.progress.skipped_updates), (vec![90, 91, 130], 3));
    let kept = tempfile::tempdir().unwrap();
    let all = run(kept.path(), &RunConfig { skip_spikes: false, ..long() }, &script);
    assert_eq!((skipped(&all), all.progress.skipped_updates), (vec![], 0));
    assert!(all.state != left.state);
    for stop in [1, 64, 90, 91, 129] {
        let stopped = tempfile::tempdir().unwrap();
        run(stopped.path(), &long(), &Script { stop_after: Some(stop), ..script.clone() }).ending.unwrap();
        let again = run(stopped.path(), &long(), &script);
        assert_eq!(again.progress, left.progress, "stopped after {stop}");
        assert!(again.state == left.state);
    }
}

#[test]
fn spikes_without_an_end_lead_back_once_and_are_then_the_level() {
    let script = Script { spiky: (103..=160).collect(), ..Script::default() };
    let directory = tempfile::tempdir().unwrap();
    let left = run(directory.path(), &long(), &script);
    assert_eq!(left.ending.as_ref().unwrap(), &Ending::Finished);
    let told: Vec<Record> = left
        .records
        .iter()
        .filter(|r| matches!(r, Record::RolledBack { .. } | Record::NewLevel { .. }))
        .cloned()
        .collect();
    // An epoch's end is a checkpoint, every fourth step.
    assert_eq!(told, [Record::RolledBack { step: 107, to: 100 }, Record::NewLevel { step: 112 }]);
    // The seven steps that are left out, and five that changed nothing before their level was taken.
    assert_eq!((left.progress.left_out, left.progress.skipped_updates), (7, 5));
    let replayed = tempfile::tempdir().unwrap();
    let recorded = RunConfig::read(&directory.path().join("config.json")).unwrap();
    assert_eq!(recorded.skip_steps, Skips::default().and(101..108));
    let again = run(replayed.path(), &recorded, &script);
    assert_eq!(again.progress, left.progress);
    assert!(again.state == left.state);
}

/// Killed behind the removal of what was learnt too much, and before the new checkpoint is there.
#[test]
fn a_run_that_was_killed_on_its_way_back_comes_to_the_same_end() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = Script { poisoned: (6..=10).collect(), ..Script::default() };
    let expected = run(whole.path(), &config(1), &script);
    for recorded in [Skips::default(), Skips::default().and(6..11)] {
        run(killed.path(), &config(1), &Script { stop_after: Some(9), ..script.clone() }).ending.unwrap();
        run_dir::checkpoints(killed.path()).retract_behind(5).unwrap();
        let config = RunConfig { skip_steps: recorded, ..config(1) };
        let left = run(killed.path(), &config, &script);
        assert_eq!(left.progress, expected.progress);
        assert!(left.state == expected.state);
        fs::remove_dir_all(killed.path()).unwrap();
    }
}

#[test]
fn a_run_with_nothing_to_go_back_to_ends_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(1);
    config.runtime.save_every = None;
    let script = Script { poisoned: (1..=12).collect(), ..Script::default() };
    let error = run(directory.path(), &config, &script).ending.unwrap_err();
    assert_eq!(error.kind().exit_code(), 65);
    assert!(
        error.to_string().contains("step 5: neither loss nor gradient were finite in 5 steps"),
        "{error}"
    );
}

#[test]
fn steps_that_are_left_out_take_their_place_and_change_no_bit() {
    for skips in
        [Skips::default().and(3..5), Skips::default().and(1..3).and(12..20), Skips::default().and(4..9)]
    {
        let config = RunConfig { skip_steps: skips.clone(), ..config(1) };
        let whole = tempfile::tempdir().unwrap();
        let left = run(whole.path(), &config, &Script::default());
        let steps: Vec<u64> = left.passes.iter().map(|pass| pass.step).collect();
        let expected: Vec<u64> = (1..=12).filter(|&step| !skips.contains(step)).collect();
        assert_eq!(steps, expected, "each in its own place in the schedule");
        assert_eq!(left.progress.left_out, 12 - steps.len() as u64);
        let unskipped = run(tempfile::tempdir().unwrap().path(), &fake::config(1), &Script::default());
        assert_eq!(left.progress.digest, unskipped.progress.digest, "the stream is the same");
        assert_eq!(left.progress.cursor, unskipped.progress.cursor);

        // Stopped anywhere, the steps left out among them, it is the same run.
        for stop in 0..12 {
            let parts = tempfile::tempdir().unwrap();
            run(parts.path(), &config, &Script { stop_after: Some(stop), ..Script::default() })
                .ending
                .unwrap();
            let resumed = run(parts.path(), &config, &Script::default());
            assert_eq!(resumed.progress, left.progress, "{stop}");
            assert!(resumed.state == left.state, "{stop}");
        }
    }
}

#[test]
fn what_is_left_out_may_change_for_steps_to_come_only() {
    let of = |skips: Skips| RunConfig { skip_steps: skips, ..config(1) };
    let (none, later) = (of(Skips::default()), of(Skips::default().and(8..10)));
    assert_eq!(none.differences(&later), []);
    none.accept_skips(&later, 7).unwrap();
    for (stored, given) in [(&none, &later), (&later, &none)] {
        let error = stored.accept_skips(given, 8).unwrap_err();
        assert_eq!(error.kind().exit_code(), 78);
        assert!(error.to_string().contains("step 8 is done"), "{error}");
    }
    later.accept_skips(&later, 20).unwrap();
}

#[test]
fn a_device_without_memory_gets_fewer_rows_at_once_and_the_same_steps() {
    let smaller = |left: &fake::Left| -> Vec<_> {
        let told = |r: &Record| match r {
            Record::SmallerPasses { step, rows } => Some((*step, *rows)),
            _ => None,
        };
        left.records.iter().filter_map(told).collect()
    };
    let check = |script: Script| run(tempfile::tempdir().unwrap().path(), &config(3), &script);
    let mut probe = batches(Cursor::default(), 1).remove(0);
    probe.rows = 8;
    probe.ids = probe.ids.repeat(4);
    probe.segments = probe.segments.repeat(4);
    probe.lengths = vec![4; 8];
    probe.pairs = probe.pairs.repeat(4);
    probe.corruptions = vec![];
    probe.origins = vec![];
    let met = check(Script { room: Some(1), ..Script::default() });
    let probed = check(Script { room: Some(1), probe: Some(probe.clone()), ..Script::default() });
    assert_eq!((smaller(&met), smaller(&probed)), (vec![(0, 1)], vec![(0, 4), (0, 2), (0, 1)]));
    assert!(met.state == probed.state, "nothing of the passes that failed is left in the gradients");
    assert_eq!(met.progress, probed.progress);
    // Rows of the whole step are numbered through, and its sums are those of the whole.
    let of_step_1: Vec<_> = met
        .passes
        .iter()
        .filter(|p| p.step == 1)
        .map(|p| (p.first_row, p.masked_in_step, p.pairs_in_step))
        .collect();
    assert_eq!(of_step_1, (0..6).map(|row| (row, 3, 6)).collect::<Vec<_>>());

    let roomy = check(Script { room: Some(8), probe: Some(probe), ..Script::default() });
    let plain = check(Script::default());
    assert!(roomy.state == plain.state && smaller(&roomy).is_empty(), "the probe leaves no trace");
    assert_eq!(roomy.progress.digest, met.progress.digest);

    let error = check(Script { room: Some(0), ..Script::default() }).ending.unwrap_err();
    assert_eq!(error.kind().exit_code(), 2);
    assert!(error.to_string().contains("a single row"), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_training() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = run_dir::checkpoints(directory.path());
    fs::create_dir_all(checkpoints.path()).unwrap();
    fs::write(checkpoints.path().join("step-00000005"), "in the way").unwrap();
    let left = run(directory.path(), &config(1), &Script::default());
    assert_eq!(left.ending.unwrap(), Ending::Finished);
    assert_eq!(fs::read(checkpoints.path().join("step-00000005")).unwrap(), b"in the way");
    let failed: Vec<_> =
        left.records.iter().filter(|r| matches!(r, Record::CheckpointFailed { step: 5, .. })).collect();
    assert_eq!(failed.len(), 1, "and it is told");
    assert_eq!(Manifest::read(&directory.path().join("state.json")).unwrap().progress.step, 12);
}
