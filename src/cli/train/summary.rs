//! What is told before a training, of memory among others, and after it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::bottleneck::{Situation, bottleneck};
use super::super::log;
use super::super::output::{bytes, counted, grouped, print, seconds, tell_row};
use super::super::ram::{self, RamFlag, Size};
use super::{Done, Opened};
use crate::model::{Arch, Engine};
use crate::train::checkpoint::Progress;
use crate::train::{
    DeviceChoice, Ending, EvaluationRecord, RunConfig, RunDir, Runtime, StepRecord, Stop, Survey,
    TensorBoard, memory, tensorboard,
};
use crate::{Error, ErrorKind, Result};

/// Tells what is about to happen: people in lines, programs in one object.
pub fn introduce(config: &RunConfig, opened: &Opened, run: &RunDir, survey: &Survey) {
    match log::format() {
        log::Format::Text => describe(config, opened, run, survey),
        log::Format::Json => log::object(&json!({
            "kind": "start",
            "run": run.path(),
            "parameters": memory::parameters(&config.model),
            "samples_per_epoch": survey.epoch.samples,
            "tokens_per_epoch": survey.epoch.samples as f64 * survey.tokens_per_sample,
            "steps": config.length.total,
            "steps_per_epoch": survey.epoch.steps(config.accumulate),
            "memory_bytes": needed_bytes(config, survey),
            "configuration": config,
        })),
    }
}

/// Tells about how long `steps` steps take, by a forward pass over a few samples: forward and backward together are
/// about three of it. Nothing is learnt from them.
pub fn estimate(engine: &mut dyn Engine, survey: &Survey, accumulate: usize, steps: u64) -> Result<()> {
    const PASSES: f64 = 3.0;
    const ENOUGH: Duration = Duration::from_millis(200);
    // The first pass takes its memory from the system.
    engine.evaluate(&survey.trial)?;
    let started = Instant::now();
    let mut passes = 0.0;
    while passes == 0.0 || started.elapsed() < ENOUGH {
        engine.evaluate(&survey.trial)?;
        passes += 1.0;
    }
    let tokens = survey.trial.tokens().max(1) as f64;
    let pass = started.elapsed().as_secs_f64() / passes * survey.tokens_per_batch / tokens;
    let step = PASSES * pass * accumulate as f64;
    match log::format() {
        log::Format::Text => tell_row(
            "time",
            format_args!(
                "about {} for {} steps (tried on {} samples), without tests",
                seconds(step * steps as f64),
                grouped(steps),
                survey.trial.samples()
            ),
        ),
        log::Format::Json => {
            log::object(&json!({ "kind": "estimate", "steps": steps, "seconds": step * steps as f64 }));
        }
    }
    Ok(())
}

fn describe(config: &RunConfig, opened: &Opened, run: &RunDir, survey: &Survey) {
    let Survey { epoch, tokens_per_sample, .. } = survey;
    let about = if epoch.exact { "" } else { "about " };
    let products = config.compute.products();
    let Runtime { workers, threads, .. } = config.runtime;
    tell_row(
        "model",
        format_args!(
            "{:.2} M parameters: {} tokens, hidden {}, {}, {}",
            memory::parameters(&config.model) / 1e6,
            grouped(config.model.vocab_size as u64),
            config.model.hidden,
            counted(config.model.layers, "layer"),
            counted(config.model.heads, "head")
        ),
    );
    tell_row(
        "data",
        format_args!(
            "{}: {about}{} samples and about {:.2} M tokens an epoch ({tokens_per_sample:.1} a sample)",
            config.data.corpus,
            grouped(epoch.samples),
            epoch.samples as f64 * tokens_per_sample / 1e6
        ),
    );
    if let (Some(test), Some(path)) = (&opened.test, &config.data.test) {
        tell_row("test", format_args!("{}: {} documents", path, grouped(test.len())));
    }
    let accumulated = match config.accumulate {
        1 => String::new(),
        n => format!("{n} x "),
    };
    tell_row(
        "length",
        format_args!(
            "{} steps of {accumulated}{} rows, {about}{} an epoch, warm-up {}",
            grouped(config.length.total),
            config.collate.batch_size,
            grouped(epoch.steps(config.accumulate)),
            grouped(config.schedule.warmup)
        ),
    );
    tell_row(
        "compute",
        format_args!(
            "{} engine on {}, {}, {}, {}; about {} of memory",
            config.compute.engine,
            config.compute.device,
            products,
            counted(threads, "thread"),
            counted(workers, "worker"),
            bytes(needed_bytes(config, survey) as u64)
        ),
    );
    tell_row("files", format_args!("{} (checkpoints, metrics.jsonl, run.toml)", run.path().display()));
    if let Some(board) = &config.runtime.tensorboard {
        tell_row("board", format_args!("tensorboard --logdir {}", board_directory(board, run).display()));
    }
    let figures = if log::is_live() {
        "[..]: what guessing reaches. Ctrl-C saves a checkpoint and stops"
    } else {
        "mlm: loss and accuracy of the masked tokens; nsp: of the pairs; [..]: by guessing; norm: of the gradient; \
         wait: share of the time without data"
    };
    tell_row("figures", figures);
}

/// Where event files go.
pub fn board_directory(board: &TensorBoard, run: &RunDir) -> PathBuf {
    board.directory.clone().unwrap_or_else(|| run.file(tensorboard::DIRECTORY))
}

/// About the bytes that this training takes.
fn needed_bytes(config: &RunConfig, survey: &Survey) -> f64 {
    let Survey { tokens_per_batch, tokens_per_sample, .. } = *survey;
    memory::training_bytes(&config.model, tokens_per_batch, tokens_per_sample)
}

/// Refuses a training that does not fit into the memory there is, before anything of it is taken. What a GPU
/// holds is not asked after.
pub fn check_memory(config: &RunConfig, survey: &Survey) -> Result<()> {
    let Some(available) = available_bytes() else { return Ok(()) };
    let needed = needed_bytes(config, survey);
    if config.compute.device != DeviceChoice::Cpu || needed <= available {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--hidden {} with --layers {}, --batch-size {} and {} tokens needs about {} of memory, and {} are available: \
         choose a smaller model, or a smaller batch with --accumulate",
        config.model.hidden,
        config.model.layers,
        config.collate.batch_size,
        config.model.vocab_size,
        bytes(needed as u64),
        bytes(available as u64)
    )))
}

/// What an engine takes beside that and half as much again for packed weights: scratch of its threads, and kernels.
const SCRATCH: u64 = 16 << 20;

/// The run within its budget of memory, where it has one: with as many workers as that feeds. Until the survey tells
/// what training takes, hardly anything is kept of the corpus.
///
/// # Errors
/// As [`RamFlag::part`].
pub fn within_ram(config: RunConfig, opened: &Opened, survey: Option<&Survey>) -> Result<RunConfig> {
    let Some(bytes) = config.runtime.ram else { return Ok(config) };
    let ram = RamFlag { ram: Some(Size(bytes)) };
    let training = survey.map_or(0, |survey| needed_bytes(&config, survey) as u64 * 3 / 2 + SCRATCH);
    let parts = ram.part(opened.plan(&config, config.runtime.workers), Some(&config.collate), training)?;
    if survey.is_none() {
        opened.corpus.keep_at_most(0);
    }
    if let Some(test) = &opened.test {
        test.keep_at_most(0);
    }
    Ok(RunConfig { runtime: Runtime { workers: parts.workers, ..config.runtime }, ..config })
}

/// Memory that can be had without swapping, where the system tells: the machine's, or what the control groups
/// of this process (a container's limit) leave of it.
fn available_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(left_by_groups(Path::new("/sys/fs/cgroup")).fold(1024.0 * kibibytes, f64::min))
}

/// What each control group that this process is in leaves of its limit. `root` is where the second version of
/// control groups is mounted; groups without a limit, or of the first version, tell nothing.
fn left_by_groups(root: &Path) -> impl Iterator<Item = f64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    let groups: Vec<PathBuf> = Path::new(&own).ancestors().map(|group| root.join(group)).collect();
    groups.into_iter().filter_map(|group| {
        let number = |file: &str| -> Option<f64> {
            std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
        };
        Some((number("memory.max")? - number("memory.current")?).max(0.0))
    })
}

/// Tells what was made and what to type next.
pub(super) fn conclude(
    config: &RunConfig,
    opened: &Opened,
    run: &RunDir,
    done: &Done,
    json: bool,
) -> Result<()> {
    let directory = run.path().display();
    let Progress { step, tokens, samples, skipped_updates, left_out, digest, best, .. } = &done.progress;
    if let Ending::Stopped(stop) = done.ending {
        let saved = if *step > 0 { "a checkpoint is saved" } else { "nothing was learnt yet" };
        return Err(Error::new(
            ErrorKind::Stopped { interrupt: stop == Stop::Interrupt },
            format!(
                "stopped by a signal after step {step} of {}; {saved}; go on with `bertstream train --resume \
                 {directory}`",
                config.length.total
            ),
        ));
    }
    if json {
        let wait = Some(done.flow.data_wait);
        return print_json(run, &done.progress, done.last_step.as_ref(), done.last_test.as_ref(), wait);
    }
    let [at, samples, tokens] = [*step, *samples, *tokens].map(grouped);
    print(format_args!("{directory}: step {at}, {samples} samples, {tokens} tokens, batches {digest}"))?;
    if *skipped_updates > 0 {
        print(format_args!("{skipped_updates} updates skipped: their loss or gradient was not finite"))?;
    }
    if *left_out > 0 {
        print(format_args!("{left_out} steps left out: config.json lists them"))?;
    }
    if let Some(best) = best {
        print(format_args!("best on the test corpus: loss {:.4} after step {}", best.loss, best.step))?;
    }
    if let Some(line) = bottleneck(&done.flow, Situation::here("train", &*opened.corpus)) {
        print(format_args!("bottleneck: {line}"))?;
    }
    if let Some(board) = &config.runtime.tensorboard {
        print(format_args!("curves: tensorboard --logdir {}", board_directory(board, run).display()))?;
    }
    match config.model.arch {
        Arch::Reference => print(format_args!("weights for PyTorch: {directory}/model.safetensors"))?,
        Arch::Bert => print(format_args!("for transformers: bertstream export {directory} DIR"))?,
    }
    match &config.data.test {
        Some(test) => {
            let flags: String =
                test.iter().map(|source| format!(" --corpus {}", source.path.display())).collect();
            print(format_args!("next: bertstream eval --run {directory}{flags}"))
        }
        None => print(format_args!("next: bertstream eval --run {directory} --corpus HELD-OUT-FILE")),
    }
}

/// The summary as one line of JSON.
fn print_json(
    run: &RunDir,
    progress: &Progress,
    last_step: Option<&StepRecord>,
    last_test: Option<&EvaluationRecord>,
    data_wait: Option<f64>,
) -> Result<()> {
    let summary = serde_json::json!({
        "run": run.path(),
        "step": progress.step,
        "tokens": progress.tokens,
        "samples": progress.samples,
        "skipped_updates": progress.skipped_updates,
        "left_out": progress.left_out,
        "digest": progress.digest,
        "best": progress.best,
        "train": last_step.map(|r| &r.figures),
        "test": last_test.map(|r| &r.figures),
        "data_wait": data_wait,
        "peak_rss_bytes": ram::status("VmHWM:"),
    });
    print(summary)
}

/// Tells that a run to go on with has nothing left to do.
pub(super) fn already_finished(run: &RunDir, progress: &Progress, json: bool) -> Result<()> {
    let (directory, step) = (run.path().display(), progress.step);
    if json {
        return print_json(run, progress, None, None, None);
    }
    print(format_args!("{directory}: already finished at step {step}; --steps N with N above {step} goes on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_root_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        let left = || left_by_groups(dir.path()).collect::<Vec<_>>();
        assert!(left().is_empty());
        std::fs::write(dir.path().join("memory.current"), "600\n").unwrap();
        for (max, expected) in [("max\n", vec![]), ("1000\n", vec![400.0]), ("500\n", vec![0.0])] {
            std::fs::write(dir.path().join("memory.max"), max).unwrap();
            assert_eq!(left(), expected, "{max}");
        }
    }
}
