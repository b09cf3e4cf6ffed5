//! The commit protocol, on any [`Disk`].
//!
//! The order is always the same: a temporary beside the target, created exclusively; its content; fsync of
//! the content; rename; fsync of the directory. A name therefore never stands for bytes that are not on the
//! disk yet. A failed fsync ends the attempt: the kernel may have marked the lost pages clean, so that a
//! second fsync of the same file would report a success that never was.

use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{Claim, Disk, Kind, NewFile};
use super::{failed_write, parent};
use crate::{Error, ErrorKind, Result};

/// Temporaries are called `.bertstream-PROCESS-NUMBER.tmp`: hidden, and nobody else's.
pub(super) const TEMPORARY_PREFIX: &str = ".bertstream-";
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Large enough that a write costs a system call per megabyte, small enough for a cache.
const WRITE_BUFFER: usize = 1 << 20;

/// Writes a file so that a reader sees the old one or the new one: a temporary beside `path`, filled, synced,
/// renamed over `path`, and the directory synced. A symbolic link at `path` is replaced, never followed.
/// `needed` tells how many bytes there will be, where that is known.
///
/// # Errors
/// [`crate::ErrorKind::CannotCreate`] naming `path` where its directory is missing or cannot be written,
/// [`crate::ErrorKind::Io`] otherwise, with the bytes needed and free where the disk is full; those of `fill`. The
/// old file is untouched and the temporary is gone, except where the last sync failed: then the new file is in
/// place and may not survive a power loss.
pub fn file(
    disk: &dyn Disk,
    path: &Path,
    needed: Option<u64>,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    refuse_device(disk, path)?;
    let mut temporary = Temporary::beside(disk, path, |name| disk.create(name))?;
    filled(path, needed, &mut *temporary.made, fill)?;
    temporary.publish(|from| disk.rename(from, path), path)
}

/// Makes directory `path` with the files that `fill` puts into it: each is synced before the next, so that the
/// last one, the manifest, never stands for others that are not there. Then the directory is synced, renamed to
/// `path`, which must not exist, and its parent is synced.
///
/// # Errors
/// As [`file()`](fn@file), and [`crate::ErrorKind::CannotCreate`] where `path` exists, found out before `fill` runs and
/// again by the rename itself. Nothing remains of the files.
pub fn directory(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&NewDirectory<'_>) -> Result<()>,
) -> Result<()> {
    // Whatever it is, a dangling link too.
    if disk.kind(path).is_ok() {
        return Err(Error::writing(path, io::ErrorKind::AlreadyExists.into()));
    }
    complete(disk, path, fill)?.publish(|from| disk.rename_new(from, path), path)
}

/// [`directory`] in place of the one at `path`, which goes when the new one is complete and on the disk.
///
/// # Errors
/// As there, but that `path` must be a directory.
pub fn directory_over(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&NewDirectory<'_>) -> Result<()>,
) -> Result<()> {
    let temporary = complete(disk, path, fill)?;
    retract(disk, path)?;
    temporary.publish(|from| disk.rename_new(from, path), path)
}

/// A directory beside `path` with all its files, synced.
fn complete<'d>(
    disk: &'d dyn Disk,
    path: &Path,
    fill: impl FnOnce(&NewDirectory<'_>) -> Result<()>,
) -> Result<Temporary<'d, Claim>> {
    let temporary = Temporary::beside(disk, path, |name| disk.create_dir(name))?;
    fill(&NewDirectory { disk, temporary: &temporary.path, target: path })?;
    disk.sync_dir(&temporary.path).map_err(|error| failed_write(path, None, error))?;
    Ok(temporary)
}

/// A directory in the making.
pub struct NewDirectory<'d> {
    disk: &'d dyn Disk,
    temporary: &'d Path,
    target: &'d Path,
}

impl NewDirectory<'_> {
    /// Writes and syncs a file of it.
    ///
    /// # Errors
    /// As [`file()`](fn@file); [`crate::ErrorKind::Internal`] where `name` is more than a name.
    pub fn file(
        &self,
        name: &str,
        needed: Option<u64>,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        if !is_base_name(name) {
            return Err(Error::internal(format!("{name:?} is to be a file of {}", self.target.display())));
        }
        let told = self.target.join(name);
        let file = self.disk.create(&self.temporary.join(name));
        let mut file = file.map_err(|error| failed_write(&told, needed, error))?;
        filled(&told, needed, &mut *file, fill)
    }

    /// [`file`](Self::file) for content in memory.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let needed = Some(bytes.len() as u64);
        let failed = |error| failed_write(&self.target.join(name), needed, error);
        self.file(name, needed, |out| out.write_all(bytes).map_err(failed))
    }

    /// Where it lies until it is complete, for whoever writes its files himself and syncs them with
    /// [`sync_all`](Self::sync_all).
    pub fn path(&self) -> &Path {
        self.temporary
    }

    /// Syncs every file below. A write that failed in the background after its writer closed the file is reported to
    /// whoever syncs it first, which is here.
    pub fn sync_all(&self) -> Result<()> {
        sync_below(self.disk, self.temporary)
    }
}

/// Whether `name` names an entry of a directory, and nothing elsewhere.
pub fn is_base_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
}

/// Gives the finished file `from`, which its writer has synced, the name `to` beside it. For files that grow over
/// hours and are gone on with after a kill.
///
/// # Errors
/// As [`file()`]; `from` stays where it is, except where the last sync failed.
pub fn publish(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    refuse_device(disk, to)?;
    disk.rename(from, to)
        .and_then(|()| disk.sync_dir(parent(to)))
        .map_err(|error| failed_write(to, None, error))
}

/// A rename puts a file in the place of whatever has the name: of `/dev/null` too, for everybody.
fn refuse_device(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.kind(path) {
        Ok(Kind::Other) => Err(Error::new(
            ErrorKind::CannotCreate,
            format!(
                "{}: a device, a pipe or a socket, which a file would replace: name a file",
                path.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// Makes `path` a symbolic link to `target` by a rename, so that it leads to the old or to the new place at any
/// moment. The directory is not synced.
///
/// # Errors
/// As [`file()`].
pub fn link(disk: &dyn Disk, path: &Path, target: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent(path).join(format!(".{name}.link"));
    // Left by a kill between the two calls below.
    match disk.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::writing(&temporary, error));
        }
        _ => {}
    }
    disk.link(&temporary, target)
        .and_then(|()| disk.rename(&temporary, path))
        .map_err(|error| failed_write(path, None, error))
}

/// Removes directory `path` with all that is in it. It loses its name first, and for good: cut short, no part of it
/// is ever taken for the whole. Symbolic links in it are removed, not followed.
///
/// # Errors
/// As [`file()`](fn@file); it stays as it is where it cannot be renamed.
pub fn retract(disk: &dyn Disk, path: &Path) -> Result<()> {
    let nameless = Temporary::beside(disk, path, |name| disk.rename_new(path, name))?;
    let synced = disk.sync_dir(parent(path));
    drop(nameless);
    synced.map_err(|error| Error::writing(path, error))
}

/// Removes what has this name, and all that is below it.
fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.kind(path)? != Kind::Directory {
        return disk.remove_file(path);
    }
    for (name, _) in disk.entries(path)? {
        remove(disk, &path.join(name))?;
    }
    disk.remove_dir(path)
}

/// Fills a new file and syncs it.
fn filled(
    told: &Path,
    needed: Option<u64>,
    file: &mut dyn NewFile,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let failed = |error| failed_write(told, needed, error);
    let mut out = BufWriter::with_capacity(WRITE_BUFFER, &mut *file);
    let filled = fill(&mut out).and_then(|()| out.flush().map_err(failed));
    // What is still in the buffer of a failed attempt is dropped, not tried once more.
    drop(out.into_parts());
    filled?;
    file.sync().map_err(failed)
}

fn sync_below(disk: &dyn Disk, path: &Path) -> Result<()> {
    for (name, kind) in disk.entries(path).map_err(|error| Error::reading(path, error))? {
        let entry = path.join(name);
        let failed = |error| failed_write(&entry, None, error);
        match kind {
            Kind::Directory => {
                sync_below(disk, &entry)?;
                disk.sync_dir(&entry).map_err(failed)?;
            }
            Kind::File => disk.sync_file(&entry).map_err(failed)?,
            Kind::Link | Kind::Other => {}
        }
    }
    Ok(())
}

/// Something under a name of its own, removed unless it is published.
struct Temporary<'d, T> {
    disk: &'d dyn Disk,
    path: PathBuf,
    /// What making it gave, which keeps others away from it.
    made: T,
    published: bool,
}

impl<'d, T> Temporary<'d, T> {
    /// Makes one beside `target`; `make` must fail where the name is taken.
    fn beside(disk: &'d dyn Disk, target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if target.file_name().is_none() {
            return Err(Error::writing(target, io::ErrorKind::IsADirectory.into()));
        }
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let process = std::process::id();
            let path = parent(target).join(format!("{TEMPORARY_PREFIX}{process}-{number}{TEMPORARY_SUFFIX}"));
            match make(&path) {
                Ok(made) => return Ok(Self { disk, path, made, published: false }),
                // By a process of the same number that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed_write(target, None, error)),
            }
        }
    }

    fn publish(mut self, rename: impl FnOnce(&Path) -> io::Result<()>, to: &Path) -> Result<()> {
        let failed = |error| failed_write(to, None, error);
        rename(&self.path).map_err(failed)?;
        self.published = true;
        self.disk.sync_dir(parent(to)).map_err(failed)
    }
}

impl<T> Drop for Temporary<'_, T> {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = remove(self.disk, &self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a temporary stays behind");
        }
    }
}
