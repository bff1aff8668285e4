//! What can be proposed to the metadata group.

use super::state::Standing;
use crate::{ClusterId, NodeId, PartitionId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An entry of the metadata group's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry: the cluster and its first node. Without effect where there is one already.
    Create {
        /// The new cluster.
        cluster: ClusterId,
        /// Product settings, opaque.
        settings: Bytes,
        /// How many partitions there are, for ever.
        partitions: u16,
        /// How many replicas a partition should have.
        replication_factor: u8,
        /// The first node.
        node: NodeAddress,
    },
    /// A node enters. The same entry number twice is the same node: asking again is safe.
    AddNode {
        /// Drawn at random by the node before it asked, and kept.
        entry: u128,
        /// Where it is.
        node: NodeAddress,
    },
    /// A node has moved, or has another name.
    UpdateNode {
        /// Which one.
        id: NodeId,
        /// Where it is now.
        node: NodeAddress,
    },
    /// A node leaves for good; its id is never given again.
    RemoveNode {
        /// Which one.
        id: NodeId,
    },
    /// Which nodes should hold which partitions. Without effect where the placement is no longer the one it was built on.
    Place {
        /// The version of the placement it was built on.
        base: u64,
        /// All partitions.
        placement: BTreeMap<PartitionId, Vec<NodeId>>,
    },
    /// A node is to hold nothing, or something again. Without effect where it stands otherwise by now.
    SetStanding {
        /// Which one.
        id: NodeId,
        /// How it stands.
        from: Standing,
        /// How it shall stand; nobody leaves by this.
        to: Standing,
    },
}

/// Where a node is, and what people call it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// For people.
    pub name: String,
    /// For clients.
    pub http: String,
    /// For other nodes.
    pub cluster: String,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, or it was so already.
    Done,
    /// The node is in, with this id.
    Node(NodeId),
    /// It made no sense in the state it met; nothing changed.
    Refused,
}
