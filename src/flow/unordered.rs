//! A map over an iterator on several threads, whose results come as they are finished. Nothing that must come out the
//! same twice goes through here: it is what [`super::ordered_map`] is measured against.

use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::ordered::{IN_FLIGHT_PER_WORKER, Job, lost, start_workers};
use super::{StageStats, Wanted};
use crate::Result;

/// [`super::ordered_map`] on `workers > 0` threads, with the same bounds and errors, and the results in any order.
///
/// # Errors
/// As there.
pub fn unordered_map<'scope, I, W, R>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'scope str,
    workers: usize,
    items: I,
    stats: &'scope StageStats,
    wanted: &Wanted,
    make_worker: impl FnMut(usize) -> Result<W>,
) -> Result<UnorderedMap<'scope, I, R>>
where
    I: Iterator,
    I::Item: Send + 'scope,
    W: FnMut(I::Item) -> Result<R> + Send + 'scope,
    R: Send + 'scope,
{
    let capacity = workers * IN_FLIGHT_PER_WORKER;
    stats.runs_on(workers, capacity);
    // Both as wide as what is under way, so that nobody blocks on sending.
    let ((jobs, queue), (reply, results)) = (bounded(capacity), bounded(capacity));
    start_workers(scope, stage, workers, &queue, stats, wanted, make_worker)?;
    Ok(UnorderedMap {
        items,
        lane: Some(Lane { jobs, reply, results }),
        stage,
        stats,
        capacity,
        sent: 0,
        given: 0,
    })
}

/// The iterator of [`unordered_map`].
pub struct UnorderedMap<'scope, I: Iterator, R> {
    items: I,
    /// `None` once the stream is over; dropping it lets the threads end.
    lane: Option<Lane<I::Item, R>>,
    stage: &'scope str,
    stats: &'scope StageStats,
    capacity: usize,
    sent: u64,
    given: u64,
}

struct Lane<T, R> {
    jobs: Sender<Job<T, R>>,
    reply: Sender<Result<R>>,
    results: Receiver<Result<R>>,
}

impl<I: Iterator, R> Iterator for UnorderedMap<'_, I, R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Self::Item> {
        let Lane { jobs, reply, results } = self.lane.as_ref()?;
        while self.sent - self.given < self.capacity as u64 {
            let Some(item) = self.items.next() else { break };
            // Fails only where every worker has died, each with an error among the results.
            let _ = jobs.send(Job { number: self.sent, item, reply: reply.clone() });
            self.sent += 1;
        }
        let result = (self.given < self.sent).then(|| {
            self.stats.count(results.len());
            let result = results.try_recv().or_else(|_| self.stats.waited(|| results.recv()));
            result.unwrap_or_else(|_| Err(lost(self.stage, self.given)))
        });
        self.given += 1;
        if !matches!(result, Some(Ok(_))) {
            self.lane = None;
        }
        result
    }
}
