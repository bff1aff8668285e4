//! Blocking work takes simulated time: it is done inline after a pause that the seed decides.

use cluster::environment::{BlockingRunner, Entropy};
use futures::future::BoxFuture;
use std::time::Duration;

use super::entropy::SeededEntropy;

/// Mostly quick, now and then slow: an fsync of a busy disk.
pub struct SlowDisk(SeededEntropy);

/// Pause of ordinary blocking work, in ms.
const QUICK_MS: u64 = 2;

/// Longest pause of slow blocking work, in ms: beyond it leaders lose elections.
const SLOW_MS: u64 = 40;

/// One in so many is slow.
const SLOW_ONE_IN: u64 = 16;

impl SlowDisk {
    /// The pauses of `seed`.
    pub fn new(seed: u64) -> SlowDisk {
        SlowDisk(SeededEntropy::new(seed ^ 0x0005_10FD_15C0))
    }
}

impl BlockingRunner for SlowDisk {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let draw = self.0.next_u64();
        let longest = if draw.is_multiple_of(SLOW_ONE_IN) { SLOW_MS } else { QUICK_MS };
        let pause = Duration::from_millis(1 + (draw >> 8) % longest);
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            work();
        })
    }
}
