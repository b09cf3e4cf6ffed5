//! `bertstream tokenize`: the ids of a corpus, encoded once and kept in a file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::flags::{CorpusFlags, is_standard_input, keep_inputs, keep_standard_input, with_standard_input};
use super::log;
use super::output::{Table, bytes, grouped, print, seconds};
use super::ram::RamFlag;
use super::train::cores;
use crate::corpus::Shape;
use crate::corpus::tokens::{BLOCK_TEXT, Header, Writer, beside};
use crate::pipeline::encode_blocks;
use crate::{Error, Result, vocab};

/// Flags of `tokenize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Vocabulary file, or a tokenizer.
    #[arg(short = 'v', long, value_name = "FILE", aliases = ["vocab_path", "vocab-path"])]
    vocab: PathBuf,
    /// File to write [default: beside the corpus, where every command finds it by itself].
    #[arg(short = 'o', long, value_name = "FILE", aliases = ["output_path", "output-path"])]
    output: Option<PathBuf>,
    /// Threads that encode; 0 encodes without any [default: the number of cores]. The file is the same.
    #[arg(short = 'w', long, value_name = "N", aliases = ["num_workers", "num-workers"],
          value_parser = super::flags::workers)]
    workers: Option<usize>,
    /// Print the summary as one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ram: RamFlag,
    #[command(flatten)]
    corpus: CorpusFlags,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    let tokenizer = vocab::load(&args.vocab)?;
    let mut sources = args.corpus.resolve()?;
    let mut kept_text = None;
    if sources.iter().any(|source| is_standard_input(&source.path)) {
        let Some(output) = &args.output else {
            return Err(Error::usage("--corpus - needs --output: there is no file to put the ids beside"));
        };
        let text = kept_beside(output);
        if text.exists() {
            return Err(Error::writing(&text, io::ErrorKind::AlreadyExists.into()));
        }
        keep_standard_input(&text)?;
        sources = with_standard_input(sources, &text)?;
        kept_text = Some(text);
    }
    args.ram.refuse(&sources)?;
    let (corpus, sources) = sources.open()?;
    if corpus.shape() == Shape::Samples {
        return Err(Error::usage(format!("corpus {sources}: samples have their ids already")));
    }
    let output = args.output.map_or_else(|| beside(&sources, &*tokenizer), Ok)?;
    let inputs: Vec<&Path> = sources.iter().map(|source| &*source.path).chain([&*args.vocab]).collect();
    keep_inputs(&output, &inputs)?;

    let started = Instant::now();
    let header = Header::new(&*corpus, &*tokenizer);
    let mut writer = Writer::open(&output, &header)?;
    let first = writer.blocks_done();
    let kept = header.documents_of(first).start.min(header.documents());
    let bar =
        log::bar(header.documents(), "encoding {wide_bar} {pos}/{len} documents, {per_sec}, {eta} left");
    bar.set_position(kept);
    let (mut tokens, mut malformed) = (0, 0);
    let workers = args.ram.encoders(&*tokenizer, BLOCK_TEXT, args.workers.unwrap_or_else(cores))?;
    encode_blocks(&*corpus, &*tokenizer, &header, first, workers, |block| {
        tokens += block.tokens;
        malformed += block.malformed;
        writer.push(&block)?;
        bar.inc(block.documents);
        Ok(())
    })?;
    let size = writer.finish()?;
    bar.finish_and_clear();

    let elapsed = started.elapsed().as_secs_f64();
    if args.json {
        return print(json!({
            "output": output,
            "documents": header.documents() - kept,
            "malformed": malformed,
            "kept": kept,
            "tokens": tokens,
            "bytes": corpus.bytes(),
            "written_bytes": size,
            "seconds": elapsed,
        }));
    }
    let mut table = Table::default();
    table.row(
        "documents",
        format!("{} ({} malformed)", grouped(header.documents() - kept), grouped(malformed)),
    );
    if kept > 0 {
        table.row("kept", format!("{} documents of an interrupted run", grouped(kept)));
    }
    table.row("tokens", format!("{} in {}", grouped(tokens), seconds(elapsed)));
    table.row(
        "written",
        format!("{} ({} for {} of text)", output.display(), bytes(size), bytes(corpus.bytes())),
    );
    if let Some(text) = kept_text {
        let (text, output) = (text.display(), output.display());
        table.row("text", format!("{text}: name both, --corpus {text} --tokens {output}"));
    }
    print(table)
}

/// Where the text of standard input is kept, which goes with the ids: `wiki.bstok` has it in `wiki.bstok.txt`.
fn kept_beside(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".txt");
    name.into()
}
