//! Bugs in what a node reads from its stored rows.

use super::has;
use crate::domain::{AppId, Hour, Rollup, Values};
use crate::query::{AppSelection, Progress, ReadError, StoredApps, StoredHours, StoredReads, StoredSummary};
use async_trait::async_trait;
use cluster::{Offset, PartitionId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// This node's stored rows, with the bug of this process.
pub fn stored(stored: Arc<dyn StoredReads>) -> Arc<dyn StoredReads> {
    let bugs = ["rounded-ranges", "young-revisions", "ignores-after"];
    if bugs.into_iter().any(has) { Arc::new(Misread { stored, first: Mutex::default() }) } else { stored }
}

struct Misread {
    stored: Arc<dyn StoredReads>,
    /// The revision in which this process has first read an hour.
    first: Mutex<BTreeMap<(AppId, Hour), u64>>,
}

#[async_trait]
impl StoredReads for Misread {
    async fn hours(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredHours, ReadError> {
        let is_range = hours.end.0 - hours.start.0 > 1;
        let mut found = self.stored.hours(partition, app, hours, hours_max).await?;
        for (hour, row) in &mut found.rows {
            let row = Arc::make_mut(row);
            if has("rounded-ranges") && is_range {
                row.rollup = rounded(&row.rollup);
            }
            if has("young-revisions") {
                row.revision = self.young(app, *hour, row.revision);
            }
        }
        Ok(found)
    }

    async fn summary(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredSummary, ReadError> {
        let is_range = hours.end.0 - hours.start.0 > 1;
        let mut found = self.stored.summary(partition, app, hours, hours_max).await?;
        if has("rounded-ranges") && is_range {
            found.rollup = rounded(&found.rollup);
        }
        Ok(found)
    }

    async fn apps(&self, partition: PartitionId, selection: &AppSelection) -> Result<StoredApps, ReadError> {
        self.stored.apps(partition, selection).await
    }

    async fn wait_consumed(
        &self,
        partition: PartitionId,
        offset: Offset,
        deadline: Instant,
    ) -> Result<bool, ReadError> {
        if has("ignores-after") {
            return Ok(true);
        }
        self.stored.wait_consumed(partition, offset, deadline).await
    }

    fn progress(&self, partition: PartitionId) -> Option<Progress> {
        self.stored.progress(partition)
    }
}

impl Misread {
    /// Revisions counted by the process that answers, not by the replicated state.
    fn young(&self, app: &AppId, hour: Hour, revision: u64) -> u64 {
        let mut first = self.first.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        1 + revision - *first.entry((app.clone(), hour)).or_insert(revision)
    }
}

/// A large rollup with its sum in whole microseconds.
fn rounded(rollup: &Rollup) -> Rollup {
    let sum_ns = rollup.sum_ns() / 1000 * 1000;
    let rounded = match rollup.values() {
        Values::Sketch(sketch) => Rollup::of_sketch(rollup.late(), sum_ns, rollup.min(), rollup.max(), sketch.clone()),
        Values::Exact(_) => None,
    };
    rounded.unwrap_or_else(|| rollup.clone())
}
