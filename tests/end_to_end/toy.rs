//! What all of these tests share: the toy language in a directory of its own, and the binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bertstream::vocab::WordVocab;
use serde_json::Value;
use tempfile::TempDir;

/// The training text: two sentences a line, a tab between.
pub fn text() -> String {
    fixture("toy.pairs.tsv")
}

/// The first `n` lines of it.
pub fn lines(n: usize) -> String {
    text().split_inclusive('\n').take(n).collect()
}

/// Text of the same language that is not in it.
pub fn held_out() -> String {
    fixture("toy.held-out.pairs.tsv")
}

fn fixture(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
}

/// A vocabulary of all of its words.
pub fn vocabulary() -> WordVocab {
    WordVocab::from_texts(text().lines(), None, 1)
}

/// A directory with files in it, and commands run there.
pub struct Place(TempDir);

/// What a command left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    /// With nothing in it.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With `train.tsv` of `n` lines, `held-out.tsv` and `vocab.json`.
    pub fn with_lines(n: usize) -> Self {
        let place = Self::empty();
        place.write("train.tsv", lines(n));
        place.write("held-out.tsv", held_out());
        place.good("vocab --corpus train.tsv --output vocab.json");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// The lines of a file of JSON lines.
    pub fn records(&self, name: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The binary with these flags, which hold no spaces themselves; no input, both outputs piped, and
    /// nothing of the tester's environment that changes what is printed.
    pub fn command(&self, flags: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bertstream"));
        command.args(flags.split_whitespace()).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("RUST_LOG").env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    /// Runs it to its end.
    pub fn run(&self, flags: &str) -> Ran {
        self.ended(flags, self.command(flags))
    }

    /// [`Place::run`] with a file on standard input.
    pub fn run_on(&self, flags: &str, input: &str) -> Ran {
        let mut command = self.command(flags);
        command.stdin(fs::File::open(self.path(input)).unwrap());
        self.ended(flags, command)
    }

    fn ended(&self, flags: &str, mut command: Command) -> Ran {
        let output = command.output().unwrap();
        let ran = Ran {
            code: output.status.code().unwrap_or_else(|| panic!("{flags}: {}", output.status)),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ran.stderr.contains("panicked"), "{flags}: {}", ran.stderr);
        let codes = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!codes.contains('\x1b'), "{flags}: an escape code without a terminal: {codes:?}");
        ran
    }

    /// Runs it and holds it to success.
    pub fn good(&self, flags: &str) -> Ran {
        let ran = self.run(flags);
        assert_eq!(ran.code, 0, "{flags}: {}", ran.stderr);
        ran
    }
}

impl Ran {
    /// Every line of stdout as JSON: there is nothing else on it.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The one line of JSON on stdout.
    pub fn json(&self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "{}", self.stdout);
        lines.remove(0)
    }
}

/// A number of a JSON object, which must be there and finite.
pub fn number(value: &Value, field: &str) -> f64 {
    // JSON has no NaN: what is not finite is written as null, which is no number.
    value[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {value}"))
}
