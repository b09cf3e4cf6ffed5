//! How the stages are put together: corpus, sample builders, collator, threads.
//!
//! An epoch is every position of its order once, cut into units; a unit is what a worker builds at a time.
//! Samples and batches are the same, in the same order, for any number of workers, from any cursor on.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::collate::{self, CollateConfig, Collator, HostBatch};
use crate::corpus::tokens::{self, Block};
use crate::corpus::{self, Corpus};
use crate::flow::{
    self, FlowReport, StageReport, StageStats, StageSums, Wanted, ordered_map, prefetch, unordered_map,
};
use crate::sample::{self, Cursor, EpochOrder, SampleBuilder, SampleConfig, Samples, Shuffle, Unit};
use crate::vocab::Tokenizer;
use crate::{Error, ErrorKind, Result};

/// Most positions of a unit, and about its text in bytes. A sample takes some microseconds and a ticket about
/// one, so that so much text makes the threads cost next to nothing, while a resumed run waits for some
/// milliseconds. A unit ends where a window does, however much that is.
const POSITIONS_PER_UNIT: u64 = 64;
const BYTES_PER_UNIT: u64 = 64 << 10;

/// Batches that stand ready for the model: one for the next step, and one so that an uneven step does not
/// stop the stages before it. More only costs memory.
const BATCHES_AHEAD: usize = 2;

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
    ///
    /// # Errors
    /// Those of the configuration and of the builders' constructors before a thread starts; whatever
    /// `consume` returns. The stream ends with its first error.
    pub fn samples<R>(
        &self,
        start: Cursor,
        epochs: u64,
        consume: impl FnOnce(&mut dyn Iterator<Item = Result<Samples>>) -> Result<R>,
    ) -> Result<R> {
        self.measured_samples(start, epochs, consume).map(|(result, _)| result)
    }

    /// [`Plan::samples`], and how its stages spent their time.
    ///
    /// # Errors
    /// As there.
    pub fn measured_samples<R>(
        &self,
        start: Cursor,
        epochs: u64,
        consume: impl FnOnce(&mut dyn Iterator<Item = Result<Samples>>) -> Result<R>,
    ) -> Result<(R, FlowReport)> {
        one_stage("sample", |stats| {
            flow::scope(&Wanted::always(), |scope, wanted| {
                let parts =
                    self.stream(scope, stats, start, epochs, wanted, |wanted| self.builder(wanted))?;
                consume(&mut parts.map(|part| Ok(part?.samples)))
            })
        })
    }

    /// Gives `consume` the batches from `start` to the end of epoch `epochs - 1`, in order. No batch
    /// crosses an epoch's end. [`HostBatch::next`] is where a stream started from goes on with exactly the
    /// batches that follow.
    ///
    /// ```
    /// use bertstream::collate::{CollateConfig, PadTo};
    /// use bertstream::corpus::{self, CorpusConfig};
    /// use bertstream::pipeline::Plan;
    /// use bertstream::sample::{Cursor, SampleConfig};
    /// use bertstream::vocab::{Tokenizer, WordVocab};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("pairs.tsv");
    /// let text = "a cat sleeps\tit dreams\nrain falls\tthe street is wet\nwind blows\ttrees bend\n";
    /// std::fs::write(&path, text)?;
    /// let corpus = corpus::open(&CorpusConfig::at(&path))?;
    /// let vocabulary = WordVocab::from_texts(text.lines(), None, 1);
    /// let sample = SampleConfig { seq_len: 16, ..SampleConfig::default() };
    /// let collate =
    ///     CollateConfig { batch_size: 2, seq_len: 16, pad_to: PadTo::Longest, pad_id: vocabulary.specials().pad };
    /// let plan = Plan { corpus: &*corpus, tokenizer: &vocabulary, sample: &sample, workers: 2 };
    /// let rows = plan.batches(&collate, Cursor::default(), 2, |batches| {
    ///     batches.map(|batch| Ok(batch?.rows)).collect::<bertstream::Result<Vec<_>>>()
    /// })?;
    /// assert_eq!(rows, [2, 1, 2, 1]); // two epochs of three lines
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of the configurations and of the builders' constructors before a thread starts; whatever
    /// `consume` returns. The stream ends with its first error.
    pub fn batches<R>(
        &self,
        collate: &CollateConfig,
        start: Cursor,
        epochs: u64,
        consume: impl FnOnce(&mut dyn Iterator<Item = Result<HostBatch>>) -> Result<R>,
    ) -> Result<R> {
        self.measured_batches(collate, start, epochs, consume).map(|(result, _)| result)
    }

    /// [`Plan::batches`], and how its stages spent their time.
    ///
    /// # Errors
    /// As there.
    pub fn measured_batches<R>(
        &self,
        collate: &CollateConfig,
        start: Cursor,
        epochs: u64,
        consume: impl FnOnce(&mut dyn Iterator<Item = Result<HostBatch>>) -> Result<R>,
    ) -> Result<(R, FlowReport)> {
        let gauges = Gauges::default();
        let result = self.gauged_batches(collate, start, epochs, &gauges, consume)?;
        let report = told(gauges.total());
        Ok((result, report))
    }

    /// [`Plan::batches`], with counters that can be read meanwhile.
    ///
    /// # Errors
    /// As there.
    pub fn gauged_batches<R>(
        &self,
        collate: &CollateConfig,
        start: Cursor,
        epochs: u64,
        gauges: &Gauges,
        consume: impl FnOnce(&mut dyn Iterator<Item = Result<HostBatch>>) -> Result<R>,
    ) -> Result<R> {
        self.batches_built_by(|wanted| self.builder(wanted), collate, start, epochs, gauges, consume)
    }

    /// [`Plan::gauged_batches`] of samples that are built otherwise: `make` gives each worker a builder of its own.
    /// What these make of a unit must depend on nothing but the unit; then all that is promised of batches holds. Where
    /// a unit takes long, they ask whether it is still wanted, and fail where it is not.
    ///
    /// # Errors
    /// As there, and those of `make`.
    pub fn batches_built_by<B: SampleBuilder, R>(
        &self,
        make: impl FnMut(&Wanted) -> Result<B>,
        collate: &CollateConfig,
        start: Cursor,
        epochs: u64,
        gauges: &Gauges,
        consume: impl FnOnce(&mut dyn Iterator<Item = Result<HostBatch>>) -> Result<R>,
    ) -> Result<R> {
        let collator = collate::collator(collate)?;
        if collate.seq_len < self.sample.seq_len {
            return Err(Error::usage(format!(
                "rows of {} tokens cannot hold samples of --seq-len {}",
                collate.seq_len, self.sample.seq_len
            )));
        }
        let Gauges { sample, collate, until, .. } = gauges;
        flow::scope(until, |scope, wanted| {
            let parts = self.stream(scope, sample, start, epochs, wanted, make)?;
            let batches = Batches::new(parts, collator);
            if self.workers == 0 {
                return consume(&mut collate.watch(batches));
            }
            consume(&mut prefetch(scope, "collate", BATCHES_AHEAD, batches, collate, wanted)?)
        })
    }

    /// About the memory of a unit, what a worker makes at a time: its text, and columns of its samples, which take
    /// somewhat more than twice as much.
    pub fn unit_bytes(&self) -> u64 {
        let Cut { unit, .. } = Cut::new(self.corpus, self.sample);
        4 * unit.min(sample::positions(self.corpus)).saturating_mul(corpus::mean_bytes(self.corpus))
    }

    /// What makes the samples that the configuration describes.
    fn builder(&self, wanted: &Wanted) -> Result<Box<dyn SampleBuilder + 'p>> {
        let wanted = wanted.clone();
        sample::builder(self.corpus, self.tokenizer, self.sample, Arc::new(move || wanted.still()))
    }

    /// The samples from `start` on, built by threads of `scope`, each with a builder of its own.
    fn stream<'scope, B, M>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        stats: &'scope StageStats,
        start: Cursor,
        epochs: u64,
        wanted: &Wanted,
        mut make: M,
    ) -> Result<impl Iterator<Item = Result<Part>> + Send + use<'scope, 'p, B, M>>
    where
        'p: 'scope,
        B: SampleBuilder + 'scope,
        M: FnMut(&Wanted) -> Result<B>,
    {
        let Self { corpus, sample, workers, .. } = *self;
        let positions = sample::positions(corpus);
        if start.position > positions {
            return Err(Error::mismatch(format!(
                "corpus {}: the stream is to go on at document {} of {positions}: this is another corpus than the \
                 one it began with",
                corpus.path().display(),
                start.position
            )));
        }
        let units = units(start, epochs, positions, Cut::new(corpus, sample));
        let worker = |_| Ok(worker(make(wanted)?, positions));
        let built = ordered_map(scope, "sample", workers, units, stats, wanted, worker)?;
        Ok(Parts { built, corpus, start, given: 0, failed: None, over: false })
    }

    /// Gives `consume` the samples of all epochs unit by unit, as `workers > 0` threads finish them: the order is
    /// another each time. What keeping it costs is measured against this.
    ///
    /// # Errors
    /// As [`Plan::samples`].
    pub fn unordered_samples<R>(
        &self,
        consume: impl FnOnce(&mut dyn Iterator<Item = Result<Samples>>) -> Result<R>,
    ) -> Result<(R, FlowReport)> {
        one_stage("sample", |stats| {
            flow::scope(&Wanted::always(), |scope, wanted| {
                let positions = sample::positions(self.corpus);
                let units = units(Cursor::default(), u64::MAX, positions, Cut::new(self.corpus, self.sample));
                let worker = |_| Ok(worker(self.builder(wanted)?, positions));
                let mut built = unordered_map(scope, "sample", self.workers, units, stats, wanted, worker)?
                    .map(|built| {
                        let Built { samples, failed, .. } = built?;
                        failed.map_or(Ok(samples), Err)
                    });
                consume(&mut built)
            })
        })
    }
}

/// What builds units of epochs of so many positions.
fn worker(mut builder: impl SampleBuilder, positions: u64) -> impl FnMut(Unit) -> Result<Built> + Send {
    move |unit: Unit| {
        let mut samples = Samples::default();
        let failed = builder.build(&unit, &mut samples).err();
        Ok(Built { epoch: unit.epoch, ends_epoch: unit.positions.end == positions, samples, failed })
    }
}

/// What whoever runs the stages that make batches holds in hands meanwhile: their counters, and what ends them.
#[derive(Debug)]
pub struct Gauges {
    until: Wanted,
    sample: StageStats,
    collate: StageStats,
    started: Instant,
    /// When the lap began, and what the counters stood at.
    lap: Cell<(Instant, BatchSums)>,
}

/// What the counters of both stages stood at.
type BatchSums = [StageSums; 2];

impl Default for Gauges {
    fn default() -> Self {
        Self::until(Wanted::always())
    }
}

impl Gauges {
    /// Counters at zero, of batches that are made until they are `wanted` no more. Then the stream has no further batch
    /// but perhaps some that were finished, and ends with an error: whoever waits for one waits no longer.
    pub fn until(wanted: Wanted) -> Self {
        let now = Instant::now();
        Self {
            until: wanted,
            sample: StageStats::default(),
            collate: StageStats::default(),
            started: now,
            lap: Cell::new((now, BatchSums::default())),
        }
    }

    /// How the stages spent their time since these counters were made.
    pub fn total(&self) -> FlowReport {
        batches_report(self.sums(), self.started.elapsed())
    }

    /// How the stages spent their time since this was asked last.
    pub fn lap(&self) -> FlowReport {
        let now = self.sums();
        let (began, before) = self.lap.replace((Instant::now(), now));
        batches_report([0, 1].map(|stage| now[stage].since(&before[stage])), began.elapsed())
    }

    fn sums(&self) -> BatchSums {
        [self.sample.sums(), self.collate.sums()]
    }
}

fn batches_report([sample, collate]: BatchSums, wall: Duration) -> FlowReport {
    // The collator takes its samples itself: what it waited for them is no work of its own.
    let collating = collate.work.saturating_sub(sample.wait);
    let stages = vec![sample.report("sample", sample.work, wall), collate.report("collate", collating, wall)];
    FlowReport::new(stages, collate.wait, wall)
}

/// Gives `consume` the blocks of a file of ids from `first` on, in order: the same for any number of workers.
///
/// # Errors
/// Those of [`tokens::encode_block`] and of `consume`, with the first of which it ends.
pub fn encode_blocks(
    corpus: &dyn Corpus,
    tokenizer: &dyn Tokenizer,
    header: &tokens::Header,
    first: u64,
    workers: usize,
    mut consume: impl FnMut(Block) -> Result<()>,
) -> Result<()> {
    let encoded = one_stage("tokenize", |stats| {
        flow::scope(&Wanted::always(), |scope, wanted| {
            let encode = |_| {
                let (mut encoder, wanted) = (tokenizer.encoder(), wanted.clone());
                Ok(move |block| {
                    tokens::encode_block(corpus, &mut *encoder, header, block, &|| wanted.still())
                })
            };
            let blocks = first..header.blocks();
            let blocks = ordered_map(scope, "tokenize", workers, blocks, stats, wanted, encode)?;
            blocks.into_iter().try_for_each(|block| consume(block?))
        })
    });
    encoded.map(|((), _)| ())
}

/// Runs a pipeline of one stage, and tells how that spent its time.
fn one_stage<R>(name: &'static str, run: impl FnOnce(&StageStats) -> Result<R>) -> Result<(R, FlowReport)> {
    let stats = StageStats::default();
    let started = Instant::now();
    let result = run(&stats);
    let wall = started.elapsed();
    let sums = stats.sums();
    let report = told(FlowReport::new(vec![sums.report(name, sums.work, wall)], sums.wait, wall));
    Ok((result?, report))
}

/// Documents that were read, and their text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DocumentsRead {
    /// Malformed ones included.
    pub documents: u64,
    /// In bytes, of the well-formed ones.
    pub bytes: u64,
}

/// Reads all documents of a corpus, epoch after epoch, each in its order, and gives `consume` what they were, some
/// at a time: the first stage by itself. Malformed documents are read like others.
///
/// # Errors
/// [`ErrorKind::Data`] where there is no document; those of reading; those of `consume`.
pub fn documents<R>(
    corpus: &dyn Corpus,
    shuffle: Shuffle,
    workers: usize,
    consume: impl FnOnce(&mut dyn Iterator<Item = Result<DocumentsRead>>) -> Result<R>,
) -> Result<(R, FlowReport)> {
    let len = sample::positions(corpus);
    if len == 0 {
        return Err(Error::data(format!("corpus {}: there is no document in it", corpus.path().display())));
    }
    let (sources, block) = (corpus.sources(), sample::documents_of_block(corpus));
    let shuffle = shuffle.for_corpus(corpus);
    let read = |unit: Unit, wanted: &Wanted| {
        let order = EpochOrder::new(&sources, (shuffle, block), 0, unit.epoch);
        let mut read = DocumentsRead::default();
        for position in unit.positions {
            read.documents += 1;
            match corpus.document_while(order.place(position).document, &|| wanted.still()) {
                Ok(document) => {
                    read.bytes += document.sentences.iter().map(|s| s.text.len() as u64).sum::<u64>();
                }
                Err(error) if error.kind() == ErrorKind::Data => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    };
    one_stage("corpus", |stats| {
        flow::scope(&Wanted::always(), |scope, wanted| {
            let units = units(Cursor::default(), u64::MAX, len, Cut::of(corpus, 1));
            let worker = |_| {
                let wanted = wanted.clone();
                Ok(move |unit| read(unit, &wanted))
            };
            consume(&mut ordered_map(scope, "corpus", workers, units, stats, wanted, worker)?)
        })
    })
}

/// The cursor of an epoch's first sample.
fn first_of(epoch: u64) -> Cursor {
    Cursor { epoch, position: 0, part: 0 }
}

/// How an epoch is cut into units.
#[derive(Clone, Copy)]
struct Cut {
    /// Positions that are shuffled together, and so built together.
    window: u64,
    /// Positions of a unit, a multiple of the window.
    unit: u64,
}

impl Cut {
    fn new(corpus: &dyn Corpus, config: &SampleConfig) -> Self {
        Self::of(corpus, config.window_for(corpus))
    }

    fn of(corpus: &dyn Corpus, window: u64) -> Self {
        let positions = (BYTES_PER_UNIT / corpus::mean_bytes(corpus)).clamp(1, POSITIONS_PER_UNIT);
        Self { window, unit: positions.div_ceil(window).saturating_mul(window) }
    }
}

/// The units from `start` to the end of epoch `epochs - 1`, of epochs of `len > 0` positions. They are cut
/// from the window of `start` on: where units begin has no influence on what is in them.
fn units(start: Cursor, epochs: u64, len: u64, cut: Cut) -> impl Iterator<Item = Unit> + Send {
    (start.epoch..epochs).flat_map(move |epoch| {
        let first = if epoch == start.epoch { start.position } else { 0 };
        // At the epoch's end there is nothing left to build.
        let mut next = if first < len { first - first % cut.window } else { len };
        std::iter::from_fn(move || {
            let from = next;
            next = len.min(from.saturating_add(cut.unit));
            (from < len).then_some(Unit { epoch, positions: from..next })
        })
    })
}

/// The report, after telling it.
fn told(report: FlowReport) -> FlowReport {
    let wall_ms = report.wall.as_millis() as u64;
    for StageReport { name, threads, busy, ready, queue } in &report.stages {
        tracing::debug!(target: "flow", stage = %name, threads, busy, ready, queue, wall_ms, "stage finished");
    }
    report
}

/// What a worker makes of a unit: its samples, up to the error where there was one. Errors come behind the
/// samples before them, so that their place depends neither on how units are cut nor on who built them.
struct Built {
    epoch: u64,
    ends_epoch: bool,
    samples: Samples,
    failed: Option<Error>,
}

/// Some samples of an epoch, in order.
struct Part {
    samples: Samples,
    /// The epoch, where nothing of it follows.
    ends_epoch: Option<u64>,
}

/// Built units to parts: leaves out what lies before the start, puts errors in their place, and refuses an
/// epoch that gives no sample, since whoever trains by steps would wait for ever.
struct Parts<'p, I> {
    built: I,
    corpus: &'p dyn Corpus,
    start: Cursor,
    /// Samples of the epoch so far.
    given: usize,
    /// An error that waits for the samples before it to be taken.
    failed: Option<Error>,
    over: bool,
}

impl<I: Iterator<Item = Result<Built>>> Iterator for Parts<'_, I> {
    type Item = Result<Part>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.over = true;
            return Some(Err(error));
        }
        if self.over {
            return None;
        }
        let Built { epoch, ends_epoch, samples, failed } = match self.built.next()? {
            Ok(built) => built,
            Err(error) => {
                self.over = true;
                return Some(Err(error));
            }
        };
        self.failed = failed;
        self.given += samples.len();
        if ends_epoch {
            // An epoch that was entered midway may have given its samples before.
            if self.given == 0 && self.failed.is_none() && self.start <= first_of(epoch) {
                self.failed = Some(Error::data(format!(
                    "corpus {}: none of its {} documents gives a sample: all were left out as malformed",
                    self.corpus.path().display(),
                    self.corpus.len()
                )));
            }
            self.given = 0;
        }
        let ends_epoch = (ends_epoch && self.failed.is_none()).then_some(epoch);
        Some(Ok(Part { samples: from_cursor(samples, self.start), ends_epoch }))
    }
}

/// The samples at or behind `start`: all of them, but for the unit in which a stream is entered midway.
fn from_cursor(samples: Samples, start: Cursor) -> Samples {
    if samples.is_empty() || samples.get(0).origin.cursor >= start {
        return samples;
    }
    let mut rest = Samples::default();
    rest.skipped = samples.skipped;
    samples.iter().filter(|sample| sample.origin.cursor >= start).for_each(|sample| rest.push(sample));
    rest
}

/// Parts to batches. The collator gives a batch when it sees the sample behind it; that sample, or the epoch's
/// end, is where the stream goes on.
struct Batches<I> {
    parts: I,
    collator: Box<dyn Collator>,
    /// The part being collated, and its next sample.
    part: Part,
    at: usize,
    /// An error that waits for the batch before it to be taken.
    failed: Option<Error>,
    over: bool,
}

impl<I: Iterator<Item = Result<Part>>> Batches<I> {
    fn new(parts: I, collator: Box<dyn Collator>) -> Self {
        let part = Part { samples: Samples::default(), ends_epoch: None };
        Self { parts, collator, part, at: 0, failed: None, over: false }
    }

    /// One step: takes in a sample, ends an epoch, or fetches the next part. Gives the batch that is known
    /// to be complete by that, if any.
    fn advance(&mut self) -> Result<Option<HostBatch>> {
        if self.at < self.part.samples.len() {
            let sample = self.part.samples.get(self.at);
            self.at += 1;
            let complete = self.collator.push(sample)?;
            Ok(complete.map(|batch| HostBatch { next: sample.origin.cursor, ..batch }))
        } else if let Some(epoch) = self.part.ends_epoch.take() {
            let last = self.collator.finish();
            Ok(last.map(|batch| HostBatch { next: first_of(epoch + 1), ends_epoch: true, ..batch }))
        } else {
            match self.parts.next() {
                Some(part) => {
                    self.part = part?;
                    self.at = 0;
                }
                None => self.over = true,
            }
            Ok(None)
        }
    }
}

impl<I: Iterator<Item = Result<Part>>> Iterator for Batches<I> {
    type Item = Result<HostBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            match self.advance() {
                Ok(None) => {}
                Ok(Some(batch)) => return Some(Ok(batch)),
                Err(error) => {
                    self.over = true;
                    self.failed = Some(error);
                    // A full batch before the error is good; the samples of an incomplete one go with it.
                    if self.collator.is_full() {
                        return self.collator.finish().map(Ok);
                    }
                }
            }
        }
        self.failed.take().map(Err)
    }
}
