//! Parameters as safetensors files: written in a stream, read strictly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::{Error, Result, durable};

/// Length and hash of a file, as a manifest keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Bytes.
    pub length: u64,
    /// XXH3-128 in 32 hexadecimal digits: against accidents, not against an adversary.
    pub xxh3: String,
}

/// A named tensor to be written.
pub struct Tensor<'t> {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: &'t [f32],
}

/// Writes the tensors in this order, in pieces, and gives the sum of the file.
pub fn write(path: &Path, tensors: &[Tensor<'_>]) -> Result<FileSum> {
    let failed = |e: std::io::Error| Error::writing(path, e);
    let mut out = Summing {
        file: BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(failed)?),
        hash: Xxh3::new(),
        length: 0,
    };
    out.put(&header(path, tensors)?).map_err(failed)?;
    let mut piece = Vec::with_capacity(4 * PIECE);
    for chunk in tensors.iter().flat_map(|t| t.values.chunks(PIECE)) {
        piece.clear();
        piece.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        out.put(&piece).map_err(failed)?;
    }
    out.file.flush().map_err(failed)?;
    Ok(FileSum { length: out.length, xxh3: format!("{:032x}", out.hash.digest128()) })
}

/// Values that are converted to bytes at once.
const PIECE: usize = 1 << 14;

/// Length prefix and JSON header, padded with blanks to 8 bytes as the format asks.
fn header(path: &Path, tensors: &[Tensor<'_>]) -> Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += 4 * tensor.values.len();
        let info = TensorInfo { dtype: Dtype::F32, shape: tensor.shape.clone(), data_offsets: (start, end) };
        (tensor.name.clone(), info)
    });
    let internal = |what: String| Error::internal(format!("checkpoint {}: {what}", path.display()));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let metadata =
        Metadata::new(Some(metadata), infos.collect()).map_err(|e| internal(format!("bad tensors: {e}")))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| internal(format!("bad header: {e}")))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}

struct Summing {
    file: BufWriter<File>,
    hash: Xxh3,
    length: u64,
}

impl Summing {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// The bytes of a file whose length and hash must be these.
pub fn read_summed(path: &Path, sum: &FileSum) -> Result<Vec<u8>> {
    let length = std::fs::metadata(path).map_err(|e| Error::reading(path, e))?.len();
    if length != sum.length {
        return Err(Error::data(format!(
            "{}: {length} bytes, its manifest says {}: truncated or replaced",
            path.display(),
            sum.length
        )));
    }
    let bytes = durable::read_at_most(path, sum.length)?;
    let hash = format!("{:032x}", xxh3_128(&bytes));
    if hash != sum.xxh3 {
        return Err(Error::data(format!(
            "{}: hash {hash}, its manifest says {}: the content changed",
            path.display(),
            sum.xxh3
        )));
    }
    Ok(bytes)
}

/// Where the values of each expected tensor go.
pub type Targets<'t> = BTreeMap<String, (Vec<usize>, &'t mut [f32])>;

/// Fills the targets from a safetensors file: exactly these names, these shapes, f32.
///
/// # Errors
/// [`crate::ErrorKind::Data`] naming the file and the tensor.
pub fn fill(path: &Path, bytes: &[u8], targets: Targets<'_>) -> Result<()> {
    let wrong = |what: String| Error::data(format!("{}: {what}", path.display()));
    let file = SafeTensors::deserialize(bytes).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
    let mut names = file.names();
    names.sort_unstable();
    if let Some(foreign) = names.into_iter().find(|&name| !targets.contains_key(name)) {
        return Err(wrong(format!("tensor {foreign} has no place in this model")));
    }
    for (name, (shape, values)) in targets {
        let view = file.tensor(&name).map_err(|_| wrong(format!("tensor {name} is missing")))?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(wrong(format!(
                "tensor {name} is {:?} {:?}, the model's is F32 {shape:?}",
                view.dtype(),
                view.shape()
            )));
        }
        for (value, bytes) in values.iter_mut().zip(view.data().as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_strict() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("t.safetensors");
        let tensor = |name: &str, shape: &[usize], values| Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values,
        };
        let values = [1.0, -2.5, f32::MIN_POSITIVE, 4.0, 5.0, 6.0];
        let sum =
            write(&path, &[tensor("a", &[2, 2], &values[..4]), tensor("b", &[2], &values[4..])]).unwrap();
        let bytes = read_summed(&path, &sum).unwrap();
        let check = |expected: &[(&str, &[usize])], objection: Option<&str>| {
            let mut column = vec![0.0; 6];
            let mut rest = &mut column[..];
            let mut targets = Targets::new();
            for (name, shape) in expected {
                let (values, tail) = rest.split_at_mut(shape.iter().product());
                targets.insert((*name).to_owned(), (shape.to_vec(), values));
                rest = tail;
            }
            match (fill(&path, &bytes, targets), objection) {
                (Ok(()), None) => assert_eq!(column, values),
                (Err(error), Some(objection)) => {
                    assert!(error.to_string().contains(objection), "{error} lacks {objection}");
                }
                (result, objection) => panic!("{result:?} where {objection:?} was expected"),
            }
        };
        check(&[("a", &[2, 2]), ("b", &[2])], None);
        check(&[("a", &[2, 2])], Some("tensor b has no place"));
        check(&[("a", &[4]), ("b", &[2])], Some("tensor a is F32 [2, 2], the model's is F32 [4]"));
        check(&[("a", &[2]), ("b", &[2]), ("c", &[1])], Some("tensor a is F32 [2, 2]"));
        check(&[("a", &[2, 2]), ("b", &[1]), ("c", &[1])], Some("tensor b"));
        check(&[("a", &[2, 2]), ("b", &[2]), ("c", &[0])], Some("tensor c is missing"));
    }
}
