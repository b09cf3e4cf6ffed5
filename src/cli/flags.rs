//! Flags that several subcommands share, and how a preset fills the ones left out.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, ValueEnum};
use tempfile::TempDir;

use crate::corpus::{Compression, Corpus, CorpusConfig, Format, Io, Sources, files, tokens};
use crate::sample::{MaskCount, MaskUnit, PairTask, SampleConfig, Shuffle, Truncate};
use crate::text::OnBadBytes;
use crate::vocab::Tokenizer;
use crate::{Error, ErrorKind, Result, durable};

/// A named set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// What trains best here.
    #[default]
    Default,
    /// Everything as `bert-pytorch` has it.
    Reference,
}

/// What to do with what is no document: a line without a tab, malformed JSON, broken bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnBadLine {
    /// End the run, naming file and line.
    #[default]
    Error,
    /// Leave it out and count it.
    Skip,
}

/// Which corpus, and how it is read.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Corpus")]
pub struct CorpusFlags {
    /// Text, a file (also gzip or zstd) or a directory of files (--corpus-format tells the formats), or a pattern
    /// in quotes, whose files are one corpus; `sample`, `collate` and `tokenize` read standard input as `-`.
    /// Several, each with this flag, are mixed; FILE:NUMBER gives each a share of the text of an epoch.
    #[arg(short = 'c', long, value_name = "FILE", required = true, action = ArgAction::Append,
          aliases = ["train_dataset", "train-dataset", "corpus_path", "corpus-path"])]
    pub corpus: Vec<SourceArg>,
    #[command(flatten)]
    pub reading: ReadingFlags,
}

impl CorpusFlags {
    /// The configuration that these flags name.
    pub fn resolve(&self) -> Result<Sources> {
        sources_at(&self.corpus).and_then(|sources| self.reading.over(&sources))
    }
}

/// A source as it is given: `FILE`, or `FILE:WEIGHT` where no file has that name.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceArg {
    pub path: PathBuf,
    pub weight: Option<f64>,
}

impl From<OsString> for SourceArg {
    fn from(given: OsString) -> Self {
        if !Path::new(&given).exists()
            && let Some((path, weight)) = given.to_str().and_then(|given| given.rsplit_once(':'))
            && !path.is_empty()
            && let Ok(weight) = weight.parse()
        {
            return Self { path: path.into(), weight: Some(weight) };
        }
        Self { path: given.into(), weight: None }
    }
}

/// The ids of a corpus, encoded before.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Corpus")]
pub struct TokensFlag {
    /// Ids of the corpus, from `bertstream tokenize` [default: the file beside it, if there is one].
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
}

impl TokensFlag {
    /// Opens sources as one corpus, with its ids where they have been encoded, and tells what was found out.
    ///
    /// # Errors
    /// Those of [`Sources::open`] and [`tokens::attach`].
    pub fn open(&self, sources: &Sources, tokenizer: &dyn Tokenizer) -> Result<(Box<dyn Corpus>, Sources)> {
        let (corpus, sources) = sources.open()?;
        let corpus = tokens::attach(corpus, &sources, self.tokens.as_deref(), tokenizer)?;
        Ok((corpus, sources))
    }
}

/// How a corpus is read, where the corpus itself may be known otherwise.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Corpus")]
pub struct ReadingFlags {
    /// How the text is written down [default: told from names and content].
    #[arg(long, value_name = "FORMAT")]
    pub corpus_format: Option<Format>,
    /// Field of a JSON object that holds the text of a document [default: text].
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,
    /// Use only the documents of the first N lines (of a directory, the first N files).
    #[arg(long, value_name = "N", alias = "corpus_lines")]
    pub corpus_lines: Option<u64>,
    /// How the corpus is reached [default: mmap].
    #[arg(long, value_name = "HOW")]
    pub io: Option<Io>,
    /// The reference's spelling of `--io memory` (true) or `--io mmap` (false).
    #[arg(long, alias = "on_memory", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set,
          conflicts_with = "io", hide = true)]
    pub on_memory: Option<bool>,
    /// Encoding of the corpus, by its WHATWG label (utf-8, latin1, euc-kr, shift_jis, utf-16le, ...)
    /// [default: utf-8].
    #[arg(long, value_name = "LABEL")]
    pub encoding: Option<String>,
    /// What to do with bytes that are not text in the encoding: `error` makes their document malformed (see
    /// --on-bad-line), `replace` reads each broken sequence as U+FFFD [default: error].
    #[arg(long, value_name = "POLICY", alias = "on_bad_bytes")]
    pub on_bad_bytes: Option<OnBadBytes>,
    /// Directory for the index; default: beside the corpus, or the user's cache directory where that
    /// cannot be written.
    #[arg(long, value_name = "DIR")]
    pub index_dir: Option<PathBuf>,
}

impl ReadingFlags {
    /// These flags over what a configuration says, of each source.
    pub fn over(&self, base: &Sources) -> Result<Sources> {
        Sources::new(base.iter().map(|source| self.over_one(source.clone())).collect())
    }

    fn over_one(&self, base: CorpusConfig) -> CorpusConfig {
        CorpusConfig {
            path: base.path,
            weight: base.weight,
            format: self.corpus_format.or(base.format),
            field: self.field.clone().or(base.field),
            io: match (self.io, self.on_memory) {
                (Some(io), _) => io,
                (None, Some(true)) => Io::Memory,
                (None, Some(false)) => Io::Mmap,
                (None, None) => base.io,
            },
            lines: self.corpus_lines.or(base.lines),
            encoding: self.encoding.clone().unwrap_or(base.encoding),
            replace_bad_bytes: self.on_bad_bytes.map_or(base.replace_bad_bytes, |p| p == OnBadBytes::Replace),
            index_dir: self.index_dir.clone().or(base.index_dir),
        }
    }
}

/// The corpus in this file, read by the defaults.
pub fn corpus_at(path: &Path) -> CorpusConfig {
    let first = files(path).ok().and_then(|files| files.into_iter().next());
    let index_dir = super::corpus::index_dir(first.as_deref().unwrap_or(path));
    CorpusConfig { index_dir, ..CorpusConfig::at(path) }
}

/// These sources, read by the defaults.
pub fn sources_at(sources: &[SourceArg]) -> Result<Sources> {
    let at = |source: &SourceArg| CorpusConfig { weight: source.weight, ..corpus_at(&source.path) };
    Sources::new(sources.iter().map(at).collect())
}

/// Most worker threads of any stage: far beyond the cores of any machine, and far below what a system
/// refuses to start midway.
const MOST_WORKERS: usize = 1024;

/// A number of worker threads.
pub fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= MOST_WORKERS => Ok(n),
        Ok(_) => Err(format!("at most {MOST_WORKERS}; the number of cores is enough")),
        Err(_) => Err("a whole number is needed".to_owned()),
    }
}

/// Most threads of the arithmetic, for the same reason.
const MOST_THREADS: usize = MOST_WORKERS;

/// A number of threads of the arithmetic.
pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 is too few: at least 1".to_owned()),
        Ok(n) if n <= MOST_THREADS => Ok(n),
        Ok(_) => Err(format!("at most {MOST_THREADS}; the number of cores is enough")),
        Err(_) => Err("a whole number is needed".to_owned()),
    }
}

/// Refuses to write over a file that is read: a slip of the hand must not cost a corpus.
pub fn keep_inputs(output: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(existing) = output.canonicalize() else { return Ok(()) };
    let inputs = inputs.iter().flat_map(|input| files(input).unwrap_or_default());
    if inputs.into_iter().any(|input| input.canonicalize().is_ok_and(|input| input == existing)) {
        return Err(Error::usage(format!(
            "--output {}: that is the file to read from, which would be lost: choose another name",
            output.display()
        )));
    }
    Ok(())
}

/// Whether `path` is how standard input is named.
pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// The sources with standard input, where it is among them, written to a file for as long as the directory lives that
/// comes with them: documents are read in any order.
///
/// # Errors
/// Those of [`keep_standard_input`], and of making a temporary directory.
pub fn spooled(sources: Sources) -> Result<(Sources, Option<TempDir>)> {
    if !sources.iter().any(|source| is_standard_input(&source.path)) {
        return Ok((sources, None));
    }
    let place = std::env::temp_dir();
    let directory = tempfile::tempdir_in(&place).map_err(|error| Error::writing(&place, error))?;
    let file = directory.path().join("standard-input.txt");
    keep_standard_input(&file)?;
    Ok((with_standard_input(sources, &file)?, Some(directory)))
}

/// Writes all of standard input to `file`.
///
/// # Errors
/// Those of reading it and of [`durable::write_stream`].
pub fn keep_standard_input(file: &Path) -> Result<()> {
    durable::write_stream(file, None, |out| {
        io::copy(&mut io::stdin().lock(), out)
            .map(|_| ())
            .map_err(|error| Error::new(ErrorKind::Io, "cannot keep standard input").caused_by(error))
    })
}

/// The sources with `file` in the place of standard input.
///
/// # Errors
/// [`ErrorKind::Usage`] where standard input is named twice.
pub fn with_standard_input(sources: Sources, file: &Path) -> Result<Sources> {
    let mut sources = sources.to_vec();
    let mut named = sources.iter_mut().filter(|source| is_standard_input(&source.path));
    if let Some(source) = named.next() {
        source.path = file.to_owned();
    }
    if named.next().is_some() {
        return Err(Error::usage("--corpus - twice: standard input can be read once"));
    }
    Sources::new(sources)
}

/// Whether a file is compressed in a way that is known. A pipe is not looked into.
pub fn is_compressed(path: &Path) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut head))
        .map_err(|error| Error::reading(path, error))?;
    Ok(Compression::of(&head).is_some())
}

/// What samples look like. Flags left out come from the preset.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Samples")]
pub struct SampleFlags {
    /// Longest sample in tokens, special tokens included [default: 128; reference: 20].
    #[arg(short = 's', long, value_name = "N", alias = "seq_len")]
    pub seq_len: Option<usize>,
    /// What is learnt of two segments: next sentence, sentence order, nothing [default: nsp].
    #[arg(long, value_name = "TASK")]
    pub pair: Option<PairTask>,
    /// Probability that a pair is a true one, or in order [default: 0.5].
    #[arg(long, value_name = "P")]
    pub next_rate: Option<f64>,
    /// Of samples filled from documents, the share that aim at a random shorter length [default: 0.1].
    #[arg(long, value_name = "P")]
    pub short_seq_prob: Option<f64>,
    /// How a pair is cut to the maximal length [default: longest; reference: cut].
    #[arg(long, value_name = "HOW")]
    pub truncate: Option<Truncate>,
    /// Order of the documents in an epoch [default: auto; reference: none].
    #[arg(long, value_name = "HOW")]
    pub shuffle: Option<Shuffle>,
    /// Documents whose samples are shuffled together, so that those of one document do not stand next to each
    /// other; 0: some 4 MB of documents, 1 for lines of two sentences [default: 0].
    #[arg(long, value_name = "N")]
    pub window: Option<u64>,
    /// Share of the tokens that are predicted [default: 0.15].
    #[arg(long, value_name = "P")]
    pub mask_rate: Option<f64>,
    /// Exactly that share (at least one token), or each token by its own coin [default: exact; reference:
    /// bernoulli].
    #[arg(long, value_name = "HOW")]
    pub mask_count: Option<MaskCount>,
    /// What is masked together [default: token].
    #[arg(long, value_name = "UNIT")]
    pub mask_unit: Option<MaskUnit>,
    /// Of the predicted tokens, the share replaced by the mask token [default: 0.8].
    #[arg(long, value_name = "P")]
    pub mask_share: Option<f64>,
    /// Of the predicted tokens, the share replaced by a random token; the rest is kept [default: 0.1].
    #[arg(long, value_name = "P")]
    pub random_share: Option<f64>,
    /// Whether words outside the vocabulary may be predicted, as <unk> [default: false; reference: true].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub predict_unknown: Option<bool>,
    /// What to do with what is no document: a line without a tab, malformed JSON, broken bytes [default:
    /// error].
    #[arg(long, value_name = "POLICY")]
    pub on_bad_line: Option<OnBadLine>,
    /// Key of all randomness: the same seed gives the same batches for any worker count [default: 42].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SampleFlags {
    /// The configuration: these flags over the preset's.
    pub fn resolve(&self, preset: Preset) -> SampleConfig {
        self.over(match preset {
            Preset::Default => SampleConfig::default(),
            Preset::Reference => SampleConfig::reference(),
        })
    }

    /// These flags over what a configuration says.
    pub fn over(&self, base: SampleConfig) -> SampleConfig {
        SampleConfig {
            seed: self.seed.unwrap_or(base.seed),
            draws: base.draws,
            seq_len: self.seq_len.unwrap_or(base.seq_len),
            pair: self.pair.unwrap_or(base.pair),
            next_rate: self.next_rate.unwrap_or(base.next_rate),
            short_rate: self.short_seq_prob.unwrap_or(base.short_rate),
            truncate: self.truncate.unwrap_or(base.truncate),
            shuffle: self.shuffle.unwrap_or(base.shuffle),
            window: self.window.unwrap_or(base.window),
            mask_rate: self.mask_rate.unwrap_or(base.mask_rate),
            mask_count: self.mask_count.unwrap_or(base.mask_count),
            mask_unit: self.mask_unit.unwrap_or(base.mask_unit),
            mask_share: self.mask_share.unwrap_or(base.mask_share),
            random_share: self.random_share.unwrap_or(base.random_share),
            predict_unknown: self.predict_unknown.unwrap_or(base.predict_unknown),
            skip_bad_lines: self.on_bad_line.map_or(base.skip_bad_lines, |p| p == OnBadLine::Skip),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        corpus: CorpusFlags,
    }

    #[test]
    fn reference_flags_of_type_bool_are_true_whatever_they_say() {
        for (flags, expected) in [
            ("--on_memory False", Io::Mmap),
            ("--on_memory false", Io::Mmap),
            ("--on_memory True", Io::Memory),
            ("--on_memory", Io::Memory),
            ("--io memory", Io::Memory),
            ("", Io::Mmap),
        ] {
            let words = format!("corpus -c a.tsv {flags}");
            let line = Line::parse_from(words.split_whitespace());
            assert_eq!(line.corpus.resolve().unwrap()[0].io, expected, "{flags}");
        }
        assert!(Line::try_parse_from(["corpus", "-c", "a.tsv", "--on_memory", "maybe"]).is_err());
    }

    #[test]
    fn a_number_behind_a_colon_is_a_weight_unless_a_file_is_called_so() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("b:2");
        std::fs::write(&there, "").unwrap();
        let there = there.to_str().unwrap();
        let check = |given: &str, path: &str, weight| {
            let expected = SourceArg { path: path.into(), weight };
            assert_eq!(SourceArg::from(OsString::from(given)), expected, "{given}");
        };
        check("a.txt", "a.txt", None);
        check("a.txt:3", "a.txt", Some(3.0));
        check("a:b.txt:0.5", "a:b.txt", Some(0.5));
        check("a:b", "a:b", None);
        check("a:", "a:", None);
        check(":3", ":3", None);
        check(there, there, None);
        check(&format!("{there}:4"), there, Some(4.0));
        for weight in ["0", "-1", "nan", "inf"] {
            let line = Line::parse_from(["corpus", "-c", &format!("a.txt:{weight}")]);
            assert_eq!(line.corpus.resolve().unwrap_err().kind().exit_code(), 2, "{weight}");
        }
        assert!(Line::try_parse_from(["corpus"]).is_err());
        let line = Line::parse_from(["corpus", "-c", "a.txt:3", "--corpus", "b.txt:1"]);
        let weights: Vec<_> = line.corpus.resolve().unwrap().iter().map(|source| source.weight).collect();
        assert_eq!(weights, [Some(3.0), Some(1.0)]);
    }
}
