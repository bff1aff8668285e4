//! Rollups on every replica: the state machine of a partition, its rows on disk, and reads of them.
//!
//! ```text
//!   committed entries ──▶ apply ──▶ memory ──▶ write-out (each minute, all partitions at once) ──▶ rows, synced
//!                           │         │                                                             │
//!                           ▼         └──────────────── Reader: memory over rows ───────────────────┘
//!                   verdict / checkpoint answer
//! ```
//!
//! What the room promises:
//! - the stored rollups are exactly the fold of the log's entries up to `consumed`, each event at most once;
//! - what is on disk is the state as of one `consumed`: rows, what is remembered of producers, counters, all in one batch;
//! - everything that [`PartitionState`] says is durable survives a power cut;
//! - replicas with equal `consumed` have equal [`Digest`]s, whenever they restarted, wrote out or installed a snapshot;
//! - what cannot be (an event not accounted for, a damaged row) stops the node, and is never an answer.
//!
//! A damaged row leaves a marker in the data directory. The next start moves the whole store aside and begins with empty
//! states, which the log replays, or a peer's snapshot fills. The same happens to a store that does not open.
//!
//! Reading order: `identities` (verdicts), `tail`, `state`, `recent_row`, `apply`, `write_out`, `snapshot`, `install`, `reader`.

mod apply;
mod error;
mod identities;
mod install;
pub mod journal_rows;
mod keys;
mod load;
mod position;
mod quarantine;
mod reader;
mod recent;
mod recent_row;
mod redo;
pub mod rows;
pub mod sled_rows;
mod snapshot;
mod state;
mod store;
mod tail;
#[cfg(test)]
mod tests;
mod windows;
mod write_out;

pub use apply::CheckpointAnswer;
pub use error::Error;
pub use identities::{EDGE_SPAN, IDLE_HOURS, SEQUENCES_MIN};
pub use position::{Consumed, Digest};
pub use reader::{AppHours, AppsPage, AsOf, HoursPage, Reader, SummaryPage};
pub use recent_row::RecentRow;
pub use state::{Account, Figures, PartitionState};
pub use store::{DIRECTORY, Engine, Store};
pub use tail::Acceptance;
pub use write_out::{Behind, Policy};
