//! The only doors to the outside world: network, disk, clock, entropy, tasks.
//!
//! Production opens them onto tokio, files and the operating system ([`SystemDisk`] and its like); the simulator opens them
//! onto turmoil, a simulated disk, a skewed clock and a seeded generator. Nothing else in the product may touch a socket,
//! a file of the log, the wall clock or a random number (clippy's `disallowed-methods` holds this). Monotonic time is
//! `tokio::time::Instant`, which the simulator controls.

mod clock;
mod direct;
mod disk;
mod entropy;
mod network;
mod tasks;
mod turn;

pub use clock::{Clock, SystemClock};
pub use disk::{Access, BLOCK_BYTES, Disk, DiskUsage, File, SystemDisk, allow_many_open_files};
pub use entropy::{Entropy, SystemEntropy};
pub use network::{Listener, Network, Stream, TcpNetwork};
pub use tasks::{TaskRunner, Tasks, ThreadPool, Work};
pub use turn::next_turn;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything a node may use of the world around it. Cheap to clone.
#[derive(Clone)]
pub struct Environment {
    /// Listens and connects.
    pub network: Arc<dyn Network>,
    /// Files of this node; paths are relative to its data directory.
    pub disk: Arc<dyn Disk>,
    /// Wall-clock time, which may jump.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub entropy: Arc<dyn Entropy>,
    /// Spawns named tasks and runs blocking work.
    pub tasks: Tasks,
}

impl Environment {
    /// The operating system's, with files in `data_directory`, which is created if it is missing: an error says why it could not be.
    pub fn system(data_directory: impl Into<PathBuf>) -> io::Result<Environment> {
        Ok(Environment {
            network: Arc::new(TcpNetwork),
            disk: Arc::new(SystemDisk::new(data_directory)?),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            tasks: Tasks::new(Arc::new(ThreadPool::default())),
        })
    }
}
