//! The way from one machine to another: how long it takes, how much it loses, whether it is cut.

use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;

/// How long a lost segment takes to be noticed and sent again the first time; doubles each time.
const RETRANSMISSION_MS: u64 = 200;

/// A segment is given up as often at most; TCP itself is more patient.
const LOSSES_MAX: u32 = 6;

/// How good a way is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Shortest and longest delay of a segment, in ms.
    pub latency_ms: (u64, u64),
    /// Share of segments that are lost and sent again, in thousandths.
    pub loss_permille: u64,
    /// Bytes that pass in a millisecond.
    pub bytes_per_ms: u64,
}

/// One direction between two machines.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub quality: Quality,
    /// How many faults cut it; it is open at zero.
    pub cuts: u32,
}

impl Link {
    pub fn new(quality: Quality) -> Link {
        Link { quality, cuts: 0 }
    }

    pub fn is_cut(&self) -> bool {
        self.cuts > 0
    }

    /// How long a segment of so many bytes takes.
    pub fn delay(&self, random: &mut StdRng, bytes: usize) -> Duration {
        let (least, most) = self.quality.latency_ms;
        let mut us = random.random_range(least * 1000..=most.max(least) * 1000);
        us += bytes as u64 * 1000 / self.quality.bytes_per_ms.max(1);
        let mut losses = 0;
        while losses < LOSSES_MAX && random.random_range(0..1000) < self.quality.loss_permille {
            us += (RETRANSMISSION_MS * 1000) << losses;
            losses += 1;
        }
        Duration::from_micros(us)
    }
}

/// How long it takes after a cut until what was sent meanwhile is sent again.
pub(super) fn retransmission_after_cut(random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(20..1500))
}
