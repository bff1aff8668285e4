//! The simulated doors to the outside world.

mod disk;
mod volume;

pub use disk::SimulatedDisk;
pub use volume::{FileId, Operation, SECTOR_BYTES, Tear};
