//! `bertstream embed`: lines in, a vector for each out.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::output::{Printer, grouped, tell};
use super::train::ComputeFlags;
use super::trained::Trained;
use crate::collate::HostBatch;
use crate::train::run_dir::Which;
use crate::{Error, Result, durable};

/// Flags of `embed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of a run, or of a model of transformers.
    #[arg(value_name = "RUN|DIR")]
    model: PathBuf,
    /// A text a line; `-`: stdin.
    #[arg(value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// What becomes of the last layer's vectors of a text's tokens.
    #[arg(long, value_name = "HOW", default_value = "mean")]
    pool: Pool,
    /// What is written.
    #[arg(long, value_name = "NAME", default_value = "jsonl")]
    format: Format,
    /// File to write [default: stdout, for jsonl alone].
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Of a run: best, latest or a step.
    #[arg(long, value_name = "WHICH", default_value = "latest")]
    checkpoint: Which,
    /// The vocabulary [default: the model's own].
    #[arg(short = 'v', long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeFlags,
}

/// How a text's vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pool {
    /// The classification token's.
    First,
    /// The mean over all its tokens, those around it included, as sentence-transformers has it.
    Mean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One array of NumPy, float32 `(lines, width)`.
    Npy,
    /// A JSON array a line.
    Jsonl,
}

/// Texts of one batch.
const AT_ONCE: usize = 64;

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    if args.format == Format::Npy && args.output.is_none() {
        return Err(Error::usage("--format npy needs --output FILE: it is no text for a terminal"));
    }
    if let Some(output) = &args.output {
        super::flags::keep_inputs(output, &[&args.input])?;
    }
    let mut trained = Trained::open(&args.model, args.checkpoint, args.vocab.as_deref(), &args.compute)?;
    let mut embedder = Embedder { trained: &mut trained, pool: args.pool, lines: 0, truncated: 0 };
    match (&args.output, args.format) {
        (Some(output), Format::Npy) => {
            let input = Input::open_twice(&args.input)?;
            let lines = Lines::of(input.reader()?, &args.input)
                .map(|line| line.map(|_| ()))
                .collect::<Result<Vec<()>>>()?
                .len();
            let header = npy_header(lines, embedder.trained.model.hidden);
            let needed = header.len() + 4 * lines * embedder.trained.model.hidden;
            durable::write_stream(output, Some(needed as u64), |out| {
                let put = |out: &mut dyn Write, bytes: &[u8]| {
                    out.write_all(bytes).map_err(|e| durable::failed_write(output, Some(needed as u64), e))
                };
                put(out, &header)?;
                embedder.all(Lines::of(input.reader()?, &args.input), |vector| {
                    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                    put(out, &bytes)
                })?;
                match embedder.lines == lines {
                    true => Ok(()),
                    false => {
                        Err(Error::data(format!("{}: it changed while it was read", args.input.display())))
                    }
                }
            })?;
        }
        (Some(output), Format::Jsonl) => {
            let input = Lines::of(Input::open(&args.input)?, &args.input);
            durable::write_stream(output, None, |out| {
                embedder.all(input, |vector| {
                    writeln!(out, "{}", json(vector)).map_err(|e| durable::failed_write(output, None, e))
                })
            })?;
        }
        (None, _) => {
            let input = Lines::of(Input::open(&args.input)?, &args.input);
            let mut printer = Printer::new();
            embedder.all(input, |vector| printer.line(json(vector)))?;
            printer.finish()?;
        }
    }
    let Embedder { lines, truncated, .. } = embedder;
    if truncated > 0 {
        tell(format_args!(
            "{} of {} lines were longer than the model's {} tokens and were cut",
            grouped(truncated as u64),
            grouped(lines as u64),
            trained.longest()
        ));
    }
    Ok(())
}

fn json(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// The header of NumPy's format 1.0 for float32 `(rows, width)`, padded to a multiple of 64 bytes.
fn npy_header(rows: usize, width: usize) -> Vec<u8> {
    const FRONT: usize = 10;
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let length = (FRONT + text.len() + 1).next_multiple_of(64) - FRONT;
    text = format!("{text:<width$}\n", width = length - 1);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(text.bytes());
    bytes
}

/// Vectors of lines, a batch at a time.
struct Embedder<'t> {
    trained: &'t mut Trained,
    pool: Pool,
    /// Lines so far, and how many of them were cut.
    lines: usize,
    truncated: usize,
}

impl Embedder<'_> {
    /// Gives the vector of each line to `put`, in order.
    fn all(
        &mut self,
        lines: impl Iterator<Item = Result<String>>,
        mut put: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut rows = Vec::with_capacity(AT_ONCE);
        for line in lines {
            rows.push(self.ids(&line?));
            if rows.len() == AT_ONCE {
                self.batch(&rows, &mut put)?;
                rows.clear();
            }
        }
        if rows.is_empty() { Ok(()) } else { self.batch(&rows, &mut put) }
    }

    /// The ids of a line, cut to what the model reads; the separator stays at the end.
    fn ids(&mut self, line: &str) -> Vec<u32> {
        let mut ids = self.trained.encode(line);
        let most = self.trained.longest();
        self.lines += 1;
        if ids.len() > most {
            self.truncated += 1;
            ids.truncate(most);
            ids[most - 1] = self.trained.tokenizer.specials().separator;
        }
        ids
    }

    fn batch(&mut self, rows: &[Vec<u32>], put: &mut impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let batch = HostBatch { masked: vec![], labels: vec![], ..self.trained.batch(rows) };
        let hidden = self.trained.engine.encode(&batch)?;
        let width = self.trained.model.hidden;
        for sample in 0..batch.samples() {
            let span = batch.span(sample);
            put(&pooled(self.pool, &hidden[span.start * width..span.end * width], width))?;
        }
        Ok(())
    }
}

/// One vector of the vectors `(tokens, width)`.
fn pooled(pool: Pool, vectors: &[f32], width: usize) -> Vec<f32> {
    match pool {
        Pool::First => vectors[..width].to_vec(),
        Pool::Mean => {
            let tokens = vectors.len() / width;
            let mut sums = vec![0f64; width];
            for vector in vectors.chunks_exact(width) {
                sums.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            sums.into_iter().map(|sum| (sum / tokens as f64) as f32).collect()
        }
    }
}

/// Text that can be read twice: a file, or all of stdin.
enum Input {
    File(PathBuf),
    Memory(Vec<u8>),
}

impl Input {
    /// For reading once.
    fn open(path: &Path) -> Result<Box<dyn BufRead>> {
        match path == Path::new("-") {
            true => Ok(Box::new(BufReader::new(std::io::stdin()))),
            false => Ok(Box::new(BufReader::new(File::open(path).map_err(|e| Error::reading(path, e))?))),
        }
    }

    fn open_twice(path: &Path) -> Result<Self> {
        if path != Path::new("-") {
            return Ok(Self::File(path.to_owned()));
        }
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(|e| Error::reading(path, e))?;
        Ok(Self::Memory(bytes))
    }

    fn reader(&self) -> Result<Box<dyn BufRead + '_>> {
        match self {
            Self::File(path) => Self::open(path).map(|reader| reader as Box<dyn BufRead>),
            Self::Memory(bytes) => Ok(Box::new(Cursor::new(bytes))),
        }
    }
}

/// Lines of UTF-8 without their ends, a byte order mark at the very beginning left out.
struct Lines<'r> {
    reader: Box<dyn BufRead + 'r>,
    name: String,
    line: u64,
}

impl<'r> Lines<'r> {
    fn of(reader: Box<dyn BufRead + 'r>, path: &Path) -> Self {
        Self { reader, name: path.display().to_string(), line: 0 }
    }
}

/// Most bytes of a line.
const MOST_OF_A_LINE: u64 = 64 << 20;

impl Iterator for Lines<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        let wrong = |line: u64, what: &str| Error::data(format!("{}: line {line}: {what}", self.name));
        if let Err(error) = self.reader.by_ref().take(MOST_OF_A_LINE + 1).read_until(b'\n', &mut bytes) {
            return Some(Err(Error::reading(Path::new(&self.name), error)));
        }
        if bytes.is_empty() {
            return None;
        }
        self.line += 1;
        if bytes.len() as u64 > MOST_OF_A_LINE {
            return Some(Err(wrong(self.line, "longer than 64 MiB")));
        }
        let mut text = &bytes[..];
        text = text.strip_suffix(b"\n").unwrap_or(text);
        text = text.strip_suffix(b"\r").unwrap_or(text);
        if self.line == 1 {
            text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        }
        let decoded = std::str::from_utf8(text).map(str::to_owned);
        Some(decoded.map_err(|_| wrong(self.line, "invalid UTF-8")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_numpy_reads() {
        let header = npy_header(3, 128);
        assert_eq!(header.len() % 64, 0);
        assert_eq!(&header[..8], b"\x93NUMPY\x01\x00");
        assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
        assert!(header.ends_with(b" \n"));
        let text = String::from_utf8(header[10..].to_vec()).unwrap();
        assert_eq!(text.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 128), }");
    }

    #[test]
    fn pooling_takes_the_first_or_the_mean() {
        let vectors = [1.0, 2.0, 3.0, 6.0];
        assert_eq!(pooled(Pool::First, &vectors, 2), [1.0, 2.0]);
        assert_eq!(pooled(Pool::Mean, &vectors, 2), [2.0, 4.0]);
    }

    #[test]
    fn lines_are_counted_as_an_editor_does() {
        let check = |bytes: &[u8], expected: &[&str]| {
            let lines: Result<Vec<String>> = Lines::of(Box::new(bytes), Path::new("-")).collect();
            assert_eq!(lines.unwrap(), expected);
        };
        check(b"", &[]);
        check(b"a\nb", &["a", "b"]);
        check(b"a\r\n\nb\n", &["a", "", "b"]);
        check("\u{feff}a\n\u{feff}b".as_bytes(), &["a", "\u{feff}b"]);
        let error = Lines::of(Box::new(&b"a\n\xff\n"[..]), Path::new("f")).nth(1).unwrap().unwrap_err();
        assert_eq!(error.to_string(), "f: line 2: invalid UTF-8");
    }
}
