//! How the stages are put together: corpus, sample builders, collator, threads.

use crate::Result;
use crate::collate::{CollateConfig, HostBatch};
use crate::corpus::Corpus;
use crate::sample::{Cursor, SampleConfig, Samples};
use crate::vocab::Tokenizer;

/// The parts of a pipeline; running it borrows them.
#[derive(Clone, Copy)]
pub struct Plan<'p> {
    pub corpus: &'p dyn Corpus,
    pub tokenizer: &'p dyn Tokenizer,
    pub sample: &'p SampleConfig,
    /// Threads that build samples; 0 builds them on the caller's thread.
    pub workers: usize,
}

impl<'p> Plan<'p> {
    /// Gives `consume` the samples from `start` to the end of epoch `epochs - 1`, in order, unit by unit.
    pub fn samples<R>(
        &self,
        _start: Cursor,
        _epochs: u64,
        _consume: impl FnOnce(&mut dyn Iterator<Item = Result<Samples>>) -> Result<R>,
    ) -> Result<R> {
        Err(crate::Error::internal("no pipeline yet"))
    }

    /// Gives `consume` the batches from `start` to the end of epoch `epochs - 1`, in order. No batch
    /// crosses an epoch's end.
    pub fn batches<R>(
        &self,
        _collate: &CollateConfig,
        _start: Cursor,
        _epochs: u64,
        _consume: impl FnOnce(&mut dyn Iterator<Item = Result<HostBatch>>) -> Result<R>,
    ) -> Result<R> {
        Err(crate::Error::internal("no pipeline yet"))
    }
}
