//! Checkpoints: `step-NNNNNNNN/{model.safetensors, optimizer.safetensors, state.json}`.
//!
//! `state.json` is written last and is the manifest: it holds where the run stands, and length and hash
//! of the other files. A directory without a manifest that agrees with its files is not a checkpoint.
//! It is made by [`commit::directory`], so a kill at any moment leaves a whole checkpoint or none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::FORMAT;
use super::spikes::Level;
use super::tensors::{self, FileSum, Targets, Tensor};
use crate::collate::BatchDigest;
use crate::durable::commit::{self, NewDirectory};
use crate::durable::{self, Disk, Kind, Os};
use crate::model::{Layout, Parameter, State, sinusoids};
use crate::sample::Cursor;
use crate::{Error, ErrorKind, Result};

pub const MODEL: &str = "model.safetensors";
pub const OPTIMIZER: &str = "optimizer.safetensors";
pub const STATE: &str = "state.json";

/// Where a run stands after a step: all that is needed to go on, besides weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Where the stream of samples goes on.
    pub cursor: Cursor,
    /// Whether the last step ended an epoch.
    pub ends_epoch: bool,
    /// Rolling digest of all training batches.
    pub digest: BatchDigest,
    /// Real tokens seen, padding excluded.
    pub tokens: u64,
    /// Samples seen.
    pub samples: u64,
    /// Steps whose loss or gradient was not finite, or whose loss was a spike.
    pub skipped_updates: u64,
    /// How many of them the last steps were, without a break.
    pub skipped_in_a_row: u64,
    /// Steps whose batches were left out of the training.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// What a spike is held against; nothing is where spikes are trained on.
    #[serde(default, skip_serializing_if = "Level::is_unknown")]
    pub level: Level,
    /// Step of the last finished evaluation.
    pub evaluated: u64,
    /// The evaluation with the lowest loss.
    pub best: Option<Best>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    /// In nats. Single precision, whose decimal digits any JSON reader gives back exactly.
    pub loss: f32,
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// XXH3-128 of this file's text with these digits as zeros. The first field.
    checksum: String,
    pub format: u32,
    #[serde(flatten)]
    pub progress: Progress,
    pub seed: u64,
    /// [`RunConfig::fingerprint`](super::config::RunConfig::fingerprint).
    pub configuration: String,
    pub files: BTreeMap<String, FileSum>,
}

/// The text before the digits of the checksum.
const CHECKSUM_PREFIX: &str = "{\n  \"checksum\": \"";
const CHECKSUM_DIGITS: usize = 32;

impl Manifest {
    fn to_text(&self) -> String {
        let unsigned = Self { checksum: "0".repeat(CHECKSUM_DIGITS), ..self.clone() };
        let mut text =
            serde_json::to_string_pretty(&unsigned).expect("no map with keys that are not strings") + "\n";
        let digits = CHECKSUM_PREFIX.len()..CHECKSUM_PREFIX.len() + CHECKSUM_DIGITS;
        let sum = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()));
        text.replace_range(digits, &sum);
        text
    }

    /// Reads and verifies a manifest; not the files that it names.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] where its text was changed or cut, or names other files than a checkpoint has;
    /// [`ErrorKind::Mismatch`] where another version wrote it.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_on(&Os, path)
    }

    fn read_on(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let bytes = durable::read_at_most_on(disk, path, MOST_OF_A_MANIFEST)?;
        Self::from_text(bytes).map_err(|error| error.context(path.display().to_string()))
    }

    /// The manifest in the text of a `state.json`.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn from_text(bytes: Vec<u8>) -> Result<Self> {
        let damaged = || Error::data("damaged: its checksum does not hold");
        let from = CHECKSUM_PREFIX.len();
        let digits = from..from + CHECKSUM_DIGITS;
        let stored = bytes.get(digits.clone()).ok_or_else(damaged)?.to_vec();
        let mut unsigned = bytes;
        unsigned[digits].fill(b'0');
        let sum = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&unsigned));
        if !unsigned.starts_with(CHECKSUM_PREFIX.as_bytes()) || stored != sum.as_bytes() {
            return Err(damaged());
        }
        let manifest: Self =
            serde_json::from_slice(&unsigned).map_err(|e| Error::data("malformed").caused_by(e))?;
        if manifest.format != FORMAT {
            return Err(Error::mismatch(format!(
                "format {}, this program reads format {FORMAT}",
                manifest.format
            )));
        }
        // Whatever a manifest says, nothing outside its own directory is ever opened for it.
        match manifest.files.keys().find(|name| ![MODEL, OPTIMIZER].contains(&name.as_str())) {
            Some(name) => Err(Error::data(format!("names a file {name:?}"))),
            None => Ok(manifest),
        }
    }
}

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub manifest: Manifest,
    pub state: State,
}

impl Checkpoint {
    /// The checkpoint of this manifest, of which `read` gives the first so many bytes of each file in `directory`;
    /// every length, hash, name and shape checked.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the file where anything is not as the manifest and the layout say; those of `read`.
    pub fn read(
        manifest: Manifest,
        directory: &Path,
        layout: &Layout,
        read: impl Fn(&Path, u64) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let read = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
            let path = directory.join(name);
            let sum = manifest
                .files
                .get(name)
                .ok_or_else(|| Error::data(format!("{}: the manifest does not name it", path.display())))?;
            // One byte more shows a file that is too long.
            let bytes = read(&path, sum.length.saturating_add(1))?;
            tensors::verify(&path, &bytes, sum)?;
            Ok((path, bytes))
        };
        let mut state = State {
            weights: vec![0.0; layout.len()],
            first: vec![0.0; layout.len()],
            second: vec![0.0; layout.len()],
        };
        let (model, bytes) = read(MODEL)?;
        let shape = position_shape(layout);
        let mut positions = vec![0.0; shape.map_or(0, |shape| shape.iter().product())];
        let mut targets = targets_of(layout, "", &mut state.weights);
        if let Some(shape) = shape {
            targets.insert(POSITION_BUFFER.to_owned(), (shape.to_vec(), &mut positions));
        }
        tensors::fill(&model, &bytes, targets)?;
        let (optimizer, bytes) = read(OPTIMIZER)?;
        let mut targets = targets_of(layout, "first.", &mut state.first);
        targets.extend(targets_of(layout, "second.", &mut state.second));
        tensors::fill(&optimizer, &bytes, targets)?;
        Ok(Self { manifest, state })
    }
}

/// Name of the directory of a step.
pub fn directory_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of a directory of this name; `None` for every name that [`directory_name`] does not give.
pub fn step_of_name(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (directory_name(step) == name).then_some(step)
}

/// The sinusoidal positions `(1, 512, hidden)`: no parameter, but a buffer in the reference's state dict, and
/// `load_state_dict` asks for it.
const POSITION_BUFFER: &str = "bert.embedding.position.pe";
const POSITIONS: usize = 512;

/// Shape of the buffer beside the parameters of a model of the reference's, whose width its segment
/// embedding `(3, hidden)` shows. The published BERT learns its positions, and has none.
fn position_shape(layout: &Layout) -> Option<[usize; 3]> {
    layout.get("bert.embedding.segment.weight").map(|p| [1, POSITIONS, p.shape[1]])
}

/// Most bytes of a manifest, which names three files.
const MOST_OF_A_MANIFEST: u64 = 1 << 20;

/// The checkpoints of a run: a directory with one directory each.
#[derive(Clone, Debug)]
pub struct Checkpoints<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
}

impl Checkpoints<'static> {
    /// Those in directory `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::on(&Os, path)
    }
}

impl<'d> Checkpoints<'d> {
    /// Those in directory `path` of a disk.
    pub fn on(disk: &'d dyn Disk, path: impl Into<PathBuf>) -> Self {
        Self { disk, path: path.into() }
    }

    /// The directory in which they lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the checkpoint of a step, whether it is there or not.
    pub fn directory(&self, step: u64) -> PathBuf {
        self.path.join(directory_name(step))
    }

    /// Writes the checkpoint of `progress.step` and gives its directory.
    ///
    /// A directory that is there under this name was refused when the run was resumed (else the run would
    /// stand behind it), or was never reported as saved; it is replaced.
    ///
    /// # Errors
    /// As [`commit::directory`]; [`ErrorKind::Data`] where a value of the state is not finite: what cannot be gone on
    /// with is not kept in place of what can.
    pub fn save(
        &self,
        layout: &Layout,
        progress: &Progress,
        seed: u64,
        configuration: &str,
        state: &State,
    ) -> Result<PathBuf> {
        let path = self.directory(progress.step);
        check_finite(&path, layout, state)?;
        let fill = |new: &NewDirectory<'_>| {
            let shape = position_shape(layout);
            let positions = shape.map_or_else(Vec::new, |[.., hidden]| sinusoids(POSITIONS, hidden));
            let mut model = tensors_of(layout, "", &state.weights);
            model.extend(shape.map(|shape| Tensor {
                name: POSITION_BUFFER.to_owned(),
                shape: shape.to_vec(),
                values: &positions,
            }));
            let mut moments = tensors_of(layout, "first.", &state.first);
            moments.extend(tensors_of(layout, "second.", &state.second));
            let mut files = BTreeMap::new();
            for (name, tensors) in [(MODEL, &model), (OPTIMIZER, &moments)] {
                let told = path.join(name);
                new.file(name, Some(tensors::size(&told, tensors)?), |out| {
                    files.insert(name.to_owned(), tensors::write(out, &told, tensors)?);
                    Ok(())
                })?;
            }
            let manifest = Manifest {
                checksum: String::new(),
                format: FORMAT,
                progress: progress.clone(),
                seed,
                configuration: configuration.to_owned(),
                files,
            };
            new.write(STATE, manifest.to_text().as_bytes())
        };
        match self.is_there(&path)? {
            true => commit::directory_over(self.disk, &path, fill)?,
            false => commit::directory(self.disk, &path, fill)?,
        }
        Ok(path)
    }

    /// Replaces what the checkpoint of `progress.step` says of where the run stands; its weights stay.
    pub fn amend(&self, progress: &Progress) -> Result<()> {
        let manifest = Manifest { progress: progress.clone(), ..self.manifest(progress.step)? };
        let path = self.directory(progress.step).join(STATE);
        durable::write_file_on(self.disk, &path, manifest.to_text().as_bytes())
    }

    /// What the checkpoint of a step says of itself.
    ///
    /// # Errors
    /// Those of [`Manifest::read`].
    pub fn manifest(&self, step: u64) -> Result<Manifest> {
        Manifest::read_on(self.disk, &self.directory(step).join(STATE))
    }

    /// Reads the checkpoint of a step, every length, hash, name and shape checked.
    pub fn load(&self, step: u64, layout: &Layout) -> Result<Checkpoint> {
        let read = |path: &Path, most| self.disk.read(path, most).map_err(|e| Error::reading(path, e));
        Checkpoint::read(self.manifest(step)?, &self.directory(step), layout, read)
    }

    /// Their steps, newest first: real directories under a checkpoint's name, nothing that a symlink leads to.
    /// Steps order them, never times: clocks go backwards.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match self.disk.entries(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::reading(&self.path, e)),
        };
        let directories = entries.iter().filter(|(_, kind)| *kind == Kind::Directory);
        let mut steps: Vec<u64> = directories.filter_map(|(name, _)| step_of_name(name.to_str()?)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// The newest checkpoint that is whole, and why each newer one was refused.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] where there are checkpoints and none is whole; [`ErrorKind::Mismatch`] where one
    /// belongs to another configuration.
    pub fn newest(&self, layout: &Layout, configuration: &str) -> Result<(Option<Checkpoint>, Vec<Error>)> {
        let mut refused = Vec::new();
        for step in self.steps()? {
            let path = self.directory(step);
            match self.load(step, layout) {
                Ok(found) if found.manifest.configuration != configuration => {
                    return Err(Error::mismatch(format!(
                        "checkpoint {}: made under configuration {}, config.json is {configuration}: one of \
                         them was replaced",
                        path.display(),
                        found.manifest.configuration
                    )));
                }
                Ok(found) => return Ok((Some(found), refused)),
                Err(error) => refused.push(error.context(format!("checkpoint {}", path.display()))),
            }
        }
        if refused.is_empty() {
            return Ok((None, refused));
        }
        let reasons: Vec<String> = refused.iter().map(Error::to_string).collect();
        Err(Error::new(
            ErrorKind::Data,
            format!("no checkpoint in {} is whole: {}", self.path.display(), reasons.join("; ")),
        ))
    }

    /// Removes all but the newest `keep` (at least one) and the one of step `best`.
    pub fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        let old = self.steps()?.into_iter().skip(keep.max(1)).filter(|step| Some(*step) != best);
        old.into_iter().try_for_each(|step| commit::retract(self.disk, &self.directory(step)))
    }

    /// Removes those of steps behind `step`, newest first.
    pub fn retract_behind(&self, step: u64) -> Result<()> {
        let newer = self.steps()?.into_iter().take_while(|newer| *newer > step);
        newer.into_iter().try_for_each(|newer| commit::retract(self.disk, &self.directory(newer)))
    }

    /// Whether a checkpoint's directory is at `path`; refuses anything else.
    fn is_there(&self, path: &Path) -> Result<bool> {
        match self.disk.kind(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::writing(path, e)),
            Ok(Kind::Directory) => Ok(true),
            Ok(_) => Err(Error::new(
                ErrorKind::CannotCreate,
                format!(
                    "checkpoint {}: something else is there under this name; move it away",
                    path.display()
                ),
            )),
        }
    }
}

/// Refuses a state with a value that is not finite, by the name of its tensor.
fn check_finite(path: &Path, layout: &Layout, state: &State) -> Result<()> {
    for (prefix, column) in [("", &state.weights), ("first.", &state.first), ("second.", &state.second)] {
        if column.iter().all(|value| value.is_finite()) {
            continue;
        }
        let bad = |p: &&Parameter| column[p.range.clone()].iter().any(|value| !value.is_finite());
        let name = layout.parameters().iter().find(bad).map_or("", |p| &p.name);
        return Err(Error::data(format!(
            "checkpoint {}: tensor {prefix}{name} holds values that are not finite; the checkpoint before is kept",
            path.display()
        )));
    }
    Ok(())
}

fn tensors_of<'t>(layout: &Layout, prefix: &str, column: &'t [f32]) -> Vec<Tensor<'t>> {
    let tensor = |p: &Parameter| Tensor {
        name: format!("{prefix}{}", p.name),
        shape: p.shape.clone(),
        values: &column[p.range.clone()],
    };
    layout.parameters().iter().map(tensor).collect()
}

/// Splits a flat column into the places of its parameters, which lie in it without a gap.
fn targets_of<'t>(layout: &Layout, prefix: &str, mut column: &'t mut [f32]) -> Targets<'t> {
    let mut targets = Targets::new();
    for p in layout.parameters() {
        let (values, rest) = column.split_at_mut(p.range.len());
        targets.insert(format!("{prefix}{}", p.name), (p.shape.clone(), values));
        column = rest;
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_steps() {
        let check = |name: &str, expected| assert_eq!(step_of_name(name), expected, "{name}");
        check("step-00000100", Some(100));
        check("step-123456789", Some(123_456_789));
        for other in ["step-100", "step-+0000100", "step-00000100.tmp", ".step-00000100", "step-", "latest"] {
            check(other, None);
        }
    }

    /// `PositionalEmbedding(4).pe` of the reference, position 3.
    #[test]
    fn positions_are_the_reference_s() {
        let buffer = sinusoids(POSITIONS, 4);
        for (value, expected) in buffer[12..16].iter().zip([0.14112, -0.9899925, 0.0299955, 0.99955]) {
            assert!((value - expected).abs() < 1e-6, "{value} is not {expected}");
        }
        // An odd width, which the reference cannot build, has no cosine at its end.
        assert_eq!(sinusoids(POSITIONS, 3).len(), 512 * 3);
    }
}
