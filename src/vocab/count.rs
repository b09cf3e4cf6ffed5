//! Counting the words of a file of any size, with all cores and bounded memory.
//!
//! Takes a file, gives a vocabulary and what was seen on the way. One thread at a time reads the next chunk,
//! cut where no word is cut; all threads count their chunks into tables of their own; a table that outgrows
//! its share of the memory goes to disk as a sorted run (`runs`), and the merge of all runs is the
//! exact count. So the result depends on the text alone, never on threads, chunks or memory. Knows nothing
//! of documents or pairs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use memchr::memchr_iter;

use super::Tokenizer;
use super::char::CharVocab;
use super::map::WordMap;
use super::ranking::Ranking;
use super::runs::{Run, Spill, in_memory, merge};
use super::split::{Kind, is_ascii_space, is_space};
use super::word::WordVocab;
use crate::text::{BOM, Encoding, HEAD, OnBadBytes, Transcoder, broken_utf8_at, stream_error, utf8_lossy};
use crate::{Error, ErrorKind, Result};

/// Bytes that a thread counts between two looks at its memory: large enough that handing out chunks costs
/// nothing, small enough to stay in a core's cache beside the words, and for all threads to end together.
const CHUNK: usize = 256 << 10;

/// Words that a table has room for from the start, where the memory allows: below a megabyte.
const FIRST_WORDS: usize = 24 << 10;

/// Longest word, in bytes. What is longer is no word of a language but broken text; it is counted as unknown
/// and reported, so that a line of any length is read in constant memory.
const MAX_WORD: usize = 64 << 10;

/// What to count, and with what means. Only the first five fields change the result.
#[derive(Clone, Debug)]
pub struct CountConfig {
    /// What a token is.
    pub kind: Kind,
    pub encoding: Encoding,
    pub on_bad_bytes: OnBadBytes,
    /// Only the first so many lines.
    pub lines: Option<u64>,
    /// Longest word in bytes; what is longer is counted as unknown and reported.
    pub max_word: usize,
    /// Threads that count; 0 counts on the caller's thread.
    pub workers: usize,
    /// Memory for counted words, in bytes, of all threads together.
    pub memory: usize,
    /// Where counted words go that the memory does not hold.
    pub spill_directory: PathBuf,
    /// Bytes that a thread counts at a time, raised where `max_word` needs it.
    pub chunk: usize,
}

impl CountConfig {
    /// UTF-8 words, all lines, a gibibyte of memory, on the caller's thread.
    pub fn new(spill_directory: impl Into<PathBuf>) -> Self {
        Self {
            kind: Kind::Word,
            encoding: Encoding::UTF_8,
            on_bad_bytes: OnBadBytes::Error,
            lines: None,
            max_word: MAX_WORD,
            workers: 0,
            memory: 1 << 30,
            spill_directory: spill_directory.into(),
            chunk: CHUNK,
        }
    }
}

/// Which of the counted words make it: the most frequent ones, of equally frequent ones those first in the alphabet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// At most so many words, the specials not counted.
    pub max_size: Option<usize>,
    /// Seen at least so often.
    pub min_freq: u64,
}

/// What was seen while counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Bytes read, in the file's encoding.
    pub bytes: u64,
    pub lines: u64,
    /// Words (or characters), the overlong ones included.
    pub words: u64,
    /// Different words; in a vocabulary's summary, without those spelled like special tokens.
    pub distinct: u64,
    /// Words in the vocabulary, without the specials.
    pub kept: u64,
    /// Occurrences of words outside the vocabulary.
    pub unknown: u64,
    /// Broken sequences read as U+FFFD.
    pub replaced: u64,
    /// Words longer than any word.
    pub overlong: u64,
    /// Bytes of counted words that went to disk because the memory did not hold them.
    pub spilled: u64,
}

/// A vocabulary that has been counted, with what was seen.
pub type Built = (Box<dyn Tokenizer>, Summary);

/// Counts the words of the file at `path` and makes the vocabulary of those that `selection` wants.
/// `progress` is told the bytes read each time there are more.
///
/// # Errors
/// [`ErrorKind::MissingInput`] where the file cannot be opened; [`ErrorKind::Data`], naming line and byte,
/// where it is not text in the encoding or holds no word; [`ErrorKind::Io`] where it cannot be read or the
/// disk is full.
pub fn build(
    path: &Path,
    config: &CountConfig,
    selection: &Selection,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Built> {
    select(config, selection, |ranking| {
        each_word(path, config, progress, |word, count| ranking.offer(word, count))
    })
}

/// [`build`] for any stream of text.
///
/// # Errors
/// As [`build`].
pub fn build_from(
    input: impl Read + Send,
    config: &CountConfig,
    selection: &Selection,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Built> {
    select(config, selection, |ranking| {
        each_word_from(input, config, progress, |word, count| ranking.offer(word, count))
    })
}

/// The vocabulary of the words that `read` offers.
fn select(
    config: &CountConfig,
    selection: &Selection,
    read: impl FnOnce(&mut Ranking) -> Result<Summary>,
) -> Result<Built> {
    let mut ranking = Ranking::new(selection.max_size, selection.min_freq);
    let mut summary = read(&mut ranking)?;
    summary.distinct = ranking.distinct();
    let (tokens, counts) = ranking.finish(summary.overlong);
    summary.unknown = counts[1];
    let vocabulary: Box<dyn Tokenizer> = match config.kind {
        Kind::Word => Box::new(WordVocab::from_parts(tokens, Some(counts))?),
        Kind::Char => Box::new(CharVocab::from_parts(tokens, Some(counts))?),
    };
    summary.kept = u64::from(vocabulary.ordinary_len());
    Ok((vocabulary, summary))
}

/// Counts the words of the file at `path` and gives `each` every one of them once, in alphabetical order,
/// with its count.
///
/// # Errors
/// As [`build`].
pub fn each_word(
    path: &Path,
    config: &CountConfig,
    progress: &(dyn Fn(u64) + Sync),
    each: impl FnMut(&str, u64),
) -> Result<Summary> {
    let file = File::open(path).map_err(|error| Error::reading(path, error))?;
    // Linux opens directories and fails at the first read.
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Error::reading(path, io::ErrorKind::IsADirectory.into()));
    }
    each_word_from(file, config, progress, each).map_err(|e| e.context(format!("corpus {}", path.display())))
}

/// [`each_word`] for any stream of text.
///
/// # Errors
/// As [`build`].
pub fn each_word_from(
    mut input: impl Read + Send,
    config: &CountConfig,
    progress: &(dyn Fn(u64) + Sync),
    mut each: impl FnMut(&str, u64),
) -> Result<Summary> {
    let mut head = vec![0; HEAD];
    let read = fill(&mut input, &mut head).map_err(stream_error)?;
    head.truncate(read);
    if head.is_empty() {
        return Err(Error::data("the file is empty"));
    }
    config.encoding.refuse_unless_text(&head)?;
    let bom = if config.encoding.is_utf8() && head.starts_with(BOM) { BOM.len() } else { 0 };
    let read = Progress { inner: (&head[bom..]).chain(input), bytes: bom as u64, tell: progress };
    let (counted, bytes, replaced) = if config.encoding.is_utf8() {
        let (counted, read) = count(read, bom as u64, config)?;
        (counted, read.bytes, 0)
    } else {
        let text = Transcoder::new(read, config.encoding, config.on_bad_bytes);
        let (counted, text) = count(text, 0, config)?;
        let replaced = text.replaced();
        (counted, text.into_inner().bytes, replaced)
    };
    let Counted { runs, lines, overlong, replaced: in_utf8, spilled } = counted;
    let (mut words, mut distinct) = (0, 0);
    merge(runs, config.memory / 4, |word, count| {
        words += count;
        distinct += 1;
        each(word, count);
    })?;
    words += overlong;
    if words == 0 {
        return Err(Error::data(format!("{lines} lines and no word in them")));
    }
    let replaced = replaced + in_utf8;
    Ok(Summary { bytes, lines, words, distinct, replaced, overlong, spilled, ..Summary::default() })
}

/// All words of a stream, in sorted runs, with the sums over all threads.
#[derive(Default)]
struct Counted {
    runs: Vec<Run>,
    lines: u64,
    overlong: u64,
    replaced: u64,
    spilled: u64,
}

/// Counts the words of `input`, UTF-8 whose first byte is byte `base` of the file, and gives `input` back.
fn count<R: Read + Send>(input: R, base: u64, config: &CountConfig) -> Result<(Counted, R)> {
    let chunks = Mutex::new(Chunks::new(input, base, config));
    let threads = if config.workers == 0 {
        vec![count_chunks(&chunks, config)]
    } else {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.workers)
            .thread_name(|i| format!("vocab-{i}"))
            .build()
            .map_err(|error| Error::new(ErrorKind::Io, "vocab: cannot start the threads").caused_by(error))?;
        pool.broadcast(|_| count_chunks(&chunks, config))
    };
    let chunks = chunks.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut all = Counted { lines: chunks.lines(), overlong: chunks.overlong, ..Counted::default() };
    // Chunks are handed out in order and finished once begun, so the first fault of the file is among the
    // faults found, whatever the number of threads.
    let mut first: Option<Fault> = None;
    for thread in threads {
        match thread {
            Ok(counted) => {
                all.runs.extend(counted.runs);
                all.overlong += counted.overlong;
                all.replaced += counted.replaced;
                all.spilled += counted.spilled;
            }
            Err(fault) if first.as_ref().is_none_or(|first| fault.at < first.at) => first = Some(fault),
            Err(_) => {}
        }
    }
    match first {
        Some(fault) => Err(fault.error),
        None => Ok((all, chunks.input)),
    }
}

/// An error and the byte of the stream where it happened.
struct Fault {
    at: u64,
    error: Error,
}

/// What one thread does: counts chunks until there are no more.
fn count_chunks<R: Read>(chunks: &Mutex<Chunks<R>>, config: &CountConfig) -> Result<Counted, Fault> {
    let share = config.memory / config.workers.max(1);
    let mut counted = Counted::default();
    // Each time a table grows it moves into fresh memory, so it begins with room for those of a small book.
    let fresh = || WordMap::<u64>::with_capacity(FIRST_WORDS.min(share / 256));
    let mut seen = fresh();
    let mut spill = Spill::new(&config.spill_directory);
    let mut buffer = Vec::new();
    let next = |buffer: &mut Vec<u8>| chunks.lock().unwrap_or_else(PoisonError::into_inner).next(buffer);
    let stop = |at: u64, error: Error| {
        chunks.lock().unwrap_or_else(PoisonError::into_inner).finished = true;
        Fault { at, error }
    };
    while let Some(place) = next(&mut buffer)? {
        let lossy;
        let text = match (simdutf8::basic::from_utf8(&buffer), config.on_bad_bytes) {
            (Ok(text), _) => text,
            (Err(_), OnBadBytes::Error | OnBadBytes::Keep) => {
                let bad = broken_utf8_at(&buffer);
                let line = place.line + memchr_iter(b'\n', &buffer[..bad]).count() as u64;
                let at = place.at + bad as u64;
                return Err(stop(
                    at,
                    Error::data(format!(
                        "line {line}, byte {}: invalid UTF-8 (say --encoding if the text is in another \
                         one, or --on-bad-bytes replace)",
                        at + 1
                    )),
                ));
            }
            (Err(_), OnBadBytes::Replace) => {
                let (text, replaced) = utf8_lossy(&buffer);
                counted.replaced += replaced;
                lossy = text;
                &lossy
            }
        };
        config.kind.split(text, |word| {
            if word.len() > config.max_word {
                counted.overlong += 1;
            } else {
                *seen.slot(word) += 1;
            }
        });
        // A table doubles, and is added to others in a copy: at half the share neither goes far beyond it.
        if seen.bytes() > share / 2 {
            let words = std::mem::replace(&mut seen, fresh()).into_sorted();
            spill.push(&words).map_err(|error| stop(place.at, error))?;
        }
    }
    counted.spilled = spill.bytes();
    counted.runs.extend(spill.into_runs());
    counted.runs.extend(in_memory(seen.into_sorted()));
    Ok(counted)
}

/// Where a chunk begins.
struct Place {
    /// Byte of the file, from 0.
    at: u64,
    /// Line of the file, from 1.
    line: u64,
}

/// A stream in chunks that end where a word ends.
struct Chunks<R> {
    input: R,
    kind: Kind,
    chunk: usize,
    /// What was read but lies behind the end of the last chunk.
    carry: Vec<u8>,
    /// Byte of the file where `carry` begins.
    at: u64,
    /// Line ends before `carry`, and how many there may be.
    newlines: u64,
    max_lines: u64,
    /// Whether the text ends in the middle of a line.
    open_line: bool,
    /// Whether what comes next continues a word that is longer than a chunk.
    in_overlong: bool,
    overlong: u64,
    finished: bool,
}

impl<R: Read> Chunks<R> {
    fn new(input: R, base: u64, config: &CountConfig) -> Self {
        Self {
            input,
            kind: config.kind,
            // A word that fills a chunk but for the white space in front and half of that behind must be
            // overlong; white space has three bytes at most.
            chunk: config.chunk.max(config.max_word + 6),
            carry: Vec::new(),
            at: base,
            newlines: 0,
            max_lines: config.lines.unwrap_or(u64::MAX),
            open_line: false,
            in_overlong: false,
            overlong: 0,
            finished: config.lines == Some(0),
        }
    }

    /// Lines so far, the last one also where nothing ends it.
    fn lines(&self) -> u64 {
        self.newlines + u64::from(self.open_line)
    }

    /// Puts the next chunk into `buffer`; `None` at the end.
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Place>, Fault> {
        while !self.finished {
            buffer.clear();
            buffer.append(&mut self.carry);
            let carried = buffer.len();
            buffer.resize(self.chunk, 0);
            let read = fill(&mut self.input, &mut buffer[carried..]).map_err(|error| {
                self.finished = true;
                Fault { at: self.at, error: stream_error(error) }
            })?;
            buffer.truncate(carried + read);
            self.finished = buffer.len() < self.chunk;
            self.cut_lines(buffer);
            let end = if self.finished { Some(buffer.len()) } else { self.last_cut(buffer) };
            let start = if self.in_overlong { first_space(buffer).unwrap_or(buffer.len()) } else { 0 };
            let place = Place { at: self.at + start as u64, line: self.newlines + 1 };
            // Where nothing but one word is in sight, its last bytes stay: white space may begin there.
            let taken = end.unwrap_or_else(|| buffer.len() - 2);
            self.carry.extend_from_slice(&buffer[taken..]);
            buffer.truncate(taken);
            self.at += taken as u64;
            self.newlines += memchr_iter(b'\n', buffer).count() as u64;
            self.open_line = buffer.last().map_or(self.open_line, |&last| last != b'\n');
            if end.is_none() {
                self.overlong += u64::from(!self.in_overlong || start == 0);
                self.in_overlong = true;
                continue;
            }
            self.in_overlong = false;
            buffer.drain(..start);
            if !buffer.is_empty() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Drops what lies behind the last line that is wanted.
    fn cut_lines(&mut self, buffer: &mut Vec<u8>) {
        if self.max_lines == u64::MAX {
            return;
        }
        let left = usize::try_from(self.max_lines - self.newlines).unwrap_or(usize::MAX);
        if let Some(end) = memchr_iter(b'\n', buffer).nth(left.saturating_sub(1)) {
            buffer.truncate(end + 1);
            self.finished = true;
        }
    }

    /// The last place behind the first byte where a chunk may end, if there is any.
    fn last_cut(&self, buffer: &[u8]) -> Option<usize> {
        match self.kind {
            Kind::Word => last_space(buffer).filter(|&at| at > 0),
            // No character has four bytes that continue another: where there are more, text is broken, and
            // each of them a sequence of its own.
            Kind::Char => {
                let continues = |&&byte: &&u8| byte & 0xc0 == 0x80;
                let behind = buffer.iter().rev().take_while(continues).count();
                Some(if behind > 3 { buffer.len() } else { buffer.len() - behind - 1 })
            }
        }
    }
}

/// Fills `out` from `input` as far as it reaches, and gives how far.
fn fill(input: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match input.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where the last white space of `bytes` begins.
fn last_space(bytes: &[u8]) -> Option<usize> {
    let ascii = bytes.iter().rposition(|&byte| is_ascii_space(byte));
    // Only text without ASCII white space is worth a look for the rest.
    ascii.filter(|&at| at > 0).or_else(|| (1..bytes.len()).rev().find(|&at| space_at(bytes, at).is_some()))
}

/// Where the first white space of `bytes` begins.
fn first_space(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|&at| space_at(bytes, at).is_some())
}

/// The white space that begins at `at`, if one does.
fn space_at(bytes: &[u8], at: usize) -> Option<char> {
    let c = match bytes[at..] {
        [a, ..] if a < 0x80 => char::from(a),
        [a @ 0xc2, b, ..] if b & 0xc0 == 0x80 => {
            char::from_u32(u32::from(a & 0x1f) << 6 | u32::from(b & 0x3f))?
        }
        [a @ 0xe1..=0xe3, b, c, ..] if b & 0xc0 == 0x80 && c & 0xc0 == 0x80 => {
            char::from_u32(u32::from(a & 0xf) << 12 | u32::from(b & 0x3f) << 6 | u32::from(c & 0x3f))?
        }
        _ => return None,
    };
    is_space(c).then_some(c)
}

/// A stream that tells how far it has been read.
struct Progress<'p, R> {
    inner: R,
    bytes: u64,
    tell: &'p (dyn Fn(u64) + Sync),
}

impl<R: Read> Read for Progress<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.bytes += n as u64;
        (self.tell)(self.bytes);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ALL: Selection = Selection { max_size: None, min_freq: 1 };

    fn config() -> CountConfig {
        CountConfig::new(std::env::temp_dir())
    }

    fn build_from(input: impl Read + Send, config: &CountConfig, selection: &Selection) -> Result<Built> {
        select(config, selection, |ranking| {
            each_word_from(input, config, &|_| {}, |word, count| ranking.offer(word, count))
        })
    }

    fn built(
        bytes: &[u8],
        config: &CountConfig,
        selection: &Selection,
    ) -> Result<(Vec<String>, Vec<u64>, Summary)> {
        let (vocab, summary) = build_from(bytes, config, selection)?;
        let tokens = (5..vocab.len() as u32).filter_map(|id| vocab.token(id)).map(str::to_owned).collect();
        Ok((tokens, vocab.counts().expect("always counted").to_vec(), summary))
    }

    #[test]
    fn the_order_of_the_reference_is_pinned() {
        let text = include_bytes!("../../fixtures/vocab.tsv");
        let check = |max_size, min_freq, expected: &str| {
            let (tokens, counts, summary) =
                built(text, &config(), &Selection { max_size, min_freq }).unwrap();
            assert_eq!(tokens.join("\n"), expected.trim_end());
            assert_eq!(counts.iter().sum::<u64>(), summary.words);
        };
        check(None, 1, include_str!("../../fixtures/vocab_all_min1.txt"));
        check(Some(6), 1, include_str!("../../fixtures/vocab_6_min1.txt"));
        check(None, 2, include_str!("../../fixtures/vocab_all_min2.txt"));
    }

    #[test]
    fn a_summary_adds_up() {
        let text = "b a\tb\n\nc <mask> b\nlast";
        let (tokens, counts, summary) =
            built(text.as_bytes(), &config(), &Selection { max_size: Some(2), min_freq: 1 }).unwrap();
        assert_eq!(tokens, ["b", "a"]);
        assert_eq!(counts, [0, 3, 0, 0, 0, 3, 1]);
        let expected = Summary {
            bytes: text.len() as u64,
            lines: 4,
            words: 7,
            distinct: 4,
            kept: 2,
            unknown: 3,
            ..Summary::default()
        };
        assert_eq!(summary, expected);
    }

    #[test]
    fn line_ends_a_byte_order_mark_and_the_last_character_do_not_change_the_words() {
        // The reference eats the last character of a file that no line end closes.
        let check = |text: &[u8], lines| {
            let (tokens, _, summary) = built(text, &config(), &ALL).unwrap();
            assert_eq!((tokens.join(" ").as_str(), summary.lines), ("a b c", lines), "{text:?}");
        };
        check(b"a\tb\nc\n", 2);
        check(b"a\tb\nc", 2);
        check(b"a\tb\r\nc\r\n", 2);
        check(b"\xef\xbb\xbfa\tb\nc\n", 2);
        check(b"\n\na b c\n\n", 4);
    }

    #[test]
    fn a_corpus_in_another_encoding_gives_the_same_words() {
        let check = |label, bytes: &[u8]| {
            let config = CountConfig { encoding: Encoding::for_label(label).unwrap(), ..config() };
            let (tokens, _, summary) = built(bytes, &config, &ALL).unwrap();
            assert_eq!(tokens.join(" "), "b é나", "{label}");
            assert_eq!((summary.bytes, summary.lines), (bytes.len() as u64, 1));
        };
        check("utf-8", "é나\tb\n".as_bytes());
        check("gb18030", b"\xa8\xa6\x82\x38\xc7\x31\tb\n");
        let utf16: Vec<u8> = "\u{feff}é나\tb\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        check("utf-16", &utf16);
        let utf16: Vec<u8> = "é나\tb\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        check("utf-16be", &utf16);
    }

    #[test]
    fn what_holds_no_words_is_an_error() {
        let check = |bytes: &[u8], lines, expected: &str| {
            let error = built(bytes, &CountConfig { lines, ..config() }, &ALL).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(b"", None, "the file is empty");
        check(b"\n \t\n", None, "2 lines and no word in them");
        check(b"a\n", Some(0), "0 lines and no word");
        check(b"\x1f\x8b\x08", None, "gzip -d");
        check(b"a\0b\0", None, "utf-16le");
    }

    #[test]
    fn the_first_broken_byte_is_named_for_any_number_of_threads() {
        let mut text = "word words\n".repeat(500).into_bytes();
        for at in [2003, 3000, 5000] {
            text[at] = 0xff;
        }
        for workers in [0, 1, 2, 8] {
            let strict = CountConfig { workers, chunk: 64, max_word: 32, ..config() };
            let error = built(&text, &strict, &ALL).unwrap_err().to_string();
            assert!(error.starts_with("line 183, byte 2004: invalid UTF-8"), "{error}");
            let lossy = CountConfig { on_bad_bytes: OnBadBytes::Replace, ..strict };
            assert_eq!(built(&text, &lossy, &ALL).unwrap().2.replaced, 3);
        }
    }

    #[test]
    fn only_the_lines_that_are_wanted_are_counted() {
        let text = b"a\nb b\n\nc c c";
        let check = |lines, expected: &str, seen| {
            for chunk in [1, 1000] {
                let config = CountConfig { lines: Some(lines), chunk, max_word: 4, ..config() };
                let (tokens, _, summary) = built(text, &config, &ALL).unwrap();
                assert_eq!((tokens.join(" ").as_str(), summary.lines), (expected, seen));
            }
        };
        check(1, "a", 1);
        check(2, "b a", 2);
        check(3, "b a", 3);
        check(4, "c b a", 4);
        check(9, "c b a", 4);
    }

    #[test]
    fn a_read_that_fails_is_an_error_of_reading() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        for workers in [0, 2] {
            let input = b"words ".repeat(20_000);
            let config = CountConfig { workers, ..config() };
            let error = build_from(input.chain(Broken), &config, &ALL).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().contains("the disk is gone"), "{error}");
        }
    }

    #[test]
    fn a_line_of_any_length_without_white_space_is_read_in_the_memory_of_a_chunk() {
        struct Endless(u64, usize);
        impl Read for Endless {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.1 = self.1.max(out.len());
                let n = out.len().min(usize::try_from(self.0).unwrap());
                out[..n].fill(b'x');
                self.0 -= n as u64;
                Ok(n)
            }
        }
        let mut chunks = Chunks::new(b"a ".chain(Endless(100 << 20, 0)).chain(&b" b"[..]), 0, &config());
        let (mut buffer, mut text) = (Vec::new(), Vec::new());
        while chunks.next(&mut buffer).ok().unwrap().is_some() {
            text.extend_from_slice(&buffer);
            assert!(buffer.capacity() <= CHUNK && chunks.carry.capacity() <= CHUNK);
        }
        assert_eq!((text.as_slice(), chunks.overlong), (&b"a b"[..], 1));
    }

    /// What counting must give, by the plainest code: words, overlong ones.
    fn oracle(text: &str, kind: Kind, max_word: usize) -> (BTreeMap<String, u64>, u64) {
        let (mut counts, mut overlong) = (BTreeMap::new(), 0);
        let words: Vec<String> = match kind {
            Kind::Word => text.split(is_space).filter(|w| !w.is_empty()).map(str::to_owned).collect(),
            Kind::Char => text.chars().filter(|&c| !is_space(c)).map(String::from).collect(),
        };
        for word in words {
            if word.len() > max_word {
                overlong += 1;
            } else {
                *counts.entry(word).or_default() += 1;
            }
        }
        (counts, overlong)
    }

    proptest! {
        #[test]
        fn counts_depend_on_the_text_alone(
            text in "([a-d]{1,3}[ \n\u{3000}]|[a-dé나\u{85}\u{3000} \n]|[xy]{15,30}){1,80}",
            kind in prop_oneof![Just(Kind::Word), Just(Kind::Char)],
            workers in 0_usize..4, chunk in 1_usize..60, memory in prop_oneof![Just(0_usize), Just(1 << 20)],
        ) {
            let max_word = 24;
            let (expected, overlong) = oracle(&text, kind, max_word);
            prop_assume!(!expected.is_empty() || overlong > 0);
            let config = CountConfig { kind, workers, chunk, memory, max_word, ..config() };
            let (tokens, counts, summary) = built(text.as_bytes(), &config, &ALL).unwrap();
            let counted: BTreeMap<String, u64> = tokens.into_iter().zip(counts[5..].iter().copied()).collect();
            prop_assert_eq!(&counted, &expected);
            prop_assert_eq!((summary.overlong, counts[1]), (overlong, overlong));
            prop_assert_eq!(summary.words, expected.values().sum::<u64>() + overlong);
            prop_assert_eq!(summary.lines, text.lines().count() as u64);
            prop_assert_eq!(summary.spilled > 0, memory == 0 && !expected.is_empty());
        }

        #[test]
        fn replaced_bytes_do_not_depend_on_chunks(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b' '), Just(b'a'), Just(0xe3_u8), Just(0x80), Just(0xc2), Just(0x85), Just(0xf0)],
                1..80,
            ),
            kind in prop_oneof![Just(Kind::Word), Just(Kind::Char)],
            workers in 0_usize..3, chunk in 1_usize..40,
        ) {
            let text = String::from_utf8_lossy(&bytes);
            let (expected, overlong) = oracle(&text, kind, 24);
            prop_assume!(!expected.is_empty() || overlong > 0);
            let lossy = CountConfig {
                kind, workers, chunk, max_word: 24, on_bad_bytes: OnBadBytes::Replace, ..config()
            };
            let (tokens, counts, summary) = built(&bytes, &lossy, &ALL).unwrap();
            let counted: BTreeMap<String, u64> = tokens.into_iter().zip(counts[5..].iter().copied()).collect();
            prop_assert_eq!((counted, summary.overlong), (expected, overlong));
        }
    }
}
