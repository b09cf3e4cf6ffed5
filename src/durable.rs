//! Files that must survive a kill or a power loss at any instant: the old or the new one is there, never
//! a third state. Takes bytes and directories, knows nothing of what they mean.
//!
//! The order is always the same: a temporary beside the target, created exclusively; its content; fsync of
//! the content; rename; fsync of the directory. A name therefore never stands for bytes that are not on the
//! disk yet. A failed fsync ends the attempt: the kernel may have marked the lost pages clean, so that a
//! second fsync of the same file would report a success that never was.
//!
//! A temporary is locked (`flock`) as long as its writer lives, and the kernel frees the lock of a killed
//! one: that, and no process number that may have been given to somebody else meanwhile, is how
//! [`clean_temporaries`] tells what was left behind from what is being written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};

use crate::{Error, ErrorKind, Result};

/// Temporaries are called `.bertstream-PROCESS-NUMBER.tmp`: hidden, and nobody else's.
const TEMPORARY_PREFIX: &str = ".bertstream-";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Large enough that a write costs a system call per megabyte, small enough for a cache.
const WRITE_BUFFER: usize = 1 << 20;

/// Writes `bytes` to `path` so that a reader sees the old file or the new one: a temporary beside it,
/// created exclusively, synced, renamed over `path`, and the directory synced. A symbolic link at `path` is
/// replaced, never followed.
///
/// # Errors
/// [`ErrorKind::CannotCreate`] naming `path` where its directory is missing or cannot be written,
/// [`ErrorKind::Io`] otherwise, with the bytes needed and free where the disk is full. The old file is
/// untouched and the temporary is gone, except where the last sync failed: then the new file is in place and
/// may not survive a power loss.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let needed = bytes.len() as u64;
    write_stream(path, Some(needed), |out| {
        out.write_all(bytes).map_err(|error| failed_write(path, Some(needed), error))
    })
}

/// [`write_file`] for content that does not fit into memory: `fill` writes it, `needed` says how long it will
/// be where that is known. An error of `fill` leaves everything as it was.
pub fn write_stream(
    path: &Path,
    needed: Option<u64>,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let directory = parent(path);
    let temporary =
        Temporary::create(path, |name| OpenOptions::new().write(true).create_new(true).open(name))?;
    let mut out = BufWriter::with_capacity(WRITE_BUFFER, &temporary.handle);
    fill(&mut out)?;
    out.flush().map_err(|error| failed_write(path, needed, error))?;
    drop(out);
    temporary.handle.sync_all().map_err(|error| failed_write(path, needed, error))?;
    temporary.publish(path, |from, to| fs::rename(from, to))?;
    sync_dir(directory)
}

/// Makes directory `path` with the files that `fill` writes into the temporary directory it is given: files
/// and directory are synced, then renamed to `path`, which must not exist, and the parent is synced.
///
/// # Errors
/// As [`write_file`], and [`ErrorKind::CannotCreate`] where `path` exists, found out before `fill` runs
/// and again by the rename itself. An error of `fill` is passed on; nothing remains of its files.
pub fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    // Not `exists`, which is false for a dangling link.
    if fs::symlink_metadata(path).is_ok() {
        return Err(Error::writing(path, io::ErrorKind::AlreadyExists.into()));
    }
    let directory = parent(path);
    let temporary = Temporary::create(path, |name| {
        fs::create_dir(name)?;
        // A cleaner that was faster than the lock has removed it: as good as a name that was taken.
        File::open(name).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::ErrorKind::AlreadyExists.into(),
            _ => error,
        })
    })?;
    fill(&temporary.path)?;
    sync_tree(&temporary.path)?;
    temporary.publish(path, rename_without_replacing)?;
    sync_dir(directory)
}

/// Gives the finished file `from`, open as `file`, the name `to` beside it: its content is synced, it is renamed,
/// and the directory is synced. For files that grow over hours and are gone on with after a kill.
///
/// # Errors
/// As [`write_file`]; `from` stays where it is, except where the last sync failed.
pub fn publish_file(file: &File, from: &Path, to: &Path) -> Result<()> {
    file.sync_all().map_err(|error| failed_write(to, None, error))?;
    fs::rename(from, to).map_err(|error| failed_write(to, None, error))?;
    sync_dir(parent(to))
}

/// All of a file that is meant to be small enough for memory.
///
/// # Errors
/// As [`Error::reading`], and [`ErrorKind::Data`] where there are more than `most` bytes, whatever the file's
/// metadata claim.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::reading(path, error))?;
    if bytes.len() as u64 > most {
        return Err(Error::data(format!("cannot read {}: larger than {most} bytes", path.display())));
    }
    Ok(bytes)
}

/// Forces the content of file `path` to the disk, whoever wrote it. Not to be retried where it fails.
pub fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed_write(path, None, error))
}

/// Forces the entries of directory `path` (creations, renames, removals) to the disk. Not to be retried where
/// it fails.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| Error::writing(path, error))
}

/// Removes the temporaries in `directory` whose writers died, and says how many there were. Those of living
/// writers stay, and so does everything where the file system has no locks.
///
/// # Errors
/// Where `directory` cannot be listed. A temporary that cannot be removed is left for the next time.
pub fn clean_temporaries(directory: &Path) -> Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory).map_err(|error| Error::reading(directory, error))? {
        let entry = entry.map_err(|error| Error::reading(directory, error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(TEMPORARY_PREFIX)
            && name.ends_with(TEMPORARY_SUFFIX)
            && remove_abandoned(&entry.path()).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// The error of a failed write to `path`: [`Error::writing`], except that a full disk or quota also tells the
/// `needed` bytes of the whole file, where known, and those free.
pub fn failed_write(path: &Path, needed: Option<u64>, error: io::Error) -> Error {
    if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return Error::writing(path, error);
    }
    let mut message = format!("cannot write {}", path.display());
    if let Some(needed) = needed {
        message += &format!(", {needed} bytes needed");
    }
    if let Ok(disk) = rustix::fs::statvfs(parent(path)) {
        message += &format!(", {} bytes free on its file system", disk.f_bavail * disk.f_frsize);
    }
    Error::new(ErrorKind::Io, message).caused_by(error)
}

/// A file or directory under a name of its own, locked by `handle`, removed unless it is published.
struct Temporary {
    path: PathBuf,
    handle: File,
    published: bool,
}

impl Temporary {
    /// Makes one beside `target`; `make` must fail where the name is taken.
    fn create(target: &Path, make: impl Fn(&Path) -> io::Result<File>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if target.file_name().is_none() {
            return Err(Error::writing(target, io::ErrorKind::IsADirectory.into()));
        }
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let process = std::process::id();
            let path = parent(target).join(format!("{TEMPORARY_PREFIX}{process}-{number}{TEMPORARY_SUFFIX}"));
            let handle = match make(&path) {
                Ok(handle) => handle,
                // By a process of the same number that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::writing(target, error)),
            };
            // Some file systems have no locks; there nobody can take it from us either, see
            // `remove_abandoned`.
            let locked = handle.lock().is_ok();
            // Between creation and lock a cleaner may have taken it for abandoned: then the name is gone.
            if !locked || is_named(&handle, &path) {
                return Ok(Self { path, handle, published: false });
            }
        }
    }

    fn publish(mut self, to: &Path, rename: impl FnOnce(&Path, &Path) -> io::Result<()>) -> Result<()> {
        rename(&self.path, to).map_err(|error| failed_write(to, None, error))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a temporary stays behind");
        }
    }
}

/// Whether `path` still names the file behind `handle`.
fn is_named(handle: &File, path: &Path) -> bool {
    match (handle.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

/// Removes the temporary `path` if its lock is free.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    // No link is followed and no pipe waited for: anybody may have put one under such a name.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let handle = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    handle.try_lock()?;
    remove(path)
}

fn remove(path: &Path) -> io::Result<()> {
    // Neither follows links.
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Syncs every file and directory below `path`, and then `path`. A write that failed in the background
/// after its writer closed the file is reported to whoever syncs it first, which is here.
fn sync_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|error| Error::reading(path, error))? {
        let entry = entry.map_err(|error| Error::reading(path, error))?;
        let kind = entry.file_type().map_err(|error| Error::reading(path, error))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            sync_file(&entry.path())?;
        }
    }
    sync_dir(path)
}

fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The kernel or the file system does not know the flag. A plain rename of a directory replaces
        // nothing but an empty directory, so that nothing can be lost.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        renamed => Ok(renamed?),
    }
}

/// The directory of `path`, where a bare name lies in the current one.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_and_replaced_and_nothing_else_remains() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for content in [&b"old"[..], b"new and longer", b""] {
            write_file(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(names(dir.path()), ["state.json"]);
        }
    }

    #[test]
    fn what_fails_midway_leaves_the_old_file_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_file(&path, b"old").unwrap();
        let failed = write_stream(&path, None, |out| {
            out.write_all(b"half of the new").unwrap();
            Err(Error::data("the source ended"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the source ended");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn a_panic_while_writing_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let fill = |inner: &Path| {
            fs::write(inner.join("weights"), b"half").unwrap();
            panic!("a bug")
        };
        std::panic::catch_unwind(|| write_dir(&path, fill)).unwrap_err();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        assert_eq!(read_at_most(&path, 4).unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(read_at_most(Path::new("/dev/zero"), 9).unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(read_at_most(&dir.path().join("no"), 5).unwrap_err().kind(), ErrorKind::MissingInput);
    }

    #[test]
    fn what_cannot_be_created_is_said_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"kept").unwrap();
        let check = |path: PathBuf| {
            for result in [write_file(&path, b"x"), write_dir(&path, |_| Ok(()))] {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::CannotCreate, "{error}");
                assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            }
        };
        check(dir.path().join("missing/file"));
        check(file.join("below a file"));
        check(dir.path().join(".."));
        assert_eq!(names(dir.path()), ["file"]);
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn a_directory_arrives_whole_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("step-10");
        write_dir(&path, |inner| {
            assert!(!path.exists(), "nothing under the final name before it is complete");
            fs::create_dir(inner.join("deep")).unwrap();
            fs::write(inner.join("deep/weights"), b"1").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read(path.join("deep/weights")).unwrap(), b"1");
        let again = write_dir(&path, |_| panic!("found out before anything is written"));
        assert_eq!(again.unwrap_err().kind(), ErrorKind::CannotCreate);
        assert_eq!(names(dir.path()), ["step-10"]);
    }

    #[test]
    fn a_name_taken_while_filling_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("step-10");
        let raced = write_dir(&path, |_| {
            fs::create_dir(&path).unwrap();
            Ok(())
        });
        assert_eq!(raced.unwrap_err().kind(), ErrorKind::CannotCreate);
        assert_eq!(names(dir.path()), ["step-10"]);
    }

    #[test]
    fn planted_links_are_replaced_or_refused_and_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, b"untouched").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert_eq!(write_dir(&link, |_| Ok(())).unwrap_err().kind(), ErrorKind::CannotCreate);
        write_file(&link, b"new").unwrap();
        assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());

        let planted = format!("{TEMPORARY_PREFIX}1-1{TEMPORARY_SUFFIX}");
        std::os::unix::fs::symlink(&victim, dir.path().join(&planted)).unwrap();
        assert_eq!(clean_temporaries(dir.path()).unwrap(), 0);
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    }

    #[test]
    fn temporaries_of_the_dead_go_and_those_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let dead = |n: u32| dir.path().join(format!("{TEMPORARY_PREFIX}{n}-0{TEMPORARY_SUFFIX}"));
        fs::write(dead(1), b"half").unwrap();
        fs::create_dir(dead(2)).unwrap();
        fs::write(dead(2).join("weights"), b"half").unwrap();
        fs::write(dir.path().join("other.tmp"), b"somebody else's").unwrap();
        let path = dir.path().join("step-10");
        write_dir(&path, |inner| {
            assert_eq!(clean_temporaries(dir.path()).unwrap(), 2);
            fs::write(inner.join("weights"), b"whole").map_err(|error| Error::writing(inner, error))
        })
        .unwrap();
        assert_eq!(names(dir.path()), ["other.tmp", "step-10"]);
        assert_eq!(names(&path), ["weights"]);
    }

    #[test]
    fn writers_of_one_file_never_mix_and_cleaners_never_disturb_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_file(path, &vec![writer; 10_000]).unwrap();
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..50 {
                    clean_temporaries(dir.path()).unwrap();
                }
            });
            scope.spawn(|| {
                for n in 0..20 {
                    let path = dir.path().join(format!("step-{n}"));
                    write_dir(&path, |inner| write_file(&inner.join("weights"), b"whole")).unwrap();
                    fs::remove_dir_all(&path).unwrap();
                }
            });
        });
        let content = fs::read(&path).unwrap();
        assert_eq!(content, vec![content[0]; 10_000]);
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_full_disk_is_told_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = failed_write(&dir.path().join("weights"), Some(4096), full());
        assert_eq!(error.kind(), ErrorKind::Io);
        let message = error.to_string();
        assert!(message.contains("weights, 4096 bytes needed, "), "{message}");
        assert!(message.contains(" bytes free on its file system: "), "{message}");
    }
}
