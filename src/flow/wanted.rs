//! How the threads of stages learn that nobody wants their results any more, in the midst of an item as well: the
//! consumer holds one end of a channel through which nothing is ever sent.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// Whoever takes the results of some stages. Dropping it tells their threads to end.
#[derive(Debug)]
pub struct Consumer {
    _end: Sender<Infallible>,
}

/// Whether the consumer is still there.
#[derive(Clone, Debug)]
pub struct Wanted(Receiver<Infallible>);

/// A consumer, and how it is known that there is one.
pub fn consumer() -> (Consumer, Wanted) {
    let (end, other) = bounded(1);
    (Consumer { _end: end }, Wanted(other))
}

impl Wanted {
    /// False once the consumer has gone: whatever is begun may then be left half done, since nobody looks at it.
    pub fn still(&self) -> bool {
        self.0.try_recv() != Err(TryRecvError::Disconnected)
    }
}
