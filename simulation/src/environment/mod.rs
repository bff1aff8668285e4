//! Simulated doors: what `cluster::environment` opens onto in a run.

mod clock;
mod disk;
mod disk_faults;
mod entropy;
mod network;
mod tasks;
mod volume;

pub use clock::SimulatedClock;
pub use disk::SimulatedDisk;
pub use disk_faults::{Cut, DiskFault};
pub use network::SimulatedNetwork;
pub use tasks::{AggregatorTasks, DiskPace};
pub use volume::{FileId, Operation, SECTOR_BYTES, Tear};

use cluster::environment::{Environment, Tasks};
use entropy::SeededEntropy;
use std::sync::Arc;
use tasks::SimulatedTasks;

/// What a node's doors open onto, in all its lives.
#[derive(Clone)]
pub struct Hardware {
    /// The network, as this machine sees it.
    pub network: Arc<SimulatedNetwork>,
    /// What it has stored.
    pub disk: SimulatedDisk,
    /// How fast.
    pub pace: DiskPace,
    /// Whether its aggregators' tasks hang.
    pub aggregator_tasks: AggregatorTasks,
    /// Its wall clock.
    pub clock: SimulatedClock,
}

impl Hardware {
    /// The doors of one life; `seed` decides its random numbers and its disk's pauses.
    pub fn environment(&self, seed: u64) -> Environment {
        Environment {
            network: self.network.clone(),
            disk: Arc::new(self.disk.reopen()),
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(SeededEntropy::new(seed)),
            tasks: Tasks::new(Arc::new(SimulatedTasks::new(self.pace.clone(), self.aggregator_tasks.clone(), seed))),
        }
    }
}
