//! Training with the real engine on real text: stopped after any step and gone on with, with other workers
//! and another reader, it is the run that was never stopped, bit for bit.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bertstream::collate::{CollateConfig, PadTo};
use bertstream::corpus::tokens::{self, Header, Writer};
use bertstream::corpus::{self, Corpus, CorpusConfig, Document, Io, Shape};
use bertstream::flow::{Consumer, consumer};
use bertstream::model::{Arch, Init, Layout, ModelConfig, Optimizer, State};
use bertstream::pipeline::{Gauges, Plan, encode_blocks};
use bertstream::sample::SampleConfig;
use bertstream::train::checkpoint::Progress;
use bertstream::train::evaluate::{OneEpoch, evaluation_samples};
use bertstream::train::{
    BatchSource, Compute, DataConfig, Ending, Epoch, Length, RunConfig, RunDir, Runtime, Schedule,
    ScheduleKind, Skips, Stop, Trainer, engine,
};
use bertstream::vocab::{Tokenizer, WordVocab};

use super::toy::{self, Place};

const LINES: usize = 61;
const BATCH: usize = 8;

/// How the data comes, and on how many threads it is computed with: nothing of it may change a weight.
#[derive(Clone, Copy, Debug)]
struct Way {
    io: Io,
    /// Ids from a file, in place of the text.
    ids: bool,
    workers: usize,
    threads: usize,
}

const ONE_WAY: Way = Way { io: Io::Mmap, ids: false, workers: 2, threads: 1 };
const ANOTHER: Way = Way { io: Io::Memory, ids: false, workers: 0, threads: 2 };

/// 2 epochs of 8 batches (the last one short) through a tiny model, dropout on.
fn config(corpus: &Path, vocab: &WordVocab, accumulate: usize) -> RunConfig {
    let sample = SampleConfig { seq_len: 16, ..SampleConfig::default() };
    let epoch = Epoch::counted(LINES as u64, BATCH as u64);
    RunConfig {
        format: 1,
        data: DataConfig {
            corpus: CorpusConfig::at(corpus).into(),
            corpus_fingerprint: String::new(),
            documents: LINES as u64,
            epoch,
            test: None,
            test_fingerprint: None,
            tokens: None,
            vocab: "vocab.json".into(),
            vocab_fingerprint: String::new(),
        },
        collate: CollateConfig { batch_size: BATCH, seq_len: 16, pad_to: PadTo::Longest, pad_id: 0 },
        sample,
        model: ModelConfig {
            arch: Arch::Reference,
            max_positions: 512,
            vocab_size: vocab.len(),
            hidden: 16,
            layers: 2,
            heads: 2,
            dropout: 0.1,
            init: Init::default(),
        },
        init_from: None,
        optimizer: Optimizer::default(),
        schedule: Schedule { kind: ScheduleKind::Linear, lr: 1e-2, warmup: 4, hidden: 16 },
        accumulate,
        clip: Some(1.0),
        compute: Compute::default(),
        length: Length::new(Some(2), None, epoch.steps(accumulate)),
        skip_spikes: true,
        skip_steps: Skips::default(),
        regrouped: vec![],
        runtime: Runtime {
            workers: 0,
            threads: 1,
            log_freq: 1,
            eval_every: None,
            save_every: None,
            keep: 2,
            ram: None,
            tensorboard: None,
        },
    }
}

/// What a run left.
struct Left {
    ending: Ending,
    progress: Progress,
    state: State,
}

/// A corpus with which everything is wanted no more once so many of its documents were asked for.
struct Stopping {
    corpus: Box<dyn Corpus>,
    left: AtomicU64,
    stopper: Mutex<Option<Consumer>>,
}

impl Corpus for Stopping {
    fn len(&self) -> u64 {
        self.corpus.len()
    }

    fn document(&self, id: u64) -> bertstream::Result<Document<'_>> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            drop(self.stopper.lock().unwrap().take());
        }
        self.corpus.document(id)
    }

    fn shape(&self) -> Shape {
        self.corpus.shape()
    }

    fn bytes(&self) -> u64 {
        self.corpus.bytes()
    }

    fn path(&self) -> &Path {
        self.corpus.path()
    }

    fn fingerprint(&self) -> u64 {
        self.corpus.fingerprint()
    }
}

/// Trains in `directory`, from its newest checkpoint if there is one, and stops after `steps` more.
fn train(directory: &Path, config: &RunConfig, vocab: &WordVocab, way: Way, steps: Option<u64>) -> Left {
    train_until(directory, config, vocab, way, steps, None)
}

/// [`train`], which stops as well when so many `documents` have been asked for, whatever is under way.
fn train_until(
    directory: &Path,
    config: &RunConfig,
    vocab: &WordVocab,
    way: Way,
    steps: Option<u64>,
    documents: Option<u64>,
) -> Left {
    let run = match directory.join("config.json").exists() {
        true => RunDir::resume(directory).unwrap(),
        false => RunDir::create(directory).unwrap(),
    };
    run.write_config(config).unwrap();
    let source = CorpusConfig { io: way.io, ..config.data.corpus[0].clone() };
    let mut corpus = corpus::open(&source).unwrap();
    if way.ids {
        let file = ids_beside(&source.path);
        corpus = tokens::attach(corpus, &source.into(), Some(&file), vocab).unwrap();
    }
    let (stopper, until) = consumer();
    let mut kept = Some(stopper);
    if let Some(documents) = documents {
        corpus = Box::new(Stopping { corpus, left: documents.into(), stopper: Mutex::new(kept.take()) });
    }
    let plan = Plan { corpus: &*corpus, tokenizer: vocab, sample: &config.sample, workers: way.workers };
    let test_sample = evaluation_samples(&config.sample);
    let test = OneEpoch {
        plan: Plan { sample: &test_sample, ..plan },
        collate: &config.collate,
        until: until.clone(),
    };
    let layout = Layout::new(&config.model);
    let weights = layout.initial_weights(config.sample.seed);
    let mut engine =
        engine::build(config.compute, &config.model, config.optimizer, weights, way.threads).unwrap();
    let (found, refused) = run.checkpoints().newest(&layout, &config.fingerprint()).unwrap();
    assert!(refused.is_empty());
    let mut progress = Progress::default();
    if let Some(found) = found {
        progress = found.manifest.progress;
        engine.restore(found.state).unwrap();
    }
    let (from, cursor) = (progress.step, progress.cursor);
    let done = Cell::new(0);
    let ticks = Cell::new(0);
    let mut count = Count(&done);
    let mut trainer = Trainer {
        engine: &mut *engine,
        config,
        run: &run,
        progress,
        probe: None,
        test: Some(&test as &dyn BatchSource),
        unigram: None,
        observers: vec![&mut count],
        clock: &|| {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        },
        stages: &Vec::new,
        stop: &|| {
            let stopped = steps.is_some_and(|n| done.get() >= from + n) || !until.still();
            stopped.then_some(Stop::Terminate)
        },
    };
    done.set(from);
    let gauges = Gauges::until(until.clone());
    let ending =
        plan.gauged_batches(&config.collate, cursor, 2, &gauges, |batches| trainer.run(batches)).unwrap();
    let progress = trainer.progress.clone();
    Left { ending, progress, state: engine.state().unwrap() }
}

/// Counts the steps as the loop tells them.
struct Count<'c>(&'c Cell<u64>);

impl bertstream::train::Observer for Count<'_> {
    fn advanced(&mut self, step: u64, _total: u64) {
        self.0.set(step);
    }

    fn recorded(&mut self, _record: &bertstream::train::Record) {}
}

#[test]
fn stopped_after_any_step_it_is_the_run_that_was_not() {
    let place = tempfile::tempdir().unwrap();
    let corpus = place.path().join("corpus.tsv");
    fs::write(&corpus, toy::lines(LINES)).unwrap();
    let vocab = toy::vocabulary();
    for accumulate in [1, 2] {
        let config = config(&corpus, &vocab, accumulate);
        let steps = config.length.total;
        assert_eq!(steps, 16 / accumulate as u64);
        let whole = tempfile::tempdir().unwrap();
        let expected = train(whole.path(), &config, &vocab, ONE_WAY, None);
        assert_eq!((expected.ending, expected.progress.step), (Ending::Finished, steps));
        assert!(expected.state.weights.iter().all(|w| w.is_finite()));
        for stop in 0..=steps {
            // The ways change places from one stop to the next.
            let (before, after) = if stop % 2 == 0 { (ONE_WAY, ANOTHER) } else { (ANOTHER, ONE_WAY) };
            let parts = tempfile::tempdir().unwrap();
            let first = train(parts.path(), &config, &vocab, before, Some(stop));
            assert_eq!(first.progress.step, stop);
            let second = train(parts.path(), &config, &vocab, after, None);
            assert_eq!(second.ending, Ending::Finished);
            assert_eq!(second.progress, expected.progress, "stopped after {stop}, accumulate {accumulate}");
            assert!(second.state == expected.state, "weights or moments: {stop}, accumulate {accumulate}");
            for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
                let read = |directory: &Path| fs::read(directory.join(file)).unwrap();
                assert!(read(parts.path()) == read(whole.path()), "{file}: {stop}, accumulate {accumulate}");
            }
        }
    }
}

/// A stop does not wait for the batch that is being made, whether that is for a step or for an evaluation; what was under
/// way is made again.
#[test]
fn stopped_while_a_batch_is_made_it_is_the_run_that_was_not() {
    let place = tempfile::tempdir().unwrap();
    let corpus = place.path().join("corpus.tsv");
    fs::write(&corpus, toy::lines(LINES)).unwrap();
    let vocab = toy::vocabulary();
    let config = config(&corpus, &vocab, 2);
    let whole = tempfile::tempdir().unwrap();
    let expected = train(whole.path(), &config, &vocab, ONE_WAY, None);
    for way in [ONE_WAY, ANOTHER, Way { workers: 8, ..ONE_WAY }] {
        for documents in [0, 1, 9, 40, 77, 90, 130, 200] {
            let parts = tempfile::tempdir().unwrap();
            let first = train_until(parts.path(), &config, &vocab, way, None, Some(documents));
            assert_eq!(first.ending, Ending::Stopped(Stop::Terminate), "{way:?} {documents}");
            let second = train(parts.path(), &config, &vocab, way, None);
            assert_eq!(second.ending, Ending::Finished);
            assert_eq!(second.progress, expected.progress, "{way:?} {documents}");
            assert!(second.state == expected.state, "weights or moments: {way:?} {documents}");
        }
    }
}

fn ids_beside(corpus: &Path) -> PathBuf {
    corpus.with_extension("bstok")
}

/// Writes the ids of the corpus beside it.
fn encode(path: &Path, vocab: &WordVocab) {
    let corpus = corpus::open(&CorpusConfig::at(path)).unwrap();
    let header = Header::new(&*corpus, vocab);
    let mut writer = Writer::open(&ids_beside(path), &header).unwrap();
    encode_blocks(&*corpus, vocab, &header, 0, 1, |block| writer.push(&block)).unwrap();
    writer.finish().unwrap();
}

/// What a process that goes on finds: configuration and checkpoints.
fn copied(run: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(run.join("config.json"), copy.path().join("config.json")).unwrap();
    for checkpoint in fs::read_dir(run.join("checkpoints")).unwrap() {
        let checkpoint = checkpoint.unwrap();
        let to = copy.path().join("checkpoints").join(checkpoint.file_name());
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(checkpoint.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    copy
}

/// Every number of workers before the stop with every number after it, every way to the text, at each place where
/// something might be different.
#[test]
fn workers_readers_and_the_place_of_a_stop_change_no_bit() {
    const WORKERS: [usize; 4] = [1, 2, 3, 8];
    const READERS: [(Io, bool); 4] =
        [(Io::Mmap, false), (Io::Pread, false), (Io::Memory, false), (Io::Mmap, true)];
    let place = tempfile::tempdir().unwrap();
    let corpus = place.path().join("train.tsv");
    fs::write(&corpus, toy::lines(LINES)).unwrap();
    let vocab = toy::vocabulary();
    encode(&corpus, &vocab);
    let mut config = config(&corpus, &vocab, 1);
    config.model = ModelConfig { hidden: 8, layers: 1, ..config.model };
    config.schedule.hidden = 8;
    let whole = tempfile::tempdir().unwrap();
    let expected = train(whole.path(), &config, &vocab, ONE_WAY, None);
    let steps = config.length.total;
    let mut resumed = 0;
    // Before the first step, behind it, in the midst, at the end of an epoch, before the last step.
    for stop in [0, 1, steps / 4, steps / 2, steps - 1] {
        for (before, (reader, (io, ids))) in
            WORKERS.into_iter().flat_map(|w| READERS.into_iter().enumerate().map(move |r| (w, r)))
        {
            let first = tempfile::tempdir().unwrap();
            train(first.path(), &config, &vocab, Way { io, ids, workers: before, threads: 1 }, Some(stop));
            for (turn, after) in WORKERS.into_iter().enumerate() {
                let (io, ids) = READERS[(reader + turn) % READERS.len()];
                let parts = copied(first.path());
                let left =
                    train(parts.path(), &config, &vocab, Way { io, ids, workers: after, threads: 1 }, None);
                let what = format!("stopped after {stop}, {before} workers and then {after}, {io:?}, {ids}");
                assert_eq!(left.progress, expected.progress, "{what}");
                assert!(left.state == expected.state, "{what}");
                resumed += 1;
            }
        }
    }
    assert_eq!(resumed, 5 * 4 * 4 * 4);
}

/// A step of 24 rows in two batches, from step 6 on in three.
#[test]
fn a_run_goes_on_in_other_batches_of_the_same_rows() {
    let place = Place::with_lines(100);
    let flags = "--corpus train.tsv --vocab vocab.json -H 16 -l 1 -a 2 --seq-len 24 --steps 12 --save-every 3 --keep 99 \
                 --log-freq 1 -b 12 --accumulate 2";
    for run in ["whole", "parts", "packed"] {
        let packed = if run == "packed" { "--pad packed" } else { "" };
        place.good(&format!("train {flags} {packed} --output {run}"));
        if run != "whole" {
            for entry in fs::read_dir(place.path(&format!("{run}/checkpoints"))).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap().to_str().unwrap() > "step-00000006" {
                    fs::remove_dir_all(path).unwrap();
                }
            }
        }
    }
    for (run, flags) in [("parts", "-b 8"), ("packed", "-b 8 --accumulate 3")] {
        let refused = place.run(&format!("train --resume {run} {flags}"));
        assert_eq!(refused.code, 78, "{}", refused.stderr);
        assert!(refused.stderr.contains("collate.batch_size: 12 in the run, 8 now"), "{}", refused.stderr);
    }
    place.good("train --resume parts -b 8 --accumulate 3");
    let config = place.json("parts/config.json");
    let earlier = serde_json::json!([{ "until": 6, "batch_size": 12, "accumulate": 2 }]);
    assert_eq!((&config["regrouped"], &config["collate"]["batch_size"]), (&earlier, &8.into()));

    let steps = |run: &str| -> Vec<_> {
        let records = place.records(&format!("{run}/metrics.jsonl"));
        let steps = records.iter().filter(|r| r["kind"] == "step");
        steps
            .map(|r| (r["step"].clone(), r["samples"].clone(), r["tokens"].clone(), r["masked"].clone()))
            .collect()
    };
    assert_eq!(steps("parts"), steps("whole"));
    // Sums are added in another order, and that is all.
    let losses = |run: &str| -> Vec<f64> {
        let records = place.records(&format!("{run}/metrics.jsonl"));
        records.iter().filter(|r| r["kind"] == "step").map(|r| r["loss"].as_f64().unwrap()).collect()
    };
    for (step, (a, b)) in losses("parts").into_iter().zip(losses("whole")).enumerate() {
        assert!((a - b).abs() < 1e-4, "step {}: {a} and {b}", step + 1);
    }
    // Each step is rebuilt as it was made.
    for step in [4, 6, 7, 11] {
        let rows = |run: &str| -> Vec<_> {
            let rows = place.good(&format!("inspect --run {run} --step {step} --json")).json_lines();
            rows.into_iter().map(|row| (row["tokens"].clone(), row["origin"].clone())).collect()
        };
        assert_eq!(rows("parts"), rows("whole"), "step {step}");
        place.good(&format!("inspect --run parts --step {step} --verify"));
    }
    let batches = place.good("inspect --run parts --step 7 --json").json_lines();
    assert_eq!(batches.last().unwrap()["batch"], 2, "the third batch of the step");
}
