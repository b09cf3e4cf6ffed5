//! A map over an iterator on several threads, whose results come in the order of the items.
//!
//! Each item travels with a ticket: the sending end of a channel of one, whose receiving end waits in the
//! consumer's queue at the item's place. Memory is bounded even where one item is slow; a map that
//! reorders results by number has no such bound.

use std::collections::VecDeque;
use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{StageStats, Wanted, cannot_start, guard};
use crate::{Error, Result};

/// Items under way for each worker: one in work, the others finished or waiting, so that no worker idles
/// while the consumer handles a result. More only costs memory.
pub const IN_FLIGHT_PER_WORKER: usize = 4;

/// An item on its way to a worker.
pub(super) struct Job<T, R> {
    pub number: u64,
    pub item: T,
    pub reply: Sender<Result<R>>,
}

/// Applies a worker to each of `items` on threads `stage-0`, `stage-1`, ... of `scope`, and gives the
/// results in order. `make_worker` is called once for each thread, on the caller's; with no `workers` one
/// worker runs inline, in `next`. The stream ends with the items or with the first error; what has not been begun when
/// it is `wanted` no more never is.
///
/// # Errors
/// Those of `make_worker`; [`crate::ErrorKind::Io`] where a thread cannot be started.
pub fn ordered_map<'scope, I, W, R>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'scope str,
    workers: usize,
    items: I,
    stats: &'scope StageStats,
    wanted: &Wanted,
    mut make_worker: impl FnMut(usize) -> Result<W>,
) -> Result<OrderedMap<'scope, I, W, R>>
where
    I: Iterator,
    I::Item: Send + 'scope,
    W: FnMut(I::Item) -> Result<R> + Send + 'scope,
    R: Send + 'scope,
{
    stats.runs_on(workers, workers * IN_FLIGHT_PER_WORKER);
    let lane = if workers == 0 {
        Lane::Inline(make_worker(0)?)
    } else {
        let capacity = workers * IN_FLIGHT_PER_WORKER;
        // As wide as the queue of tickets, so that sending a job never blocks.
        let (jobs, queue) = bounded(capacity);
        start_workers(scope, stage, workers, &queue, stats, wanted, make_worker)?;
        Lane::Threads { jobs, tickets: VecDeque::with_capacity(capacity), capacity }
    };
    Ok(OrderedMap { items, lane: Some(lane), stage, stats, sent: 0, given: 0 })
}

/// Starts the threads that serve a queue of jobs.
pub(super) fn start_workers<'scope, T: Send + 'scope, R: Send + 'scope, W>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'scope str,
    workers: usize,
    queue: &Receiver<Job<T, R>>,
    stats: &'scope StageStats,
    wanted: &Wanted,
    mut make_worker: impl FnMut(usize) -> Result<W>,
) -> Result<()>
where
    W: FnMut(T) -> Result<R> + Send + 'scope,
{
    for i in 0..workers {
        let worker = make_worker(i)?;
        let (queue, wanted) = (queue.clone(), wanted.clone());
        let name = format!("{stage}-{i}");
        Builder::new()
            .name(name.clone())
            .spawn_scoped(scope, move || serve(queue, worker, stage, stats, &wanted))
            .map_err(|error| cannot_start(&name, error))?;
    }
    Ok(())
}

/// A worker thread's life: it does not know that its jobs come through a channel.
fn serve<T, R>(
    jobs: impl IntoIterator<Item = Job<T, R>>,
    mut worker: impl FnMut(T) -> Result<R>,
    stage: &str,
    stats: &StageStats,
    wanted: &Wanted,
) {
    for Job { number, item, reply } in jobs {
        // A channel is emptied by its receivers even where nobody waits for what becomes of that.
        if !wanted.still() {
            return;
        }
        let mut finished = false;
        let result = guard(stage, number, || {
            let result = stats.worked(|| worker(item));
            finished = true;
            result
        });
        // A consumer that has gone wants no reply.
        let _ = reply.send(result);
        if !finished {
            // What the panic left of the worker's scratch is not to be used again.
            return;
        }
    }
}

/// The iterator of [`ordered_map`].
pub struct OrderedMap<'scope, I: Iterator, W, R> {
    items: I,
    /// `None` once the stream is over; dropping it lets the threads end.
    lane: Option<Lane<I::Item, W, R>>,
    stage: &'scope str,
    stats: &'scope StageStats,
    sent: u64,
    given: u64,
}

enum Lane<T, W, R> {
    Inline(W),
    Threads { jobs: Sender<Job<T, R>>, tickets: VecDeque<Receiver<Result<R>>>, capacity: usize },
}

impl<I, W, R> Iterator for OrderedMap<'_, I, W, R>
where
    I: Iterator,
    W: FnMut(I::Item) -> Result<R>,
{
    type Item = Result<R>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.lane.as_mut()? {
            Lane::Inline(worker) => self.items.next().map(|item| {
                self.stats.count(0);
                self.stats.inline(|| guard(self.stage, self.given, || worker(item)))
            }),
            Lane::Threads { jobs, tickets, capacity } => {
                while tickets.len() < *capacity {
                    let Some(item) = self.items.next() else { break };
                    let (reply, ticket) = bounded(1);
                    // Fails only where every worker has died; then the tickets tell of it, in order.
                    let _ = jobs.send(Job { number: self.sent, item, reply });
                    self.sent += 1;
                    tickets.push_back(ticket);
                }
                let ready = tickets.iter().filter(|ticket| !ticket.is_empty()).count();
                tickets.pop_front().map(|ticket| {
                    self.stats.count(ready);
                    let reply = ticket.try_recv().or_else(|_| self.stats.waited(|| ticket.recv()));
                    reply.unwrap_or_else(|_| Err(lost(self.stage, self.given)))
                })
            }
        };
        self.given += 1;
        if !matches!(result, Some(Ok(_))) {
            self.lane = None;
        }
        result
    }
}

/// A ticket whose worker ended without an answer.
pub(super) fn lost(stage: &str, item: u64) -> Error {
    Error::internal(format!(
        "stage {stage}: a worker ended without a result for item {item} (counted from 0); this is a bug of \
         this program"
    ))
}
