//! The node as operators see it.

use super::settings::ClusterSettings;
use crate::admin::{Digest, Progress, QuarantinedEntry, SettingsAnswer, Source};
use crate::metrics::{Figures, PartitionFigures};
use crate::query::Query;
use crate::rollup::{Account, Store};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::Environment;
use cluster::{Cluster, NodeId, Offset, PartitionId};
use std::time::Duration;
use tokio::time::Instant;

/// How long the metadata group may take to decide what an operator wants.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);

/// Shows the cluster, the store and the settings.
pub struct NodeSource {
    /// The cluster.
    pub cluster: Cluster,
    /// Asks leaders of partitions that this node does not hold.
    pub query: Query,
    /// This node's replicas.
    pub store: Store,
    /// What all nodes share.
    pub settings: ClusterSettings,
    /// For the disk's usage.
    pub environment: Environment,
}

#[async_trait]
impl Source for NodeSource {
    fn status(&self) -> cluster::Status {
        self.cluster.status()
    }

    fn settings(&self) -> SettingsAnswer {
        SettingsAnswer {
            relative_accuracy: self.settings.relative_accuracy,
            lateness_ms: self.settings.lateness_ms,
            partitions: self.cluster.partitions().len(),
            replication_factor: self.cluster.replication_factor(),
        }
    }

    async fn disk_used_bytes(&self) -> Option<u64> {
        let disk = self.environment.disk.clone();
        self.environment.tasks.blocking(move || disk.usage()).await.ok().map(|usage| usage.used_bytes)
    }

    fn ready(&self) -> Result<(), String> {
        self.cluster.ready()
    }

    async fn progress(&self, partition: PartitionId) -> Option<Progress> {
        let progress = self.query.progress(partition).await?;
        Some(Progress { consumed_offset: progress.consumed.map(|offset| offset.0), lag_events: progress.lag_events })
    }

    async fn digests(&self) -> Result<Vec<Digest>, String> {
        let partitions = self.store.partitions().into_iter();
        let digests = partitions.map(|partition| {
            let Account { digest, events, tally, pending } = partition.account();
            Digest {
                partition: partition.id().0,
                consumed_offset: digest.consumed.map(|offset| offset.0),
                digest: format!("{:016x}{:016x}{:016x}", digest.rollups, digest.identities, digest.counters),
                events,
                counted: tally.counted,
                duplicate: tally.duplicate,
                quarantined: tally.quarantined,
                pending,
            }
        });
        Ok(digests.collect())
    }

    async fn quarantined(&self, entries_max: usize) -> Result<Vec<QuarantinedEntry>, String> {
        let mut entries = Vec::new();
        for partition in self.store.partitions() {
            let found = partition.reader().quarantined(Offset(0), entries_max - entries.len());
            let found = found.map_err(|error| error.to_string())?;
            entries.extend(found.into_iter().map(|entry| QuarantinedEntry {
                partition: partition.id().0,
                offset: entry.offset,
                events: entry.events,
                bytes: entry.payload.len() as u64,
                reason: entry.reason,
            }));
            if entries.len() >= entries_max {
                break;
            }
        }
        Ok(entries)
    }

    async fn quarantined_payload(&self, partition: PartitionId, offset: u64) -> Result<Option<Bytes>, String> {
        let Some(partition) = self.store.find(partition) else { return Ok(None) };
        let found = partition.reader().quarantined(Offset(offset), 1).map_err(|error| error.to_string())?;
        Ok(found.into_iter().next().filter(|entry| entry.offset == offset).map(|entry| entry.payload))
    }

    async fn drain_node(&self, node: NodeId, drains: bool) -> Result<bool, String> {
        let deadline = Instant::now() + DECISION_TIMEOUT;
        self.cluster.drain_node(node, drains, deadline).await.map_err(|error| error.to_string())
    }

    async fn remove_node(&self, node: NodeId) -> Result<bool, String> {
        let deadline = Instant::now() + DECISION_TIMEOUT;
        self.cluster.remove_node(node, deadline).await.map_err(|error| error.to_string())
    }

    async fn figures(&self) -> Figures {
        let disk_bytes = self.disk_used_bytes().await.unwrap_or(0);
        let log = self.cluster.log_activity();
        let leaderships = self.cluster.leaderships().borrow().clone();
        let status = self.cluster.status();
        let number = |offset: Option<Offset>| offset.map_or(0, |offset| offset.0);
        let partitions = status.partitions.iter().map(|partition| {
            let stored = self.store.find(partition.id).map(|state| state.figures()).unwrap_or_default();
            let figures = PartitionFigures {
                is_leader: leaderships.contains_key(&partition.id),
                term: partition.term.0,
                commit_offset: number(partition.commit_offset),
                consumed_offset: number(stored.consumed),
                lag_events: stored.lag_events,
                lag_ms: u64::try_from(stored.lag.as_millis()).unwrap_or(u64::MAX),
                quarantined: stored.quarantined_entries,
            };
            (partition.id.0, figures)
        });
        Figures {
            log_bytes: status.partitions.iter().map(|partition| partition.log_bytes).sum(),
            disk_bytes,
            log_fsyncs: log.syncs,
            log_fsync_seconds: log.sync_time.as_secs_f64(),
            partitions: partitions.collect(),
        }
    }
}
