//! What a commit asks of a file system, and the operating system's.
//!
//! A seam, so that the protocol can be run on a disk that fails at its n-th operation, or that forgets at a
//! crash what was not synced. Nothing here follows a symbolic link in the last component of a path.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags};

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes the file `path` and opens it for writing; fails with `AlreadyExists` where anything has this name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Makes the directory `path`; fails with `AlreadyExists` where anything has this name.
    fn create_dir(&self, path: &Path) -> io::Result<Claim>;
    /// Makes the symbolic link `path`; fails with `AlreadyExists` where anything has this name.
    fn link(&self, path: &Path, target: &Path) -> io::Result<()>;
    /// Forces what was written to file `path`, by whomever, to the disk.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Forces the entries of directory `path` (creations, renames, removals) to the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames, over what has the name `to` if anything has.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames; fails with `AlreadyExists` where anything has the name `to`.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes what is no directory.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Name and kind of each entry of directory `path`.
    fn entries(&self, path: &Path) -> io::Result<Vec<(PathBuf, Kind)>>;
    /// What has this name; `NotFound` where nothing has.
    fn kind(&self, path: &Path) -> io::Result<Kind>;
    /// Where a symbolic link leads.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// The first `most` bytes of a file, which may be reached through links.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;
}

/// A file that is being written, and is its writer's alone until dropped.
pub trait NewFile: Write {
    /// Forces its content to the disk. Not to be tried again where it fails.
    fn sync(&mut self) -> io::Result<()>;
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// A pipe, a device, a socket.
    Other,
}

/// A new directory that is its maker's alone until dropped.
#[derive(Debug, Default)]
pub struct Claim {
    /// Locked. `None` where there is nobody to keep out.
    _handle: Option<File>,
}

/// The operating system's file systems.
///
/// New files and directories are locked (`flock`), and the kernel frees the lock of a killed process: that, and no
/// process number that may have been given to somebody else meanwhile, tells what was left behind from what
/// is being written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Os {
    /// Removes the temporary `path` if nobody holds its lock.
    pub fn remove_abandoned(&self, path: &Path) -> io::Result<()> {
        // No link is followed and no pipe waited for: anybody may have put one under such a name.
        let handle = open(path, OFlags::NONBLOCK)?;
        handle.try_lock()?;
        match self.kind(path)? {
            Kind::Directory => fs::remove_dir_all(path),
            _ => fs::remove_file(path),
        }
    }
}

impl Disk for Os {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        claim(&file, path)?;
        Ok(Box::new(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<Claim> {
        fs::create_dir(path)?;
        // A cleaner that was faster than the lock has removed it: as good as a name that was taken.
        let handle = open(path, OFlags::DIRECTORY).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::ErrorKind::AlreadyExists.into(),
            _ => error,
        })?;
        claim(&handle, path)?;
        Ok(Claim { _handle: Some(handle) })
    }

    fn link(&self, path: &Path, target: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, path)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        open(path, OFlags::empty())?.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The kernel or the file system does not know the flag. A plain rename of a directory replaces
            // nothing but an empty directory, so that nothing can be lost.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match self.kind(to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) if self.kind(from)? == Kind::Directory => fs::rename(from, to),
                // A second name in place of the first fails where that name is taken.
                Err(_) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
            },
            renamed => Ok(renamed?),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            // The type of an entry is its own, not that of a link's target.
            Ok((entry.file_name().into(), kind_of(entry.file_type()?)))
        };
        fs::read_dir(path)?.map(entry).collect()
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        Ok(kind_of(fs::symlink_metadata(path)?.file_type()))
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl NewFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | more;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Locks what was just made. Between creation and lock a cleaner may have taken it for abandoned: then it is as
/// if the name had been taken.
fn claim(handle: &File, path: &Path) -> io::Result<()> {
    // Some file systems have no locks; there nobody can take it from us either, see `remove_abandoned`.
    let locked = handle.lock().is_ok();
    match !locked || is_named(handle, path) {
        true => Ok(()),
        false => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// Whether `path` still names the file behind `handle`.
fn is_named(handle: &File, path: &Path) -> bool {
    match (handle.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

fn kind_of(kind: fs::FileType) -> Kind {
    if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Link
    } else if kind.is_file() {
        Kind::File
    } else {
        Kind::Other
    }
}
