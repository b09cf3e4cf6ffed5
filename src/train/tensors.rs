//! Parameters as safetensors files: written in a stream, read strictly.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use super::config::hex;
use crate::durable;
use crate::{Error, Result};

/// Length and hash of a file, as a manifest keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Bytes.
    pub length: u64,
    /// XXH3-128 in 32 hexadecimal digits: against accidents, not against an adversary.
    pub xxh3: String,
    /// XXH3-64 in 16 digits of the header, and of the bytes of each tensor, to tell which one was damaged; none in
    /// checkpoints of before they were kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub header: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensors: BTreeMap<String, String>,
}

/// A named tensor to be written.
pub struct Tensor<'t> {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: &'t [f32],
}

/// Bytes of the file of these tensors, which errors call `path`.
pub fn size(path: &Path, tensors: &[Tensor<'_>]) -> Result<u64> {
    let values: usize = tensors.iter().map(|tensor| tensor.values.len()).sum();
    Ok((header(path, tensors)?.len() + 4 * values) as u64)
}

/// Writes the tensors in this order, in pieces, and gives the sum of the file, which errors call `path`.
pub fn write(out: &mut dyn Write, path: &Path, tensors: &[Tensor<'_>]) -> Result<FileSum> {
    let needed = size(path, tensors)?;
    let failed = |e: std::io::Error| durable::failed_write(path, Some(needed), e);
    let mut out = Summing { out, hash: Xxh3::new(), length: 0 };
    let header = header(path, tensors)?;
    out.put(&header).map_err(failed)?;
    let mut piece = Vec::with_capacity(4 * PIECE);
    let mut sums = BTreeMap::new();
    for tensor in tensors {
        let mut sum = Xxh3::new();
        for chunk in tensor.values.chunks(PIECE) {
            piece.clear();
            piece.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
            sum.update(&piece);
            out.put(&piece).map_err(failed)?;
        }
        sums.insert(tensor.name.clone(), hex(sum.digest()));
    }
    Ok(FileSum {
        length: out.length,
        xxh3: format!("{:032x}", out.hash.digest128()),
        header: hex(xxh3_64(&header)),
        tensors: sums,
    })
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

struct Summing<'w> {
    out: &'w mut dyn Write,
    hash: Xxh3,
    length: u64,
}

impl Summing<'_> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Refuses bytes whose length and hash are not these. Of a longer file one byte more is enough; errors call it `path`.
pub fn verify(path: &Path, bytes: &[u8], sum: &FileSum) -> Result<()> {
    let length = bytes.len() as u64;
    if length != sum.length {
        let more = if length > sum.length { "more than " } else { "" };
        return Err(Error::data(format!(
            "{}: {more}{} bytes, its manifest says {}: truncated or replaced{}",
            path.display(),
            length.min(sum.length),
            sum.length,
            damaged(bytes, sum)
        )));
    }
    let hash = format!("{:032x}", xxh3_128(bytes));
    if hash != sum.xxh3 {
        return Err(Error::data(format!(
            "{}: hash {hash}, its manifest says {}: the content changed{}",
            path.display(),
            sum.xxh3,
            damaged(bytes, sum)
        )));
    }
    Ok(())
}

/// `, in tensor NAME`: which part of a file is not what its manifest says; nothing where that does not tell.
fn damaged(bytes: &[u8], sum: &FileSum) -> String {
    if sum.tensors.is_empty() {
        return String::new();
    }
    let header = || {
        let length = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
        let data = usize::try_from(length).ok()?.checked_add(8)?;
        let header = bytes.get(..data).filter(|header| hex(xxh3_64(header)) == sum.header)?;
        Some((serde_json::from_slice::<Metadata>(&header[8..]).ok()?, data))
    };
    let Some((metadata, data)) = header() else { return ", in its header".to_owned() };
    let differs = |name: &String| {
        let range = metadata.info(name).map(|info| info.data_offsets);
        let found = range.and_then(|(from, to)| bytes.get(data.checked_add(from)?..data.checked_add(to)?));
        found.map(|found| hex(xxh3_64(found))).as_ref() != sum.tensors.get(name)
    };
    let names: Vec<String> = metadata.offset_keys().into_iter().filter(differs).collect();
    match &names[..] {
        [] => ", behind its tensors".to_owned(),
        [only] => format!(", in tensor {only}"),
        [first, others @ ..] => format!(", in tensor {first} and {} more", others.len()),
    }
}

/// Where the values of each expected tensor go.
pub type Targets<'t> = BTreeMap<String, (Vec<usize>, &'t mut [f32])>;

/// Fills the targets from a safetensors file: exactly these names, these shapes, f32, every value finite.
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
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(wrong(format!("tensor {name} holds {} at {at}", values[at])));
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
        let tensors = [tensor("a", &[2, 2], &values[..4]), tensor("b", &[2], &values[4..])];
        let sum = write(&mut std::fs::File::create(&path).unwrap(), &path, &tensors).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        verify(&path, &bytes, &sum).unwrap();
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

    /// Behind a manifest's hash none of this can stand; a file that somebody made may hold anything.
    #[test]
    fn what_is_no_sound_file_of_tensors_is_refused() {
        let header =
            |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[0; 16]].concat();
        let of = |name: &str, dtype: &str, shape: &str, range: &str| {
            format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{range}}}")
        };
        let file = |tensors: &[String]| header(&format!("{{{}}}", tensors.join(",")));
        let check = |what: &str, bytes: Vec<u8>, objection: Option<&str>| {
            let mut column = [7.0; 4];
            let (a, b) = column.split_at_mut(2);
            let targets = Targets::from([("a".to_owned(), (vec![2], a)), ("b".to_owned(), (vec![2], b))]);
            match (fill(Path::new("t.safetensors"), &bytes, targets), objection) {
                (Ok(()), None) => {}
                (Err(error), Some(objection)) => {
                    let error = error.to_string();
                    assert!(error.contains(objection) && error.contains("t.safetensors"), "{what}: {error}");
                }
                (result, _) => panic!("{what}: {result:?}"),
            }
        };
        let (a, b) = (of("a", "F32", "[2]", "[0,8]"), of("b", "F32", "[2]", "[8,16]"));
        let good = file(&[a.clone(), b.clone()]);
        check("sound", good.clone(), None);
        let unsound = Some("not a safetensors file");
        check("nothing", vec![], unsound);
        check("cut", good[..good.len() - 1].to_vec(), unsound);
        check("longer", [&good[..], &[0; 4]].concat(), unsound);
        check("a bomb", [&u64::MAX.to_le_bytes()[..], &good[8..]].concat(), unsound);
        check("another bomb", [&(1u64 << 40).to_le_bytes()[..], &good[8..]].concat(), unsound);
        check("an overlap", file(&[a.clone(), of("b", "F32", "[2]", "[0,8]")]), unsound);
        check("a hole", file(&[of("a", "F32", "[1]", "[0,4]"), b.clone()]), unsound);
        check("backwards", file(&[a.clone(), of("b", "F32", "[2]", "[16,8]")]), unsound);
        check("behind the end", file(&[a.clone(), of("b", "F32", "[4]", "[8,24]")]), unsound);
        check(
            "a shape without bounds",
            file(&[a.clone(), of("b", "F32", "[9223372036854775807,9]", "[8,16]")]),
            unsound,
        );
        check("another type", file(&[a.clone(), of("b", "I32", "[2]", "[8,16]")]), Some("tensor b is I32"));
        check(
            "another shape",
            file(&[a.clone(), of("b", "F32", "[2,1]", "[8,16]")]),
            Some("tensor b is F32 [2, 1]"),
        );
        check(
            "another name",
            file(&[a.clone(), of("c", "F32", "[2]", "[8,16]")]),
            Some("tensor c has no place"),
        );
        check("one missing", file(&[of("a", "F32", "[4]", "[0,16]")]), Some("tensor a is F32 [4]"));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bytes = good.clone();
            let at = bytes.len() - 4;
            bytes[at..].copy_from_slice(&value.to_le_bytes());
            check("not finite", bytes, Some("tensor b holds"));
        }
    }
}
