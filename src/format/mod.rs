//! Every byte layout of the product that outlives a process: one layout, one file.
//!
//! The rule for changing one: a new version gets a new number, the decoder of the old one and its golden bytes under
//! `tests/golden` stay for ever. `docs/formats.md` shows them all.

mod batch;
mod checkpoint;
pub mod codec;
mod entry;
#[cfg(test)]
pub mod golden;
mod rollup;
mod token;

pub use batch::{BATCH_BYTES_MAX, Batch, BatchBuilder};
pub use checkpoint::{Checkpoint, CheckpointReader, DELTA_RATIO, Quarantined, Tally};
pub use codec::Error;
pub use entry::{ENTRY_BYTES_MAX, ENTRY_BYTES_TARGET, Entry, EventsEntry, PARTS_MAX, Part};
pub use rollup::{StoredRollup, put as put_rollup, take as take_rollup};
pub use token::{Token, TokenError};
