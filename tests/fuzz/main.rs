//! The inputs that are kept for each target of the fuzzer, and what small changes make of them, on every run of the
//! tests: what was found once stays found.

use std::fs;
use std::path::{Path, PathBuf};

use bertstream::rng::{Domain, SampleRng};

mod targets;

use targets::{TARGETS, Target};

/// Changed copies of each kept input.
const CHANGED: u64 = 2000;

#[test]
fn kept_inputs_and_changes_of_them_break_no_promise() {
    // One after the other: the targets share a directory.
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "fixtures/fuzz/{name} keeps no input");
        for (path, input) in &inputs {
            run(path, 0, target, input);
        }
        for (number, (path, input)) in (0..).zip(&inputs) {
            for change in 1..=CHANGED {
                let mut rng = SampleRng::new(Domain::Survey, change, &[number]);
                let (_, other) = &inputs[rng.below(inputs.len() as u64) as usize];
                run(path, change, target, &changed(input, other, &mut rng));
            }
        }
    }
}

#[test]
fn every_directory_of_inputs_is_of_a_target() {
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "fixtures/fuzz/{name}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz")
}

/// The inputs of a target in the order of their names.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(root().join(target)).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs a target, and where it panics says on what.
fn run(path: &Path, change: u64, target: Target, input: &[u8]) {
    let ran = std::panic::catch_unwind(|| target(input));
    assert!(ran.is_ok(), "{}, change {change}: {:?}", path.display(), String::from_utf8_lossy(input));
}

/// One to four changes: a bit, a byte, a cut, a stretch taken out or doubled, a stretch of another input.
fn changed(input: &[u8], other: &[u8], rng: &mut SampleRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        let end = (at + 1 + rng.below(16) as usize).min(bytes.len());
        match rng.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 0xff, b'"', b'9', b'\n', 0x80][rng.below(6) as usize],
            2 if rng.below(4) == 0 => bytes.truncate(at),
            3 if at < end => drop(bytes.drain(at..end)),
            4 if at < end => {
                let stretch = bytes[at..end].to_vec();
                bytes.splice(at..at, stretch);
            }
            _ => {
                let from = rng.below(other.len() as u64 + 1) as usize;
                let to = (from + 16).min(other.len());
                bytes.splice(at.min(end)..end, other[from..to].iter().copied());
            }
        }
    }
    bytes
}
