//! A run without a corpus and without a transformer: batches made of numbers, and an engine whose
//! gradients are a deterministic function of its weights and of everything that it is given.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use bertstream::collate::{CollateConfig, HostBatch, PadTo};
use bertstream::corpus::{CorpusConfig, Format};
use bertstream::durable::Disk;
use bertstream::flow::StageReport;
use bertstream::model::{
    Arch, Engine, Init, Layout, ModelConfig, Optimizer, Outcome, Pass, Predictions, State, Update, Updated,
};
use bertstream::rng::{Domain, SampleRng};
use bertstream::sample::{Corruption, Cursor, Origin, PairLabel, SampleConfig};
use bertstream::train::checkpoint::Progress;
use bertstream::train::{
    BatchSource, Compute, DataConfig, Ending, Epoch, Length, MetricsFile, Observer, Record, RunConfig,
    RunDir, Runtime, Schedule, ScheduleKind, Skips, Stop, Trainer,
};
use bertstream::{Error, ErrorKind, Result};

pub const DOCUMENTS: u64 = 7;
pub const BATCH: u64 = 2;

/// A run of 3 epochs of 7 documents in batches of 2: 4 batches an epoch, steps of `accumulate` batches.
pub fn config(accumulate: usize) -> RunConfig {
    let epoch = Epoch::counted(DOCUMENTS, BATCH);
    RunConfig {
        format: 1,
        data: DataConfig {
            corpus: CorpusConfig { format: Some(Format::Pairs), ..CorpusConfig::at("a.tsv") }.into(),
            corpus_fingerprint: "00".into(),
            documents: DOCUMENTS,
            epoch,
            test: None,
            test_fingerprint: None,
            tokens: None,
            vocab: "v.json".into(),
            vocab_fingerprint: "11".into(),
        },
        sample: SampleConfig::default(),
        collate: CollateConfig { batch_size: BATCH as usize, seq_len: 4, pad_to: PadTo::Longest, pad_id: 0 },
        model: ModelConfig {
            arch: Arch::Reference,
            max_positions: 512,
            vocab_size: 9,
            hidden: 4,
            layers: 1,
            heads: 2,
            dropout: 0.1,
            init: Init::Bert,
        },
        init_from: None,
        optimizer: Optimizer::default(),
        schedule: Schedule { kind: ScheduleKind::Linear, lr: 1e-2, warmup: 2, hidden: 4 },
        accumulate,
        clip: Some(1.0),
        compute: Compute::default(),
        length: Length::new(Some(3), None, epoch.steps(accumulate)),
        skip_spikes: true,
        skip_steps: Skips::default(),
        regrouped: vec![],
        runtime: Runtime {
            workers: 0,
            threads: 1,
            log_freq: 1,
            eval_every: None,
            save_every: Some(1),
            keep: 100,
            ram: None,
            tensorboard: None,
        },
    }
}

/// The batches from `start` to the end of the last epoch.
pub fn batches(start: Cursor, epochs: u64) -> Vec<HostBatch> {
    let mut all = Vec::new();
    for epoch in start.epoch..epochs {
        let mut position = if epoch == start.epoch { start.position } else { 0 };
        while position < DOCUMENTS {
            let end = (position + BATCH).min(DOCUMENTS);
            all.push(batch(epoch, position..end));
            position = end;
        }
    }
    all
}

fn batch(epoch: u64, positions: std::ops::Range<u64>) -> HostBatch {
    let rows = (positions.end - positions.start) as usize;
    let mut rng = SampleRng::new(Domain::Survey, epoch, &[positions.start]);
    let ends_epoch = positions.end == DOCUMENTS;
    let origin = |position| Origin { cursor: Cursor { epoch, position, part: 0 }, ..Origin::default() };
    HostBatch {
        rows,
        seq_len: 4,
        ids: (0..rows * 4).map(|_| rng.below(9) as u32).collect(),
        segments: vec![1; rows * 4],
        starts: vec![],
        lengths: vec![4; rows],
        // One epoch's first batch has no masked token at all.
        masked: if epoch == 1 && positions.start == 0 { vec![] } else { vec![1] },
        labels: if epoch == 1 && positions.start == 0 { vec![] } else { vec![5 + rng.below(4) as u32] },
        corruptions: if epoch == 1 && positions.start == 0 { vec![] } else { vec![Corruption::Mask] },
        pairs: (0..rows)
            .map(|_| if rng.below(2) == 0 { PairLabel::NotNext } else { PairLabel::IsNext })
            .collect(),
        origins: positions.clone().map(origin).collect(),
        next: match ends_epoch {
            true => Cursor { epoch: epoch + 1, position: 0, part: 0 },
            false => Cursor { epoch, position: positions.end, part: 0 },
        },
        ends_epoch,
    }
}

/// Weights drift towards what the batches say, by the real optimizer.
pub struct FakeEngine {
    layout: Layout,
    optimizer: Optimizer,
    state: State,
    gradients: Vec<f32>,
    /// Steps whose gradient is not finite, and those whose loss is not.
    pub poisoned: Vec<u64>,
    pub lossless: Vec<u64>,
    /// Steps whose loss is five nats higher.
    pub spiky: Vec<u64>,
    /// Rows that there is memory for.
    pub room: usize,
    /// Every pass that was asked for.
    pub passes: Vec<Pass>,
}

impl FakeEngine {
    pub fn new(config: &RunConfig) -> Self {
        let layout = Layout::new(&config.model);
        let n = layout.len();
        let weights = layout.initial_weights(config.sample.seed);
        Self {
            layout,
            optimizer: config.optimizer,
            state: State { weights, first: vec![0.0; n], second: vec![0.0; n] },
            gradients: vec![0.0; n],
            poisoned: vec![],
            lossless: vec![],
            spiky: vec![],
            room: usize::MAX,
            passes: vec![],
        }
    }
}

impl Engine for FakeEngine {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn accumulate(&mut self, batch: &HostBatch, pass: &Pass) -> Result<Outcome> {
        if batch.rows > self.room {
            // As if some of it had been done.
            self.gradients[3] += 17.0;
            return Err(Error::new(ErrorKind::OutOfMemory, "device: out of memory"));
        }
        self.passes.push(*pass);
        let seen: u64 = batch.ids.iter().map(|&id| u64::from(id)).sum();
        let mut rng = SampleRng::new(
            Domain::Survey,
            seen,
            &[pass.seed, pass.step, pass.first_row as u64, pass.masked_in_step as u64],
        );
        for (g, w) in self.gradients.iter_mut().zip(&self.state.weights) {
            *g += 0.1 * w + rng.normal() as f32;
        }
        if self.poisoned.contains(&pass.step) {
            self.gradients[0] = f32::NAN;
        }
        let outcome = self.evaluate(batch)?;
        let nats = match pass.step {
            step if self.lossless.contains(&step) => f64::INFINITY,
            step if self.spiky.contains(&step) => 5.0 * batch.rows as f64,
            _ => 0.0,
        };
        Ok(Outcome { nsp_loss_sum: outcome.nsp_loss_sum + nats, ..outcome })
    }

    fn update(&mut self, update: &Update) -> Result<Updated> {
        Ok(self.optimizer.update(&self.layout, &mut self.state, &mut self.gradients, update))
    }

    fn encode(&mut self, batch: &HostBatch) -> Result<Vec<f32>> {
        Ok(vec![self.state.weights[10]; batch.rows * batch.seq_len])
    }

    fn evaluate(&mut self, batch: &HostBatch) -> Result<Outcome> {
        let weight = f64::from(self.state.weights[10].abs());
        Ok(Outcome {
            mlm_loss_sum: weight * batch.masked.len() as f64,
            masked: batch.masked.len() as u64,
            mlm_correct: 0,
            nsp_loss_sum: 0.5 * batch.rows as f64,
            pairs: batch.rows as u64,
            nsp_correct: 1,
        })
    }

    fn predict(&mut self, _batch: &HostBatch) -> Result<Predictions> {
        Ok(Predictions::default())
    }

    fn forget_gradients(&mut self) -> Result<()> {
        self.gradients.fill(0.0);
        Ok(())
    }

    fn gradients(&self) -> Result<Vec<f32>> {
        Ok(self.gradients.clone())
    }

    fn state(&self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn restore(&mut self, state: State) -> Result<()> {
        self.state = state;
        self.gradients.fill(0.0);
        Ok(())
    }
}

/// Keeps every record.
#[derive(Default)]
pub struct Recorder(pub Vec<Record>);

impl Observer for Recorder {
    fn recorded(&mut self, record: &Record) {
        self.0.push(record.clone());
    }
}

/// What a run left in memory.
pub struct Left {
    pub ending: Result<Ending>,
    pub progress: Progress,
    pub state: State,
    pub records: Vec<Record>,
    pub passes: Vec<Pass>,
}

/// How a run of the fake goes.
#[derive(Clone, Default)]
pub struct Script {
    /// Ask to stop after so many steps.
    pub stop_after: Option<u64>,
    /// Fail with an error in place of this batch, counted from the start of this part of the run.
    pub fail_at: Option<usize>,
    pub poisoned: Vec<u64>,
    pub lossless: Vec<u64>,
    pub spiky: Vec<u64>,
    /// Rows that the device has memory for.
    pub room: Option<usize>,
    pub probe: Option<HostBatch>,
    pub test: Option<Vec<HostBatch>>,
    /// Where checkpoints are written, in place of the operating system's disk.
    pub disk: Option<&'static dyn Disk>,
}

/// Runs, from the newest checkpoint in the directory if there is one.
pub fn run(directory: &Path, config: &RunConfig, script: &Script) -> Left {
    run_with(directory, config, script, &mut Recorder::default())
}

/// The same with one more observer.
pub fn run_with(directory: &Path, config: &RunConfig, script: &Script, watcher: &mut dyn Observer) -> Left {
    let run = match directory.join("config.json").exists() {
        true => RunDir::resume(directory).unwrap(),
        false => RunDir::create(directory).unwrap(),
    };
    run.write_config(config).unwrap();
    let run = match script.disk {
        Some(disk) => run.through(disk),
        None => run,
    };
    let mut engine = FakeEngine::new(config);
    engine.poisoned = script.poisoned.clone();
    engine.lossless = script.lossless.clone();
    engine.spiky = script.spiky.clone();
    engine.room = script.room.unwrap_or(usize::MAX);
    let (found, _) = run.checkpoints().newest(engine.layout(), &config.fingerprint()).unwrap();
    let mut progress = Progress::default();
    if let Some(found) = found {
        progress = found.manifest.progress;
        engine.restore(found.state).unwrap();
    }
    let mut metrics = MetricsFile::open(&run.file("metrics.jsonl"), progress.step).unwrap();
    let mut recorder = Recorder::default();
    let epochs = config.length.epochs.unwrap();
    let mut stream = batches(progress.cursor, epochs).into_iter().map(Ok).collect::<Vec<_>>();
    if let Some(at) = script.fail_at {
        stream[at] = Err(bertstream::Error::data("corpus a.tsv: line 41: no tab"));
        stream.truncate(at + 1);
    }
    let steps_left = Cell::new(script.stop_after.map_or(u64::MAX, |n| n + 1));
    let ticks = Cell::new(0);
    let mut trainer = Trainer {
        engine: &mut engine,
        config,
        run: &run,
        progress,
        probe: script.probe.as_ref(),
        test: script.test.as_ref().map(|t| t as &dyn BatchSource),
        unigram: None,
        observers: vec![&mut metrics, &mut recorder, watcher],
        clock: &|| {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        },
        stages: &|| vec![stage()],
        // The loop asks once a step where there is no test corpus.
        stop: &|| {
            steps_left.set(steps_left.get().saturating_sub(1));
            (steps_left.get() == 0).then_some(Stop::Interrupt)
        },
    };
    let ending = trainer.run(&mut stream.into_iter());
    let progress = trainer.progress;
    drop(trainer.observers);
    let passes = std::mem::take(&mut engine.passes);
    Left { ending, progress, state: engine.state().unwrap(), records: recorder.0, passes }
}

/// What every record tells of the only stage there is.
pub fn stage() -> StageReport {
    StageReport { name: "sample".into(), threads: 1, busy: 0.25, ready: 1.5, queue: 2 }
}
