//! What the transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransportStats {
    /// Bytes read from sockets.
    pub bytes_in: u64,
    /// Bytes written to sockets.
    pub bytes_out: u64,
    /// Calls made by this node.
    pub calls: u64,
    /// Calls that ended without an answer, for whatever reason.
    pub calls_failed: u64,
    /// Calls among the failed that were turned away because too much waited already.
    pub calls_overloaded: u64,
    /// Calls among the failed that missed their deadline.
    pub calls_late: u64,
    /// Requests taken from other nodes.
    pub requests: u64,
    /// Connections that this node made, handshake included.
    pub connections_made: u64,
    /// Attempts to connect that failed.
    pub connections_failed: u64,
    /// Connections dropped because calls on them went unanswered.
    pub connections_stalled: u64,
    /// Connections taken in, handshake included.
    pub connections_accepted: u64,
    /// Connections turned away: over a limit, or refused by the handshake.
    pub connections_refused: u64,
    /// Connections dropped for a frame that breaks the format.
    pub frames_malformed: u64,
}

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub calls: Counter,
    pub calls_failed: Counter,
    pub calls_overloaded: Counter,
    pub calls_late: Counter,
    pub requests: Counter,
    pub connections_made: Counter,
    pub connections_failed: Counter,
    pub connections_stalled: Counter,
    pub connections_accepted: Counter,
    pub connections_refused: Counter,
    pub frames_malformed: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, amount: usize) {
        self.0.fetch_add(amount as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn read(&self) -> TransportStats {
        TransportStats {
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            calls: self.calls.get(),
            calls_failed: self.calls_failed.get(),
            calls_overloaded: self.calls_overloaded.get(),
            calls_late: self.calls_late.get(),
            requests: self.requests.get(),
            connections_made: self.connections_made.get(),
            connections_failed: self.connections_failed.get(),
            connections_stalled: self.connections_stalled.get(),
            connections_accepted: self.connections_accepted.get(),
            connections_refused: self.connections_refused.get(),
            frames_malformed: self.frames_malformed.get(),
        }
    }
}
