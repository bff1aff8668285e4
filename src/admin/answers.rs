//! What the operators' routes answer. The command line reads the same types.
//!
//! Fields beyond those that every version tells may be missing in the answer of another version.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The cluster as one node knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterAnswer {
    /// The cluster's identity, drawn when its first node started.
    #[schema(example = "9f0d3c2b1a0e4d5c8b7a6f5e4d3c2b1a")]
    pub cluster_id: String,
    /// The node that answers.
    #[serde(default)]
    #[schema(required, example = 1)]
    pub node_id: u64,
    /// All nodes that have not left, by id.
    pub nodes: Vec<NodeAnswer>,
    /// All partitions, by id.
    pub partitions: Vec<PartitionAnswer>,
    /// What all nodes of the cluster share, fixed at its creation.
    #[serde(default)]
    #[schema(required)]
    pub settings: SettingsAnswer,
    /// Bytes of all files of the node that answers; null if they cannot be counted.
    #[serde(default)]
    #[schema(required, example = 73400320)]
    pub disk_used_bytes: Option<u64>,
}

/// What all nodes of a cluster share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SettingsAnswer {
    /// Quantiles beyond 64 values are within this share of the true value.
    #[schema(required, example = 0.01)]
    pub relative_accuracy: f64,
    /// How long after its end an hour is kept open, in ms of event time.
    #[schema(required, example = 3600000)]
    pub lateness_ms: u64,
    /// How many partitions there are.
    #[schema(required, example = 6)]
    pub partitions: usize,
    /// How many replicas each partition should have, as far as there are nodes.
    #[schema(required, example = 3)]
    pub replication_factor: u8,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// Whether it takes its share of the partitions.
    #[serde(default)]
    #[schema(required)]
    pub standing: Standing,
}

/// How a node stands to its cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It takes its share.
    #[default]
    Active,
    /// It was silent for so long that its share went to others; it takes one again when it is back.
    Away,
    /// Its share goes to others because an operator wants so.
    Draining,
    /// It has left for good.
    Left,
}

/// What was decided about a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeChange {
    /// The node's number.
    #[schema(example = 3)]
    pub id: u64,
    /// How it stands from now on.
    pub standing: Standing,
}

impl From<cluster::Standing> for Standing {
    fn from(standing: cluster::Standing) -> Standing {
        match standing {
            cluster::Standing::Active => Standing::Active,
            cluster::Standing::Away => Standing::Away,
            cluster::Standing::Draining => Standing::Draining,
            cluster::Standing::Left => Standing::Left,
        }
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionAnswer {
    /// Its number.
    pub id: u16,
    /// The node that leads it; null if none is known to be alive with a majority of the replicas.
    #[schema(required, example = 1)]
    pub leader: Option<u64>,
    /// The nodes whose replicas vote and have caught up.
    #[schema(example = json!([1, 2, 3]))]
    pub replicas: Vec<u64>,
    /// The nodes whose replicas vote; empty while there is no leader to say so.
    #[serde(default)]
    #[schema(required, example = json!([1, 2, 3]))]
    pub voters: Vec<u64>,
    /// The nodes whose replicas are on their way in.
    #[serde(default)]
    #[schema(required)]
    pub learners: Vec<u64>,
    /// Raft's term.
    pub term: u64,
    /// The last entry known to be committed; null before the first.
    #[serde(default)]
    #[schema(required)]
    pub commit_offset: Option<u64>,
    /// The last entry applied: by the answering node's replica where it has one, by the leader's otherwise.
    #[serde(default)]
    #[schema(required)]
    pub applied_offset: Option<u64>,
    /// The last entry whose events are in stored rollups; null before the first checkpoint, or where neither this node nor
    /// the leader could say.
    #[serde(default)]
    #[schema(required)]
    pub consumed_offset: Option<u64>,
    /// Events committed and not yet in stored rollups; null where neither this node nor the leader could say.
    #[serde(default)]
    #[schema(required)]
    pub lag_events: Option<u64>,
    /// Bytes of its log.
    #[serde(default)]
    #[schema(required)]
    pub log_bytes: u64,
}

/// What a node's replicas hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DigestAnswer {
    /// The node that answers.
    #[schema(example = 1)]
    pub node_id: u64,
    /// By partition.
    pub partitions: Vec<Digest>,
}

/// What a replica holds, in one number, and what became of every event of its log:
/// `events` = `counted` + `duplicate` + `quarantined` + `pending`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Digest {
    /// The partition.
    pub partition: u16,
    /// The rollups hold everything up to and including this offset; null before the first checkpoint.
    pub consumed_offset: Option<u64>,
    /// Equal on replicas with equal rollups; hexadecimal.
    #[schema(example = "5d41402abc4b2a76b9719d911017c592")]
    pub digest: String,
    /// Events in the log, as far as this replica has applied it.
    #[schema(example = 100_000)]
    pub events: u64,
    /// Those that are in rollups.
    #[schema(example = 99_990)]
    pub counted: u64,
    /// Those that count no more, because they had been sent before.
    #[schema(example = 10)]
    pub duplicate: u64,
    /// Those that could not be folded and were set aside.
    #[schema(example = 0)]
    pub quarantined: u64,
    /// Those behind `consumed_offset`: acknowledged, and part of every linearizable answer, but not yet in stored rollups.
    #[serde(default)]
    #[schema(required, example = 0)]
    pub pending: u64,
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
