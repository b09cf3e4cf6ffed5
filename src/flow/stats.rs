//! Where the time goes: how long the consumer of a stage waited, and how much stood ready for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counters of one stage, shared by reference. They change nothing; a stage whose consumer waits and
/// finds nothing ready is the bottleneck.
#[derive(Debug, Default)]
pub struct StageStats {
    taken: AtomicU64,
    wait_nanos: AtomicU64,
    ready: AtomicU64,
}

impl StageStats {
    /// Items that the consumer took.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Time that the consumer spent waiting for this stage (without threads: working for it).
    pub fn wait(&self) -> Duration {
        Duration::from_nanos(self.wait_nanos.load(Relaxed))
    }

    /// Finished items that stood ready when the consumer came, on average.
    pub fn mean_ready(&self) -> f64 {
        self.ready.load(Relaxed) as f64 / self.taken().max(1) as f64
    }

    /// Counts an item taken when `ready` of them were finished.
    pub(super) fn count(&self, ready: usize) {
        self.taken.fetch_add(1, Relaxed);
        self.ready.fetch_add(ready as u64, Relaxed);
    }

    /// Runs `wait` and adds its time.
    pub(super) fn timed<R>(&self, wait: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = wait();
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.wait_nanos.fetch_add(nanos, Relaxed);
        result
    }
}
