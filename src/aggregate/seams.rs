//! What aggregation needs of the log and of the replicated state, and nothing more.
//!
//! The node plugs `cluster::Replica` and the rollup room in; the tests plug in scripts.

use crate::format::Checkpoint;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Committed, Offset, Term};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// A partition's log and replicated state on the node that leads it.
#[async_trait]
pub trait Partition: Send + Sync + 'static {
    /// The offset up to which this replica has applied, `None` before the first entry.
    fn applied(&self) -> watch::Receiver<Option<Offset>>;

    /// Applied entries from `from` on, at most about `bytes_max` bytes but at least one if there is one.
    async fn tail(&self, from: Offset, bytes_max: usize) -> io::Result<Vec<Committed>>;

    /// The largest entry that the log takes, in bytes.
    fn entry_bytes_max(&self) -> usize;

    /// Whether the state would take this checkpoint now, or why not. A committed one that builds on `consumed` and does not
    /// account for every event stops all replicas; one that is not proposed stops nothing.
    fn check(&self, checkpoint: &Checkpoint) -> Result<(), String>;

    /// Proposes a checkpoint entry in `term`, and says what became of it once it is applied here.
    async fn propose(&self, term: Term, entry: Bytes, deadline: Instant) -> Result<Checkpointed, ProposeError>;

    /// The offset up to which checkpoints have folded the log, with the watermark they reached.
    fn consumed(&self) -> Consumed;

    /// Which parts of the entry at `offset` count; `None` if it is not (or no longer) between `consumed` and `applied`.
    fn acceptance(&self, offset: Offset) -> Option<Acceptance>;
}

/// The point that checkpoints have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumed {
    /// Everything up to and including this offset is in the stored rollups; `None` before the first checkpoint.
    pub through: Option<Offset>,
    /// Event time reached, in ms since the Unix epoch.
    pub watermark_ms: u64,
}

/// Which parts of an entry count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// Every part.
    All,
    /// None: the entry repeats an earlier one.
    Nothing,
    /// Part `i` counts where `parts[i]`.
    Some(Arc<[bool]>),
}

impl Acceptance {
    /// Whether part `index` counts.
    pub fn counts(&self, index: usize) -> bool {
        match self {
            Acceptance::All => true,
            Acceptance::Nothing => false,
            Acceptance::Some(parts) => parts.get(index).copied().unwrap_or(false),
        }
    }
}

/// What became of a committed checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointed {
    /// Its deltas are in the stored rollups now.
    Applied,
    /// It was built on another `consumed` than the stored one: nothing changed.
    Skipped,
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The state would not take it: what was folded is not what the log holds; or the log never will, because it is too
    /// large. Nothing was appended.
    #[error("the checkpoint does not fit: {0}")]
    Unfit(String),
    /// The entry was not and will not be appended, for now: the disk is full, say. The same may be proposed again.
    #[error("the checkpoint was not appended: {0}")]
    NotAppended(String),
    /// Whether the entry was or will be appended is unknown.
    #[error("the outcome of the proposal is unknown: {0}")]
    Unknown(String),
}
