//! How the threads of stages learn that nobody wants their results any more, in the midst of an item as well: the
//! consumer holds one end of a channel through which nothing is ever sent.

use std::convert::Infallible;
use std::thread::{self, Scope};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};

/// Gives `work` a scope for the threads of stages, and what tells them whether their results are wanted: while `work` goes
/// on, and `until` says so as well. All have ended when this returns.
pub fn scope<'env, R>(
    until: &Wanted,
    work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>, &Wanted) -> R,
) -> R {
    thread::scope(|scope| {
        let (_consumer, mut wanted) = consumer();
        wanted.0.extend(until.0.iter().cloned());
        work(scope, &wanted)
    })
}

/// Whoever takes the results of some stages, or may say for them that they are wanted no more. Dropping it tells their
/// threads to end.
#[derive(Debug)]
pub struct Consumer {
    _end: Sender<Infallible>,
}

/// Whether the consumers are still there, of which all are needed.
#[derive(Clone, Debug)]
pub struct Wanted(Vec<Receiver<Infallible>>);

/// A consumer, and how it is known that there is one.
pub fn consumer() -> (Consumer, Wanted) {
    let (end, other) = bounded(1);
    (Consumer { _end: end }, Wanted(vec![other]))
}

impl Wanted {
    /// Wanted by somebody who never goes.
    pub fn always() -> Self {
        Self(Vec::new())
    }

    /// False once a consumer has gone: whatever is begun may then be left half done, since nobody looks at it.
    pub fn still(&self) -> bool {
        self.0.iter().all(|end| end.try_recv() != Err(TryRecvError::Disconnected))
    }

    /// Waits for the next of `messages`: [`TryRecvError::Empty`] where a consumer went before it came.
    pub(super) fn receive<T>(&self, messages: &Receiver<T>) -> Result<T, TryRecvError> {
        let mut any = Select::new();
        any.recv(messages);
        self.0.iter().for_each(|end| {
            any.recv(end);
        });
        loop {
            any.ready();
            // It may have been woken for nothing.
            match messages.try_recv() {
                Err(TryRecvError::Empty) if self.still() => {}
                received => return received,
            }
        }
    }
}
