//! `bertstream bench step`: whole training steps, on a made-up batch.

use std::collections::BTreeSet;
use std::time::Instant;

use super::super::output::print;
use super::super::train::ComputeFlags;
use super::peak_rss_bytes;
use crate::collate::HostBatch;
use crate::model::{Arch, Init, Layout, ModelConfig, Optimizer, Pass, Update, published_positions};
use crate::train::engine;
use crate::train::probe::full_batch;
use crate::{Error, Result};

/// Flags of `bench step`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Architecture.
    #[arg(long, value_name = "NAME", default_value = "reference")]
    arch: Arch,
    /// Width of the residual stream.
    #[arg(long, value_name = "N", default_value_t = 256)]
    hidden: usize,
    /// Transformer blocks.
    #[arg(short, long, value_name = "N", default_value_t = 8)]
    layers: usize,
    /// Attention heads.
    #[arg(short, long, value_name = "N", default_value_t = 8)]
    attn_heads: usize,
    /// Tokens in the vocabulary.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    vocab_size: usize,
    /// Rows of a batch.
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Tokens of every row: no padding.
    #[arg(short, long, value_name = "N", default_value_t = 20)]
    seq_len: usize,
    /// Dropout rate.
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    dropout: f32,
    #[command(flatten)]
    compute: ComputeFlags,
    /// Steps that are timed, after two that are not.
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let config = ModelConfig {
        arch: args.arch,
        vocab_size: args.vocab_size,
        hidden: args.hidden,
        layers: args.layers,
        heads: args.attn_heads,
        dropout: args.dropout,
        init: Init::Bert,
        max_positions: published_positions().max(args.seq_len),
    };
    config.check()?;
    if args.seq_len < 4 || args.batch_size == 0 || args.vocab_size < 8 || args.steps == 0 {
        return Err(Error::usage("--seq-len from 4, --vocab-size from 8, --batch-size and --steps from 1"));
    }
    let (compute, threads) = args.compute.over(None)?;
    let weights = Layout::new(&config).initial_weights(1);
    let parameters = weights.len();
    let mut engine = engine::build(compute, &config, Optimizer::default(), weights, threads)?;
    let batch = full_batch(args.batch_size, args.seq_len, args.vocab_size);
    let mut seconds = vec![];
    for step in 1..=args.steps + 2 {
        let start = Instant::now();
        let pass = Pass {
            seed: 1,
            step,
            first_row: 0,
            masked_in_step: batch.masked.len(),
            pairs_in_step: batch.rows,
        };
        engine.accumulate(&batch, &pass)?;
        engine.update(&Update { step, lr: 1e-4, clip: Some(1.0) })?;
        if step > 2 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = batch.tokens();
    let gflops = products_of_a_step(&config, &batch) / median / 1e9;
    let rss = peak_rss_bytes()?;
    if args.json {
        let line = serde_json::json!({
            "seconds_per_step": median,
            "seconds_per_step_min": seconds[0],
            "tokens_per_second": tokens as f64 / median,
            "gflops": gflops,
            "peak_rss_bytes": rss,
            "parameters": parameters,
            "device": compute.device,
            "precision": compute.precision,
            "products": compute.products(),
            "threads": threads,
            "steps": args.steps,
        });
        print(line)?;
    } else {
        print(format_args!(
            "{:.4} s a step (median of {}, least {:.4}), {:.0} tokens/s, {gflops:.0} GFLOP/s in products ({}), {} \
             parameters, {threads} threads, {:.0} MiB at most",
            median,
            args.steps,
            seconds[0],
            tokens as f64 / median,
            compute.products(),
            parameters,
            rss as f64 / 1048576.0
        ))?;
    }
    Ok(())
}

/// Floating-point operations of a step's matrix products: forward once, backward twice as many; attention's
/// recomputed scores are not counted, nor what the last block leaves out because nobody predicts from it.
fn products_of_a_step(config: &ModelConfig, batch: &HostBatch) -> f64 {
    let (h, tokens) = (config.hidden as f64, batch.tokens() as f64);
    let squares: f64 = batch.lengths.iter().map(|&n| f64::from(n) * f64::from(n)).sum();
    let firsts = (0..batch.samples()).map(|sample| batch.start(sample) as u32);
    let predicted = batch.masked.iter().copied().chain(firsts).collect::<BTreeSet<_>>().len() as f64;
    let block =
        |behind_attention: f64| 2.0 * h * h * (3.0 * tokens + 9.0 * behind_attention) + 4.0 * h * squares;
    let blocks = (config.layers - 1) as f64 * block(tokens) + block(predicted);
    let head = 2.0 * h * config.vocab_size as f64 * batch.masked.len() as f64;
    3.0 * (blocks + head)
}
