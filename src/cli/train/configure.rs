//! Flags to a configuration: a preset, or a run begun, and over it what the flags say.

use super::super::flags::{Preset, SourceArg, corpus_at, sources_at};
use super::flags::{OnSpike, Size};
use super::{Args, cores, default_workers};
use crate::collate::{CollateConfig, PadTo};
use crate::corpus::{CorpusConfig, Format, Sources};
use crate::model::{Arch, Init, ModelConfig, Optimizer, OptimizerKind, published_positions};
use crate::sample::{SampleConfig, Shuffle};
use crate::train::config::FORMAT;
use crate::train::schedule::{REFERENCE_LR, default_warmup};
use crate::train::{Compute, DataConfig, Epoch, Length, RunConfig, Runtime, Schedule, ScheduleKind, Skips};
use crate::vocab::{SUBWORDS_FILE, Tokenizer};
use crate::{Error, Result};

/// Steps between two checkpoints where no flag says otherwise: minutes with the models that a CPU trains, and
/// little to write beside them.
const SAVE_EVERY: u64 = 1000;

/// The configuration of a new run that gives no flag.
pub fn defaults(preset: Preset, data: DataConfig, tokenizer: &dyn Tokenizer) -> RunConfig {
    let reference = preset == Preset::Reference;
    let sample = if reference { SampleConfig::reference() } else { SampleConfig::default() };
    let hidden = 256;
    RunConfig {
        format: FORMAT,
        data,
        collate: CollateConfig {
            batch_size: 64,
            seq_len: sample.seq_len,
            pad_to: if reference { PadTo::Fixed } else { PadTo::Longest },
            pad_id: tokenizer.specials().pad,
        },
        sample,
        model: ModelConfig {
            arch: if tokenizer.file_name() == SUBWORDS_FILE { Arch::Bert } else { Arch::Reference },
            vocab_size: tokenizer.len(),
            hidden,
            layers: 8,
            heads: 8,
            dropout: 0.1,
            init: if reference { Init::Torch } else { Init::default() },
            max_positions: published_positions(),
        },
        init_from: None,
        optimizer: Optimizer {
            kind: if reference { OptimizerKind::Adam } else { OptimizerKind::Adamw },
            ..Optimizer::default()
        },
        schedule: Schedule {
            kind: if reference { ScheduleKind::Reference } else { ScheduleKind::Linear },
            lr: REFERENCE_LR,
            warmup: 0,
            hidden,
        },
        accumulate: 1,
        clip: (!reference).then_some(1.0),
        compute: Compute::default(),
        length: Length { epochs: None, steps: None, total: 0 },
        skip_spikes: !reference,
        skip_steps: Skips::default(),
        regrouped: Vec::new(),
        runtime: Runtime {
            workers: default_workers(),
            threads: cores(),
            log_freq: 10,
            eval_every: None,
            save_every: Some(SAVE_EVERY),
            keep: 3,
            ram: None,
            tensorboard: None,
        },
    }
}

/// Peak learning rate of a run that begins with a published checkpoint: that of its own pretraining (Devlin et
/// al. 2018, appendix A.2).
const CONTINUED_LR: f64 = 1e-4;

impl Args {
    /// What samples and batches look like, and within which means they are made: these flags over a configuration.
    /// The first thing to know, since the length of an epoch follows from it.
    pub(super) fn stages_over(&self, mut base: RunConfig) -> RunConfig {
        base.sample = self.sample.over(base.sample);
        if self.samples.is_some() && self.sample.shuffle.is_none() {
            // Whoever made them has put them in order.
            base.sample.shuffle = Shuffle::None;
        }
        base.runtime.ram = self.runtime.ram.ram.map(|size| size.0).or(base.runtime.ram);
        base.runtime.workers = self.runtime.workers.unwrap_or(base.runtime.workers);
        base.collate = CollateConfig {
            batch_size: self.training.batch_size.map_or(base.collate.batch_size, |n| n as usize),
            seq_len: base.sample.seq_len,
            pad_to: self.training.pad.unwrap_or(base.collate.pad_to),
            pad_id: base.collate.pad_id,
        };
        base
    }

    /// All other flags over a configuration that has its stages from [`Self::stages_over`], and `epoch` from
    /// looking at them. `resumed` tells whether that is of a run already begun, whose length and warm-up hold
    /// where no flag says otherwise.
    pub(super) fn over(&self, base: RunConfig, epoch: Epoch, resumed: bool) -> Result<RunConfig> {
        let (model, training, runtime) = (&self.model, &self.training, &self.runtime);
        let size = |flag: Option<u64>, base: usize| flag.map_or(base, |n| n as usize);
        let accumulate = size(training.accumulate, base.accumulate);
        let length = match (training.epochs, training.steps) {
            (None, None) if resumed => base.length,
            (epochs, steps) => Length::new(epochs, steps, epoch.steps(accumulate)),
        };
        let shape = model.size.map(Size::shape);
        // Weights that know something already are lost to the rate that fresh ones need.
        let continued = (base.init_from.is_some() && !resumed).then_some(CONTINUED_LR);
        let hidden = model.hidden.or(shape.map(|(_, hidden)| hidden)).unwrap_or(base.model.hidden);
        let arch = model.arch.unwrap_or(if shape.is_some() { Arch::Bert } else { base.model.arch });
        let max_positions = base.model.max_positions.max(base.sample.seq_len);
        let kind = training.schedule.unwrap_or(base.schedule.kind);
        let (compute, threads) = self.compute.over(resumed.then_some(base.compute))?;
        let config = RunConfig {
            format: base.format,
            data: DataConfig { epoch, ..base.data },
            sample: base.sample,
            collate: base.collate,
            model: ModelConfig {
                arch,
                vocab_size: base.model.vocab_size,
                hidden,
                layers: model.layers.or(shape.map(|(layers, _)| layers)).unwrap_or(base.model.layers),
                heads: model.attn_heads.or(shape.map(|_| hidden.div_ceil(64))).unwrap_or(base.model.heads),
                dropout: model.dropout.unwrap_or(base.model.dropout),
                init: model.initializer.unwrap_or(match (arch, resumed) {
                    (Arch::Bert, false) => Init::Bert,
                    _ => base.model.init,
                }),
                max_positions,
            },
            init_from: base.init_from,
            optimizer: Optimizer {
                kind: training.optimizer.unwrap_or(base.optimizer.kind),
                beta1: training.adam_beta1.unwrap_or(base.optimizer.beta1),
                beta2: training.adam_beta2.unwrap_or(base.optimizer.beta2),
                epsilon: training.adam_epsilon.unwrap_or(base.optimizer.epsilon),
                weight_decay: training.adam_weight_decay.unwrap_or(base.optimizer.weight_decay),
            },
            schedule: Schedule {
                kind,
                lr: training.lr.or(model.size.map(Size::lr)).or(continued).unwrap_or(base.schedule.lr),
                warmup: match training.warmup {
                    Some(warmup) => warmup,
                    None if resumed => base.schedule.warmup,
                    None => default_warmup(kind, length.total),
                },
                hidden,
            },
            accumulate,
            clip: match training.clip {
                None => base.clip,
                Some(0.0) => None,
                Some(norm) => Some(norm),
            },
            compute,
            length,
            skip_spikes: training.spikes.map_or(base.skip_spikes, |spikes| spikes == OnSpike::Skip),
            skip_steps: training.skip_steps.iter().fold(base.skip_steps, |skips, s| skips.and(s.from..s.to)),
            regrouped: base.regrouped,
            runtime: Runtime {
                workers: base.runtime.workers,
                threads,
                log_freq: runtime.log_freq.unwrap_or(base.runtime.log_freq),
                eval_every: runtime.eval_every.or(base.runtime.eval_every),
                save_every: match runtime.save_every {
                    None => base.runtime.save_every,
                    Some(0) => None,
                    steps => steps,
                },
                keep: size(runtime.keep, base.runtime.keep),
                ram: base.runtime.ram,
                tensorboard: self.tensorboard.over(base.runtime.tensorboard)?,
            },
        };
        check(&config)?;
        Ok(config)
    }

    /// The corpus and the test corpus that these flags name, over those of a run.
    pub(super) fn corpora(&self, base: Option<&DataConfig>) -> Result<(Sources, Option<Sources>)> {
        let base_corpus = match (&self.samples, &self.corpus[..], base) {
            (Some(samples), ..) => {
                Sources::from(CorpusConfig { format: Some(Format::Samples), ..corpus_at(samples) })
            }
            (None, [], Some(data)) => data.corpus.clone(),
            (None, given, base) => moved(given, base.map(|data| &data.corpus))?,
        };
        let corpus = self.reading.over(&base_corpus)?;
        let base_test = base.and_then(|data| data.test.as_ref());
        let test = match &self.test[..] {
            [] => base_test.cloned(),
            given => Some(moved(given, base_test)?),
        };
        // How bytes are reached and decoded goes for both texts; of how many lines, each has its own flag.
        let test = test.map(|test| {
            let test = test.iter().map(|test| CorpusConfig {
                format: self.reading.corpus_format.or(test.format),
                field: self.reading.field.clone().or(test.field.clone()),
                io: corpus[0].io,
                lines: self.runtime.eval_lines.or(test.lines),
                encoding: corpus[0].encoding.clone(),
                replace_bad_bytes: corpus[0].replace_bad_bytes,
                index_dir: self.reading.index_dir.clone().or(test.index_dir.clone()),
                ..test.clone()
            });
            Sources::new(test.collect())
        });
        Ok((corpus, test.transpose()?))
    }
}

/// Sources that are elsewhere now: read like those of the run in the same order, with the index elsewhere too.
fn moved(given: &[SourceArg], base: Option<&Sources>) -> Result<Sources> {
    let Some(base) = base.filter(|base| base.len() == given.len()) else { return sources_at(given) };
    let moved = given.iter().zip(base.iter()).map(|(given, base)| CorpusConfig {
        path: given.path.clone(),
        weight: given.weight.or(base.weight),
        index_dir: corpus_at(&given.path).index_dir,
        ..base.clone()
    });
    Sources::new(moved.collect())
}

/// Refuses what cannot be trained, before anything is written.
pub fn check(config: &RunConfig) -> Result<()> {
    config.model.check()?;
    crate::train::engine::check(config.compute)?;
    let Optimizer { beta1, beta2, epsilon, weight_decay, .. } = config.optimizer;
    let at_least = |flag: &str, value: f64, wanted: &str, fine: bool| match fine && value.is_finite() {
        true => Ok(()),
        false => Err(Error::usage(format!("{flag} {value} must be {wanted}"))),
    };
    at_least("--lr", config.schedule.lr, "above 0", config.schedule.lr > 0.0)?;
    at_least("--adam-beta1", beta1, "in 0..1", (0.0..1.0).contains(&beta1))?;
    at_least("--adam-beta2", beta2, "in 0..1", (0.0..1.0).contains(&beta2))?;
    at_least("--adam-epsilon", epsilon, "above 0", epsilon > 0.0)?;
    at_least("--adam-weight-decay", weight_decay, "0 or more", weight_decay >= 0.0)?;
    let clip = config.clip.unwrap_or(1.0);
    at_least("--clip", clip, "0 (off) or more", clip > 0.0)?;
    match config.length.total {
        0 => Err(Error::data(format!("corpus {}: no document", config.data.corpus))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use toml::Value;

    use super::*;
    use crate::sample::{MaskCount, Shuffle, Truncate};
    use crate::train::config::hex;
    use crate::vocab::WordVocab;

    #[derive(Parser)]
    struct Train {
        #[command(flatten)]
        args: Args,
    }

    /// The configuration of a run over 1000 documents and a vocabulary of 7.
    fn configure(flags: &str) -> Result<RunConfig> {
        let words = format!("train -c a.tsv -v v.json -o run {flags}");
        let args = match Train::try_parse_from(words.split_whitespace()) {
            Ok(train) => train.args,
            Err(error) => panic!("{error}"),
        };
        let vocab = WordVocab::from_texts(["one two"], None, 1);
        let (corpus, test) = args.corpora(None)?;
        let data = DataConfig {
            corpus,
            corpus_fingerprint: hex(1),
            documents: 1000,
            epoch: Epoch::counted(1000, 64),
            test,
            test_fingerprint: None,
            tokens: None,
            vocab: "v.json".into(),
            vocab_fingerprint: hex(vocab.fingerprint()),
        };
        let base = args.stages_over(defaults(args.preset.unwrap_or_default(), data, &vocab));
        let epoch = base.data.epoch;
        args.over(base, epoch, false)
    }

    #[test]
    fn the_reference_preset_is_the_reference_and_flags_come_before_it() {
        let config = configure("--preset reference").unwrap();
        assert_eq!(config.optimizer, Optimizer { kind: OptimizerKind::Adam, ..Optimizer::default() });
        assert_eq!((config.clip, config.model.init, config.accumulate), (None, Init::Torch, 1));
        assert_eq!((config.model.hidden, config.model.layers, config.model.heads), (256, 8, 8));
        assert_eq!((config.collate.seq_len, config.collate.batch_size), (20, 64));
        assert_eq!((config.collate.pad_to, config.collate.pad_id), (PadTo::Fixed, 0));
        let SampleConfig { truncate, shuffle, mask_count, .. } = config.sample;
        assert_eq!((truncate, shuffle, mask_count), (Truncate::Cut, Shuffle::None, MaskCount::Bernoulli));
        // 1000 documents in batches of 64 are 16 steps, ten times; --lr as there changes nothing.
        assert_eq!(config.length.total, 160);
        assert_eq!(config.schedule.lr(100, 160), 256f64.powf(-0.5) * 100.0 * 10_000f64.powf(-1.5));
        assert_eq!(configure("--preset reference --lr 1e-3").unwrap(), config);

        let flags =
            "--preset reference --clip 2 --initializer bert -s 64 --pad longest --warmup 7 --optimizer adamw";
        let config = configure(flags).unwrap();
        assert_eq!((config.clip, config.model.init, config.schedule.warmup), (Some(2.0), Init::Bert, 7));
        assert_eq!((config.sample.seq_len, config.collate.seq_len), (64, 64));
        assert_eq!((config.collate.pad_to, config.optimizer.kind), (PadTo::Longest, OptimizerKind::Adamw));
    }

    /// What `run.toml` says is all that a configuration follows from.
    #[test]
    fn the_flags_of_a_configuration_give_that_configuration() {
        for flags in [
            "",
            "--preset reference",
            "--size mini --steps 100 -t test.tsv --eval-lines 5 --encoding latin1 --io pread --field body",
            "-H 64 -l 2 -a 4 --dropout 0.2 --initializer torch --arch bert -s 600 -b 7 --accumulate 3 -e 2",
            "--pad packed --lr 1e-5 --schedule cosine --warmup 3 --optimizer adam --adam-weight-decay 0 --clip 0",
            "--adam-beta1 0.8 --adam-beta2 0.9 --adam-epsilon 1e-6 --workers 5 --threads 2 --log-freq 4",
            "--eval-every 5 --save-every 0 --keep 9 --engine graph --index-dir elsewhere --corpus-lines 8",
            "--pair sop --next-rate 0.4 --short-seq-prob 0.3 --truncate cut --shuffle blocks --window 9",
            "--mask-rate 0.2 --mask-count bernoulli --mask-unit word --mask-share 0.7 --random-share 0.2",
            "--tensorboard --examples-every 7 --ram 2G",
            "--tensorboard=board --histogram-every 0",
            "--on-bad-bytes replace --skip-steps 3..5 --skip-steps 8..9 --spikes keep",
            "--predict-unknown --on-bad-line skip --seed 18446744073709551615 --precision bf16",
        ] {
            let config = configure(flags).unwrap();
            let again: Vec<String> = super::super::resolved::flags(&config)
                .into_iter()
                .filter(|(name, _)| !["corpus", "vocab"].contains(name))
                .flat_map(|(name, value)| match value {
                    Value::Array(items) => items.into_iter().map(|item| (name, item)).collect(),
                    value => vec![(name, value)],
                })
                .map(|(name, value)| match value.as_str() {
                    Some(text) => format!("--{name}={text}"),
                    None if name == "tensorboard" => "--tensorboard".to_owned(),
                    None => format!("--{name}={value}"),
                })
                .collect();
            assert_eq!(configure(&again.join(" ")).unwrap(), config, "{flags}: {again:?}");
        }
    }

    /// No flag is forgotten there, but for those that are written down by what they stand for.
    #[test]
    fn every_flag_is_in_the_resolved_configuration_or_changes_nothing() {
        use clap::CommandFactory;
        let flags = "-t test.tsv --steps 9 --field x --corpus-lines 8 --index-dir x --eval-every 3 --eval-lines 4 --tensorboard --ram 1G";
        let mut config =
            configure(&format!("{flags} --epochs 3 --corpus-format pairs --skip-steps 2..3")).unwrap();
        config.data.tokens = Some("a.bstok".into());
        config.compute.recompute = true;
        let mut written: Vec<_> =
            super::super::resolved::flags(&config).into_iter().map(|flag| flag.0).collect();
        written.extend([
            "output",
            "resume",
            "config",
            "samples",
            "dashboard",
            "preset",
            "size",
            "init",
            "json",
            "quiet",
        ]);
        let command = Train::command();
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let name = arg.get_long().unwrap();
            assert!(written.contains(&name), "--{name} is in no run.toml");
        }
    }

    #[test]
    fn published_sizes_are_shapes_of_bert() {
        let check = |flags: &str, expected: (Arch, usize, usize, usize, f64)| {
            let RunConfig { model, schedule, .. } = configure(flags).unwrap();
            assert_eq!(
                (model.arch, model.layers, model.hidden, model.heads, schedule.lr),
                expected,
                "{flags}"
            );
        };
        check("--size tiny", (Arch::Bert, 2, 128, 2, 1e-3));
        check("--size mini", (Arch::Bert, 4, 256, 4, 1e-3));
        check("--size small", (Arch::Bert, 4, 512, 8, 5e-4));
        check("--size medium", (Arch::Bert, 8, 512, 8, 5e-4));
        check("--size base", (Arch::Bert, 12, 768, 12, 1e-4));
        check("--size large", (Arch::Bert, 24, 1024, 16, 1e-4));
        check("--size mini -l 2 --lr 2e-3 --arch reference", (Arch::Reference, 2, 256, 4, 2e-3));
    }

    #[test]
    fn what_is_not_asked_for_is_filled_in() {
        let config = configure("--steps 2000 -t test.tsv --eval-lines 50 --corpus-lines 900").unwrap();
        assert_eq!((config.length.total, config.schedule.warmup), (2000, 200));
        let test = config.data.test.unwrap();
        assert_eq!((test[0].lines, config.data.corpus[0].lines), (Some(50), Some(900)));
        assert_eq!((config.clip, config.schedule.lr), (Some(1.0), 1e-3));
        assert_eq!(configure("--clip 0").unwrap().clip, None);
        for (flags, expected) in [("", Some(1000)), ("--save-every 7", Some(7)), ("--save-every 0", None)] {
            assert_eq!(configure(flags).unwrap().runtime.save_every, expected, "{flags}");
        }
    }

    #[test]
    fn flags_that_cannot_be_meant_are_refused_with_their_value() {
        for (flags, named) in [
            ("--hidden 10 -a 4", "--hidden 10"),
            ("--lr 0", "--lr 0"),
            ("--lr -1", "--lr -1"),
            ("--clip -2", "--clip -2"),
            ("--lr NaN", "--lr NaN"),
            ("--adam-beta2 1", "--adam-beta2 1"),
            ("--adam-epsilon 0", "--adam-epsilon 0"),
            ("--dropout 1", "--dropout 1"),
            ("--device cuda:0", "--device cuda:0"),
            ("--cuda-devices 0 1", "--cuda-devices"),
            ("--histogram-every 9", "--tensorboard"),
        ] {
            let error = configure(flags).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2, "{flags}");
            assert!(error.to_string().contains(named), "{flags}: {error}");
        }
        for flags in [
            "--steps 0",
            "-b 0",
            "--accumulate 0",
            "--clip x",
            "--resume run",
            "--workers 100000",
            "--threads 100000",
        ] {
            let words = format!("train -c a.tsv -v v.json -o run {flags}");
            assert!(Train::try_parse_from(words.split_whitespace()).is_err(), "{flags}");
        }
        assert!(Train::try_parse_from(["train", "--resume", "run", "--io", "memory"]).is_ok());
    }
}
