//! Every command of the guides, of the README and of the page on bert-pytorch runs, in order and as it stands there, but
//! for numbers that are read smaller. The rules are those of `docs/guides/README.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags whose values are read smaller, with what they are read as.
const SMALLER: [(&str, &str); 11] = [
    ("--steps", "--steps 6"),
    ("--eval-every", "--eval-every 2"),
    ("--save-every", "--save-every 2"),
    ("--log-freq", "--log-freq 1"),
    ("--warmup", "--warmup 1"),
    ("--batch-size", "--batch-size 4"),
    ("-b", "-b 4"),
    ("-H", "-H 16"),
    ("--seconds", "--seconds 0.05"),
    ("--vocab-size", "--vocab-size 300"),
    ("--size", "--hidden 16 --layers 1 --attn-heads 2 --arch bert"),
];

/// `inspect --step` names a step of the shortened run.
const STEP: (&str, &str) = ("--step", "--step 6");

#[test]
fn the_guides_run_as_they_stand() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut guides: Vec<PathBuf> = fs::read_dir(root.join("docs/guides"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain(["docs/STAGES.md", "docs/FROM_BERT_PYTORCH.md", "README.md"].map(|page| root.join(page)))
        .collect();
    guides.sort();
    let mut commands = 0;
    for guide in guides {
        let text = fs::read_to_string(&guide).unwrap();
        let script: String = match guide.ends_with("README.md") {
            true => shortened(&indented(&text)),
            false => blocks(&text, "sh").map(shortened).collect(),
        };
        commands += script.matches("bertstream ").count();
        let place = place();
        let ran = Command::new("sh")
            .args(["-e", "-c", &script])
            .current_dir(place.path())
            .env("PATH", path_with_program())
            .env("XDG_CACHE_HOME", place.path().join("cache"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{}: {script}\n{told}", guide.display());
        assert!(!told.contains("panicked"), "{}: {told}", guide.display());
    }
    assert!(commands > 60, "{commands} commands were found");
}

#[test]
fn numbers_are_read_smaller() {
    let check = |line: &str, expected: &str| assert_eq!(shortened(line), format!("{expected}\n"));
    check(
        "bertstream train --steps 4500 --size mini -o a",
        "bertstream train --steps 6 --hidden 16 --layers 1 --attn-heads 2 --arch bert -o a",
    );
    check("a --vocab-size 8192 \\\n  --steps 3", "a --vocab-size 300 \\\n  --steps 6");
    check("inspect --step 200 --limit 2", "inspect --step 6 --limit 2");
    check("inspect --step 3 --limit 2", "inspect --step 3 --limit 2");
    check("cargo run --release --example a -- b", "");
    check("a --steps-of-others 3", "a --steps-of-others 3");
}

/// The blocks of a text that are marked as of this language.
fn blocks<'t>(text: &'t str, language: &'static str) -> impl Iterator<Item = &'t str> {
    text.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(move |block| block.strip_prefix(language)?.strip_prefix('\n'))
}

/// The commands of the program among what a text has indented by four, with the lines that go on behind a backslash.
fn indented(text: &str) -> String {
    let mut goes_on = false;
    let lines = text.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| {
        let ours = goes_on || line.starts_with("bertstream ");
        goes_on = ours && line.ends_with('\\');
        ours
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Commands as the tests read them.
fn shortened(commands: &str) -> String {
    let lines = commands.lines().map(|line| {
        if line.starts_with("cargo ") {
            return String::new();
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let mut words: Vec<String> = Vec::new();
        let mut given = line.split_whitespace();
        while let Some(word) = given.next() {
            let smaller = SMALLER.iter().find(|(flag, _)| *flag == word);
            match smaller {
                Some((_, instead)) => {
                    given.next();
                    words.push((*instead).to_owned());
                }
                None if word == STEP.0 => {
                    let step = given.next().unwrap_or_default();
                    words.push(match step.parse() {
                        Ok(0..=6) => format!("{word} {step}"),
                        _ => STEP.1.to_owned(),
                    });
                }
                None => words.push(word.to_owned()),
            }
        }
        format!("{indent}{}", words.join(" "))
    });
    lines.map(|line| line + "\n").collect()
}

/// A directory with what a guide begins with.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let fixture = |name: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
    };
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    // Documents of four sentences: two lines of the pairs.
    let documents = |pairs: String, lines: usize| -> String {
        let pairs: Vec<String> = pairs.lines().take(lines).map(|line| line.replace('\t', "\n")).collect();
        pairs.chunks(2).map(|two| two.join("\n") + "\n\n").collect()
    };
    let (train, held_out) =
        (documents(fixture("toy.pairs.tsv"), 240), documents(fixture("toy.held-out.pairs.tsv"), 40));
    write("train.txt", &train);
    write("held-out.txt", &held_out);
    write("sentences.txt", "a sentence .\nand another one .\n");
    let lines =
        |name: &str, lines: usize| -> String { fixture(name).split_inclusive('\n').take(lines).collect() };
    write("pairs.tsv", &lines("toy.pairs.tsv", 480));
    write("held-out.tsv", &lines("toy.held-out.pairs.tsv", 40));
    write("corpus.txt", &(train + &held_out));
    place
}

/// The path of commands with the program in front.
fn path_with_program() -> std::ffi::OsString {
    let program = Path::new(env!("CARGO_BIN_EXE_bertstream")).parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([program].into_iter().chain(std::env::split_paths(&others))).unwrap()
}
