//! The one way in which everything that must survive is written, on disks that go wrong: after any crash and any
//! failed operation, what was reported as saved is there and whole.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::Path;

use bertstream::Error;
use bertstream::durable::{self, Disk, commit};
use bertstream::model::{Arch, Layout, ModelConfig, State};
use bertstream::sample::Cursor;
use bertstream::train::checkpoint::{Checkpoints, Progress, step_of_name};
use bertstream::train::{Ending, Record, run_dir};

mod disks;
mod fake;
use disks::{Fault, Faulty, Lasting, Simulated};
use fake::{Script, batches, config, run};

/// Up to this many entries that no sync made last, every part of them is tried.
const EXHAUSTIVE: usize = 6;

/// Crashes behind each change: with nothing of what no sync made last, with all of it, with each part of the entries
/// where they are few, and some by lot.
fn crashes(disk: &Simulated, by_lot: u64, mut check: impl FnMut(usize, &Simulated, &str)) -> usize {
    let mut images = 0;
    for at in 0..=disk.now() {
        let entries = disk.unsynced_entries(at);
        let parts = if entries <= EXHAUSTIVE { 1 << entries } else { 1 };
        let everything = [Lasting::These(u64::MAX, 4, false), Lasting::These(u64::MAX, 0, true)];
        let each = (0..parts).flat_map(|bits| {
            [(0, false), (2, false), (4, false), (2, true)].map(|(q, zeros)| Lasting::These(bits, q, zeros))
        });
        for lasting in everything.into_iter().chain(each).chain((0..by_lot).map(Lasting::Seeded)) {
            check(at, &disk.crashed(at, lasting), &format!("crash behind change {at}, {lasting:?}"));
            images += 1;
        }
    }
    println!("{images} images behind {} changes", disk.now());
    images
}

/// A layout of some hundred values.
fn layout() -> Layout {
    Layout::new(&ModelConfig { arch: Arch::Bert, max_positions: 4, ..config(1).model })
}

fn state_of(layout: &Layout, step: u64) -> State {
    let column = |k: u64| (0..layout.len()).map(|i| (i as u64 * 7 + step * 3 + k) as f32).collect();
    State { weights: column(0), first: column(1), second: column(2) }
}

#[test]
fn after_any_crash_the_newest_checkpoint_that_was_reported_loads() {
    let run = Path::new("run");
    let disk = Simulated::with(&run.join("checkpoints"));
    let checkpoints = Checkpoints::on(&disk, run.join("checkpoints"));
    let layout = layout();
    // What was reported as saved, and when: changes so far, and what a manifest then says.
    let mut reported = vec![(0, Progress::default())];
    for step in 1..=6 {
        let mut progress = Progress { step, tokens: 10 * step, ..Progress::default() };
        checkpoints.save(&layout, &progress, 1, "this", &state_of(&layout, step)).unwrap();
        reported.push((disk.now(), progress.clone()));
        run_dir::publish(&disk, run, step, (step > 2).then_some(2)).unwrap();
        if step % 2 == 0 {
            progress.evaluated = step;
            checkpoints.amend(&progress).unwrap();
            reported.push((disk.now(), progress));
        }
        checkpoints.prune(2, Some(2)).unwrap();
    }
    let images = crashes(&disk, 20, |at, image, crash| {
        let saved = Checkpoints::on(image, run.join("checkpoints"));
        let (found, refused) = saved.newest(&layout, "this").unwrap_or_else(|e| panic!("{crash}: {e}"));
        assert!(refused.is_empty(), "{crash}: {refused:?}");
        let known = reported.iter().rposition(|(when, _)| *when <= at).unwrap();
        let progress = found.as_ref().map_or(Progress::default(), |c| c.manifest.progress.clone());
        // The one that was reported last, or the one that was being written.
        let expected = &reported[known..(known + 2).min(reported.len())];
        assert!(expected.iter().any(|(_, p)| *p == progress), "{crash}: {progress:?} of {expected:?}");
        if let Some(found) = found {
            assert!(found.state == state_of(&layout, progress.step), "{crash}: another state");
        }
        for link in ["latest", "best"] {
            if let Ok(target) = image.read_link(&run.join(link)) {
                let step = step_of_name(target.file_name().unwrap().to_str().unwrap()).unwrap();
                saved.load(step, &layout).unwrap_or_else(|e| panic!("{crash}: {link}: {e}"));
            }
        }
    });
    assert!(images >= 10_000, "{images} images");
}

/// Index, vocabulary, configuration, records.
#[test]
fn after_any_crash_a_file_is_one_of_its_versions() {
    let (disk, path) = (Simulated::with(Path::new("here")), Path::new("here/vocab.json"));
    let versions: Vec<Vec<u8>> = (1..6u8).map(|n| vec![n; 100 * usize::from(n)]).collect();
    let mut reported = vec![0];
    for version in &versions {
        durable::write_file_on(&disk, path, version).unwrap();
        reported.push(disk.now());
    }
    crashes(&disk, 20, |at, image, crash| {
        let known = reported.iter().rposition(|when| *when <= at).unwrap();
        match image.read(path, 10_000) {
            Ok(found) => {
                let version = versions.iter().position(|v| *v == found).expect(crash) + 1;
                assert!((known..=known + 1).contains(&version), "{crash}: {version} of {known}");
            }
            Err(error) => assert_eq!((known, error.kind()), (0, ErrorKind::NotFound), "{crash}"),
        }
    });
}

/// The export; and the ids of a corpus, which grow under another name until they are complete.
#[test]
fn after_any_crash_a_directory_and_a_grown_file_are_whole_or_absent() {
    let disk = Simulated::with(Path::new("here"));
    let (model, ids) = (Path::new("here/model"), Path::new("here/ids"));
    commit::directory(&disk, model, |new| {
        new.write("config.json", b"a configuration")?;
        let mut card = disk.create(&new.path().join("README.md")).unwrap();
        card.write_all(b"a card").unwrap();
        new.sync_all()
    })
    .unwrap();
    let written = disk.now();
    let part = Path::new("here/ids.part");
    let mut file = disk.create(part).unwrap();
    for block in [&b"one block"[..], b" and another"] {
        file.write_all(block).unwrap();
    }
    file.sync().unwrap();
    commit::publish(&disk, part, ids).unwrap();
    let published = disk.now();
    crashes(&disk, 50, |at, image, crash| {
        match image.kind(model) {
            Ok(_) => {
                for (name, content) in [("config.json", &b"a configuration"[..]), ("README.md", b"a card")] {
                    assert_eq!(image.read(&model.join(name), 100).expect(crash), content, "{crash}");
                }
            }
            Err(_) => assert!(at < written, "{crash}"),
        }
        match image.read(ids, 100) {
            Ok(found) => assert_eq!(found, b"one block and another", "{crash}"),
            Err(_) => assert!(at < published, "{crash}"),
        }
    });
}

/// What would be the use of a disk on which nothing is ever lost?
#[test]
fn what_is_written_without_syncs_is_found_out() {
    let disk = Simulated::with(Path::new("here"));
    let (temporary, path) = (Path::new("here/.new"), Path::new("here/file"));
    disk.create(temporary).unwrap().write_all(b"whole").unwrap();
    disk.rename(temporary, path).unwrap();
    let mut found = BTreeSet::new();
    crashes(&disk, 20, |_, image, _| {
        found.insert(image.read(path, 100).ok());
    });
    for torn in [None, Some(&b""[..]), Some(b"who"), Some(b"wh\0\0\0"), Some(b"whole")] {
        assert!(found.iter().any(|f| f.as_deref() == torn) || torn == Some(b"who"), "{torn:?}: {found:?}");
    }
}

#[test]
fn a_file_s_name_leads_nowhere_else() {
    let disk = Simulated::with(Path::new("here"));
    for name in ["../file", "/file", "a/b", ".", "..", ""] {
        let made = commit::directory(&disk, Path::new("here/new"), |new| new.write(name, b"x"));
        assert_eq!(made.unwrap_err().kind(), bertstream::ErrorKind::Internal, "{name:?}");
        assert!(disk.entries(Path::new("here")).unwrap().is_empty(), "{name:?}");
    }
}

/// What a run on a faulty disk left, held to everything that is promised of it. Gives the reasons it told.
fn check_run(fault: Fault, expected: &fake::Left) -> (usize, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Simulated::with(&directory.path().join("checkpoints"));
    let faulty = Faulty::new(disk.clone(), fault);
    let script = Script {
        test: Some(batches(Cursor::default(), 1)),
        disk: Some(Box::leak(Box::new(faulty.clone()))),
        ..Script::default()
    };
    let config = saving();
    let left = run(directory.path(), &config, &script);
    let mut reasons: Vec<String> = left
        .records
        .iter()
        .filter_map(
            |r| if let Record::CheckpointFailed { reason, .. } = r { Some(reason.clone()) } else { None },
        )
        .collect();
    match &left.ending {
        Ok(ending) => assert_eq!(*ending, Ending::Finished, "{fault:?}"),
        Err(error) => {
            assert!(error.to_string().contains("last checkpoint, step 12"), "{fault:?}: {error}");
            assert_eq!(error.kind().exit_code(), 74, "{fault:?}: {error}");
            reasons.push(Error::to_string(error));
        }
    }
    let hit = faulty.operations() > fault.at;
    assert_eq!(!reasons.is_empty(), hit, "{fault:?}: {reasons:?}");
    assert!(left.state == expected.state, "{fault:?}: the training went on as if nothing had been");
    assert_eq!(left.progress.digest, expected.progress.digest, "{fault:?}");
    assert_eq!(left.passes.len(), expected.passes.len(), "{fault:?}: no step twice");
    assert!(!faulty.retried(), "{fault:?}");

    let checkpoints = Checkpoints::on(&disk, directory.path().join("checkpoints"));
    for (name, _) in disk.entries(checkpoints.path()).unwrap() {
        assert!(step_of_name(name.to_str().unwrap()).is_some(), "{fault:?}: {} stays", name.display());
    }
    let layout = Layout::new(&config.model);
    let (found, refused) = checkpoints.newest(&layout, &config.fingerprint()).unwrap();
    assert!(refused.is_empty(), "{fault:?}: {refused:?}");
    let reported = left.records.iter().filter_map(|r| match r {
        Record::Checkpoint { step, .. } => Some(*step),
        _ => None,
    });
    let found = found.map_or(0, |c| c.manifest.progress.step);
    assert!(found >= reported.max().unwrap_or(0), "{fault:?}: {found}");
    if !fault.lasting && left.ending.is_ok() {
        assert_eq!(found, 12, "{fault:?}");
    }
    (faulty.operations(), reasons)
}

/// Checkpoints every third step and at each epoch's end, evaluations in between, few kept.
fn saving() -> bertstream::train::RunConfig {
    let mut config = config(1);
    config.runtime.save_every = Some(3);
    config.runtime.keep = 2;
    config
}

fn check_faults(syncs: bool, lasting: bool, kind: ErrorKind) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let script = Script { test: Some(batches(Cursor::default(), 1)), ..Script::default() };
    let expected = run(directory.path(), &saving(), &script);
    let (operations, reasons) = check_run(Fault { at: usize::MAX, syncs, lasting, kind }, &expected);
    assert!(reasons.is_empty() && operations > 20, "{operations}: {reasons:?}");
    println!("{operations} operations that may fail");
    (0..operations).flat_map(|at| check_run(Fault { at, syncs, lasting, kind }, &expected).1).collect()
}

#[test]
fn a_disk_that_is_full_at_any_operation_costs_one_checkpoint() {
    let reasons = check_faults(false, false, ErrorKind::StorageFull);
    assert!(reasons.len() >= 100, "{}", reasons.len());
    let told = |reason: &String| reason.contains(" bytes needed, ") && reason.contains(" bytes free on ");
    assert!(reasons.iter().any(told), "{reasons:?}");
}

#[test]
fn a_disk_that_stays_full_leaves_the_last_checkpoint_and_is_told_at_the_end() {
    check_faults(false, true, ErrorKind::StorageFull);
}

#[test]
fn a_failed_sync_is_not_tried_again_and_no_manifest_names_its_file() {
    check_faults(true, false, ErrorKind::Other);
}
