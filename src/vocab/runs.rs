//! Counted words that do not fit in memory: sorted runs in a temporary file, and their merge.
//!
//! Takes sorted words with counts, gives every word once, in alphabetical order, with the sum of its
//! counts. Exact whatever the memory; knows nothing of where the words came from.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::{Packed, Sorted};
use crate::{Error, ErrorKind, Result};

/// Smallest and largest read buffer of one run on disk, in bytes.
const BUFFER: Range<usize> = 4 << 10..256 << 10;

/// Words, ascending, with their counts.
type Counts<W> = Vec<(W, u64)>;

/// Words of one sort.
pub(crate) enum Run {
    Packed(Counts<Packed>),
    Long(Counts<Box<[u8]>>),
    Spilled { file: Arc<File>, range: Range<u64> },
}

/// The two runs of a sorted map.
pub(crate) fn in_memory((packed, long): Sorted<u64>) -> [Run; 2] {
    [Run::Packed(packed), Run::Long(long)]
}

/// A temporary file of runs. It has no name once it is open, so nothing is left behind however the
/// program ends.
pub(crate) struct Spill {
    directory: PathBuf,
    file: Option<Arc<File>>,
    runs: Vec<Range<u64>>,
}

impl Spill {
    /// A file in `directory`, made when the first run comes.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), file: None, runs: Vec::new() }
    }

    /// Puts the words of a map behind what is there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the file cannot be made or written, as on a full disk.
    pub(crate) fn push(&mut self, words: &Sorted<u64>) -> Result<()> {
        let start = self.bytes();
        let written = self.open().and_then(|file| write_runs(&file, start, words));
        self.runs.extend(written.map_err(|error| {
            let directory = self.directory.display();
            let what =
                format!("vocab: no room for counted words in {directory} (give more --ram, or set TMPDIR)");
            Error::new(ErrorKind::Io, what).caused_by(error)
        })?);
        Ok(())
    }

    fn open(&mut self) -> io::Result<Arc<File>> {
        if self.file.is_none() {
            self.file = Some(Arc::new(nameless_file(&self.directory)?));
        }
        Ok(Arc::clone(self.file.as_ref().expect("made just above")))
    }

    /// All runs of the file.
    pub(crate) fn into_runs(self) -> impl Iterator<Item = Run> {
        let file = self.file;
        self.runs
            .into_iter()
            .zip(std::iter::repeat(file))
            .filter_map(|(range, file)| Some(Run::Spilled { file: file?, range }))
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.end)
    }
}

/// Writes the two runs of a map at the end of `file`, which is at `start`, and gives their places.
fn write_runs(file: &File, start: u64, (packed, long): &Sorted<u64>) -> io::Result<[Range<u64>; 2]> {
    let mut out = BufWriter::with_capacity(256 << 10, file);
    let mut put = |word: &[u8], count: u64| -> io::Result<u64> {
        out.write_all(&(word.len() as u32).to_le_bytes())?;
        out.write_all(word)?;
        out.write_all(&count.to_le_bytes())?;
        Ok(12 + word.len() as u64)
    };
    let mut middle = start;
    for &(word, count) in packed {
        let (bytes, length) = word.unpack();
        middle += put(&bytes[..length], count)?;
    }
    let mut end = middle;
    for (word, count) in long {
        end += put(word, *count)?;
    }
    out.flush()?;
    Ok([start..middle, middle..end])
}

/// Merges `runs`, giving `each` every word once, in order, with the sum of its counts. Runs on disk are read
/// through buffers of `memory` bytes in all.
///
/// # Errors
/// [`ErrorKind::Io`] where the temporary file cannot be read back.
pub(crate) fn merge(runs: Vec<Run>, memory: usize, mut each: impl FnMut(&str, u64)) -> Result<()> {
    let mut each = |word: &[u8], count| {
        each(std::str::from_utf8(word).expect("words are cut out of valid text"), count);
    };
    let (packed, long, mut rest) = joined(runs);
    if rest.is_empty() {
        weave(packed, &long, each);
        return Ok(());
    }
    rest.extend([Run::Packed(packed), Run::Long(long)]);
    let buffer = (memory / rest.len()).clamp(BUFFER.start, BUFFER.end);
    let lost = |error: io::Error| {
        Error::new(ErrorKind::Io, "vocab: cannot read counted words back").caused_by(error)
    };
    let mut cursors: Vec<Cursor> = rest.into_iter().map(|run| Cursor::new(run, buffer)).collect();
    let mut heap = BinaryHeap::with_capacity(cursors.len());
    for (i, cursor) in cursors.iter_mut().enumerate() {
        if let Some((word, count)) = cursor.next(Vec::new()).map_err(lost)? {
            heap.push(Reverse((word, count, i)));
        }
    }
    let mut current: Option<(Vec<u8>, u64)> = None;
    while let Some(mut least) = heap.peek_mut() {
        let Reverse((word, count, i)) = &mut *least;
        match &mut current {
            Some((same, sum)) if same == word => *sum += *count,
            _ => {
                // The word that is done lends its memory to the next one of this run.
                let next = std::mem::take(word);
                if let Some((done, sum)) = current.replace((next, *count)) {
                    each(&done, sum);
                    *word = done;
                }
            }
        }
        match cursors[*i].next(std::mem::take(word)).map_err(lost)? {
            Some((next, of)) => (*word, *count) = (next, of),
            None => {
                PeekMut::pop(least);
            }
        }
    }
    if let Some((word, sum)) = current {
        each(&word, sum);
    }
    Ok(())
}

/// The same words with the runs in memory made one of each sort, and those on disk: to compare words where they are
/// is faster than to take each out of its run.
fn joined(runs: Vec<Run>) -> (Counts<Packed>, Counts<Box<[u8]>>, Vec<Run>) {
    let (mut packed, mut long, mut rest) = (VecDeque::new(), VecDeque::new(), Vec::new());
    for run in runs {
        match run {
            Run::Packed(words) => packed.push_back(words),
            Run::Long(words) => long.push_back(words),
            Run::Spilled { .. } => rest.push(run),
        }
    }
    (sum_of_all(packed), sum_of_all(long), rest)
}

/// The merge of two runs that no other words lie between.
fn weave(packed: Counts<Packed>, long: &[(Box<[u8]>, u64)], mut each: impl FnMut(&[u8], u64)) {
    let mut long = long.iter().peekable();
    for (word, count) in packed {
        while let Some((before, count)) = long.next_if(|(long, _)| Packed::head(long) < word) {
            each(before, *count);
        }
        let (bytes, n) = word.unpack();
        each(&bytes[..n], count);
    }
    long.for_each(|(word, count)| each(word, *count));
}

/// Adds runs two by two, so that each word is moved a few times only.
fn sum_of_all<W: Ord>(mut runs: VecDeque<Counts<W>>) -> Counts<W> {
    while let Some(first) = runs.pop_front() {
        let Some(second) = runs.pop_front() else { return first };
        runs.push_back(sum(first, second));
    }
    Counts::new()
}

fn sum<W: Ord>(a: Counts<W>, b: Counts<W>) -> Counts<W> {
    let mut sum = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    while let (Some((x, _)), Some((y, _))) = (a.peek(), b.peek()) {
        let order = x.cmp(y);
        let mut next = if order.is_le() { a.next() } else { b.next() }.expect("just seen");
        if order.is_eq() {
            next.1 += b.next().map_or(0, |(_, count)| count);
        }
        sum.push(next);
    }
    sum.extend(a);
    sum.extend(b);
    sum
}

/// A run and the place in it.
enum Cursor {
    Packed(std::vec::IntoIter<(Packed, u64)>),
    Long(std::vec::IntoIter<(Box<[u8]>, u64)>),
    Spilled(BufReader<Section>),
}

impl Cursor {
    fn new(run: Run, buffer: usize) -> Self {
        match run {
            Run::Packed(words) => Self::Packed(words.into_iter()),
            Run::Long(words) => Self::Long(words.into_iter()),
            Run::Spilled { file, range } => {
                Self::Spilled(BufReader::with_capacity(buffer, Section { file, range }))
            }
        }
    }

    /// The next word, in the memory of `word`, and its count.
    fn next(&mut self, mut word: Vec<u8>) -> io::Result<Option<(Vec<u8>, u64)>> {
        word.clear();
        let count = match self {
            Self::Packed(words) => {
                let Some((packed, count)) = words.next() else { return Ok(None) };
                let (bytes, n) = packed.unpack();
                word.extend_from_slice(&bytes[..n]);
                count
            }
            Self::Long(words) => {
                let Some((long, count)) = words.next() else { return Ok(None) };
                word.extend_from_slice(&long);
                count
            }
            Self::Spilled(reader) => {
                if reader.fill_buf()?.is_empty() {
                    return Ok(None);
                }
                let mut length = [0; 4];
                reader.read_exact(&mut length)?;
                word.resize(u32::from_le_bytes(length) as usize, 0);
                reader.read_exact(&mut word)?;
                let mut count = [0; 8];
                reader.read_exact(&mut count)?;
                u64::from_le_bytes(count)
            }
        };
        Ok(Some((word, count)))
    }
}

/// A part of a file that many parts are read from at once.
struct Section {
    file: Arc<File>,
    range: Range<u64>,
}

impl Read for Section {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let n = out.len().min(left);
        let n = self.file.read_at(&mut out[..n], self.range.start)?;
        self.range.start += n as u64;
        Ok(n)
    }
}

/// A new file in `directory`, for this user alone, whose name is gone again.
fn nameless_file(directory: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!(".bertstream-words-{}-{number}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::vocab::map::WordMap;

    fn map(words: &[String]) -> WordMap<u64> {
        let mut map = WordMap::default();
        words.iter().for_each(|word| *map.slot(&**word) += 1);
        map
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let words = map(&["word".to_owned()]).into_sorted();
        let error = Spill::new(&dir.path().join("no")).push(&words).unwrap_err();
        assert!(error.to_string().contains("--ram"), "{error}");
        let mut spill = Spill::new(dir.path());
        spill.push(&words).unwrap();
        assert_eq!(spill.bytes(), 16);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }

    proptest! {
        #[test]
        fn any_mixture_of_runs_gives_the_sums_in_order(
            parts in vec((vec("[a-c]{1,20}", 0..30), any::<bool>()), 0..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut expected = BTreeMap::<String, u64>::new();
            let mut spill = Spill::new(dir.path());
            let mut runs = Vec::new();
            for (words, to_disk) in &parts {
                words.iter().for_each(|word| *expected.entry(word.clone()).or_default() += 1);
                let sorted = map(words).into_sorted();
                if *to_disk {
                    spill.push(&sorted).unwrap();
                } else {
                    runs.extend(in_memory(sorted));
                }
            }
            runs.extend(spill.into_runs());
            let mut merged = Vec::new();
            merge(runs, 0, |word, count| merged.push((word.to_owned(), count))).unwrap();
            prop_assert_eq!(merged, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
