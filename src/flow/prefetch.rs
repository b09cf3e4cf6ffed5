//! An iterator that runs ahead of its consumer, on a thread of its own.

use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::{StageStats, Wanted, cannot_start, guard};
use crate::{Error, Result};

/// What the thread says. A channel that closes without [`Message::End`] means that the thread died.
enum Message<T> {
    Item(Result<T>),
    End,
}

/// Runs `items` on thread `name` of `scope`, at most `depth` items ahead of the consumer and one more in
/// work. The stream ends with the items or with the first error, which is one of its own where it was waited for an item
/// until that was `wanted` no more.
///
/// # Errors
/// [`crate::ErrorKind::Io`] where the thread cannot be started.
pub fn prefetch<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &'scope str,
    depth: usize,
    items: impl Iterator<Item = Result<T>> + Send + 'scope,
    stats: &'scope StageStats,
    wanted: &Wanted,
) -> Result<Prefetch<'scope, T>> {
    stats.runs_on(1, depth);
    let (sender, receiver) = bounded(depth);
    Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, move || run(name, items, &sender, stats))
        .map_err(|error| cannot_start(name, error))?;
    Ok(Prefetch { messages: Some(receiver), name, stats, wanted: wanted.clone() })
}

/// The thread's life. Sending fails where the consumer has gone, and then it ends.
fn run<T>(
    name: &str,
    mut items: impl Iterator<Item = Result<T>>,
    sender: &Sender<Message<T>>,
    stats: &StageStats,
) {
    for number in 0.. {
        let message = match stats.worked(|| guard(name, number, || items.next().transpose())).transpose() {
            Some(item) => Message::Item(item),
            None => Message::End,
        };
        let over = !matches!(message, Message::Item(Ok(_)));
        if sender.send(message).is_err() || over {
            return;
        }
    }
}

/// The iterator of [`prefetch`].
pub struct Prefetch<'scope, T> {
    /// `None` once the stream is over; dropping it lets the thread end.
    messages: Option<Receiver<Message<T>>>,
    name: &'scope str,
    stats: &'scope StageStats,
    wanted: Wanted,
}

impl<T> Iterator for Prefetch<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let messages = self.messages.as_ref()?;
        let ready = messages.len();
        let message = messages.try_recv().or_else(|_| self.stats.waited(|| self.wanted.receive(messages)));
        let item = match message {
            Ok(Message::Item(item)) => {
                self.stats.count(ready);
                Some(item)
            }
            Ok(Message::End) => None,
            Err(TryRecvError::Empty) => {
                Some(Err(Error::internal(format!("stage {}: what it makes is wanted no more", self.name))))
            }
            Err(TryRecvError::Disconnected) => Some(Err(Error::internal(format!(
                "stage {}: its thread ended before its data did; this is a bug of this program",
                self.name
            )))),
        };
        if !matches!(item, Some(Ok(_))) {
            self.messages = None;
        }
        item
    }
}
