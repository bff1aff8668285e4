//! Where partitions are, and the way to their leaders.

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{CallError, Cluster, PartitionId, Target};
use tokio::time::Instant;

/// Where partitions are, and the way to their leaders.
#[async_trait]
pub trait Partitions: Send + Sync + 'static {
    /// All partitions, ascending.
    fn all(&self) -> Vec<PartitionId>;

    /// The partition that owns a slot.
    fn of_slot(&self, slot: u16) -> PartitionId;

    /// Asks the leader of `partition`, wherever it is: its node answers with [`super::Leader::serve`].
    async fn ask_leader(&self, partition: PartitionId, request: Bytes, deadline: Instant) -> Result<Bytes, CallError>;
}

#[async_trait]
impl Partitions for Cluster {
    fn all(&self) -> Vec<PartitionId> {
        self.partitions()
    }

    fn of_slot(&self, slot: u16) -> PartitionId {
        self.slots()[usize::from(slot)]
    }

    async fn ask_leader(&self, partition: PartitionId, request: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        self.call(partition, Target::Leader, request, deadline).await
    }
}
