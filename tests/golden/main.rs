//! The engines against numbers of the reference implementations in PyTorch (`fixtures/golden`).
//!
//! An error is the largest difference within a tensor over its largest value (`relative_error`). Run with
//! `--nocapture` to see what is reached.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/distance.rs"]
mod distance;

mod bert;
mod bf16;
mod file;
mod reference;

use bertstream::model::Layout;
use common::relative_error;

/// What is promised; what is reached is printed.
const TOLERANCE: f64 = 1e-4;

/// Compares and prints; a column of one value serves for a number.
fn check(what: &str, actual: &[f32], expected: &[f32]) {
    let error = relative_error(actual, expected);
    println!("{what}: {error:.1e}");
    assert!(error < TOLERANCE, "{what}: relative error {error:e}");
}

/// Compares parameter by parameter and prints the worst.
fn check_column(what: &str, layout: &Layout, actual: &[f32], expected: &[f32]) {
    let errors = layout.parameters().iter().map(|parameter| {
        let range = parameter.range.clone();
        (relative_error(&actual[range.clone()], &expected[range]), &parameter.name)
    });
    let (error, worst) = errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    println!("{what}: {error:.1e}, worst {worst}");
    assert!(error < TOLERANCE, "{what}: relative error {error:e} of {worst}");
}
