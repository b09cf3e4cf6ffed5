//! Where the time goes: how busy a stage is, how long what comes behind it waits, how much stands ready.
//!
//! Takes the clock twice for an item (a unit of samples, a batch), never for a sample, so that measuring costs
//! nothing that can be measured. Knows nothing of what a stage does.

use std::borrow::Cow;
use std::iter;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::Result;

/// Counters of one stage, shared by reference. They change nothing.
#[derive(Debug, Default)]
pub struct StageStats {
    threads: AtomicUsize,
    queue: AtomicUsize,
    taken: AtomicU64,
    ready: AtomicU64,
    work_nanos: AtomicU64,
    wait_nanos: AtomicU64,
}

impl StageStats {
    /// Items that the consumer took.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Time that the stage spent on its items, of all its threads together: making them, and waiting for the
    /// stages before it where these have threads of their own.
    pub fn work(&self) -> Duration {
        Duration::from_nanos(self.work_nanos.load(Relaxed))
    }

    /// Time that the consumer spent waiting for this stage (without threads: working for it).
    pub fn wait(&self) -> Duration {
        Duration::from_nanos(self.wait_nanos.load(Relaxed))
    }

    /// The sums so far.
    pub fn sums(&self) -> StageSums {
        StageSums {
            threads: self.threads.load(Relaxed),
            queue: self.queue.load(Relaxed),
            taken: self.taken(),
            ready: self.ready.load(Relaxed),
            work: self.work(),
            wait: self.wait(),
        }
    }

    /// `items`, made on the thread of whoever takes them and counted here.
    pub fn watch<T>(&self, mut items: impl Iterator<Item = Result<T>>) -> impl Iterator<Item = Result<T>> {
        iter::from_fn(move || {
            let item = self.inline(|| items.next());
            if matches!(item, Some(Ok(_))) {
                self.count(0);
            }
            item
        })
    }

    /// Says that the stage has so many threads, and room for so many finished items behind it.
    pub(super) fn runs_on(&self, threads: usize, queue: usize) {
        self.threads.store(threads, Relaxed);
        self.queue.store(queue, Relaxed);
    }

    /// Counts an item taken when `ready` of them were finished.
    pub(super) fn count(&self, ready: usize) {
        self.taken.fetch_add(1, Relaxed);
        self.ready.fetch_add(ready as u64, Relaxed);
    }

    /// Runs `work` on a thread of the stage, and adds its time.
    pub(super) fn worked<R>(&self, work: impl FnOnce() -> R) -> R {
        timed(&self.work_nanos, work)
    }

    /// Runs `wait` on the consumer's thread, and adds its time.
    pub(super) fn waited<R>(&self, wait: impl FnOnce() -> R) -> R {
        timed(&self.wait_nanos, wait)
    }

    /// Runs `work` on the consumer's thread, which does nothing else meanwhile.
    pub(super) fn inline<R>(&self, work: impl FnOnce() -> R) -> R {
        self.waited(|| self.worked(work))
    }
}

/// Runs `run`, and adds its time to `nanos`.
fn timed<R>(nanos: &AtomicU64, run: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = run();
    nanos.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
    result
}

/// What share of `whole` is `part`, at most 1; none of nothing.
fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { (part.as_secs_f64() / whole.as_secs_f64()).min(1.0) }
}

/// What the counters of a stage stood at.
#[derive(Clone, Copy, Debug, Default)]
pub struct StageSums {
    threads: usize,
    queue: usize,
    taken: u64,
    ready: u64,
    /// As [`StageStats::work`] and [`StageStats::wait`].
    pub work: Duration,
    pub wait: Duration,
}

impl StageSums {
    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            taken: self.taken.saturating_sub(earlier.taken),
            ready: self.ready.saturating_sub(earlier.ready),
            work: self.work.saturating_sub(earlier.work),
            wait: self.wait.saturating_sub(earlier.wait),
            ..*self
        }
    }

    /// What became of a stage that spent `busy` of its work on its own items, in `wall` of time.
    pub fn report(&self, name: &'static str, busy: Duration, wall: Duration) -> StageReport {
        StageReport {
            name: name.into(),
            threads: self.threads,
            busy: share(busy, wall * self.threads.max(1) as u32),
            ready: self.ready as f64 / self.taken.max(1) as f64,
            queue: self.queue,
        }
    }
}

/// How one stage spent its time.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StageReport {
    pub name: Cow<'static, str>,
    /// Threads of its own; 0 where it ran on its consumer's.
    pub threads: usize,
    /// Share of the time of its threads that it worked; the rest it waited, for items or for room behind it.
    pub busy: f64,
    /// Finished items that stood ready behind it, on average, and for how many there is room.
    pub ready: f64,
    pub queue: usize,
}

/// How a pipeline spent its time.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowReport {
    pub wall: Duration,
    /// In the order of the data. With threads or without, all stages but the consumer.
    pub stages: Vec<StageReport>,
    /// Share of the time that the consumer was blocked on data.
    pub data_wait: f64,
}

impl FlowReport {
    /// Of stages that ran for `wall`, and a consumer that waited for the last of them for `waited`.
    pub fn new(stages: Vec<StageReport>, waited: Duration, wall: Duration) -> Self {
        Self { wall, stages, data_wait: share(waited, wall) }
    }
}
