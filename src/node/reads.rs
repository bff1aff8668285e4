//! Replicas and leaders as the query room sees them.

use crate::aggregate::{self, Aggregation};
use crate::query::{AppHours, AskError, Generation, LeaderReads, OpenSelection, OpenWindows, Partitions, ReadError};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, PartitionId, Target};
use tokio::time::Instant;

/// Partitions and the way to their leaders, by the cluster.
pub struct ClusterPartitions(pub Cluster);

#[async_trait]
impl Partitions for ClusterPartitions {
    fn all(&self) -> Vec<PartitionId> {
        self.0.partitions()
    }

    fn of_slot(&self, slot: u16) -> PartitionId {
        self.0.slots()[usize::from(slot)]
    }

    async fn ask_leader(&self, partition: PartitionId, request: Bytes, deadline: Instant) -> Result<Bytes, AskError> {
        let answer = self.0.call(partition, Target::Leader, request, deadline).await;
        answer.map_err(|error| AskError(error.to_string()))
    }
}

/// What leaders know beyond the stored rows: a read barrier, then the aggregator's open windows.
pub struct OpenReads {
    /// Finds replicas and passes barriers.
    pub cluster: Cluster,
    /// Holds the open windows.
    pub aggregation: Aggregation,
}

#[async_trait]
impl LeaderReads for OpenReads {
    async fn open_windows(
        &self,
        partition: PartitionId,
        selection: OpenSelection,
        deadline: Instant,
    ) -> Result<OpenWindows, ReadError> {
        let replica = self.cluster.replica(partition).ok_or(ReadError::NoReplica)?;
        let barrier = replica.read_barrier(deadline).await.map_err(|error| match error {
            cluster::ReadError::NotLeader => ReadError::NotLeader,
            error => ReadError::Unavailable(error.to_string()),
        })?;
        let selected = match &selection {
            OpenSelection::Hours(app, hours) => aggregate::Selection::Hours(app.clone(), hours.clone()),
            OpenSelection::Apps(apps) => aggregate::Selection::Apps {
                prefix: apps.prefix.clone(),
                cursor: apps.after.clone(),
                limit: apps.apps_max,
            },
        };
        let windows = self.aggregation.open_windows(partition, Some(barrier), selected, deadline).await;
        let windows = windows.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let apps_max = match selection {
            OpenSelection::Hours(..) => usize::MAX,
            OpenSelection::Apps(apps) => apps.apps_max,
        };
        Ok(OpenWindows {
            watermark_ms: windows.watermark_ms,
            is_known: windows.generations.iter().any(|generation| generation.knows_app),
            has_more: windows.generations.iter().any(|generation| generation.apps.len() >= apps_max),
            generations: windows.generations.into_iter().map(generation).collect(),
        })
    }
}

fn generation(generation: aggregate::Generation) -> Generation {
    let apps = generation.apps.into_iter().map(|(app, first, last)| AppHours { app, first, last }).collect();
    Generation { base: generation.base, deltas: generation.deltas, apps }
}
