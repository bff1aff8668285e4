//! What operators ask of a node: does it live, does it serve, how far is it, what does it hold.
//!
//! `/healthz` says that the process lives and nothing else. `/readyz` says whether reads and writes are served, and why
//! not. `/v1/cluster` shows the cluster as this node knows it, `/v1/digest` what this node's replicas hold (equal digests
//! at equal offsets are equal replicas), `/v1/quarantine` what could not be folded, `/metrics` all figures. `/` says what
//! this is.

mod http;
mod starting;

pub use http::room;
pub use starting::Starting;

use crate::metrics::Figures;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::PartitionId;
use serde::Serialize;
use utoipa::ToSchema;

/// Where the answers come from; the node knows all rooms, this one knows none.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The cluster as this node knows it.
    fn status(&self) -> cluster::Status;

    /// The settings that all nodes of the cluster share, as a JSON object.
    fn settings(&self) -> serde_json::Value;

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

/// The cluster as one node knows it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClusterAnswer {
    /// The cluster's identity, drawn when its first node started.
    #[schema(example = "9f0d3c2b1a0e4d5c8b7a6f5e4d3c2b1a")]
    pub cluster_id: String,
    /// The node that answers.
    #[schema(example = 1)]
    pub node_id: u64,
    /// All nodes that have not left, by id.
    pub nodes: Vec<NodeAnswer>,
    /// All partitions, by id.
    pub partitions: Vec<PartitionAnswer>,
    /// What all nodes of the cluster share, fixed at its creation.
    #[schema(value_type = Object)]
    pub settings: serde_json::Value,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NodeAnswer {
    /// Its number; never used again for another node.
    #[schema(example = 1)]
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// Where clients reach it, `host:port`.
    #[schema(example = "127.0.0.1:3600")]
    pub http_addr: String,
    /// Where nodes reach it, `host:port`.
    #[schema(example = "127.0.0.1:3601")]
    pub cluster_addr: String,
    /// Whether it was heard of lately.
    pub alive: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartitionAnswer {
    /// Its number.
    pub id: u16,
    /// The node that leads it; null if none is known and alive.
    #[schema(example = 1)]
    pub leader: Option<u64>,
    /// The nodes whose replicas vote and have caught up.
    #[schema(example = json!([1, 2, 3]))]
    pub replicas: Vec<u64>,
    /// The nodes whose replicas are on their way in.
    pub learners: Vec<u64>,
    /// Raft's term.
    pub term: u64,
    /// The last entry known to be committed; null before the first.
    pub commit_offset: Option<u64>,
    /// The last entry whose events are in stored rollups; null before the first checkpoint, or where neither this node nor
    /// the leader could say.
    pub consumed_offset: Option<u64>,
    /// Events committed and not yet in stored rollups; null where neither this node nor the leader could say.
    pub lag_events: Option<u64>,
    /// Bytes of its log.
    pub log_bytes: u64,
}

/// What a node's replicas hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DigestAnswer {
    /// The node that answers.
    #[schema(example = 1)]
    pub node_id: u64,
    /// By partition.
    pub partitions: Vec<Digest>,
}

/// What a replica holds, in one number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Digest {
    /// The partition.
    pub partition: u16,
    /// The rollups hold everything up to and including this offset; null before the first checkpoint.
    pub consumed_offset: Option<u64>,
    /// Equal on replicas with equal rollups; hexadecimal.
    #[schema(example = "5d41402abc4b2a76b9719d911017c592")]
    pub digest: String,
}

/// What could not be folded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct QuarantineAnswer {
    /// By partition and offset; at most 1,000.
    pub entries: Vec<QuarantinedEntry>,
}

/// An entry that could not be folded and was set aside whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct QuarantinedEntry {
    /// The partition.
    pub partition: u16,
    /// Where it stood in the log.
    pub offset: u64,
    /// Events in it; they are in no rollup.
    pub events: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// Why it was set aside.
    pub reason: String,
}
