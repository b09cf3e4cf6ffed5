//! The directory of a run: who may write there, and the links to its newest and best checkpoint.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::checkpoint::{self, Checkpoints};
use super::config::RunConfig;
use crate::durable::{self, Disk, Kind, Os, commit};
use crate::error::near;
use crate::vocab::{SUBWORDS_FILE, WORDS_FILE};
use crate::{Error, ErrorKind, Result};

pub const CONFIG: &str = "config.json";
/// The configuration as flags, from which the run can be made again.
pub const FLAGS: &str = "run.toml";
pub const METRICS: &str = "metrics.jsonl";
/// How often each token came in the first samples, where the vocabulary does not tell.
pub const TOKEN_COUNTS: &str = "token_counts.json";
const CHECKPOINTS: &str = "checkpoints";
const LOCK: &str = "lock";

/// A run directory that this process alone writes to, until dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Where everything but the lock is written.
    disk: &'static dyn Disk,
    /// Holds the lock; the kernel releases it with the process, however that ends.
    lock: File,
}

impl Drop for RunDir {
    /// Closing alone would leave the lock to a child that another thread is just starting, until it runs.
    fn drop(&mut self) {
        // A lock that cannot be released now goes with the process.
        let _ = self.lock.unlock();
    }
}

impl RunDir {
    /// Takes `path`, made where it is not there, for a new run.
    ///
    /// # Errors
    /// [`ErrorKind::CannotCreate`] where it holds a run, is locked by another process, or cannot be
    /// written.
    pub fn create(path: &Path) -> Result<Self> {
        make_directory(path)?;
        if path.join(CONFIG).exists() {
            return Err(Error::new(
                ErrorKind::CannotCreate,
                format!(
                    "{} already holds a run: go on with `bertstream train --resume {}`, or choose another \
                     --output",
                    path.display(),
                    path.display()
                ),
            ));
        }
        Self::lock(path)
    }

    /// Takes `path` to go on with the run that it holds.
    ///
    /// # Errors
    /// [`ErrorKind::MissingInput`] where it holds none, [`ErrorKind::CannotCreate`] where another process
    /// is at it.
    pub fn resume(path: &Path) -> Result<Self> {
        let config = path.join(CONFIG);
        if !config.is_file() {
            return Err(Error::new(
                ErrorKind::MissingInput,
                format!("{} holds no run to resume: there is no {CONFIG}{}", path.display(), near(path)),
            ));
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self> {
        let name = path.join(LOCK);
        let failed = |e: std::io::Error| Error::writing(&name, e);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&name)
            .map_err(failed)?;
        if let Err(error) = file.try_lock() {
            let mut owner = String::new();
            // The pid is a courtesy; the refusal does not depend on it.
            let known = file.read_to_string(&mut owner).is_ok() && !owner.trim().is_empty();
            return match error {
                std::fs::TryLockError::WouldBlock => Err(Error::new(
                    ErrorKind::CannotCreate,
                    format!(
                        "{} is in use by another process (pid {}): wait for it, or choose another --output",
                        path.display(),
                        if known { owner.trim() } else { "unknown" }
                    ),
                )),
                std::fs::TryLockError::Error(e) => Err(failed(e)),
            };
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        let run = Self { path: path.to_owned(), disk: &Os, lock: file };
        make_directory(run.checkpoints().path())?;
        // What a killed predecessor left half written.
        for directory in [path, run.checkpoints().path()] {
            durable::clean_temporaries(directory)?;
        }
        Ok(run)
    }

    /// The same run, written through another disk from now on.
    pub fn through(mut self, disk: &'static dyn Disk) -> Self {
        self.disk = disk;
        self
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> Checkpoints<'static> {
        Checkpoints::on(self.disk, self.path.join(CHECKPOINTS))
    }

    /// Writes `config.json`. For a new run the last file before the first step: with it, the directory
    /// holds a run.
    pub fn write_config(&self, config: &RunConfig) -> Result<()> {
        durable::write_file_on(self.disk, &self.file(CONFIG), config.to_json().as_bytes())
    }

    /// Points `latest`, `best` and the files at the top to the checkpoints of these steps. Each link is
    /// switched by a rename, so that it leads to the old or to the new checkpoint at any moment.
    pub fn publish(&self, latest: u64, best: Option<u64>) -> Result<()> {
        publish(self.disk, &self.path, latest, best)
    }
}

/// [`RunDir::publish`] for the run in directory `run` of a disk.
pub fn publish(disk: &dyn Disk, run: &Path, latest: u64, best: Option<u64>) -> Result<()> {
    let target = |step| Path::new(CHECKPOINTS).join(checkpoint::directory_name(step));
    link(disk, &run.join("latest"), &target(latest))?;
    if let Some(best) = best {
        link(disk, &run.join("best"), &target(best))?;
    }
    for name in [checkpoint::MODEL, checkpoint::OPTIMIZER, checkpoint::STATE] {
        link(disk, &run.join(name), &Path::new("latest").join(name))?;
    }
    disk.sync_dir(run).map_err(|e| Error::writing(run, e))
}

fn link(disk: &dyn Disk, path: &Path, target: &Path) -> Result<()> {
    match disk.kind(path) {
        Ok(Kind::Link) if disk.read_link(path).is_ok_and(|old| old == target) => Ok(()),
        Ok(Kind::Link) | Err(_) => commit::link(disk, path, target),
        Ok(_) => Err(Error::new(
            ErrorKind::CannotCreate,
            format!("{}: a link goes here, but something else is there; move it away", path.display()),
        )),
    }
}

/// The vocabulary of the run in `run`, under the name that its kind has there.
pub fn vocabulary(run: &Path) -> PathBuf {
    let subwords = run.join(SUBWORDS_FILE);
    if subwords.exists() { subwords } else { run.join(WORDS_FILE) }
}

/// The checkpoints of the run in `run`.
pub fn checkpoints(run: &Path) -> Checkpoints<'static> {
    Checkpoints::at(run.join(CHECKPOINTS))
}

/// Which checkpoint of a run is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with the lowest loss on the test corpus.
    Best,
    /// The newest one that is whole.
    Latest,
    Step(u64),
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "latest" => Ok(Self::Latest),
            _ => text.parse().map(Self::Step).map_err(|_| format!("{text} is not best, latest or a step")),
        }
    }
}

/// Reads a checkpoint of the run in `run` for use, without taking the directory.
///
/// # Errors
/// [`ErrorKind::MissingInput`] where there is no such checkpoint; else those of [`Checkpoints::load`].
pub fn load(
    run: &Path,
    config: &RunConfig,
    layout: &crate::model::Layout,
    which: Which,
) -> Result<checkpoint::Checkpoint> {
    let missing = |what: String| Error::new(ErrorKind::MissingInput, format!("{}: {what}", run.display()));
    let step = match which {
        Which::Latest => {
            let (found, refused) = checkpoints(run).newest(layout, &config.fingerprint())?;
            for error in refused {
                tracing::warn!("{error}; an older checkpoint is used");
            }
            return found.ok_or_else(|| missing("no checkpoint yet".to_owned()));
        }
        Which::Best => {
            let link = run.join("best");
            let target = std::fs::read_link(&link).map_err(|_| {
                missing("no best checkpoint: the run had no test corpus; use --checkpoint latest".to_owned())
            })?;
            target
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(checkpoint::step_of_name)
                .ok_or_else(|| Error::data(format!("{}: leads to no checkpoint", link.display())))?
        }
        Which::Step(step) => step,
    };
    let checkpoints = checkpoints(run);
    if !checkpoints.directory(step).is_dir() {
        let kept: Vec<String> = checkpoints.steps()?.iter().rev().map(u64::to_string).collect();
        return Err(missing(format!("no checkpoint of step {step}; there are {}", kept.join(", "))));
    }
    let found = checkpoints.load(step, layout)?;
    if found.manifest.configuration != config.fingerprint() {
        return Err(Error::mismatch(format!(
            "checkpoint {}: made under another configuration than config.json",
            checkpoints.directory(step).display()
        )));
    }
    Ok(found)
}

/// A real directory at `path`, made with its parents where nothing is there.
fn make_directory(path: &Path) -> Result<()> {
    if path.is_file() {
        return Err(Error::new(
            ErrorKind::CannotCreate,
            format!("{} is a file, a directory is wanted: choose another --output", path.display()),
        ));
    }
    std::fs::create_dir_all(path)
        .map_err(|e| Error::writing(path, e).context(format!("run directory {}", path.display())))
}
