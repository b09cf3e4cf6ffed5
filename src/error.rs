//! The one error type: what went wrong, where, what to do, and the exit code that says so.
//!
//! A message names the stage, the place and the cause (`corpus wiki.tsv: line 41: no tab`), and ends
//! with the remedy where there is one. Errors gain context on their way up and are printed once, in
//! `main`.

use std::any::Any;
use std::fmt;
use std::path::Path;

/// What class of failure this is. Each class has the exit code that scripts can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Flags that contradict each other or lie out of range (exit 2).
    Usage,
    /// Input that is there but cannot be used: malformed, truncated, hostile (exit 65).
    Data,
    /// Input that is not there (exit 66).
    MissingInput,
    /// The device has not the memory for what was asked of it (exit 2).
    OutOfMemory,
    /// A bug of this program (exit 70).
    Internal,
    /// An output that cannot be created (exit 73).
    CannotCreate,
    /// Reading or writing failed midway (exit 74).
    Io,
    /// Stopped by a signal after a checkpoint was saved; SIGINT gives 130, everything else 75.
    Stopped { interrupt: bool },
    /// Configuration or fingerprint differs from what a file was made with (exit 78).
    Mismatch,
}

impl ErrorKind {
    /// The process exit code of this class.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage | Self::OutOfMemory => 2,
            Self::Data => 65,
            Self::MissingInput => 66,
            Self::Internal => 70,
            Self::CannotCreate => 73,
            Self::Io => 74,
            Self::Stopped { interrupt: false } => 75,
            Self::Stopped { interrupt: true } => 130,
            Self::Mismatch => 78,
        }
    }
}

/// An error with its class, its message and, where another error caused it, that cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of class `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Flags that cannot be meant ([`ErrorKind::Usage`]).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Input that cannot be used ([`ErrorKind::Data`]).
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// A bug of this program ([`ErrorKind::Internal`]).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A difference to what a file was made with ([`ErrorKind::Mismatch`]).
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Mismatch, message)
    }

    /// A failed read of `path`: missing input where it does not exist, I/O otherwise.
    pub fn reading(path: &Path, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::NotADirectory => ErrorKind::MissingInput,
            _ => ErrorKind::Io,
        };
        let near = if error.kind() == std::io::ErrorKind::NotFound { near(path) } else { String::new() };
        Self::new(kind, format!("cannot read {}{near}", path.display())).caused_by(error)
    }

    /// A failed write of `path`: cannot-create where it could not be opened, I/O otherwise.
    pub fn writing(path: &Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound
            | Io::PermissionDenied
            | Io::AlreadyExists
            | Io::IsADirectory
            | Io::NotADirectory
            | Io::ReadOnlyFilesystem => ErrorKind::CannotCreate,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("cannot write {}", path.display())).caused_by(error)
    }

    /// The same error with `source` as its cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same class of error, told from one level up: `what` in front, this one as its cause.
    pub fn context(self, what: impl Into<String>) -> Self {
        Self { kind: self.kind, message: what.into(), source: Some(Box::new(self)) }
    }

    /// A panic, which is a bug of this program, with what it said; `place` is where it came.
    pub fn of_panic(place: impl fmt::Display, payload: &(dyn Any + Send)) -> Self {
        let said = panic_message(payload);
        Self::internal(format!("{place}: a panic: {said}; this is a bug of this program"))
    }

    /// The class, and with it the exit code.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    /// The whole chain on one line: `what: why: why`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(error) = cause {
            match error.downcast_ref::<Error>() {
                // Display of our own error already prints its chain.
                Some(ours) => return write!(f, ": {ours}"),
                None => write!(f, ": {error}")?,
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// How alike two names are that one may be meant for the other, by Jaro's measure: what clap takes for flags.
const ALIKE: f64 = 0.7;

/// Most names of a directory that are looked at.
const MOST_NAMES: usize = 10_000;

/// The name among `names` that `wanted` was most likely meant for.
pub fn nearest<N: AsRef<str>>(wanted: &str, names: impl Iterator<Item = N>) -> Option<N> {
    let alike = |name: N| (strsim::jaro(name.as_ref(), wanted), name);
    names
        .map(alike)
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// ` (did you mean PATH?)` for a path that is not there and one of nearly that name that is; else nothing. The first
/// part of it that is missing may be a directory.
pub fn near(path: &Path) -> String {
    let missing = path.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).last();
    let found = missing.and_then(|missing| {
        let wanted = missing.file_name()?.to_str()?;
        let parent = missing.parent()?;
        let listed = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let names = std::fs::read_dir(listed).ok()?.take(MOST_NAMES);
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // Component by component: an empty rest would make a directory's name of a file's.
        let rest = path.components().skip(missing.components().count());
        let whole = |name: &String| rest.clone().fold(parent.join(name), |path, part| path.join(part));
        let fits = |name: &String| !name.ends_with(".bsidx") && whole(name).exists();
        nearest(wanted, names.filter(fits)).map(|name| parent.join(name))
    });
    found.map_or_else(String::new, |found| format!(" (did you mean {}?)", found.display()))
}

/// What a panic said, where it said it in text.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let said = payload.downcast_ref::<String>().map(String::as_str);
    said.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_has_its_neighbour_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("run")).unwrap();
        std::fs::create_dir(at("rune")).unwrap();
        for name in ["peps.pairs.tsv", "peps.pairs.tsv.bsidx", "run/config.json"] {
            std::fs::write(at(name), "").unwrap();
        }
        let check = |wanted: &str, expected: Option<&str>| {
            let expected = expected.map(|name| format!(" (did you mean {}?)", at(name).display()));
            assert_eq!(near(&at(wanted)), expected.unwrap_or_default(), "{wanted}");
        };
        check("peps.pair.tsv", Some("peps.pairs.tsv"));
        check("rum/config.json", Some("run"));
        check("run/confg.json", Some("run/config.json"));
        check("run/config.json", None);
        check("elsewhere", None);
        check("zzz/yyy", None);
        assert_eq!(nearest("hiden", ["hidden", "layers"].into_iter()), Some("hidden"));
        assert_eq!(nearest("colour", ["hidden", "layers"].into_iter()), None);
    }

    #[test]
    fn the_chain_reads_from_the_outside_in_and_keeps_the_class() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = Error::reading(Path::new("a.tsv"), io).context("corpus");
        assert_eq!(error.to_string(), "corpus: cannot read a.tsv: no such file");
        assert_eq!(error.kind().exit_code(), 66);
    }
}
