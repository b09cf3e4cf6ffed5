//! What goes wrong: the class of each failure by its exit code, its place and remedy by its message, and
//! outputs whose reader is gone.

use std::io::pipe;
use std::process::Stdio;

use super::toy::Place;

const TINY: &str = "--hidden 8 --layers 1 --attn-heads 2 --seq-len 16 --batch-size 8 --steps 3";

#[test]
fn each_class_of_failure_has_its_exit_code_and_names_its_place() {
    let place = Place::with_lines(40);
    place.good(&format!("train -c train.tsv -v vocab.json -o run {TINY} --log-freq 3"));
    place.good("vocab -c held-out.tsv -o other.json --vocab-size 9");
    place.write("empty.tsv", "");
    place.write("one.tsv", "a b\tc d\n");
    place.write("bad.tsv", "a b\tc d\nno tab here\ne\tf\n");
    place.write("zipped.tsv", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03");
    place.write("pickle.json", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.");
    place.write("broken.json", "{\"tokens\": [");
    let train = format!("train -v vocab.json -o new {TINY} -c");
    let on = format!("train -c train.tsv -v vocab.json -o new {TINY}");
    for (flags, code, named) in [
        // Flags that cannot be meant.
        ("vanish".to_owned(), 2, "vanish"),
        ("train -c train.tsv".to_owned(), 2, "--vocab"),
        (on.replace("--steps 3", "--steps 0"), 2, "--steps"),
        (on.replace("--batch-size 8", "--batch-size 0"), 2, "--batch-size"),
        (on.replace("--seq-len 16", "--seq-len 3"), 2, "--seq-len 3"),
        (on.replace("--hidden 8", "--hidden 9"), 2, "--hidden 9"),
        (format!("{on} --lr -1"), 2, "--lr -1 must be above 0"),
        (format!("{on} --workers 100000"), 2, "100000"),
        (format!("{on} --skip-steps 5..5"), 2, "5..5"),
        (format!("{on} --threads 100000"), 2, "100000"),
        (on.replace("--hidden 8", "--hidden 1000000"), 2, "are available"),
        (on.replace("--hidden 8", "--hidden 1000000000000"), 2, "are available"),
        ("sample -c train.tsv -v vocab.json --workers 100000 --limit 1".to_owned(), 2, "100000"),
        ("sample -c train.tsv -v vocab.json --epochs 0".to_owned(), 2, "--epochs"),
        ("collate -c train.tsv -v vocab.json --batch-size 0".to_owned(), 2, "--batch-size 0"),
        ("collate -c train.tsv -v vocab.json --format safetensors".to_owned(), 2, "--output"),
        ("vocab -c train.tsv -o train.tsv".to_owned(), 2, "train.tsv"),
        ("collate -c train.tsv -v vocab.json --format safetensors -o vocab.json".to_owned(), 2, "vocab.json"),
        ("inspect --run run --step 4".to_owned(), 2, "--step 4"),
        ("inspect --run run --step 2 --verify".to_owned(), 2, "the nearest with one: 3"),
        ("eval --run run --corpus train.tsv --workers 100000".to_owned(), 2, "100000"),
        ("eval --run run".to_owned(), 2, "--corpus"),
        // Data that cannot be used.
        (format!("{train} empty.tsv"), 65, "empty.tsv"),
        (format!("{train} one.tsv"), 65, "one.tsv"),
        (format!("{train} bad.tsv"), 65, "line 2"),
        (format!("{train} zipped.tsv"), 65, "gzip"),
        ("corpus --check -c bad.tsv --json --limit 0".to_owned(), 65, "1 of 3 lines"),
        ("vocab -c empty.tsv -o new.json".to_owned(), 65, "empty.tsv"),
        ("sample -c one.tsv -v vocab.json".to_owned(), 65, "one.tsv"),
        ("sample -c train.tsv -v pickle.json".to_owned(), 65, "pickle"),
        ("sample -c train.tsv -v broken.json".to_owned(), 65, "broken.json"),
        ("eval --run run --batches train.tsv".to_owned(), 65, "train.tsv"),
        // Input that is not there.
        (format!("{train} nowhere.tsv"), 66, "nowhere.tsv"),
        ("vocab -c nowhere.tsv -o new.json".to_owned(), 66, "nowhere.tsv"),
        ("sample -c train.tsv -v nowhere.json".to_owned(), 66, "nowhere.json"),
        ("eval --run nowhere --corpus train.tsv".to_owned(), 66, "bertstream train -o DIR"),
        ("inspect --run nowhere --step 1".to_owned(), 66, "bertstream train -o DIR"),
        ("eval --run run --corpus train.tsv --checkpoint 2".to_owned(), 66, "step 2"),
        ("train --resume nowhere".to_owned(), 66, "nowhere"),
        // Outputs that cannot be made.
        (format!("train -c train.tsv -v vocab.json -o run {TINY}"), 73, "--resume run"),
        (format!("train -c train.tsv -v vocab.json -o one.tsv {TINY}"), 73, "one.tsv is a file"),
        (format!("train -c train.tsv -v vocab.json -o one.tsv/run {TINY}"), 73, "one.tsv/run"),
        (format!("train -c train.tsv -v vocab.json -o /proc/run {TINY}"), 73, "/proc/run"),
        ("quickstart --output /proc/run --steps 1".to_owned(), 73, "/proc/run"),
        ("tokenize -c train.tsv -v vocab.json -o /proc/ids".to_owned(), 73, "/proc/ids"),
        ("vocab -c train.tsv -o nowhere/vocab.json".to_owned(), 73, "nowhere"),
        // What does not belong together.
        ("train --resume run --hidden 16 --lr 0.5".to_owned(), 78, "model.hidden"),
        ("train --resume run --seq-len 20 --seed 3".to_owned(), 78, "sample.seed"),
        ("train --resume run --steps 9 --skip-steps 2..4".to_owned(), 78, "step 2 is done"),
        ("train --resume run --arch bert".to_owned(), 78, "model.arch"),
        ("train --resume run --vocab other.json".to_owned(), 78, "data.vocab_fingerprint"),
        ("train --resume run --corpus held-out.tsv".to_owned(), 78, "data.corpus_fingerprint"),
        ("eval --run run --corpus train.tsv --vocab other.json".to_owned(), 78, "other.json"),
        ("inspect --run run --step 1 --corpus held-out.tsv".to_owned(), 78, "held-out.tsv"),
    ] {
        let ran = place.run(&flags);
        assert_eq!(ran.code, code, "{flags}: {}", ran.stderr);
        assert!(ran.stderr.contains("error: ") && ran.stderr.contains(named), "{flags}: {}", ran.stderr);
        // A check has a report even where it ends badly; nothing else has a result.
        assert!(ran.stdout.is_empty() || flags.contains("--check"), "{flags}: {}", ran.stdout);
    }
    assert!(!place.path("new").exists() && !place.path("new.json").exists(), "nothing was begun");
}

/// A bug in any stage, at its first, a middle and a late item: told by name, behind a checkpoint from which the run goes
/// on to the same end.
#[test]
fn a_panic_of_a_stage_is_told_behind_a_checkpoint_and_costs_no_step() {
    let place = Place::with_lines(200);
    let train = "train --corpus train.tsv --vocab vocab.json -H 16 -l 1 -a 2 --seq-len 24 -b 16 --epochs 2";
    place.good(&format!("{train} --output whole"));
    // Of 4 units and 13 batches an epoch; the first one is looked at before anything is written.
    let stages =
        [("sample", 0), ("sample", 5), ("sample", 7), ("collate", 0), ("collate", 14), ("collate", 25)];
    for (at, (stage, item)) in stages.into_iter().enumerate() {
        // Without threads there is one stage, and batches are made where they are wanted.
        for workers in [0, 1, 2, 8].into_iter().filter(|&workers| workers > 0 || stage == "sample") {
            let run = format!("run-{at}-{workers}");
            let mut command = place.command(&format!("{train} --output {run} --workers {workers}"));
            let ran = command.env("BERTSTREAM_FAIL_POINT", format!("{stage}:{item}")).output().unwrap();
            let told = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(70), "{stage}:{item} of {workers}: {told}");
            let named = format!("stage {stage}, item {item} ");
            assert!(told.contains(&named) && told.contains("this is a bug"), "{told}");
            assert_eq!(place.path(&format!("{run}/state.json")).exists(), item > 0, "{run}: {told}");
            if item == 0 {
                continue;
            }
            place.good(&format!("train --resume {run}"));
            for file in ["model.safetensors", "optimizer.safetensors"] {
                let read = |run: &str| place.read(&format!("{run}/{file}"));
                assert!(read(&run) == read("whole"), "{file} of {run}");
            }
        }
    }
    for wrong in ["sample", "sample:x", ":"] {
        let mut command = place.command("config");
        assert_eq!(command.env("BERTSTREAM_FAIL_POINT", wrong).output().unwrap().status.code(), Some(2));
    }
    let mut command = place.command("tokenize --corpus train.tsv --vocab vocab.json --workers 2");
    let ran = command.env("BERTSTREAM_FAIL_POINT", "tokenize:0").output().unwrap();
    assert_eq!(ran.status.code(), Some(70));
}

#[test]
fn an_older_checkpoint_in_place_of_a_damaged_one_is_told() {
    let place = Place::with_lines(40);
    place.good(&format!("train -c train.tsv -v vocab.json -o run {TINY} --save-every 2"));
    let eval = "eval --run run --corpus train.tsv";
    let whole = place.good(eval);
    assert!(whole.stdout.contains("step 3") && whole.stderr.is_empty(), "{}", whole.stderr);
    let newest = place.path("run/checkpoints/step-00000003/model.safetensors");
    std::fs::write(newest, "cut short").unwrap();
    let older = place.good(eval);
    assert!(older.stdout.contains("step 2"), "{}", older.stdout);
    for part in ["warning: train: ", "step-00000003", "an older checkpoint is used"] {
        assert!(older.stderr.contains(part), "{part}: {}", older.stderr);
    }
}

/// Offered wherever a file is read that somebody else made.
#[test]
fn a_pickle_is_never_run() {
    let place = Place::with_lines(40);
    place.good(&format!("train -c train.tsv -v vocab.json -o run {TINY}"));
    let pickle = b"cos\nsystem\n(S'touch touched'\ntR.";
    place.write("evil.pkl", pickle);
    place.write("model.pt", [&b"PK\x03\x04"[..], pickle].concat());
    std::fs::create_dir(place.path("theirs")).unwrap();
    place.write("theirs/config.json", "{\"model_type\": \"bert\"}");
    place.write("theirs/pytorch_model.bin", pickle);
    for flags in [
        &format!("train -c train.tsv -v evil.pkl -o new {TINY}"),
        &format!("train -c evil.pkl -v vocab.json -o new {TINY}"),
        &format!("train -c train.tsv -v vocab.json --tokens evil.pkl -o new {TINY}"),
        "train -c train.tsv -v vocab.json --init theirs -o new --steps 1",
        "train -c train.tsv -v vocab.json --init model.pt -o new --steps 1",
        "eval --run run --batches evil.pkl",
        "eval --run model.pt --corpus train.tsv",
        "sample -c train.tsv -v model.pt",
        "fill-mask theirs a",
    ] {
        let ran = place.run(flags);
        assert!([65, 66].contains(&ran.code), "{flags}: {}: {}", ran.code, ran.stderr);
    }
    std::fs::write(place.path("run/checkpoints/step-00000003/model.safetensors"), pickle).unwrap();
    assert_eq!(place.run("train --resume run --steps 4").code, 65);
    assert!(!place.path("touched").exists() && !place.path("new").exists());
}

/// `| head`, and a terminal that went away: nothing panics, and what was begun is finished.
#[test]
fn a_reader_that_left_is_no_failure() {
    let place = Place::with_lines(300);
    let train = "train --resume run --steps";
    place.good(&format!("train -c train.tsv -t held-out.tsv -v vocab.json -o run {TINY}"));
    let gone = || {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for (number, flags) in [
        "vocab -c train.tsv -o again.json --limit 100",
        "corpus -c train.tsv --check -v vocab.json",
        "sample -c train.tsv -v vocab.json",
        "collate -c train.tsv -v vocab.json --json",
        "eval --run run",
        "eval --run run --json --by-corruption",
        "inspect --run run --step 2",
        "quickstart --steps 2",
        &format!("{train} 6"),
        &format!("{train} 9 --json"),
        "--help",
    ]
    .iter()
    .enumerate()
    {
        let output = place.command(flags).stdout(gone()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{number}: {flags} without stdout: {}: {told}", output.status);
    }
    for (flags, code) in [
        (&*format!("{train} 12"), 0),
        ("sample -c train.tsv -v vocab.json", 0),
        ("collate -c train.tsv -v vocab.json", 0),
        ("corpus -c train.tsv --check", 0),
        ("inspect --run run --step 12 --verify", 0),
        ("quickstart --steps 2", 0),
        ("sample -c nowhere.tsv -v vocab.json", 66),
        ("vanish", 2),
    ] {
        let output = place.command(flags).stderr(gone()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags} without stderr");
    }
    assert_eq!(place.json("run/state.json")["step"], 12, "the training went on");

    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = place.command(&format!("{train} 15")).stderr(full()).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    // A summary that could not be written is an error, behind a training that is done.
    let output = place.command(&format!("{train} 18")).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.json("run/state.json")["step"], 18);
}
