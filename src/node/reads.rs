//! Replicas and leaders as the query room sees them.

use crate::aggregate::{self, Aggregation};
use crate::domain::{AppId, Hour};
use crate::query::{
    AppHours, AppSelection, AskError, Generation, LeaderReads, OpenSelection, OpenWindows, Partitions, Progress,
    ReadError, StoredApps, StoredAt, StoredHours, StoredReads, StoredSummary,
};
use crate::rollup::{self, HoursPage, PartitionState, Store, SummaryPage};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::Tasks;
use cluster::{Cluster, Offset, PartitionId, Target};
use std::ops::Range;
use tokio::time::{Instant, timeout_at};

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
        let barrier = barrier(&replica, deadline).await.map_err(|error| match error {
            cluster::ReadError::NotLeader => ReadError::NotLeader,
            error => ReadError::Unavailable(error.to_string()),
        })?;
        let selected = match &selection {
            OpenSelection::Hours(app, hours) => aggregate::Selection::Hours(app.clone(), hours.clone()),
            OpenSelection::Apps(apps) => aggregate::Selection::Apps {
                prefix: apps.prefix.clone(),
                cursor: apps.after.clone(),
                // One more than is wanted tells whether there are more.
                limit: apps.apps_max.saturating_add(1),
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
            has_more: windows.generations.iter().any(|generation| generation.apps.len() > apps_max),
            generations: windows.generations.into_iter().map(generation).collect(),
        })
    }
}

/// The offset that an answer must include.
async fn barrier(replica: &cluster::Replica, deadline: Instant) -> Result<Offset, cluster::ReadError> {
    #[cfg(feature = "planted-bugs")]
    if super::planted::has("no-read-barrier") {
        return replica.applied().borrow().ok_or(cluster::ReadError::NotLeader);
    }
    replica.read_barrier(deadline).await
}

fn generation(generation: aggregate::Generation) -> Generation {
    let apps = generation.apps.into_iter().map(|(app, first, last)| AppHours { app, first, last }).collect();
    Generation { base: generation.base, deltas: generation.deltas, apps }
}

/// This node's stored rows.
pub struct StoreReads {
    /// The rows.
    pub store: Store,
    /// The lane for ranges, which may read many rows.
    pub tasks: Tasks,
}

impl StoreReads {
    fn find(&self, partition: PartitionId) -> Result<PartitionState, ReadError> {
        self.store.find(partition).ok_or(ReadError::NoReplica)
    }
}

#[async_trait]
impl StoredReads for StoreReads {
    async fn hours(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredHours, ReadError> {
        let (reader, app) = (self.find(partition)?.reader(), app.clone());
        let is_one_hour = is_one_hour(&hours);
        // A range may read many rows from the disk.
        let is_quick = is_one_hour && !reader.may_wait();
        let read = move || {
            if is_one_hour && let (as_of, Some(row)) = reader.get(&app, hours.start)? {
                return Ok(HoursPage { as_of, rows: vec![(hours.start, row)], has_more: false, is_known: true });
            }
            reader.range(&app, hours, hours_max)
        };
        let page = if is_quick { read() } else { self.tasks.blocking(read).await };
        let page = page.map_err(|error| failed(&error))?;
        Ok(StoredHours { at: stored_at(page.as_of), rows: page.rows, has_more: page.has_more, is_known: page.is_known })
    }

    async fn summary(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredSummary, ReadError> {
        if is_one_hour(&hours) {
            let StoredHours { at, rows, has_more, is_known } = self.hours(partition, app, hours, hours_max).await?;
            let rollup = rows.first().map(|(_, row)| row.rollup.clone()).unwrap_or_default();
            let hours = rows.into_iter().map(|(hour, _)| hour).collect();
            return Ok(StoredSummary { at, hours, rollup, has_more, is_known });
        }
        let (reader, app) = (self.find(partition)?.reader(), app.clone());
        let page = self.tasks.blocking(move || reader.summary(&app, hours, hours_max)).await;
        let SummaryPage { as_of, hours, rollup, has_more, is_known } = page.map_err(|error| failed(&error))?;
        Ok(StoredSummary { at: stored_at(as_of), hours, rollup, has_more, is_known })
    }

    async fn apps(&self, partition: PartitionId, selection: &AppSelection) -> Result<StoredApps, ReadError> {
        let (reader, selected) = (self.find(partition)?.reader(), selection.clone());
        let page =
            self.tasks.blocking(move || reader.apps(&selected.prefix, selected.after.as_deref(), selected.apps_max));
        let page = page.await.map_err(|error| failed(&error))?;
        let apps = page.apps.into_iter();
        let apps = apps.map(|app| AppHours { app: app.app, first: app.first_hour, last: app.last_hour }).collect();
        Ok(StoredApps { at: stored_at(page.as_of), apps, has_more: page.has_more })
    }

    async fn wait_consumed(
        &self,
        partition: PartitionId,
        offset: Offset,
        deadline: Instant,
    ) -> Result<bool, ReadError> {
        let mut consumed = self.find(partition)?.watch_consumed();
        let reached = consumed.wait_for(|consumed| consumed.through >= Some(offset));
        Ok(timeout_at(deadline, reached).await.is_ok_and(|reached| reached.is_ok()))
    }

    fn progress(&self, partition: PartitionId) -> Option<Progress> {
        let figures = self.store.find(partition)?.figures();
        Some(Progress { consumed: figures.consumed, lag_events: figures.lag_events })
    }
}

/// One hour is read by its key, which is quick where it is in memory.
fn is_one_hour(hours: &Range<Hour>) -> bool {
    hours.end.0.saturating_sub(hours.start.0) == 1
}

fn stored_at(as_of: rollup::AsOf) -> StoredAt {
    StoredAt { consumed: as_of.consumed, watermark_ms: as_of.watermark_ms, age: as_of.age }
}

fn failed(error: &rollup::Error) -> ReadError {
    ReadError::Failed(error.to_string())
}
