//! Writing the ids of a corpus, block by block.
//!
//! What is not finished lies in `FILE.part`: its blocks are complete and have their checksums, so that a run that
//! was killed is gone on with behind the last good one. The file gets its name when all of it is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::{BLOCK_HEAD, HEADER, Header, MAGIC};
use crate::corpus::{Corpus, unwanted};
use crate::vocab::Encoder;
use crate::{Error, ErrorKind, Result, durable};

/// Sentences between two questions whether they are wanted: some milliseconds, with the slowest tokenizer.
const ASKED: usize = 64;

/// A finished block, and what is in it.
#[derive(Clone, Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    pub documents: u64,
    /// Documents that are none; whoever wants one is told why by the corpus.
    pub malformed: u64,
    pub tokens: u64,
}

/// Encodes a block of documents: a function of corpus and tokenizer alone, as long as it is `wanted`.
///
/// # Errors
/// Those of [`Corpus::document_while`] but for malformed documents, which are noted as such.
pub fn encode_block(
    corpus: &dyn Corpus,
    encoder: &mut dyn Encoder,
    header: &Header,
    block: u64,
    wanted: &dyn Fn() -> bool,
) -> Result<Block> {
    let documents = header.documents_of(block);
    let count = documents.end - documents.start;
    // Behind the head, a table of where documents begin, and where the last one ends.
    let table = BLOCK_HEAD + 4 * (count as usize + 1);
    let mut made = Block { bytes: vec![0; table], documents: count, ..Block::default() };
    let (mut ids, mut begins, mut sentences) = (Vec::new(), Vec::new(), Vec::new());
    for (at, id) in documents.clone().enumerate() {
        note_place(&mut made.bytes, at, &documents)?;
        let document = match corpus.document_while(id, wanted) {
            Ok(document) => document,
            Err(error) if error.kind() == ErrorKind::Data => {
                made.malformed += 1;
                made.bytes.push(0);
                continue;
            }
            Err(error) => return Err(error),
        };
        ids.clear();
        begins.clear();
        sentences.clear();
        let mut line = 0;
        for (number, sentence) in document.sentences.iter().enumerate() {
            if number.is_multiple_of(ASKED) && !wanted() {
                return Err(unwanted(id));
            }
            let before = ids.len();
            match header.words {
                true => encoder.encode_words(&sentence.text, &mut ids, &mut begins),
                false => encoder.encode(&sentence.text, &mut ids),
            }
            push_varint(&mut sentences, sentence.line.wrapping_sub(line));
            push_varint(&mut sentences, (ids.len() - before) as u64);
            line = sentence.line;
        }
        push_varint(&mut made.bytes, document.sentences.len() as u64 + 1);
        made.bytes.extend_from_slice(&sentences);
        match header.width {
            2 => made.bytes.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            _ => made.bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
        let bits = |marks: &[bool]| marks.iter().rev().fold(0, |byte, &mark| byte << 1 | u8::from(mark));
        made.bytes.extend(begins.chunks(8).map(bits));
        made.tokens += ids.len() as u64;
    }
    note_place(&mut made.bytes, count as usize, &documents)?;
    let length = (made.bytes.len() - BLOCK_HEAD) as u64;
    let hash = xxh3_64(&made.bytes[BLOCK_HEAD..]);
    made.bytes[..8].copy_from_slice(&length.to_le_bytes());
    made.bytes[8..16].copy_from_slice(&hash.to_le_bytes());
    Ok(made)
}

/// Enters into the table of a block that its document `at` begins here.
fn note_place(bytes: &mut [u8], at: usize, documents: &std::ops::Range<u64>) -> Result<()> {
    let place = u32::try_from(bytes.len() - BLOCK_HEAD).map_err(|_| {
        Error::data(format!("documents {} to {} have more than 4 GiB of ids", documents.start, documents.end))
    })?;
    bytes[BLOCK_HEAD + 4 * at..][..4].copy_from_slice(&place.to_le_bytes());
    Ok(())
}

fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A file that is being written.
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
    blocks: u64,
    /// Where each block so far begins, and where the next one will.
    starts: Vec<u8>,
    next: u64,
}

impl Writer {
    /// Begins the file at `path`, or goes on with what is left of an attempt with the same corpus and tokenizer.
    ///
    /// # Errors
    /// [`ErrorKind::CannotCreate`] where it cannot be written, where another process is at it, or where
    /// something else lies under the name of the unfinished file.
    pub fn open(path: &Path, header: &Header) -> Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let mut file = opened.map_err(|error| Error::writing(&part, error))?;
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            let what = format!("cannot write {}: another process is writing it", part.display());
            return Err(Error::new(ErrorKind::CannotCreate, what));
        }
        let mut writer = Self {
            path: path.to_owned(),
            blocks: header.blocks(),
            starts: Vec::new(),
            next: HEADER as u64,
            out: BufWriter::new(file.try_clone().map_err(|error| Error::writing(&part, error))?),
            part,
        };
        let reading = |error| Error::reading(&writer.part, error);
        let length = file.metadata().map_err(reading)?.len();
        let mut found = Vec::new();
        (&mut file).take(HEADER as u64).read_to_end(&mut found).map_err(reading)?;
        if !MAGIC.starts_with(&found[..found.len().min(MAGIC.len())]) {
            let what = format!("cannot write {}: something else lies there", writer.part.display());
            return Err(Error::new(ErrorKind::CannotCreate, what));
        }
        let fresh = found != header.to_bytes();
        if !fresh {
            writer.keep_good_blocks(BufReader::new(file), length)?;
        }
        let kept = if fresh { 0 } else { writer.next };
        let mut file = writer.out.get_ref();
        file.set_len(kept)
            .and_then(|()| file.seek(SeekFrom::Start(kept)))
            .map_err(|error| Error::writing(&writer.part, error))?;
        if fresh {
            writer.write(&header.to_bytes())?;
        }
        Ok(writer)
    }

    /// Goes through the blocks of a file of so many bytes, up to the first that is not whole.
    fn keep_good_blocks(&mut self, mut file: impl Read, length: u64) -> Result<()> {
        let mut body = Vec::new();
        while self.blocks_done() < self.blocks {
            let mut head = [0; BLOCK_HEAD];
            if file.read_exact(&mut head).is_err() {
                break;
            }
            let [size, hash] = [0, 8].map(|at| super::read_u64(&head, at).unwrap_or_default());
            let left = length - (self.next + BLOCK_HEAD as u64).min(length);
            body.clear();
            // A size that the file has no room for is not even tried.
            let read = (size <= left).then(|| (&mut file).take(size).read_to_end(&mut body));
            if !matches!(read, Some(Ok(read)) if read as u64 == size) || xxh3_64(&body) != hash {
                break;
            }
            self.note_block(BLOCK_HEAD as u64 + size);
        }
        Ok(())
    }

    fn note_block(&mut self, size: u64) {
        self.starts.extend(self.next.to_le_bytes());
        self.next += size;
    }

    /// How many blocks there are already: the next one to be pushed.
    pub fn blocks_done(&self) -> u64 {
        self.starts.len() as u64 / 8
    }

    /// Appends the next block.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the disk is full or fails.
    pub fn push(&mut self, block: &Block) -> Result<()> {
        self.write(&block.bytes)?;
        self.note_block(block.bytes.len() as u64);
        Ok(())
    }

    /// Ends the file behind its last block and gives it its name; tells its size in bytes.
    ///
    /// # Errors
    /// As [`Writer::push`]; [`ErrorKind::Internal`] where blocks are missing.
    pub fn finish(mut self) -> Result<u64> {
        if self.blocks_done() != self.blocks {
            return Err(Error::internal(format!("{} of {} blocks", self.blocks_done(), self.blocks)));
        }
        let table = std::mem::take(&mut self.starts);
        self.write(&table)?;
        self.write(&xxh3_64(&table).to_le_bytes())?;
        let failed = |error| durable::failed_write(&self.part, None, error);
        self.out.flush().map_err(failed)?;
        let size = self.out.get_ref().metadata().map_err(failed)?.len();
        durable::publish_file(self.out.get_ref(), &self.part, &self.path)?;
        Ok(size)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| durable::failed_write(&self.part, None, error))
    }
}
