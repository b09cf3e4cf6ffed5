//! Signals that ask a training to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::train::Stop;
use crate::{Error, ErrorKind, Result};

/// Remembers the first signal; the second one ends the process at once.
pub struct Signals {
    received: Arc<AtomicUsize>,
}

impl Signals {
    /// Starts to listen.
    pub fn listen() -> Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let once = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGUSR1, SIGHUP] {
            let status = i32::from(ErrorKind::Stopped { interrupt: signal == SIGINT }.exit_code());
            // In this order: the shutdown sees what an earlier signal has set, not this one.
            flag::register_conditional_shutdown(signal, status, Arc::clone(&once))
                .and_then(|_| flag::register(signal, Arc::clone(&once)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&received), signal as usize))
                .map_err(|e| {
                    Error::internal(format!("signal {signal} cannot be listened to")).caused_by(e)
                })?;
        }
        Ok(Self { received })
    }

    /// What was asked for, if anything was.
    pub fn request(&self) -> Option<Stop> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal if signal == SIGINT as usize => Some(Stop::Interrupt),
            _ => Some(Stop::Terminate),
        }
    }
}
