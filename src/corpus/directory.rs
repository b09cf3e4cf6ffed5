//! A directory of text files, each of which is a document. Takes a directory, gives its files' bytes by
//! number, in the order of their names. Knows nothing of what a file holds.
//!
//! Files whose names begin with a dot, index files, what is no regular file, and symbolic links are left out;
//! folders are not entered. All files are read once when the directory is opened, for their fingerprint.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::fault::MAX_LINE;
use super::{CorpusConfig, Io, Piece, Record, within};
use crate::text::{BOM, Encoding, HEAD};
use crate::{Error, ErrorKind, Result};

/// The files of a directory.
pub struct Directory {
    files: Vec<Entry>,
    encoding: Encoding,
    content: u64,
}

struct Entry {
    path: PathBuf,
    /// Pinned when the directory was opened.
    size: u64,
    /// Its content, where all files are read into memory.
    kept: Option<Vec<u8>>,
}

impl Directory {
    /// Reads every file once.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] where a file is compressed or binary, or where there is no file at all.
    pub fn open(config: &CorpusConfig, encoding: Encoding) -> Result<Self> {
        if !encoding.is_ascii_compatible() {
            return Err(Error::usage(format!(
                "--encoding {}: the files of a directory are read where they lie, and must be in UTF-8 or in an \
                 encoding that contains ASCII: convert them first (iconv -t UTF-8)",
                encoding.name()
            )));
        }
        let mut paths = files_of(&config.path)?;
        if paths.is_empty() {
            return Err(Error::data("the directory is empty: it needs text files, each of them a document"));
        }
        paths.truncate(config.lines.map_or(paths.len(), |files| paths.len().min(files as usize)));

        let mut content = Xxh3Default::new();
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            content.update(&(name.len() as u64).to_le_bytes());
            content.update(name);
            let size = fs::metadata(&path).map_err(|error| Error::reading(&path, error))?.len();
            let bytes = read(&path, size)?;
            encoding
                .refuse_unless_text(&bytes[..bytes.len().min(HEAD)])
                .map_err(|error| error.context(path.display().to_string()))?;
            content.update(&size.to_le_bytes());
            content.update(&xxh3_64(&bytes).to_le_bytes());
            let kept = (config.io == Io::Memory).then_some(bytes);
            files.push(Entry { path, size, kept });
        }
        Ok(Self { files, encoding, content: content.digest() })
    }

    /// How many files are used.
    pub fn len(&self) -> u64 {
        self.files.len() as u64
    }

    /// Size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.size).sum()
    }

    /// The encoding of the files.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Hash of the names and contents of all files that are used.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// File number `id`.
    pub fn path(&self, id: u64) -> Option<&Path> {
        Some(&self.files.get(usize::try_from(id).ok()?)?.path)
    }

    /// What file number `id` holds.
    pub fn record(&self, id: u64) -> Result<Record<'_>> {
        let entry = self.entry(id)?;
        let raw: Piece<'_> = match &entry.kept {
            Some(bytes) => bytes[..].into(),
            None => read(&entry.path, entry.size)?.into(),
        };
        let marked = self.encoding.is_utf8() && raw.starts_with(BOM);
        let (at, end) = (if marked { BOM.len() } else { 0 }, raw.len());
        Ok(Record { line: 1, at: at as u64, size: entry.size, raw: raw.cut(at..end) })
    }

    /// Size of file number `id` in bytes.
    pub fn size(&self, id: u64) -> Result<u64> {
        self.entry(id).map(|entry| entry.size)
    }

    /// The bytes of file number `id` at these places.
    pub fn piece(&self, id: u64, range: Range<u64>) -> Result<Piece<'_>> {
        let entry = self.entry(id)?;
        let places = within(range.clone(), entry.size as usize)?;
        if let Some(bytes) = &entry.kept {
            return Ok(bytes[places].into());
        }
        let mut bytes = vec![0; places.len()];
        let file = File::open(&entry.path).map_err(|error| Error::reading(&entry.path, error))?;
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(changed(&entry.path)),
            Err(error) => Err(Error::reading(&entry.path, error)),
        }
    }

    fn entry(&self, id: u64) -> Result<&Entry> {
        let entry = usize::try_from(id).ok().and_then(|id| self.files.get(id));
        entry.ok_or_else(|| Error::internal(format!("document {id} of a corpus of {}", self.files.len())))
    }
}

/// The files that are documents, by name.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::reading(directory, error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let ours = name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().ends_with(b".bsidx");
        // A link is no regular file here.
        if !ours && entry.file_type().map_err(failed)?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The first `size` bytes of a file; no more than tell that it is too long.
fn read(path: &Path, size: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::reading(path, error);
    let most = size.min(MAX_LINE as u64 + 1);
    let mut bytes = Vec::with_capacity(most as usize);
    File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if (bytes.len() as u64) < most {
        return Err(changed(path));
    }
    Ok(bytes)
}

fn changed(path: &Path) -> Error {
    let what = format!("cannot read {}: the file changed while it was used", path.display());
    Error::new(ErrorKind::Io, what)
}
