//! What this room needs of the log: a partition for a slot, and a durable append.

use async_trait::async_trait;
use bytes::Bytes;
use cluster::PartitionId;
use std::sync::Arc;
use tokio::time::Instant;

/// The log, as seen by whoever has events for it.
#[async_trait]
pub trait Append: Send + Sync + 'static {
    /// The partition of each slot, [`crate::domain::SLOTS`] of them.
    fn slots(&self) -> Arc<[PartitionId]>;

    /// Appends an entry at the partition's leader, wherever it is, and returns the state machine's answer
    /// ([`crate::domain::Verdicts`], postcard). On return the entry is durable on a majority. The same bytes may be
    /// appended again: they count once.
    async fn append(&self, partition: PartitionId, entry: Bytes, deadline: Instant) -> Result<Bytes, AppendError>;
}

/// Why an append was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log takes no entry of this size; trying again is of no use.
    #[error("append an entry larger than the log takes")]
    TooLarge,
    /// The disk of the partition's leader is full. This attempt stored nothing; trying again later is safe.
    #[error("the disk of the partition's leader is full")]
    DiskFull,
    /// This node's clock is far ahead of that of the partition's leader. This attempt stored nothing; trying again later, or
    /// at another node, is safe.
    #[error("this node's clock is more than 10 minutes ahead of that of the partition's leader")]
    ClockSkew,
    /// No leader, no majority or no answer in time. Whether the entry counts is unknown; trying again is safe.
    #[error("append to the partition's leader: {0}")]
    Unavailable(String),
}
