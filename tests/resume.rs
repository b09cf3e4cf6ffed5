//! A run that was stopped and resumed is the run that was not: bitwise, at every step, through damaged
//! checkpoints, and under no configuration but its own.

use std::fs;
use std::path::Path;

use bertstream::ErrorKind;
use bertstream::corpus::{CorpusConfig, Format, Io, Sources};
use bertstream::model::{Arch, Layout, ModelConfig, State};
use bertstream::rng::{Domain, SampleRng};
use bertstream::train::checkpoint::{Checkpoints, Manifest, Progress, directory_name};
use bertstream::train::{Ending, RunConfig, RunDir, Stop, run_dir};

mod fake;
use fake::{Script, config, run};

#[test]
fn resuming_at_every_step_gives_the_uninterrupted_run_bitwise() {
    for accumulate in [1, 3] {
        let mut config = config(accumulate);
        config.runtime.save_every = None;
        let whole = tempfile::tempdir().unwrap();
        let expected = run(whole.path(), &config, &Script::default());
        assert_eq!(expected.ending.unwrap(), Ending::Finished);
        assert_eq!(expected.progress.step, config.length.total);
        for stop_after in 0..config.length.total {
            let parts = tempfile::tempdir().unwrap();
            let script = Script { stop_after: Some(stop_after), ..Script::default() };
            let first = run(parts.path(), &config, &script);
            assert_eq!(first.ending.unwrap(), Ending::Stopped(Stop::Interrupt), "{stop_after}");
            assert_eq!(first.progress.step, stop_after);
            let second = run(parts.path(), &config, &Script::default());
            assert_eq!(second.progress, expected.progress, "{stop_after}");
            assert_eq!(first.passes.len() + second.passes.len(), expected.passes.len(), "no step twice");
            assert!(first.records.len() >= stop_after as usize, "every step is recorded");
            assert!(second.state == expected.state, "weights or moments differ after a stop at {stop_after}");
            for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
                let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
                assert!(read(parts.path()) == read(whole.path()), "{file} differs: stop at {stop_after}");
            }
        }
    }
}

#[test]
fn resuming_after_each_step_in_turn_is_the_uninterrupted_run() {
    let config = config(1);
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = run(whole.path(), &config, &Script::default());
    for _ in 0..config.length.total {
        run(parts.path(), &config, &Script { stop_after: Some(1), ..Script::default() }).ending.unwrap();
    }
    let last = run(parts.path(), &config, &Script::default());
    assert_eq!(last.progress, expected.progress);
    assert!(last.state == expected.state);
    // Records too, but for those that measure time.
    let steps = |dir: &Path| -> Vec<(u64, String)> {
        lines(dir)
            .iter()
            .filter(|l| l["kind"] == "step")
            .map(|l| (l["step"].as_u64().unwrap(), l["digest"].to_string()))
            .collect()
    };
    assert_eq!(steps(parts.path()), steps(whole.path()));
}

fn lines(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A finished run of 12 steps with all its checkpoints.
fn finished(directory: &Path) -> RunConfig {
    let config = config(1);
    run(directory, &config, &Script::default()).ending.unwrap();
    config
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_an_older_one_used() {
    let directory = tempfile::tempdir().unwrap();
    let config = finished(directory.path());
    let expected = fs::read(directory.path().join("model.safetensors")).unwrap();
    let newest = run_dir::checkpoints(directory.path()).directory(12);
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let path = newest.join(file);
        let good = fs::read(&path).unwrap();
        let check = |bad: Option<&[u8]>, what: &str| {
            match bad {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let layout = bertstream::model::Layout::new(&config.model);
            let (found, refused) =
                run_dir::checkpoints(directory.path()).newest(&layout, &config.fingerprint()).unwrap();
            assert_eq!(found.unwrap().manifest.progress.step, 11, "{file} {what}");
            assert_eq!(refused.len(), 1);
            assert!(refused[0].to_string().contains(file), "{}", refused[0]);
            fs::write(&path, &good).unwrap();
        };
        check(None, "removed");
        check(Some(&[]), "empty");
        check(Some(&good[..good.len() / 2]), "cut");
        check(Some(&good[..good.len() - 1]), "one byte short");
        check(Some(&[&good[..], b" "].concat()), "one byte long");
        for k in 0..64 {
            let mut flipped = good.clone();
            flipped[k * (good.len() - 1) / 63] ^= 1 << (k % 8);
            check(Some(&flipped), "flipped");
        }
    }
    // From step 11 the run ends where it had ended, in place of the damaged checkpoint.
    fs::write(newest.join("model.safetensors"), b"damaged").unwrap();
    run(directory.path(), &config, &Script::default()).ending.unwrap();
    assert!(fs::read(directory.path().join("model.safetensors")).unwrap() == expected);
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_checkpoint_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let config = finished(directory.path());
    let layout = Layout::new(&config.model);
    let checkpoints = run_dir::checkpoints(directory.path());
    let mut rng = SampleRng::new(Domain::Survey, 6, &[]);
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let path = checkpoints.directory(12).join(file);
        let good = fs::read(&path).unwrap();
        let check = |bytes: &[u8], at: usize, what: &dyn std::fmt::Display| {
            fs::write(&path, bytes).unwrap();
            let error = checkpoints.load(12, &layout).expect_err(&what.to_string());
            assert_eq!(error.kind(), ErrorKind::Data, "{file}, {what}: {error}");
            let named = if file == "state.json" { String::new() } else { part_at(&good, at) };
            assert!(error.to_string().contains(file), "{what}: {error}");
            assert!(error.to_string().contains(&named), "{what}, {named}: {error}");
        };
        // At every page and more; a manifest at every byte.
        let every = if file == "state.json" { 1 } else { 64 };
        for length in (0..good.len()).step_by(every) {
            check(&good[..length], length, &format_args!("cut to {length}"));
        }
        for _ in 0..3400 {
            let bit = rng.below(8 * good.len() as u64);
            let mut flipped = good.clone();
            flipped[(bit / 8) as usize] ^= 1 << (bit % 8);
            check(&flipped, (bit / 8) as usize, &format_args!("bit {bit}"));
        }
        let (found, refused) = checkpoints.newest(&layout, &config.fingerprint()).unwrap();
        assert_eq!((found.unwrap().manifest.progress.step, refused.len()), (11, 1), "{file}");
        fs::write(&path, &good).unwrap();
        checkpoints.load(12, &layout).unwrap();
    }
}

/// What the error about a byte of a safetensors file names.
fn part_at(file: &[u8], at: usize) -> String {
    let (header, metadata) = safetensors::SafeTensors::read_metadata(file).unwrap();
    let holds = |name: &String| {
        let (from, to) = metadata.info(name).unwrap().data_offsets;
        (8 + header + from..8 + header + to).contains(&at)
    };
    metadata
        .offset_keys()
        .into_iter()
        .find(holds)
        .map_or(", in its header".into(), |n| format!(", in tensor {n}"))
}

/// Checkpoints of before tensors had sums of their own are read, and their damage is noticed without a tensor's name.
#[test]
fn a_checkpoint_without_sums_of_tensors_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let config = finished(directory.path());
    let (checkpoints, layout) = (run_dir::checkpoints(directory.path()), Layout::new(&config.model));
    let path = checkpoints.directory(12).join("state.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for file in ["model.safetensors", "optimizer.safetensors"] {
        for part in ["header", "tensors"] {
            assert!(manifest["files"][file].as_object_mut().unwrap().remove(part).is_some());
        }
    }
    manifest.as_object_mut().unwrap().remove("checksum");
    // The checksum is the first field, whatever order a map has.
    let rest = serde_json::to_string_pretty(&manifest).unwrap();
    let mut text = format!("{{\n  \"checksum\": \"{}\",{}\n", "0".repeat(32), &rest[1..]);
    let sum = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()));
    let digits = "{\n  \"checksum\": \"".len();
    text.replace_range(digits..digits + 32, &sum);
    fs::write(&path, text).unwrap();
    checkpoints.load(12, &layout).unwrap();
    let model = checkpoints.directory(12).join("model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&model, bytes).unwrap();
    let error = checkpoints.load(12, &layout).unwrap_err().to_string();
    assert!(error.ends_with("the content changed"), "{error}");
}

#[test]
fn a_state_that_is_not_finite_is_never_saved() {
    let directory = tempfile::tempdir().unwrap();
    let (checkpoints, layout) = (Checkpoints::at(directory.path()), Layout::new(&config(1).model));
    let zeros = vec![0.0; layout.len()];
    let good = State { weights: zeros.clone(), first: zeros.clone(), second: zeros };
    for (value, column) in [(f32::NAN, 0), (f32::INFINITY, 1), (f32::NEG_INFINITY, 2)] {
        let mut bad = good.clone();
        [&mut bad.weights, &mut bad.first, &mut bad.second][column][5] = value;
        let error = checkpoints.save(&layout, &Progress::default(), 1, "", &bad).unwrap_err();
        assert!(error.to_string().contains("bert.embedding.token.weight"), "{error}");
        assert!(checkpoints.steps().unwrap().is_empty());
    }
}

/// Nothing that a manifest says opens a file elsewhere.
#[test]
fn a_manifest_that_names_other_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = finished(directory.path());
    let checkpoints = run_dir::checkpoints(directory.path());
    let path = checkpoints.directory(12).join("state.json");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(directory.path().join("victim"), "untouched").unwrap();
    for name in ["../../victim", "/etc/passwd", "victim", "model.safetensors/../x"] {
        let mut text = good.replace("\"model.safetensors\"", &format!("{name:?}"));
        let digits = "{\n  \"checksum\": \"".len();
        text.replace_range(digits..digits + 32, &"0".repeat(32));
        let sum = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()));
        text.replace_range(digits..digits + 32, &sum);
        fs::write(&path, text).unwrap();
        let error = checkpoints.load(12, &Layout::new(&config.model)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains("names a file"), "{error}");
    }
}

/// The clock went backwards: the newest by time is the oldest by step.
#[test]
fn checkpoints_are_ordered_by_step_and_never_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let config = finished(directory.path());
    let checkpoints = run_dir::checkpoints(directory.path());
    for step in checkpoints.steps().unwrap() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000 - 1000 * step);
        fs::File::open(checkpoints.directory(step)).unwrap().set_modified(time).unwrap();
    }
    let (found, _) = checkpoints.newest(&Layout::new(&config.model), &config.fingerprint()).unwrap();
    assert_eq!(found.unwrap().manifest.progress.step, 12);
    checkpoints.prune(2, None).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [12, 11]);
}

#[test]
fn no_whole_checkpoint_is_an_error_that_names_each() {
    let directory = tempfile::tempdir().unwrap();
    let config = finished(directory.path());
    let checkpoints = run_dir::checkpoints(directory.path());
    for step in checkpoints.steps().unwrap() {
        fs::write(checkpoints.directory(step).join("state.json"), "{}").unwrap();
    }
    let layout = bertstream::model::Layout::new(&config.model);
    let error = checkpoints.newest(&layout, &config.fingerprint()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    for step in 1..=12 {
        assert!(error.to_string().contains(&directory_name(step)), "{error}");
    }
}

#[test]
fn a_checkpoint_of_another_shape_or_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = finished(directory.path());
    let checkpoints = run_dir::checkpoints(directory.path());
    let mut wider = config.model.clone();
    wider.vocab_size += 1;
    let layout = bertstream::model::Layout::new(&wider);
    let error = checkpoints.load(12, &layout).unwrap_err();
    assert!(error.to_string().contains("bert.embedding.token.weight is F32 [9, 4]"), "{error}");
    let layout = bertstream::model::Layout::new(&config.model);
    let error = checkpoints.newest(&layout, "another").unwrap_err();
    assert_eq!(error.kind().exit_code(), 78);
}

/// `load_state_dict` is strict: the file holds what the other program's model has, and nothing else.
#[test]
fn the_tensors_of_a_checkpoint_are_those_of_its_architecture() {
    for (arch, buffer) in [(Arch::Reference, Some("bert.embedding.position.pe")), (Arch::Bert, None)] {
        let directory = tempfile::tempdir().unwrap();
        let model = ModelConfig { arch, ..config(1).model };
        let layout = Layout::new(&model);
        let weights = layout.initial_weights(1);
        let (first, second) = (vec![0.5; layout.len()], vec![0.25; layout.len()]);
        let state = State { weights, first, second };
        let checkpoints = Checkpoints::at(directory.path());
        let path = checkpoints.save(&layout, &Progress::default(), 1, "", &state).unwrap();
        let bytes = fs::read(path.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names = file.names();
        let mut expected: Vec<&str> = layout.parameters().iter().map(|p| &*p.name).chain(buffer).collect();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "{arch:?}");
        assert!(checkpoints.load(0, &layout).unwrap().state == state, "{arch:?}");
    }
}

#[test]
fn every_field_that_differs_is_listed_and_what_changes_no_weight_may_differ() {
    let stored = config(1);
    let mut given = stored.clone();
    given.sample.seed = 7;
    given.sample.seq_len = 64;
    given.collate.seq_len = 64;
    given.model.hidden = 8;
    given.model.arch = Arch::Bert;
    given.schedule.lr = 0.5;
    given.clip = None;
    given.data.vocab_fingerprint = "22".into();
    let error = stored.accept(&given).unwrap_err();
    assert_eq!(error.kind().exit_code(), 78);
    for field in [
        "sample.seed: 42 in the run, 7 now",
        "sample.seq_len: 128 in the run, 64 now",
        "collate.seq_len",
        "model.hidden: 4 in the run, 8 now",
        "model.arch: \"reference\" in the run, \"bert\" now",
        "schedule.lr: 0.01 in the run, 0.5 now",
        "clip: 1.0 in the run, null now",
        "data.vocab_fingerprint",
    ] {
        assert!(error.to_string().contains(field), "{field} is not in: {error}");
    }
    assert_eq!(stored.differences(&given).len(), 8);
    assert_ne!(stored.fingerprint(), given.fingerprint());

    let mut free = stored.clone();
    free.runtime.workers = 8;
    free.runtime.threads = 9;
    free.runtime.log_freq = 10;
    free.runtime.keep = 1;
    free.length.total = 99;
    let source = stored.data.corpus[0].clone();
    let moved = CorpusConfig { path: "moved.tsv".into(), io: Io::Memory, ..source.clone() };
    free.data.corpus = moved.clone().into();
    assert_eq!(stored.differences(&free), []);
    assert_eq!(stored.fingerprint(), free.fingerprint());
    stored.accept(&free).unwrap();

    // Of several sources, each may be elsewhere; their weights and formats belong to the run.
    let several = |sources: [CorpusConfig; 2]| {
        let mut config = stored.clone();
        config.data.corpus = Sources::new(sources.to_vec()).unwrap();
        config
    };
    let weighted = |source: &CorpusConfig, weight| CorpusConfig { weight: Some(weight), ..source.clone() };
    let two = several([weighted(&source, 1.0), weighted(&source, 3.0)]);
    assert_eq!(two.differences(&several([weighted(&source, 1.0), weighted(&moved, 3.0)])), []);
    let given = several([
        weighted(&source, 2.0),
        CorpusConfig { format: Some(Format::Jsonl), ..weighted(&source, 3.0) },
    ]);
    let fields: Vec<_> = two.differences(&given).into_iter().map(|d| d.field).collect();
    assert_eq!(fields, ["data.corpus.0.weight", "data.corpus.1.format"]);
    assert_ne!(two.fingerprint(), given.fingerprint());
}

/// A source of the first release, which had one format and no weights, and is written as then.
#[test]
fn sources_read_back_as_they_were_written() {
    let first = r#"{"path":"a.tsv","io":"mmap","lines":null,"encoding":"utf-8","index_dir":null}"#;
    let one: Sources = serde_json::from_str(first).unwrap();
    assert_eq!(one[0].format, Some(Format::Pairs));
    assert_eq!(serde_json::to_string(&one).unwrap(), first);
    let weighted = CorpusConfig {
        weight: Some(0.5),
        format: Some(Format::Jsonl),
        field: Some("body".into()),
        ..CorpusConfig::at("b.jsonl")
    };
    for sources in [vec![weighted.clone()], vec![CorpusConfig::at("a"), weighted.clone()]] {
        let sources = Sources::new(sources).unwrap();
        let text = serde_json::to_string(&sources).unwrap();
        assert_eq!(serde_json::from_str::<Sources>(&text).unwrap(), sources, "{text}");
    }
    assert!(serde_json::from_str::<Sources>("[]").is_err());
    assert!(Sources::new(vec![CorpusConfig { weight: Some(0.0), ..weighted }]).is_err());
}

#[test]
fn the_configuration_reads_back_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let run = RunDir::create(directory.path()).unwrap();
    let config = config(3);
    run.write_config(&config).unwrap();
    assert_eq!(RunConfig::read(&run.file("config.json")).unwrap(), config);
    let check = |text: &str, code| {
        fs::write(run.file("config.json"), text).unwrap();
        assert_eq!(RunConfig::read(&run.file("config.json")).unwrap_err().kind().exit_code(), code, "{text}");
    };
    check("", 65);
    check("{}", 65);
    check("{\"format\": 1}", 65);
    check("{\"format\": 2}", 78);
}

#[test]
fn a_directory_with_a_run_is_not_started_over_and_one_without_not_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let error = RunDir::resume(directory.path()).unwrap_err();
    assert_eq!(error.kind().exit_code(), 66);
    finished(directory.path());
    let error = RunDir::create(directory.path()).unwrap_err();
    assert_eq!(error.kind().exit_code(), 73);
    assert!(error.to_string().contains("--resume"), "{error}");
    let file = directory.path().join("a file");
    fs::write(&file, "").unwrap();
    assert_eq!(RunDir::create(&file.join("run")).unwrap_err().kind().exit_code(), 73);
}

#[test]
fn a_second_process_is_refused_with_the_owner_s_pid_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = RunDir::create(directory.path()).unwrap();
    let error = RunDir::create(directory.path()).unwrap_err();
    assert_eq!(error.kind().exit_code(), 73);
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    drop(first);
    RunDir::create(directory.path()).unwrap();
}

#[test]
fn pruning_keeps_the_newest_and_the_best_and_touches_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    finished(directory.path());
    let checkpoints = run_dir::checkpoints(directory.path());
    // What a checkpoint's name leads to elsewhere, and what has another name, is not ours.
    let victim = directory.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("precious"), "").unwrap();
    std::os::unix::fs::symlink(&victim, checkpoints.path().join("step-00000000")).unwrap();
    std::os::unix::fs::symlink(victim.join("precious"), checkpoints.directory(1).join("link")).unwrap();
    fs::create_dir(checkpoints.path().join("step-5")).unwrap();
    checkpoints.prune(2, Some(4)).unwrap();
    let mut left: Vec<_> = fs::read_dir(checkpoints.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let expected = ["step-00000000", "step-00000004", "step-00000011", "step-00000012", "step-5"];
    assert_eq!(left, expected);
    assert!(victim.join("precious").exists());
}

#[test]
fn links_lead_to_the_newest_checkpoint_and_replace_no_file_of_others() {
    let directory = tempfile::tempdir().unwrap();
    finished(directory.path());
    let manifest = Manifest::read(&directory.path().join("state.json")).unwrap();
    assert_eq!(manifest.progress.step, 12);
    assert_eq!(
        fs::read_link(directory.path().join("latest")).unwrap(),
        Path::new("checkpoints/step-00000012")
    );
    assert!(!directory.path().join("best").exists(), "there is no best without a test corpus");

    let run = RunDir::resume(directory.path()).unwrap();
    run.publish(3, Some(2)).unwrap();
    assert_eq!(Manifest::read(&run.file("state.json")).unwrap().progress.step, 3);
    assert_eq!(Manifest::read(&run.file("best/state.json")).unwrap().progress.step, 2);
    fs::remove_file(run.file("best")).unwrap();
    fs::write(run.file("best"), "mine").unwrap();
    assert_eq!(run.publish(3, Some(2)).unwrap_err().kind().exit_code(), 73);
    assert_eq!(fs::read(run.file("best")).unwrap(), b"mine");
}
