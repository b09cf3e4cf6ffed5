//! Signals that ask a training to stop.

use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals as Incoming;

use super::super::log;
use crate::flow::{Wanted, consumer};
use crate::train::Stop;
use crate::{Error, ErrorKind, Result};

/// Signals so soon after the first belong to it: `timeout` and job managers signal a process and then its
/// whole group, which reaches the process twice.
const SAME_REQUEST: Duration = Duration::from_millis(250);

/// How long the end waits for what is said of it. Where nobody reads the terminal, nothing is ever said.
const PATIENCE: Duration = Duration::from_millis(200);

/// Writes a line, on a thread of its own: a terminal that takes no more must not keep a signal from being followed.
/// What is received from is closed when the line is written.
fn tell(line: String) -> Receiver<()> {
    let (done, told) = bounded(1);
    let write = move || {
        log::note(&line);
        drop(done);
    };
    if let Err(error) = thread::Builder::new().name("told".to_owned()).spawn(write) {
        tracing::debug!(target: "train", %error, "not told");
    }
    told
}

/// Remembers the first signal; a later one ends the process at once.
pub struct Signals {
    received: Arc<AtomicUsize>,
    wanted: Wanted,
}

impl Signals {
    /// Starts to listen for the run in `directory`, on a thread of its own that lives as long as the process. What a
    /// signal leads to is told when it comes: the step at hand may take a while.
    pub fn listen(directory: &Path) -> Result<Self> {
        let failed = |what: &str, e: std::io::Error| Error::internal(what).caused_by(e);
        let mut incoming = Incoming::new([SIGINT, SIGTERM, SIGUSR1, SIGHUP])
            .map_err(|e| failed("signals cannot be listened to", e))?;
        let received = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&received);
        let (consumer, wanted) = consumer();
        let resume = format!("go on with `bertstream train --resume {}`", directory.display());
        let watch = move || {
            let (mut first, mut consumer) = (None, Some(consumer));
            for signal in incoming.forever() {
                let since = *first.get_or_insert_with(Instant::now);
                if shared.load(Ordering::Relaxed) == 0 {
                    // In this order: who is woken by the second finds the first.
                    shared.store(signal as usize, Ordering::Release);
                    drop(consumer.take());
                    let name = if signal == SIGINT { "Ctrl-C" } else { "a signal to stop" };
                    tell(format!(
                        "{name}: this step is finished and a checkpoint saved; once more ends at once"
                    ));
                } else if since.elapsed() > SAME_REQUEST {
                    let told = tell(format!(
                        "ended at once: the steps since the last checkpoint are lost; {resume}"
                    ));
                    // Told, or not to be told: the channel closes either way.
                    _ = told.recv_timeout(PATIENCE);
                    let kind = ErrorKind::Stopped { interrupt: signal == SIGINT };
                    process::exit(i32::from(kind.exit_code()));
                }
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(watch)
            .map_err(|e| failed("the thread that waits for signals cannot be started", e))?;
        Ok(Self { received, wanted })
    }

    /// Batches are wanted until the first signal.
    pub fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    /// What was asked for, if anything was.
    pub fn request(&self) -> Option<Stop> {
        match self.received.load(Ordering::Acquire) {
            0 => None,
            signal if signal == SIGINT as usize => Some(Stop::Interrupt),
            _ => Some(Stop::Terminate),
        }
    }
}
