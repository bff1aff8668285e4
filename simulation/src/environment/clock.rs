//! A node's wall clock: the simulated one, ahead or behind by so much, which may change.

use crate::kernel::time;
use cluster::environment::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Simulated time since the Unix epoch plus an error. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct SimulatedClock {
    /// Unix time at which the run began, in ms.
    pub began_ms: u64,
    /// How far it is ahead, in ms; negative if it is behind.
    ahead_ms: Arc<AtomicI64>,
}

impl SimulatedClock {
    /// A clock that is right so far.
    pub fn new(began_ms: u64) -> SimulatedClock {
        SimulatedClock { began_ms, ahead_ms: Arc::default() }
    }

    /// Sets how far it is ahead of simulated time; negative is behind.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn since_epoch(&self) -> Duration {
        let now = Duration::from_millis(self.began_ms) + time::now();
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        let error = Duration::from_millis(ahead_ms.unsigned_abs());
        if ahead_ms < 0 { now.saturating_sub(error) } else { now + error }
    }
}
