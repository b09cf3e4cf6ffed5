//! Files that must survive a kill or a power loss at any instant: the old or the new one is there, never
//! a third state. Takes bytes and directories, knows nothing of what they mean.
//!
//! `disk` is what is asked of a file system, `commit` the one order of operations in which everything that must
//! survive is written; here stand the short ways to both on the operating system's disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::{Error, ErrorKind, Result};

pub mod commit;
mod disk;

pub use disk::{Claim, Disk, Kind, NewFile, Os};

/// Writes `bytes` to `path` so that a reader sees the old file or the new one.
///
/// # Errors
/// As [`commit::file`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file_on(&Os, path, bytes)
}

/// [`write_file`] on a disk.
pub fn write_file_on(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    let needed = Some(bytes.len() as u64);
    commit::file(disk, path, needed, |out| {
        out.write_all(bytes).map_err(|error| failed_write(path, needed, error))
    })
}

/// [`write_file`] for content that does not fit into memory: `fill` writes it, `needed` says how long it will
/// be where that is known. An error of `fill` leaves everything as it was.
pub fn write_stream(
    path: &Path,
    needed: Option<u64>,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    commit::file(&Os, path, needed, fill)
}

/// Gives the finished file `from`, open as `file`, the name `to` beside it, once its content is synced.
///
/// # Errors
/// As [`commit::publish`].
pub fn publish_file(file: &File, from: &Path, to: &Path) -> Result<()> {
    file.sync_all().map_err(|error| failed_write(to, None, error))?;
    commit::publish(&Os, from, to)
}

/// All of a file that is meant to be small enough for memory.
///
/// # Errors
/// As [`Error::reading`], and [`ErrorKind::Data`] where there are more than `most` bytes, whatever the file's
/// metadata claim.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_at_most_on(&Os, path, most)
}

/// [`read_at_most`] on a disk.
pub fn read_at_most_on(disk: &dyn Disk, path: &Path, most: u64) -> Result<Vec<u8>> {
    let bytes = disk.read(path, most.saturating_add(1)).map_err(|error| Error::reading(path, error))?;
    if bytes.len() as u64 > most {
        return Err(Error::data(format!("cannot read {}: larger than {most} bytes", path.display())));
    }
    Ok(bytes)
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
        if name.starts_with(commit::TEMPORARY_PREFIX)
            && name.ends_with(commit::TEMPORARY_SUFFIX)
            && Os.remove_abandoned(&entry.path()).is_ok()
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
    // Of a directory in the making nothing is there yet under its name.
    let above = path.ancestors().skip(1).map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    if let Some(disk) = above.flat_map(rustix::fs::statvfs).next() {
        message += &format!(", {} bytes free on its file system", disk.f_bavail * disk.f_frsize);
    }
    Error::new(ErrorKind::Io, message).caused_by(error)
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
    use std::path::PathBuf;

    use super::commit::{TEMPORARY_PREFIX, TEMPORARY_SUFFIX};
    use super::*;

    fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        commit::directory(&Os, path, |new| {
            fill(new.path())?;
            new.sync_all()
        })
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_no_file_is_not_replaced_by_one() {
        use std::os::unix::fs::FileTypeExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = write_file(&path, b"content").unwrap_err();
        assert_eq!(error.kind().exit_code(), 73, "{error}");
        assert!(error.to_string().contains("a device, a pipe or a socket"), "{error}");
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(names(dir.path()), ["socket"]);
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
