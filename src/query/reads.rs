//! What this room asks of a replica, and nothing more. The node plugs the store and the aggregation in; tests plug in
//! scripts.
//!
//! ```text
//!   log:  ─────────────── consumed ────────────── folded
//!          StoredReads: rows │ LeaderReads: open windows │
//!                            └──── Leader: both ─────────┘
//! ```

use crate::domain::{AppId, Hour, Rollup};
use crate::format::StoredRollup;
use async_trait::async_trait;
use cluster::{Offset, PartitionId};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Reads this node's replica as it is stored: everything up to `consumed`.
#[async_trait]
pub trait StoredReads: Send + Sync + 'static {
    /// An app's rows in a range of hours, oldest first, at most `hours_max`, all as of one `consumed`. It may end earlier,
    /// with at least one row and `has_more`.
    async fn hours(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredHours, ReadError>;

    /// What [`StoredReads::hours`] gives, merged.
    async fn summary(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredSummary, ReadError>;

    /// Apps in the order of their names, at most `selection.apps_max`, all as of one `consumed`.
    async fn apps(&self, partition: PartitionId, selection: &AppSelection) -> Result<StoredApps, ReadError>;

    /// Waits until the stored rows hold everything up to `offset`; `false` if they do not by the deadline.
    async fn wait_consumed(&self, partition: PartitionId, offset: Offset, deadline: Instant)
    -> Result<bool, ReadError>;

    /// How far the events of a partition are folded here; nothing where this node holds no replica.
    fn progress(&self, partition: PartitionId) -> Option<Progress>;
}

/// Reads what the leader knows beyond the stored rows.
#[async_trait]
pub trait LeaderReads: Send + Sync + 'static {
    /// Confirms that this node leads `partition`, waits until every event acknowledged before the call is folded, and
    /// returns what of the selection is not in the stored rows. An answer built on it is linearizable.
    async fn open_windows(
        &self,
        partition: PartitionId,
        selection: OpenSelection,
        deadline: Instant,
    ) -> Result<OpenWindows, ReadError>;
}

/// Where stored rows stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAt {
    /// Everything up to and including this offset is in the rows; `None` before the first checkpoint.
    pub consumed: Option<Offset>,
    /// Event time reached, in ms since the Unix epoch.
    pub watermark_ms: u64,
    /// How long ago the replica last knew that it had everything: the time since `consumed` last moved, or since the
    /// replica last saw nothing behind it.
    pub age: Duration,
}

/// How far a replica has folded its partition's events into stored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Everything up to and including this offset is in the rows; `None` before the first checkpoint.
    pub consumed: Option<Offset>,
    /// Events behind that.
    pub lag_events: u64,
}

/// Stored rows of one app.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredHours {
    /// Where they stand.
    pub at: StoredAt,
    /// Hours that have events, oldest first.
    pub rows: Vec<(Hour, Arc<StoredRollup>)>,
    /// Whether there are further rows in the range.
    pub has_more: bool,
    /// Whether the app has any row at all, in the range or not.
    pub is_known: bool,
}

/// Stored rows of one app, merged.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSummary {
    /// Where they stand.
    pub at: StoredAt,
    /// The hours that are in it, oldest first.
    pub hours: Vec<Hour>,
    /// All of their events.
    pub rollup: Rollup,
    /// Whether there are further rows in the range.
    pub has_more: bool,
    /// Whether the app has any row at all, in the range or not.
    pub is_known: bool,
}

/// Apps that have stored rows.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredApps {
    /// Where they stand.
    pub at: StoredAt,
    /// In the order of their names.
    pub apps: Vec<AppHours>,
    /// Whether there are further apps in the selection.
    pub has_more: bool,
}

/// An app with its first and last hour that has events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppHours {
    /// The app.
    pub app: AppId,
    /// Its first hour with events.
    pub first: Hour,
    /// Its last hour with events.
    pub last: Hour,
}

/// Which apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSelection {
    /// Only names that begin so.
    pub prefix: String,
    /// Only names behind this one, in the order of bytes.
    pub after: Option<String>,
    /// At most so many.
    pub apps_max: usize,
}

/// Which open windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenSelection {
    /// Those of one app in a range of hours.
    Hours(AppId, Range<Hour>),
    /// The apps that have any.
    Apps(AppSelection),
}

/// What is folded and not yet stored, oldest generation first.
///
/// A generation is what lies between its `base` and the next one's. Stored rows at `consumed` are completed by the
/// generations from the one whose `base` is `consumed` on. Where `consumed` is no generation's base, a checkpoint came
/// between the two reads: read again.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenWindows {
    /// At least one: the one that is being filled; before it those whose checkpoints are under way.
    pub generations: Vec<Generation>,
    /// Event time reached, in ms since the Unix epoch.
    pub watermark_ms: u64,
    /// Whether the app of [`OpenSelection::Hours`] has open windows outside of the range too; a reader that finds nothing
    /// in the range tells an unknown app from a silent one by it.
    pub is_known: bool,
    /// Whether further apps of [`OpenSelection::Apps`] were left out.
    pub has_more: bool,
}

/// Deltas of the log's entries behind `base`.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The `consumed` that these deltas build on.
    pub base: Option<Offset>,
    /// Of [`OpenSelection::Hours`]: deltas by hour, oldest first.
    pub deltas: Vec<(Hour, Rollup)>,
    /// Of [`OpenSelection::Apps`]: apps in the order of their names, at most one more than `apps_max` of this generation.
    pub apps: Vec<AppHours>,
}

/// Why a replica does not answer now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead the partition; whoever does may be asked at once.
    #[error("this node does not lead the partition")]
    NotLeader,
    /// This node holds no replica of the partition.
    #[error("this node holds no replica of the partition")]
    NoReplica,
    /// No answer before the deadline: no majority, or the aggregation lags.
    #[error("no answer in time: {0}")]
    Unavailable(String),
    /// The replica is at fault: its store cannot be read.
    #[error("the replica cannot be read: {0}")]
    Failed(String),
}
