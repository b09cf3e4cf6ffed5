//! Batches in files: JSON lines for people and scripts, safetensors to swap a stage for a file.
//!
//! **JSON lines**: a line a batch, the fields of [`HostBatch`] under their names.
//!
//! **safetensors**: the reference's names and meaning, `int64`, a sample a row (packed ones too), all batches
//! one below the other, padded to one width with 0:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `bert_input` | (rows, width) | token ids; 0 is padding, and nothing else is |
//! | `segment_label` | (rows, width) | 1 and 2 for the segments, 0 for padding |
//! | `bert_label` | (rows, width) | the true id where a token is to be predicted, 0 elsewhere |
//! | `is_next` | (rows) | 1 = is next, 0 = not, -100 = no label; absent where there is no pair task |
//!
//! The metadata entry `bertstream_batches` holds [`FileInfo`] as JSON (one entry, since the order of several
//! would differ between runs). Files made elsewhere may lack it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::HostBatch;
use crate::sample::{Corruption, Cursor, Origin, PairLabel, SEGMENT_PAD};
use crate::{Error, Result, durable};

/// The version of the safetensors layout that is written and read here.
const VERSION: u32 = 1;

/// Largest file that is read, in bytes: it is held in memory whole.
const MAX_BYTES: u64 = 16 << 30;

/// The metadata entry.
const INFO: &str = "bertstream_batches";

/// The id of padding in the file format: the reference's.
const PAD: u32 = 0;

/// The pair label of a row that has none: what PyTorch's losses leave out.
const NO_PAIR: i64 = -100;

/// The id of the mask token in files that do not tell: the reference's.
const REFERENCE_MASK: u32 = 4;

/// Where the batches of a file came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    version: u32,
    /// Seed of the samples.
    pub seed: u64,
    /// [`Tokenizer::fingerprint`](crate::vocab::Tokenizer::fingerprint) in hexadecimal.
    pub tokenizer: String,
    /// The mask token's id.
    pub mask_id: u32,
}

impl FileInfo {
    /// The metadata of a file in the current version.
    pub fn new(seed: u64, fingerprint: u64, mask_id: u32) -> Self {
        Self { version: VERSION, seed, tokenizer: format!("{fingerprint:016x}"), mask_id }
    }
}

/// Writes a batch as one line of JSON.
pub fn write_json_line(out: &mut impl Write, batch: &HostBatch) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, batch)?;
    out.write_all(b"\n")
}

/// The bytes of a safetensors file of `batches`.
///
/// # Errors
/// [`crate::ErrorKind::Data`] where there is no batch, or where batches cannot be told in this format:
/// a real token with the id 0.
pub fn to_safetensors(batches: &[HostBatch], info: &FileInfo) -> Result<Vec<u8>> {
    let rows: usize = batches.iter().map(HostBatch::samples).sum();
    let width = batches.iter().flat_map(|batch| &batch.lengths).max().map_or(0, |&n| n as usize);
    if rows == 0 {
        return Err(Error::data("there is no batch to write"));
    }
    let zero = |batch: &HostBatch| (0..batch.samples()).any(|i| batch.sample(i).0.contains(&PAD));
    if batches.iter().any(|batch| zero(batch) || batch.labels.contains(&PAD)) {
        return Err(Error::data(
            "a token of the text has the id 0, which means padding in batch files: use a vocabulary whose \
             padding token is 0",
        ));
    }
    let paired = batches.iter().flat_map(|batch| &batch.pairs).any(|&pair| pair != PairLabel::None);

    let tensor = |batch_cells: fn(&HostBatch, &mut [i64], usize)| Column {
        batches,
        shape: vec![rows, width],
        fill: batch_cells,
    };
    let mut tensors = vec![
        ("bert_input", tensor(fill_ids)),
        ("segment_label", tensor(fill_segments)),
        ("bert_label", tensor(fill_labels)),
    ];
    if paired {
        tensors.push(("is_next", Column { batches, shape: vec![rows], fill: fill_pairs }));
    }
    let info = serde_json::to_string(info).expect("plain fields always have a JSON form");
    safetensors::serialize(tensors, Some(HashMap::from([(INFO.to_owned(), info)])))
        .map_err(|error| Error::internal("batches cannot be serialised").caused_by(error))
}

/// One tensor of the file, made when its turn comes so that only one is in memory besides the file.
struct Column<'b> {
    batches: &'b [HostBatch],
    shape: Vec<usize>,
    /// Fills the zeroed cells of a batch's rows, of the given width.
    fill: fn(&HostBatch, &mut [i64], usize),
}

impl View for Column<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::I64
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let width = self.shape.get(1).copied().unwrap_or(1);
        let mut bytes = Vec::with_capacity(self.data_len());
        let mut cells = Vec::new();
        for batch in self.batches {
            cells.clear();
            cells.resize(batch.samples() * width, 0);
            (self.fill)(batch, &mut cells, width);
            cells.iter().for_each(|cell| bytes.extend_from_slice(&cell.to_le_bytes()));
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<i64>()
    }
}

fn fill_ids(batch: &HostBatch, cells: &mut [i64], width: usize) {
    for (row, cells) in cells.chunks_exact_mut(width).enumerate() {
        cells.iter_mut().zip(batch.sample(row).0).for_each(|(cell, &id)| *cell = id.into());
    }
}

fn fill_segments(batch: &HostBatch, cells: &mut [i64], width: usize) {
    for (row, cells) in cells.chunks_exact_mut(width).enumerate() {
        cells.iter_mut().zip(batch.sample(row).1).for_each(|(cell, &segment)| *cell = segment.into());
    }
}

fn fill_labels(batch: &HostBatch, cells: &mut [i64], width: usize) {
    for (&at, &label) in batch.masked.iter().zip(&batch.labels) {
        let sample = batch.sample_at(at as usize);
        cells[sample * width + at as usize - batch.start(sample)] = label.into();
    }
}

fn fill_pairs(batch: &HostBatch, cells: &mut [i64], _width: usize) {
    for (cell, &pair) in cells.iter_mut().zip(&batch.pairs) {
        *cell = match pair {
            PairLabel::NotNext => 0,
            PairLabel::IsNext => 1,
            PairLabel::None => NO_PAIR,
        };
    }
}

/// Reads a safetensors file of batches, in batches of `batch_size` rows, each as wide as its longest row.
/// Origins are the rows of the file. The ids are not compared with a vocabulary; [`check_ids`] does that.
///
/// # Errors
/// [`crate::ErrorKind::MissingInput`] or [`crate::ErrorKind::Io`] where the file cannot be read,
/// [`crate::ErrorKind::Mismatch`] for a version not known here, [`crate::ErrorKind::Data`], with tensor and
/// cell, for everything that is not as described above.
pub fn read_batches(path: &Path, batch_size: usize) -> Result<Vec<HostBatch>> {
    let bytes = durable::read_at_most(path, MAX_BYTES)?;
    from_safetensors(&bytes, batch_size).map_err(|e| e.context(format!("batches {}", path.display())))
}

/// Refuses batches with ids that a vocabulary of `vocab_size` tokens lacks.
///
/// # Errors
/// [`crate::ErrorKind::Data`] with batch, row and id.
pub fn check_ids(batches: &[HostBatch], vocab_size: usize) -> Result<()> {
    let beyond = |&id: &u32| id as usize >= vocab_size;
    for (number, batch) in batches.iter().enumerate() {
        for row in 0..batch.samples() {
            let labels = &batch.labels[batch.predicted(row)];
            if let Some(id) = batch.sample(row).0.iter().chain(labels).copied().find(beyond) {
                return Err(Error::data(format!(
                    "batch {number}, row {row}: id {id} in a vocabulary of {vocab_size}: these batches were \
                     made with another vocabulary"
                )));
            }
        }
    }
    Ok(())
}

/// [`read_batches`] from the bytes of a file.
pub fn from_safetensors(bytes: &[u8], batch_size: usize) -> Result<Vec<HostBatch>> {
    if batch_size == 0 {
        return Err(Error::usage("--batch-size 0: a batch needs at least one row"));
    }
    let damaged = |error| Error::data("not a safetensors file, or a damaged one").caused_by(error);
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mask_id = info(bytes)?.map_or(REFERENCE_MASK, |info| info.mask_id);

    let known = ["bert_input", "segment_label", "bert_label", "is_next"];
    if let Some(name) = file.names().into_iter().filter(|name| !known.contains(name)).min() {
        return Err(Error::data(format!(
            "unexpected tensor {name}: a batch file holds {}",
            known.join(", ")
        )));
    }
    let shape = file.tensor("bert_input").map_err(damaged)?.shape().to_vec();
    let &[rows, width] = shape.as_slice() else {
        return Err(Error::data(format!("bert_input has shape {shape:?} instead of (rows, width)")));
    };
    if rows == 0 || width == 0 {
        return Err(Error::data(format!("bert_input has shape {shape:?}: there is no batch in it")));
    }
    let table = Table {
        ids: column(&file, "bert_input", &shape)?,
        segments: column(&file, "segment_label", &shape)?,
        labels: column(&file, "bert_label", &shape)?,
        is_next: file.names().contains(&"is_next").then(|| column(&file, "is_next", &[rows])).transpose()?,
        width,
        mask_id,
    };
    (0..rows).step_by(batch_size).map(|from| table.batch(from, rows.min(from + batch_size), rows)).collect()
}

/// The metadata entry, where there is one.
fn info(bytes: &[u8]) -> Result<Option<FileInfo>> {
    let damaged = |error| Error::data("not a safetensors file, or a damaged one").caused_by(error);
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let Some(json) = metadata.metadata().as_ref().and_then(|entries| entries.get(INFO)) else {
        return Ok(None);
    };
    let refused = |error| Error::data(format!("metadata {INFO} is not what it should be")).caused_by(error);
    let info: FileInfo = serde_json::from_str(json).map_err(refused)?;
    if info.version != VERSION {
        return Err(Error::mismatch(format!(
            "batch format version {}, but this program reads version {VERSION}",
            info.version
        )));
    }
    Ok(Some(info))
}

/// The numbers of a tensor that must be `int64` of `shape`.
fn column(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<i64>> {
    let tensor = file.tensor(name).map_err(|error| Error::data("a tensor is missing").caused_by(error))?;
    if tensor.dtype() != Dtype::I64 || tensor.shape() != shape {
        return Err(Error::data(format!(
            "{name} is {:?} of shape {:?} instead of I64 of shape {shape:?}",
            tensor.dtype(),
            tensor.shape()
        )));
    }
    let (numbers, _) = tensor.data().as_chunks::<8>();
    Ok(numbers.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
}

/// All rows of a file.
struct Table {
    ids: Vec<i64>,
    segments: Vec<i64>,
    labels: Vec<i64>,
    is_next: Option<Vec<i64>>,
    width: usize,
    mask_id: u32,
}

/// A row that has been found valid.
struct Row {
    ids: Vec<u32>,
    segments: Vec<u8>,
    /// (Column, label).
    predicted: Vec<(usize, u32)>,
    pair: PairLabel,
}

impl Table {
    /// Rows `from..to` of `rows` as a batch.
    fn batch(&self, from: usize, to: usize, rows: usize) -> Result<HostBatch> {
        let valid = (from..to).map(|row| self.row(row)).collect::<Result<Vec<_>>>()?;
        let seq_len = valid.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let cursor = |row: usize| Cursor { epoch: 0, position: row as u64, part: 0 };
        let mut batch = HostBatch {
            rows: valid.len(),
            seq_len,
            next: if to == rows { Cursor { epoch: 1, position: 0, part: 0 } } else { cursor(to) },
            ends_epoch: to == rows,
            ..HostBatch::default()
        };
        for (number, row) in valid.into_iter().enumerate() {
            for (column, label) in row.predicted {
                let id = row.ids[column];
                batch.masked.push((number * seq_len + column) as u32);
                batch.labels.push(label);
                batch.corruptions.push(match id {
                    _ if id == label => Corruption::Keep,
                    _ if id == self.mask_id => Corruption::Mask,
                    _ => Corruption::Random,
                });
            }
            batch.lengths.push(row.ids.len() as u32);
            batch.ids.extend(row.ids);
            batch.ids.resize((number + 1) * seq_len, PAD);
            batch.segments.extend(row.segments);
            batch.segments.resize((number + 1) * seq_len, SEGMENT_PAD);
            batch.pairs.push(row.pair);
            let document = (from + number) as u64;
            batch.origins.push(Origin {
                cursor: cursor(from + number),
                document_a: document,
                line_a: document + 1,
                document_b: document,
                line_b: document + 1,
            });
        }
        Ok(batch)
    }

    /// Row `row`, or what is wrong with it.
    fn row(&self, row: usize) -> Result<Row> {
        let cells = row * self.width..(row + 1) * self.width;
        let (ids, segments, labels) =
            (&self.ids[cells.clone()], &self.segments[cells.clone()], &self.labels[cells]);
        let refuse = |tensor: &str, column: usize, value: i64, why: &str| {
            Error::data(format!("{tensor}, row {row}, column {column}: {value} {why}"))
        };
        let len = ids.iter().position(|&id| id == i64::from(PAD)).unwrap_or(self.width);
        if len == 0 {
            return Err(refuse("bert_input", 0, ids[0], "begins a row that is padding only"));
        }
        let mut valid = Row {
            ids: Vec::with_capacity(len),
            segments: Vec::with_capacity(len),
            predicted: Vec::new(),
            pair: PairLabel::None,
        };
        for column in 0..self.width {
            let (id, segment, label) = (ids[column], segments[column], labels[column]);
            if column >= len {
                for (tensor, value) in [("bert_input", id), ("segment_label", segment), ("bert_label", label)]
                {
                    if value != 0 {
                        return Err(refuse(tensor, column, value, "stands behind the row's end"));
                    }
                }
                continue;
            }
            valid
                .ids
                .push(u32::try_from(id).map_err(|_| refuse("bert_input", column, id, "is no token id"))?);
            valid.segments.push(match segment {
                1 | 2 => segment as u8,
                _ => return Err(refuse("segment_label", column, segment, "is neither 1 nor 2")),
            });
            if label != 0 {
                let label = u32::try_from(label)
                    .map_err(|_| refuse("bert_label", column, label, "is no token id"))?;
                valid.predicted.push((column, label));
            }
        }
        if let Some(is_next) = &self.is_next {
            valid.pair = match is_next[row] {
                0 => PairLabel::NotNext,
                1 => PairLabel::IsNext,
                NO_PAIR => PairLabel::None,
                other => return Err(refuse("is_next", 0, other, "is neither 0 nor 1 nor -100")),
            };
        }
        Ok(valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    /// A tensor to be put into a file: name, type, shape, numbers.
    type Given<'t> = (&'t str, Dtype, Vec<usize>, Vec<i64>);

    /// Two rows of three: `5 [MASK:6] 7` and `8 (9)`.
    fn valid() -> Vec<Given<'static>> {
        let table = |name, cells: [i64; 6]| (name, Dtype::I64, vec![2, 3], cells.to_vec());
        vec![
            table("bert_input", [5, 4, 7, 8, 9, 0]),
            table("segment_label", [1, 1, 2, 1, 2, 0]),
            table("bert_label", [0, 6, 0, 0, 9, 0]),
            ("is_next", Dtype::I64, vec![2], vec![1, 0]),
        ]
    }

    fn bytes(tensors: &[Given<'_>], metadata: Option<&str>) -> Vec<u8> {
        struct Raw(Dtype, Vec<usize>, Vec<u8>);
        impl View for Raw {
            fn dtype(&self) -> Dtype {
                self.0
            }
            fn shape(&self) -> &[usize] {
                &self.1
            }
            fn data(&self) -> Cow<'_, [u8]> {
                (&self.2).into()
            }
            fn data_len(&self) -> usize {
                self.2.len()
            }
        }
        let tensors = tensors.iter().map(|(name, dtype, shape, numbers)| {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            (*name, Raw(*dtype, shape.clone(), bytes))
        });
        let metadata = metadata.map(|info| HashMap::from([(INFO.to_owned(), info.to_owned())]));
        safetensors::serialize(tensors, metadata).unwrap()
    }

    #[test]
    fn a_file_made_elsewhere_is_understood() {
        let batches = from_safetensors(&bytes(&valid(), None), 2).unwrap();
        let [batch] = batches.as_slice() else { panic!("{batches:?}") };
        assert_eq!((batch.rows, batch.seq_len, batch.ends_epoch), (2, 3, true));
        assert_eq!(batch.ids, [5, 4, 7, 8, 9, 0]);
        assert_eq!(batch.segments, [1, 1, 2, 1, 2, 0]);
        assert_eq!(batch.lengths, [3, 2]);
        assert_eq!(
            (batch.masked.as_slice(), batch.labels.as_slice()),
            ([1, 4].as_slice(), [6, 9].as_slice())
        );
        assert_eq!(batch.corruptions, [Corruption::Mask, Corruption::Keep]);
        assert_eq!(batch.pairs, [PairLabel::IsNext, PairLabel::NotNext]);
    }

    #[test]
    fn a_batch_is_as_wide_as_its_own_longest_row() {
        let batches = from_safetensors(&bytes(&valid(), None), 1).unwrap();
        let shapes: Vec<_> = batches.iter().map(|b| (b.rows, b.seq_len, b.masked.clone())).collect();
        assert_eq!(shapes, [(1, 3, vec![1]), (1, 2, vec![1])]);
    }

    #[test]
    fn some_rows_may_have_no_pair_label() {
        let mut batches = from_safetensors(&bytes(&valid(), None), 2).unwrap();
        batches[0].pairs[0] = PairLabel::None;
        let written = to_safetensors(&batches, &FileInfo::new(42, 7, 4)).unwrap();
        assert_eq!(from_safetensors(&written, 2).unwrap()[0].pairs, [PairLabel::None, PairLabel::NotNext]);
    }

    #[test]
    fn without_is_next_there_is_no_pair_task() {
        let batches = from_safetensors(&bytes(&valid()[..3], None), 2).unwrap();
        assert_eq!(batches[0].pairs, [PairLabel::None; 2]);
    }

    #[test]
    fn what_is_not_a_batch_is_refused_with_its_place() {
        let check = |change: fn(&mut Vec<Given<'static>>), expected: &str| {
            let mut tensors = valid();
            change(&mut tensors);
            let error = from_safetensors(&bytes(&tensors, None), 2).expect_err(expected);
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check(|t| t[0].3[1] = -4, "bert_input, row 0, column 1: -4 is no token id");
        check(|t| t[0].3[1] = 1 << 32, "bert_input, row 0, column 1: 4294967296 is no token id");
        check(|t| t[0].3[3] = 0, "bert_input, row 1, column 0: 0 begins a row that is padding only");
        check(|t| t[0].3[1] = 0, "segment_label, row 0, column 1: 1 stands behind the row's end");
        check(|t| t[1].3[0] = 0, "segment_label, row 0, column 0: 0 is neither 1 nor 2");
        check(|t| t[1].3[2] = 3, "segment_label, row 0, column 2: 3 is neither 1 nor 2");
        check(|t| t[1].3[5] = 1, "segment_label, row 1, column 2: 1 stands behind the row's end");
        check(|t| t[2].3[5] = 7, "bert_label, row 1, column 2: 7 stands behind the row's end");
        check(|t| t[2].3[1] = -1, "bert_label, row 0, column 1: -1 is no token id");
        check(|t| t[3].3[1] = 2, "is_next, row 1, column 0: 2 is neither 0 nor 1 nor -100");
        check(|t| t[3].2 = vec![1, 2], "is_next is I64 of shape [1, 2] instead of I64 of shape [2]");
        check(|t| t[1].1 = Dtype::F64, "segment_label is F64 of shape [2, 3] instead of I64");
        check(|t| t[0].2 = vec![6], "bert_input has shape [6] instead of (rows, width)");
        check(|t| t[1].2 = vec![3, 2], "segment_label is I64 of shape [3, 2] instead of I64 of shape [2, 3]");
        check(|t| t[3].0 = "next", "unexpected tensor next");
        check(|t| drop(t.remove(2)), "a tensor is missing");
        check(
            |t| {
                t.truncate(3);
                t.iter_mut().for_each(|(_, _, shape, cells)| (*shape, *cells) = (vec![0, 3], vec![]));
            },
            "bert_input has shape [0, 3]",
        );
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_ends() {
        let whole = bytes(&valid(), None);
        for len in 0..whole.len() {
            let error = from_safetensors(&whole[..len], 2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data, "cut to {len} of {} bytes", whole.len());
        }
        assert_eq!(from_safetensors(b"\x80\x04pickle", 2).unwrap_err().kind(), ErrorKind::Data);
    }

    #[test]
    fn metadata_of_another_kind_is_refused() {
        let check = |info: &str, expected: ErrorKind| {
            assert_eq!(from_safetensors(&bytes(&valid(), Some(info)), 2).unwrap_err().kind(), expected);
        };
        check("{", ErrorKind::Data);
        check(r#"{"version":2,"seed":1,"tokenizer":"0","mask_id":4}"#, ErrorKind::Mismatch);
    }

    #[test]
    fn what_the_format_cannot_say_is_not_written() {
        let info = FileInfo::new(42, 7, 4);
        let check = |change: fn(&mut HostBatch), expected: &str| {
            let mut batch = from_safetensors(&bytes(&valid(), None), 2).unwrap().remove(0);
            change(&mut batch);
            let error = to_safetensors(&[batch], &info).expect_err(expected);
            assert!(error.kind() == ErrorKind::Data && error.to_string().starts_with(expected), "{error}");
        };
        check(|b| b.ids[0] = 0, "a token of the text has the id 0");
        check(|b| b.labels[0] = 0, "a token of the text has the id 0");
        assert_eq!(to_safetensors(&[], &info).unwrap_err().kind(), ErrorKind::Data);
    }

    #[test]
    fn the_same_batches_give_the_same_bytes() {
        let batches = from_safetensors(&bytes(&valid(), None), 1).unwrap();
        let info = FileInfo::new(42, 7, 4);
        let written = to_safetensors(&batches, &info).unwrap();
        assert_eq!(written, to_safetensors(&batches, &info).unwrap());
        assert_eq!(from_safetensors(&written, 1).unwrap(), batches);
    }
}
