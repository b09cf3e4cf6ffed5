//! `bertstream bench product`: a matrix product by itself, on every thread at once.

use std::time::Instant;

use super::super::output::print;
use super::super::train::cores;
use crate::model::{FusedEngine, Precision, Products};
use crate::{Error, Result};

/// Flags of `bench product`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rows of the left operand.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    rows: usize,
    /// Columns of the right operand.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    columns: usize,
    /// Columns of the left operand, which are the rows of the right one.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    depth: usize,
    /// What it computes in.
    #[arg(long, value_name = "NAME", default_value = "f32")]
    precision: Precision,
    /// Threads, each with a product of its own; 0 takes all cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Products of each thread that are timed, after two that are not.
    #[arg(long, value_name = "N", default_value_t = 20)]
    times: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Largest side of an operand: such a product takes some minutes and gigabytes.
const LARGEST: usize = 32_768;

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let shape = [args.rows, args.columns, args.depth];
    if shape.iter().any(|side| !(1..=LARGEST).contains(side)) || args.times == 0 {
        return Err(Error::usage(format!(
            "--rows, --columns and --depth from 1 to {LARGEST}, --times from 1"
        )));
    }
    let threads = match args.threads {
        0 => cores(),
        n => n,
    };
    let mut products = Products::new(shape, args.precision, threads)?;
    let mut seconds = vec![];
    for time in 0..args.times + 2 {
        let start = Instant::now();
        products.run();
        if time >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let gflops = products.operations() / median / 1e9;
    let name = FusedEngine::products(args.precision);
    if args.json {
        print(serde_json::json!({
            "gflops": gflops,
            "seconds": median,
            "rows": args.rows,
            "columns": args.columns,
            "depth": args.depth,
            "precision": args.precision,
            "products": name,
            "threads": threads,
        }))
    } else {
        print(format_args!(
            "{gflops:.0} GFLOP/s ({name}, {} x {} x {}, {threads} threads, median of {})",
            args.rows, args.columns, args.depth, args.times
        ))
    }
}
