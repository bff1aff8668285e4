//! The log as the ingest room sees it.

use crate::ingest::{Append, AppendError};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, PartitionId};
use std::sync::Arc;
use tokio::time::Instant;

/// Appends by the cluster.
pub struct ClusterAppend(pub Cluster);

#[async_trait]
impl Append for ClusterAppend {
    fn slots(&self) -> Arc<[PartitionId]> {
        self.0.slots()
    }

    async fn append(&self, partition: PartitionId, entry: Bytes, deadline: Instant) -> Result<Bytes, AppendError> {
        match self.0.append(partition, entry, deadline).await {
            Ok(appended) => Ok(appended.answer),
            Err(cluster::AppendError::TooLarge) => Err(AppendError::TooLarge),
            // The state machine of a partition has this one reason.
            Err(cluster::AppendError::NotAdmitted) => Err(AppendError::ClockSkew),
            Err(cluster::AppendError::DiskFull) => Err(AppendError::DiskFull),
            Err(error) => Err(AppendError::Unavailable(error.to_string())),
        }
    }
}
