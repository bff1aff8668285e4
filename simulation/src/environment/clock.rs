//! A node's wall clock: the simulated one, ahead or behind by so much.

use cluster::environment::Clock;
use std::time::Duration;

/// Simulated time since the Unix epoch plus a constant error.
#[derive(Debug, Clone, Copy)]
pub struct SimulatedClock {
    /// How far it is ahead, in ms; negative if it is behind.
    pub ahead_ms: i64,
}

impl Clock for SimulatedClock {
    fn since_epoch(&self) -> Duration {
        let now = turmoil::since_epoch().unwrap_or_default();
        let error = Duration::from_millis(self.ahead_ms.unsigned_abs());
        if self.ahead_ms < 0 { now.saturating_sub(error) } else { now + error }
    }
}
