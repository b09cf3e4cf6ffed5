//! How the threads of stages learn that nobody wants their results any more, in the midst of an item as well: the
//! consumer holds one end of a channel through which nothing is ever sent.

use std::convert::Infallible;
use std::thread::{self, Scope};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// Gives `work` a scope for the threads of stages, and what tells them whether their results are wanted: while `work` goes
/// on. All have ended when this returns.
pub fn scope<'env, R>(work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>, &Wanted) -> R) -> R {
    thread::scope(|scope| {
        let (_consumer, wanted) = consumer();
        work(scope, &wanted)
    })
}

/// Whoever takes the results of some stages. Dropping it tells their threads to end.
#[derive(Debug)]
pub(super) struct Consumer {
    _end: Sender<Infallible>,
}

/// Whether the consumer is still there.
#[derive(Clone, Debug)]
pub struct Wanted(Receiver<Infallible>);

/// A consumer, and how it is known that there is one.
pub(super) fn consumer() -> (Consumer, Wanted) {
    let (end, other) = bounded(1);
    (Consumer { _end: end }, Wanted(other))
}

impl Wanted {
    /// False once the consumer has gone: whatever is begun may then be left half done, since nobody looks at it.
    pub fn still(&self) -> bool {
        self.0.try_recv() != Err(TryRecvError::Disconnected)
    }
}
