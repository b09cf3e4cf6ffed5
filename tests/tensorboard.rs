//! Event files, read back field by field: frames, checksums, and what a resumed run says once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bertstream::train::tensorboard::frame::crc32c;
use bertstream::train::{EventWriter, TensorBoard};

mod fake;
use fake::{Script, config, run};

/// A field of a message: its number, and its bytes or its number's bits.
type Field = (u64, Vec<u8>);

/// The records of a file, after all checksums were compared. A record cut short ends it.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let masked = |bytes: &[u8]| crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8);
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(number(&bytes[8..12]), masked(&bytes[..8]), "checksum of a length");
        let (record, rest) = bytes[12..].split_at(length);
        assert_eq!(number(&rest[..4]), masked(record), "checksum of a record");
        records.push(record.to_vec());
        bytes = &rest[4..];
    }
    records
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn fields(mut bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    fields
}

fn field(fields: &[Field], number: u64) -> Option<&[u8]> {
    fields.iter().find(|field| field.0 == number).map(|field| &field.1[..])
}

fn double(bytes: &[u8]) -> f64 {
    f64::from_le_bytes(bytes.try_into().unwrap())
}

/// What is told of one step, by tag.
#[derive(Debug, Default)]
struct Told {
    scalars: BTreeMap<String, Vec<(u64, f32)>>,
    texts: BTreeMap<String, Vec<(u64, String)>>,
    /// Number of values, and the sum of the buckets.
    histograms: BTreeMap<String, Vec<(u64, f64, f64)>>,
    starts: Vec<u64>,
}

/// Everything in the event files of a directory, in the order of their names, as TensorBoard takes it: a session
/// that starts with a step replaces what was told of that step and later ones.
fn told(directory: &Path) -> Told {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut told = Told::default();
    for name in names {
        assert!(name.file_name().unwrap().to_str().unwrap().contains("tfevents"), "{name:?}");
        let events: Vec<_> = records(&fs::read(&name).unwrap()).iter().map(|record| fields(record)).collect();
        assert_eq!(field(&events[0], 3), Some(&b"brain.Event:2"[..]), "what a file begins with");
        for event in &events {
            assert!(double(field(event, 1).unwrap()) > 0.0, "a time");
            let step = field(event, 2).map_or(0, |step| u64::from_le_bytes(step.try_into().unwrap()));
            if let Some(session) = field(event, 7) {
                assert_eq!(field(&fields(session), 1), Some(&1u64.to_le_bytes()[..]), "START");
                told.starts.push(step);
                told.scalars.values_mut().for_each(|values| values.retain(|value| value.0 < step));
                told.texts.values_mut().for_each(|values| values.retain(|value| value.0 < step));
                told.histograms.values_mut().for_each(|values| values.retain(|value| value.0 < step));
            }
            for value in fields(field(event, 5).unwrap_or_default()) {
                assert_eq!(value.0, 1);
                take(&mut told, step, &fields(&value.1));
            }
        }
    }
    told
}

fn take(told: &mut Told, step: u64, value: &[Field]) {
    let tag = String::from_utf8(field(value, 1).unwrap().to_vec()).unwrap();
    if let Some(number) = field(value, 2) {
        let number = f32::from_le_bytes(number.try_into().unwrap());
        told.scalars.entry(tag).or_default().push((step, number));
    } else if let Some(histogram) = field(value, 5) {
        let histogram = fields(histogram);
        let column =
            |number| -> Vec<f64> { field(&histogram, number).unwrap().chunks_exact(8).map(double).collect() };
        assert_eq!(column(6).len(), column(7).len());
        let count = double(field(&histogram, 3).unwrap());
        told.histograms.entry(tag).or_default().push((step, count, column(7).iter().sum()));
    } else {
        let (tensor, metadata) = (fields(field(value, 8).unwrap()), fields(field(value, 9).unwrap()));
        assert_eq!(field(&tensor, 1), Some(&7u64.to_le_bytes()[..]), "a string");
        assert_eq!(field(&fields(field(&metadata, 1).unwrap()), 1), Some(&b"text"[..]), "the plugin");
        let text = String::from_utf8(field(&tensor, 8).unwrap().to_vec()).unwrap();
        told.texts.entry(tag).or_default().push((step, text));
    }
}

/// Runs the fake training to `last`, from where it was left before, with an event file of its own.
fn session(directory: &Path, stop_after: Option<u64>) -> bertstream::train::checkpoint::Progress {
    let board = TensorBoard { directory: None, histogram_every: Some(3), examples_every: None };
    let step = |name: &str| name.strip_prefix("step-")?.parse::<u64>().ok();
    let saved = fs::read_dir(directory.join("checkpoints")).into_iter().flatten();
    let at = saved.filter_map(|entry| step(entry.ok()?.file_name().to_str()?)).max().unwrap_or(0);
    let now = || 1e9;
    let mut events = EventWriter::begin(&directory.join("events"), at, &board, None, &now).unwrap();
    let script = Script { stop_after, ..Script::default() };
    let left = fake::run_with(directory, &config(1), &script, &mut events);
    left.ending.unwrap();
    left.progress
}

#[test]
fn every_record_is_told_once_however_often_a_run_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    session(directory.path(), Some(5));
    // What a kill leaves: records of steps that are made again. And the file of a session that told nothing.
    fs::remove_dir_all(directory.path().join("checkpoints/step-00000005")).unwrap();
    session(directory.path(), Some(0));
    session(directory.path(), None);
    let told = told(&directory.path().join("events"));
    assert_eq!(told.starts, [1, 5, 5]);
    let steps: Vec<u64> = told.scalars["train/loss"].iter().map(|value| value.0).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    for tag in ["train/nsp_accuracy", "optimizer/learning_rate", "speed/tokens_per_second"] {
        assert_eq!(told.scalars[tag].len(), 12, "{tag}");
    }
    let names: BTreeSet<&str> = told.histograms.keys().map(|tag| tag.split('/').next().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["gradients", "weights"]));
    for (tag, of) in &told.histograms {
        let steps: Vec<u64> = of.iter().map(|histogram| histogram.0).collect();
        assert_eq!(steps, [3, 6, 9, 12], "{tag}");
        assert!(of.iter().all(|(_, count, buckets)| count == buckets && *count > 0.0), "{tag}");
    }
}

/// Looking on is no part of the run.
#[test]
fn a_run_that_is_watched_is_the_same_run() {
    let (alone, watched) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plain = run(alone.path(), &config(2), &Script::default());
    let board = TensorBoard { directory: None, histogram_every: Some(1), examples_every: None };
    let now = || 1e9;
    let mut events = EventWriter::begin(&watched.path().join("events"), 0, &board, None, &now).unwrap();
    let seen = fake::run_with(watched.path(), &config(2), &Script::default(), &mut events);
    assert_eq!(plain.state, seen.state);
    assert_eq!(plain.progress, seen.progress);
    assert_eq!((plain.passes.len(), plain.records.len()), (seen.passes.len(), seen.records.len()));
}
