//! Where partitions are, and the way to their leaders.

use async_trait::async_trait;
use bytes::Bytes;
use cluster::PartitionId;
use tokio::time::Instant;

/// Where partitions are, and the way to their leaders; the node plugs the cluster in.
#[async_trait]
pub trait Partitions: Send + Sync + 'static {
    /// All partitions, ascending.
    fn all(&self) -> Vec<PartitionId>;

    /// The partition that owns a slot.
    fn of_slot(&self, slot: u16) -> PartitionId;

    /// Asks the leader of `partition`, wherever it is: its node answers with [`super::Leader::serve`].
    async fn ask_leader(&self, partition: PartitionId, request: Bytes, deadline: Instant) -> Result<Bytes, AskError>;
}

/// No leader answered; asking again is always safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AskError(pub String);
