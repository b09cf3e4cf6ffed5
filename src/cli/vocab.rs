//! `bertstream vocab`: counts a corpus and writes its vocabulary.

use std::io::stdin;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ArgAction;
use serde_json::json;

use super::flags::{Preset, SourceArg, is_compressed, is_standard_input, sources_at};
use super::log;
use super::output::{Table, bytes, grouped, percent, print, seconds, share};
use super::ram::{self, RamFlag};
use super::train::cores;
use crate::corpus::{Corpus, CorpusConfig, Format, Sources, TextReader, files};
use crate::text::{Encoding, OnBadBytes};
use crate::vocab::count::{self, Built, CountConfig, Selection, Summary};
use crate::vocab::{Kind, Tokenizer};
use crate::{Error, Result, durable};

/// Words kept unless a flag says otherwise: what BERT's own vocabularies have, and an embedding matrix that
/// a small machine can train.
const DEFAULT_SIZE: usize = 30_000;

/// Beyond so many tokens the vocabulary is most of any usual model.
const HUGE: usize = 100_000;

/// Hidden size for which the summary tells the parameters that follow.
const HIDDEN: usize = 256;

/// Flags of `vocab`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// Vocabulary file to write (JSON). Without it, `--limit` only shows what there is.
    #[arg(short = 'o', long, value_name = "FILE", aliases = ["output_path", "output-path"],
          required_unless_present = "limit")]
    output: Option<PathBuf>,
    /// Most words to keep, the five special tokens not counted, or `none` [default: 30000; reference: none].
    #[arg(short = 's', long, value_name = "N", value_parser = parse_size,
          aliases = ["vocab_size", "max-size", "max_size"])]
    vocab_size: Option<Size>,
    /// What a token is: what stands between white space, or each character.
    #[arg(long, value_name = "KIND", default_value = "word")]
    tokens: Kind,
    /// A set of defaults.
    #[arg(long, value_name = "NAME", default_value = "default")]
    preset: Preset,
    /// Show the first N tokens with their counts.
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Print the summary as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Which text is counted, and with what means: for every command that counts words.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Corpus")]
pub(super) struct TextArgs {
    /// Text to count: any UTF-8 text, or another encoding by --encoding; of JSON lines the texts, of a
    /// directory its files; `-` is standard input. Several, each with this flag, are counted together.
    #[arg(short = 'c', long, value_name = "FILE", required = true, action = ArgAction::Append,
          aliases = ["corpus_path", "corpus-path"])]
    pub corpus: Vec<SourceArg>,
    /// How the text is written down [default: told from names and content].
    #[arg(long, value_name = "FORMAT")]
    pub corpus_format: Option<Format>,
    /// Field of a JSON object that holds the text of a document [default: text].
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,
    /// Leave out words seen less often.
    #[arg(short = 'm', long, value_name = "N", default_value_t = 1, alias = "min_freq")]
    pub min_freq: u64,
    /// Encoding of the corpus, by its WHATWG label (utf-8, latin1, euc-kr, shift_jis, utf-16, ...).
    #[arg(short = 'e', long, value_name = "LABEL", default_value = "utf-8")]
    pub encoding: String,
    /// What to do with bytes that are not text in that encoding: end with their place, or read them as
    /// U+FFFD and count them.
    #[arg(long, value_name = "POLICY", default_value = "error")]
    pub on_bad_bytes: OnBadBytes,
    /// Use only the first N lines.
    #[arg(long, value_name = "N", alias = "corpus_lines")]
    pub corpus_lines: Option<u64>,
    /// Threads that count [default: the number of cores]; 0 counts without any. The result is the same.
    #[arg(short = 'w', long, value_name = "N", value_parser = super::flags::workers)]
    pub workers: Option<usize>,
    #[command(flatten)]
    pub ram: RamFlag,
}

/// Memory for counted words where there is no budget. What does not fit goes to temporary files.
const MEMORY: u64 = 1 << 30;

/// What counting takes beside its tables: chunks of text, and a piece of each run on the disk while they are merged.
const BUFFERS: u64 = 12 << 20;

impl TextArgs {
    /// How these flags count tokens of a kind.
    pub fn resolve(&self, kind: Kind) -> Result<CountConfig> {
        let memory = usize::try_from(self.ram.for_counts(MEMORY, BUFFERS)?).unwrap_or(usize::MAX);
        Ok(CountConfig {
            kind,
            encoding: Encoding::for_label(&self.encoding)?,
            on_bad_bytes: self.on_bad_bytes,
            lines: self.corpus_lines,
            workers: self.workers.unwrap_or_else(cores),
            memory,
            ..CountConfig::new(std::env::temp_dir())
        })
    }

    /// Refuses an output that cannot be written, before hours are spent on counting, or that is the corpus.
    pub fn check_output(&self, output: &Path) -> Result<()> {
        check_writable(output)?;
        let inputs: Vec<&Path> = self.corpus.iter().map(|source| &*source.path).collect();
        super::flags::keep_inputs(output, &inputs)
    }

    /// The text behind these flags.
    pub fn open(&self) -> Result<Text> {
        match &self.corpus[..] {
            [one] if is_standard_input(&one.path) => match self.corpus_format {
                Some(Format::Jsonl) => {
                    Err(Error::usage("--corpus -: JSON lines are read from a file: name one"))
                }
                _ => Ok(Text::StandardInput),
            },
            [one] if files(&one.path)? == [&*one.path] && self.is_text_as_it_lies(&one.path)? => {
                Ok(Text::File(one.path.clone()))
            }
            several => {
                let over = |source: &CorpusConfig| CorpusConfig {
                    format: self.corpus_format,
                    field: self.field.clone(),
                    encoding: self.encoding.clone(),
                    lines: self.corpus_lines,
                    ..source.clone()
                };
                let sources = Sources::new(sources_at(several)?.iter().map(over).collect())?;
                Ok(Text::Documents(sources.open()?.0))
            }
        }
    }

    /// Whether what lies in a file is its text, markup apart that no word is lost or made by: all but JSON
    /// lines.
    fn is_text_as_it_lies(&self, path: &Path) -> Result<bool> {
        if let Some(format) = self.corpus_format {
            return Ok(format != Format::Jsonl && !path.is_dir());
        }
        let named = path.extension().is_some_and(|e| ["jsonl", "ndjson", "json"].iter().any(|j| e == *j));
        Ok(!named && !path.is_dir() && !is_compressed(path)?)
    }

    /// Counts by `count`, which is told how far it is as it should tell.
    pub fn counting<T>(&self, count: impl FnOnce(&(dyn Fn(u64) + Sync)) -> T) -> T {
        let files = self.corpus.iter().flat_map(|source| files(&source.path).unwrap_or_default());
        let total = files.map(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len())).sum();
        let bar = log::bar(total, "counting {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left");
        let counted = count(&|bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        counted
    }
}

/// A text to count.
pub(super) enum Text {
    /// The bytes of a file as they are.
    File(PathBuf),
    /// The bytes that come in, read once.
    StandardInput,
    /// The documents of a corpus, which are in UTF-8 whatever its files are in.
    Documents(Box<dyn Corpus>),
}

impl Text {
    /// Gives `each` every word with its count; see [`count::each_word`].
    pub fn each_word(
        &self,
        config: &CountConfig,
        progress: &(dyn Fn(u64) + Sync),
        each: impl FnMut(&str, u64),
    ) -> Result<Summary> {
        match self {
            Self::File(path) => count::each_word(path, config, progress, each),
            Self::StandardInput => count::each_word_from(stdin(), config, progress, each),
            Self::Documents(corpus) => {
                count::each_word_from(TextReader::new(&**corpus), &of_documents(config), progress, each)
            }
        }
    }

    /// The vocabulary of the text; see [`count::build`].
    pub fn build(
        &self,
        config: &CountConfig,
        selection: &Selection,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Built> {
        match self {
            Self::File(path) => count::build(path, config, selection, progress),
            Self::StandardInput => count::build_from(stdin(), config, selection, progress),
            Self::Documents(corpus) => {
                count::build_from(TextReader::new(&**corpus), &of_documents(config), selection, progress)
            }
        }
    }
}

/// How documents are counted: the corpus has decoded them, and cut them to the lines that are wanted.
pub(super) fn of_documents(config: &CountConfig) -> CountConfig {
    CountConfig { encoding: Encoding::UTF_8, lines: None, ..config.clone() }
}

/// How many words are kept at most; `None` is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size(Option<usize>);

fn parse_size(text: &str) -> Result<Size, String> {
    match text.parse() {
        Ok(0) => Err("no word at all would be kept; `none` keeps them all".into()),
        Ok(size) => Ok(Size(Some(size))),
        Err(_) if text == "none" => Ok(Size(None)),
        Err(_) => Err("neither a number nor `none`".into()),
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    let max_size = match (args.vocab_size, args.preset) {
        (Some(Size(size)), _) => size,
        (None, Preset::Default) => Some(DEFAULT_SIZE),
        (None, Preset::Reference) => None,
    };
    let config = args.text.resolve(args.tokens)?;
    if let Some(output) = &args.output {
        args.text.check_output(output)?;
    }

    let started = Instant::now();
    let text = args.text.open()?;
    let selection = Selection { max_size, min_freq: args.text.min_freq };
    let (vocabulary, summary) = args.text.counting(|progress| text.build(&config, &selection, progress))?;
    if let Some(output) = &args.output {
        vocabulary.save(output)?;
    }
    let elapsed = started.elapsed();

    for warning in warnings(&summary, vocabulary.len(), max_size) {
        tracing::warn!("{warning}");
    }
    let shown = args.limit.unwrap_or(0);
    let report = if args.json {
        report_json(&summary, vocabulary.as_ref(), elapsed, shown)
    } else {
        report_text(&summary, vocabulary.as_ref(), elapsed, shown, args.output.as_deref())
    };
    print(report)
}

/// Refuses an output that cannot be written, before hours are spent on counting.
fn check_writable(output: &Path) -> Result<()> {
    if output.is_dir() {
        return Err(Error::writing(output, std::io::ErrorKind::IsADirectory.into()));
    }
    let parent = durable::parent(output);
    if parent.exists() && !parent.is_dir() {
        return Err(Error::writing(output, std::io::ErrorKind::NotADirectory.into()));
    }
    let needed = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(parent, needed).map_err(|error| Error::writing(output, error.into()))
}

/// What somebody should know before training with this vocabulary.
fn warnings(summary: &Summary, tokens: usize, max_size: Option<usize>) -> Vec<String> {
    let mut warnings = Vec::new();
    if tokens > HUGE {
        warnings.push(format!(
            "{} tokens make an embedding of {} parameters at hidden size {HIDDEN}, and the \
             vocabulary head as many again; --vocab-size or --min-freq keeps them down",
            grouped(tokens as u64),
            grouped((tokens * HIDDEN) as u64)
        ));
    }
    if summary.kept == 0 {
        warnings.push("no word was frequent enough: every word will be unknown".into());
    } else if max_size.is_some() && share(summary.unknown, summary.words) > 0.1 {
        warnings.push(format!(
            "{} of the words are unknown; a larger --vocab-size keeps more of them",
            percent(share(summary.unknown, summary.words))
        ));
    }
    if summary.overlong > 0 {
        warnings.push(format!(
            "{} words were too long to be words and are counted as unknown; is there white space between words? \
             (--tokens char does without)",
            summary.overlong
        ));
    }
    if summary.replaced > 0 {
        warnings.push(format!("{} broken byte sequences were read as U+FFFD", summary.replaced));
    }
    warnings
}

fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / 1e6 / elapsed.as_secs_f64().max(1e-9)
}

/// The first `shown` tokens with their ids and counts.
fn first_tokens(vocabulary: &dyn Tokenizer, shown: u32) -> impl Iterator<Item = (u32, &str, u64)> {
    let counts = vocabulary.counts().unwrap_or(&[]);
    (0..shown)
        .map_while(move |id| Some((id, vocabulary.token(id)?, counts.get(id as usize).copied().unwrap_or(0))))
}

/// The tokens that were asked for, then the summary, for people.
fn report_text(
    summary: &Summary,
    vocabulary: &dyn Tokenizer,
    elapsed: Duration,
    shown: u32,
    output: Option<&Path>,
) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (id, token, count) in first_tokens(vocabulary, shown) {
        writeln!(text, "{id:>8}  {count:>12}  {token}").expect("strings grow");
    }
    let (tokens, time) = (vocabulary.len() as u64, elapsed.as_secs_f64());
    let speed = summary.bytes as f64 / time.max(1e-9);
    let mut table = Table::default();
    table.row("lines", grouped(summary.lines));
    table.row("words", grouped(summary.words));
    table.row("distinct", grouped(summary.distinct));
    table.row("kept", format!("{} (+ 5 special tokens = {} ids)", grouped(summary.kept), grouped(tokens)));
    let unknown = percent(share(summary.unknown, summary.words));
    table.row("unknown", format!("{} ({unknown} of the words)", grouped(summary.unknown)));
    table.row("read", format!("{} in {} ({}/s)", bytes(summary.bytes), seconds(time), bytes(speed as u64)));
    let embedding = grouped(tokens * HIDDEN as u64);
    table.row(
        "embedding",
        format!("{embedding} parameters at hidden size {HIDDEN}, as many again in the head"),
    );
    if summary.spilled > 0 {
        table.row("to disk", format!("{} of counts (--ram)", bytes(summary.spilled)));
    }
    if let Some(output) = output {
        table.row("written", output.display());
    }
    text + &table.to_string()
}

/// The same for scripts, on one line.
fn report_json(summary: &Summary, vocabulary: &dyn Tokenizer, elapsed: Duration, shown: u32) -> String {
    let mut report = json!(summary);
    report["tokens"] = vocabulary.len().into();
    report["unknown_rate"] = share(summary.unknown, summary.words).into();
    report["seconds"] = elapsed.as_secs_f64().into();
    report["peak_rss_bytes"] = ram::status("VmHWM:").into();
    report["mb_per_second"] = megabytes_per_second(summary.bytes, elapsed).into();
    report["embedding_parameters_at_hidden_256"] = (vocabulary.len() * HIDDEN).into();
    report["fingerprint"] = format!("{:016x}", vocabulary.fingerprint()).into();
    if shown > 0 {
        report["first"] = first_tokens(vocabulary, shown)
            .map(|(id, token, count)| json!({ "id": id, "token": token, "count": count }))
            .collect();
    }
    format!("{report}\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("vocab").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flags_of_the_reference_are_understood() {
        for line in [
            "-c a.txt -o v.json -s 100 -e cp949 -m 5",
            "--corpus_path a.txt --output_path v.json --vocab_size 100 --encoding cp949 --min_freq 5",
            "--corpus a.txt --output v.json --max-size 100 --encoding cp949 --min-freq 5",
        ] {
            let args = parse(line).unwrap();
            assert_eq!(
                (&*args.text.corpus[0].path, args.output.as_deref()),
                (Path::new("a.txt"), Some(Path::new("v.json")))
            );
            assert_eq!(
                (args.vocab_size, args.text.min_freq, &args.text.encoding[..]),
                (Some(Size(Some(100))), 5, "cp949")
            );
        }
    }

    #[test]
    fn a_size_is_a_number_or_none() {
        let check = |size: &str, expected: Result<Option<usize>, &str>| match (
            parse(&format!("-c a -o v -s {size}")),
            expected,
        ) {
            (Ok(args), Ok(size)) => assert_eq!(args.vocab_size, Some(Size(size))),
            (Err(error), Err(hint)) => assert!(error.contains(hint), "{error}"),
            (result, _) => panic!("{size}: {result:?}"),
        };
        check("8192", Ok(Some(8192)));
        check("none", Ok(None));
        check("0", Err("`none` keeps them all"));
        check("many", Err("neither a number nor `none`"));
    }

    #[test]
    fn texts_of_json_lines_and_directories_are_counted_and_not_their_markup() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir(&files).unwrap();
        std::fs::write(files.join("one.txt"), "red blue").unwrap();
        std::fs::write(files.join("two.txt"), "blue").unwrap();
        let lines = dir.path().join("lines.jsonl");
        std::fs::write(&lines, "{\"text\":\"blue green\"}\n").unwrap();
        let check = |flags: &str, expected: &[&str]| {
            let args = parse(&format!("{flags} --limit 1")).unwrap();
            let config = args.text.resolve(Kind::Word).unwrap();
            let mut words = vec![];
            let text = args.text.open().unwrap();
            text.each_word(&config, &|_| {}, |word, n| words.push(format!("{word} {n}"))).unwrap();
            assert_eq!(words, expected, "{flags}");
        };
        let (files, lines) = (files.display(), lines.display());
        check(&format!("-c {files}"), &["blue 2", "red 1"]);
        check(&format!("-c {lines}"), &["blue 1", "green 1"]);
        check(&format!("-c {files} -c {lines}"), &["blue 3", "green 1", "red 1"]);
    }

    #[test]
    fn an_output_that_cannot_be_written_is_refused_before_counting() {
        let dir = tempfile::tempdir().unwrap();
        let check = |corpus: &Path, output: &Path, expected| {
            let args = parse(&format!("-c {} -o {}", corpus.display(), output.display())).unwrap();
            assert_eq!(run(args).unwrap_err().kind().exit_code(), expected);
        };
        let file = dir.path().join("file");
        std::fs::write(&file, "a b").unwrap();
        check(&dir.path().join("none"), &dir.path().join("v.json"), 66);
        check(&dir.path().join("none.jsonl"), &dir.path().join("v.json"), 66);
        // The corpus is missing as well, but it is the output that is looked at first.
        for output in ["no/v.json", "file/v.json", ""] {
            check(&dir.path().join("none"), &dir.path().join(output), 73);
        }
    }

    #[test]
    fn what_should_be_known_is_warned_of() {
        let check = |change: &dyn Fn(&mut Summary), tokens, expected: &[&str]| {
            let mut summary = Summary { words: 100, kept: 10, ..Summary::default() };
            change(&mut summary);
            let warnings = warnings(&summary, tokens, Some(10));
            assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
            for (warning, part) in warnings.iter().zip(expected) {
                assert!(warning.contains(part), "{warning}");
            }
        };
        check(&|_| {}, 15, &[]);
        check(&|_| {}, 2_100_000, &["537,600,000 parameters"]);
        check(&|s| s.unknown = 11, 15, &["11.00 % of the words are unknown"]);
        check(&|s| s.kept = 0, 5, &["no word was frequent enough"]);
        check(&|s| (s.overlong, s.replaced) = (1, 2), 15, &["--tokens char", "2 broken"]);
    }

    #[test]
    fn reports_say_what_can_be_checked() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = dir.path().join("c.txt");
        std::fs::write(&corpus, "b b\ta\nc b\n").unwrap();
        let selection = Selection { max_size: Some(2), min_freq: 1 };
        let config = CountConfig::new(dir.path());
        let (vocabulary, summary) = count::build(&corpus, &config, &selection, &|_| {}).unwrap();
        let second = Duration::from_secs(1);

        let text = report_text(&summary, vocabulary.as_ref(), second, 6, None);
        for part in [
            "       5             3  b\n",
            "lines      2\n",
            "words      5\n",
            "1 (20.00 %",
            "1,792 parameters",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        let report: serde_json::Value =
            serde_json::from_str(&report_json(&summary, vocabulary.as_ref(), second, 7)).unwrap();
        assert_eq!(
            (&report["kept"], &report["tokens"], &report["unknown_rate"]),
            (&json!(2), &json!(7), &json!(0.2))
        );
        assert_eq!(report["first"][6], json!({ "id": 6, "token": "a", "count": 1 }));
    }
}
