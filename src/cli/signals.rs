//! SIGTERM and SIGINT (Ctrl-C): both ask a command to come to a good end.

use super::failure::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for both from its making on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the two no longer end the process by themselves.
    pub fn new() -> Result<Signals, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("listening for signals", &error));
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the next one. Loses none when it is dropped before.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
