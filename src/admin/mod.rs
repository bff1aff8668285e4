//! What operators ask of a node: does it live, does it serve, how far is it, what does it hold.
//!
//! `/healthz` says that the process lives and nothing else. `/readyz` says whether reads and writes are served, and why
//! not. `/v1/cluster` shows the cluster as this node knows it, `/v1/digest` what this node's replicas hold (equal digests
//! at equal offsets are equal replicas), `/v1/quarantine` what could not be folded, `/metrics` all figures. `/` says what
//! this is. `/v1/nodes` lets nodes go.

mod answers;
mod http;

pub use answers::{
    ClusterAnswer, Digest, DigestAnswer, NodeAnswer, NodeChange, PartitionAnswer, QuarantineAnswer, QuarantinedEntry,
    SettingsAnswer, Standing,
};
pub use http::room;
pub use http::starting::Starting;

use crate::metrics::Figures;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{NodeId, PartitionId};

/// Where the answers come from; the node knows all rooms, this one knows none.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The cluster as this node knows it.
    fn status(&self) -> cluster::Status;

    /// The settings that all nodes of the cluster share.
    fn settings(&self) -> SettingsAnswer;

    /// Bytes of this node's files, if they can be counted.
    async fn disk_used_bytes(&self) -> Option<u64>;

    /// Whether reads and writes are served here; if not, why.
    fn ready(&self) -> Result<(), String>;

    /// How far a partition's events are folded: by this node's replica, else by the leader's if it answers soon.
    async fn progress(&self, partition: PartitionId) -> Option<Progress>;

    /// What this node's replicas hold, by partition.
    async fn digests(&self) -> Result<Vec<Digest>, String>;

    /// The entries that this node's replicas have set aside, by partition and offset; at most `entries_max`.
    async fn quarantined(&self, entries_max: usize) -> Result<Vec<QuarantinedEntry>, String>;

    /// The bytes of an entry that was set aside.
    async fn quarantined_payload(&self, partition: PartitionId, offset: u64) -> Result<Option<Bytes>, String>;

    /// Has everything that a node holds moved to others (`true`), or lets it take its share again. `false`: nobody else
    /// could take it. An error says why nothing could be decided.
    async fn drain_node(&self, node: NodeId, drains: bool) -> Result<bool, String>;

    /// Lets a node go for good. `false`: there is no such node, or it is the last one.
    async fn remove_node(&self, node: NodeId) -> Result<bool, String>;

    /// The figures that are shown on `/metrics` besides what the rooms count.
    async fn figures(&self) -> Figures;
}

/// How far a partition's events are folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to and including this offset is in stored rollups; `None` before the first checkpoint.
    pub consumed_offset: Option<u64>,
    /// Events behind that.
    pub lag_events: u64,
}
