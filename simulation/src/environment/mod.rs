//! Simulated doors: what `cluster::environment` opens onto in a run.

mod clock;
mod disk;
mod entropy;
mod network;
mod tasks;
mod volume;

pub use disk::SimulatedDisk;
pub use volume::{FileId, Operation, SECTOR_BYTES, Tear};

use clock::SimulatedClock;
use cluster::environment::{Environment, Tasks};
use entropy::SeededEntropy;
use network::SimulatedNetwork;
use std::sync::Arc;
use tasks::SlowDisk;

/// The doors of one node in one of its lives.
pub fn environment(node: &str, disk: SimulatedDisk, seed: u64, clock_ahead_ms: i64) -> Environment {
    Environment {
        network: Arc::new(SimulatedNetwork::new(node)),
        disk: Arc::new(disk),
        clock: Arc::new(SimulatedClock { ahead_ms: clock_ahead_ms }),
        entropy: Arc::new(SeededEntropy::new(seed)),
        tasks: Tasks::new(Arc::new(SlowDisk::new(seed))),
    }
}
