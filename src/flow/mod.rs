//! Threads and channels between the stages: order kept, memory bounded, errors in their place. Knows no
//! BERT.
//!
//! Takes iterators, gives iterators. [`ordered_map`] spreads work over named threads and gives the results
//! in the order of the items; [`prefetch`] runs an iterator ahead of its consumer. Both guarantee:
//! * every channel is bounded, so a slow consumer stops the producers;
//! * an error stands where its item stood and ends the stream, whatever the number of threads;
//! * a worker's panic is such an error ([`crate::ErrorKind::Internal`]), never a short stream: the end of
//!   the data is said explicitly, and a channel that closes without it is an error;
//! * dropping the iterator early stops the threads, and the caller's [`std::thread::scope`] joins them; the end of
//!   [`scope`], or a [`Consumer`] from outside that is dropped, stops them in the midst of an item, where their work asks
//!   for it, and whoever waits for [`prefetch`] with them.

mod fail_point;
mod ordered;
mod prefetch;
mod stats;
mod unordered;
mod wanted;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Error, Result};

pub use fail_point::fail_at;
pub use ordered::{IN_FLIGHT_PER_WORKER, OrderedMap, ordered_map};
pub use prefetch::{Prefetch, prefetch};
pub use stats::{FlowReport, StageReport, StageStats, StageSums};
pub use unordered::{UnorderedMap, unordered_map};
pub use wanted::{Consumer, Wanted, consumer, scope};

/// Runs `work`, and turns a panic into an error that tells the stage, the item and the message.
///
/// The caller must not use again what `work` was changing when it panicked; that is what makes it sound
/// to assert unwind safety here.
fn guard<R>(stage: &str, item: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
    let work = || {
        fail_point::pass(stage, item);
        work()
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        Err(Error::of_panic(format_args!("stage {stage}, item {item} (counted from 0)"), &*payload))
    })
}

/// A thread of stage `name` could not be started.
fn cannot_start(name: &str, error: std::io::Error) -> Error {
    Error::new(crate::ErrorKind::Io, format!("thread {name} cannot be started: use fewer --workers"))
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::ErrorKind;

    const STAGE: &str = "test";
    const WORKERS: [usize; 4] = [0, 1, 2, 8];
    const ITEMS: u64 = 30;

    /// Squares `0..ITEMS` through both stages, `work` deciding what each item gives; `take` results of it.
    fn squares(workers: usize, take: usize, work: fn(u64) -> Result<u64>) -> Vec<Result<u64>> {
        let stats = StageStats::default();
        scope(&Wanted::always(), |scope, wanted| {
            let mapped = ordered_map(scope, STAGE, workers, 0..ITEMS, &stats, wanted, |_| Ok(work)).unwrap();
            if workers == 0 {
                return mapped.take(take).collect();
            }
            prefetch(scope, STAGE, 2, mapped, &stats, wanted).unwrap().take(take).collect()
        })
    }

    fn square(x: u64) -> Result<u64> {
        // Uneven work: late items of a batch of jobs finish before early ones.
        let rounds = if x.is_multiple_of(3) { 20_000 } else { 1 };
        Ok((0..rounds).fold(0, |_, _| std::hint::black_box(x * x)))
    }

    #[test]
    fn without_an_order_everything_comes_once_or_the_error_does() {
        let check = |workers, work: fn(u64) -> Result<u64>| {
            let stats = StageStats::default();
            scope(&Wanted::always(), |scope, wanted| {
                let mut found: Vec<Result<u64>> =
                    unordered_map(scope, STAGE, workers, 0..ITEMS, &stats, wanted, |_| Ok(work))
                        .unwrap()
                        .collect();
                found.sort_by_key(|result| *result.as_ref().unwrap_or(&u64::MAX));
                found
            })
        };
        for workers in [1, 2, 8] {
            let squares = check(workers, square).into_iter().map(Result::unwrap);
            assert!(squares.eq((0..ITEMS).map(|x| x * x)), "{workers} workers");
            let failed = check(workers, |x| if x == 7 { Err(Error::data("bad")) } else { Ok(x) });
            assert_eq!(failed.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Data);
            let died = check(workers, |x| if x == 7 { panic!("at seven") } else { Ok(x) });
            assert_eq!(died.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Internal);
        }
    }

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for workers in WORKERS {
            let results: Vec<u64> =
                squares(workers, usize::MAX, square).into_iter().map(Result::unwrap).collect();
            assert!(results.into_iter().eq((0..ITEMS).map(|x| x * x)), "{workers} workers");
        }
    }

    #[test]
    fn a_consumer_may_leave_at_any_item() {
        for workers in WORKERS {
            for take in 0..=ITEMS as usize {
                // That this returns means that all threads have ended: the scope joins them.
                assert_eq!(squares(workers, take, square).len(), take, "{workers} workers");
            }
        }
    }

    #[test]
    fn what_was_not_begun_is_not_begun_for_nobody() {
        let (stats, begun) = (StageStats::default(), AtomicU64::new(0));
        let ((begins, seen), (gate, opened)) = (bounded::<()>(0), bounded::<()>(0));
        thread::scope(|scope| {
            let (consumer, wanted) = consumer();
            // The second is in work until the consumer has gone; more wait behind it.
            let work = |x| {
                begun.fetch_add(1, Ordering::Relaxed);
                if x == 1 {
                    begins.send(()).unwrap();
                    _ = opened.recv();
                }
                Ok(x)
            };
            let mut mapped = ordered_map(scope, STAGE, 1, 0..ITEMS, &stats, &wanted, |_| Ok(work)).unwrap();
            assert_eq!(mapped.next().unwrap().unwrap(), 0);
            seen.recv().unwrap();
            drop((mapped, consumer, gate));
        });
        assert_eq!(begun.into_inner(), 2);
    }

    #[test]
    fn an_error_stands_in_its_place_and_ends_the_stream() {
        fn failing(x: u64) -> Result<u64> {
            if x == 17 { Err(Error::data("17 is bad")) } else { square(x) }
        }
        for workers in WORKERS {
            let mut results = squares(workers, usize::MAX, failing);
            let last = results.pop().expect("there are results").unwrap_err();
            assert_eq!((results.len(), last.kind()), (17, ErrorKind::Data), "{workers} workers");
            assert!(results.iter().all(Result::is_ok));
        }
    }

    #[test]
    fn a_panic_is_a_typed_error_never_a_short_stream() {
        fn panics<const AT: u64>(x: u64) -> Result<u64> {
            assert!(x != AT, "worker broke at {x}");
            square(x)
        }
        fn check(at: u64, work: fn(u64) -> Result<u64>) {
            for workers in WORKERS {
                let mut results = squares(workers, usize::MAX, work);
                let last = results.pop().expect("there are results").unwrap_err();
                assert_eq!(
                    (results.len() as u64, last.kind()),
                    (at, ErrorKind::Internal),
                    "{workers} workers"
                );
                let said = format!("stage test, item {at} (counted from 0): a panic: worker broke at {at}");
                assert!(last.to_string().starts_with(&said), "{last}");
            }
        }
        check(0, panics::<0>);
        check(15, panics::<15>);
        check(ITEMS - 1, panics::<{ ITEMS - 1 }>);
    }

    #[test]
    fn a_panic_of_the_prefetched_iterator_is_a_typed_error() {
        let stats = StageStats::default();
        let items = (0..10).map(|x| if x == 4 { panic!("broke") } else { Ok(x) });
        let mut results: Vec<Result<i32>> = scope(&Wanted::always(), |scope, wanted| {
            prefetch(scope, STAGE, 1, items, &stats, wanted).unwrap().collect()
        });
        assert_eq!(results.len(), 5);
        assert_eq!(results.pop().expect("five").unwrap_err().kind(), ErrorKind::Internal);
    }

    #[test]
    fn who_waits_is_woken_where_nothing_is_wanted_any_more() {
        let stats = StageStats::default();
        for at in [0, 1, 5] {
            let (stopper, until) = consumer();
            let found: Vec<Result<u64>> = scope(&until, |scope, wanted| {
                let (mut stopper, (gate, opened)) = (Some(stopper), bounded::<()>(0));
                let items = (0..ITEMS).map(move |x| {
                    if x == at {
                        drop(stopper.take());
                        // It takes for as long as anybody waits for it.
                        _ = opened.recv();
                    }
                    Ok(x)
                });
                let found = prefetch(scope, STAGE, 2, items, &stats, wanted).unwrap().collect();
                drop(gate);
                found
            });
            let (last, before) = found.split_last().unwrap();
            assert_eq!(last.as_ref().unwrap_err().kind(), ErrorKind::Internal);
            assert!(before.len() as u64 <= at, "what came after that is not given");
            assert!(before.iter().map(|x| *x.as_ref().unwrap()).eq(0..before.len() as u64));
        }
    }

    /// The case of a thread that is gone without a word: the queue of jobs loses its reader.
    #[test]
    fn work_that_nobody_does_is_an_error() {
        let stats = StageStats::default();
        scope(&Wanted::always(), |scope, wanted| {
            let dies = |x: u64| -> Result<u64> { panic!("all die, at {x}") };
            let mut mapped = ordered_map(scope, STAGE, 2, 0..ITEMS, &stats, wanted, |_| Ok(dies)).unwrap();
            let first = mapped.next().expect("an error is an item").unwrap_err();
            assert_eq!(first.kind(), ErrorKind::Internal);
            assert!(mapped.next().is_none());
        });
    }

    #[test]
    fn a_slow_consumer_stops_the_producers() {
        let stats = StageStats::default();
        let pulled = Cell::new(0);
        let items = (0..ITEMS).inspect(|_| pulled.set(pulled.get() + 1));
        scope(&Wanted::always(), |scope, wanted| {
            let mut mapped = ordered_map(scope, STAGE, 2, items, &stats, wanted, |_| Ok(square)).unwrap();
            for given in 1..=5 {
                mapped.next().expect("there are more").unwrap();
                assert!(pulled.get() < given + 2 * 4, "{} pulled, {given} given", pulled.get());
            }
        });
        assert_eq!(stats.taken(), 5);
    }

    /// Without threads the stages share one, so that their work is what their consumer waits for.
    #[test]
    fn work_is_told_from_waiting() {
        for workers in WORKERS {
            let (mapped, ahead) = (StageStats::default(), StageStats::default());
            scope(&Wanted::always(), |scope, wanted| {
                let items =
                    ordered_map(scope, STAGE, workers, 0..ITEMS, &mapped, wanted, |_| Ok(square)).unwrap();
                let items: Box<dyn Iterator<Item = Result<u64>>> = match workers {
                    0 => Box::new(ahead.watch(items)),
                    _ => Box::new(prefetch(scope, STAGE, 2, items, &ahead, wanted).unwrap()),
                };
                assert_eq!(items.count() as u64, ITEMS);
            });
            assert_eq!((mapped.taken(), ahead.taken()), (ITEMS, ITEMS), "{workers} workers");
            // What the second stage did with its items, it did while it had not to wait for the first one.
            assert!(ahead.work() >= mapped.wait() && !mapped.work().is_zero(), "{workers} workers");
            if workers == 0 {
                assert!(mapped.wait() >= mapped.work() && ahead.wait() >= ahead.work());
            }
            let report =
                mapped.sums().report(STAGE, mapped.work(), mapped.work() * 2 / workers.max(1) as u32);
            assert_eq!(report.threads, workers);
            assert!((0.49..0.51).contains(&report.busy) && report.ready <= report.queue as f64, "{report:?}");
        }
    }

    #[test]
    fn a_worker_that_cannot_be_made_is_reported_before_any_work() {
        let stats = StageStats::default();
        for workers in WORKERS {
            let error = scope(&Wanted::always(), |scope, wanted| {
                let make = |i| if i + 1 >= workers { Err(Error::data("no worker")) } else { Ok(square) };
                ordered_map(scope, STAGE, workers, 0..ITEMS, &stats, wanted, make).err()
            });
            assert_eq!(error.expect("the last worker fails").kind(), ErrorKind::Data);
        }
    }
}
