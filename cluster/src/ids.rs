//! The small numbers that everything else is addressed by.
//!
//! Newtypes, so that an offset is never compared with a term and a node is never used as a partition.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A node's number in its cluster. Assigned once by the metadata group, never reused; 0 is no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// A share of the log. Partition `p` is Raft group `p + 1`; group 0 is the metadata group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(pub u16);

/// A Raft group on the wire and in the log: 0 is metadata, `p + 1` is partition `p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u16);

/// Raft's term: which leadership an entry was written under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Term(pub u64);

/// Position of an entry in a partition's log, from 0, without holes. Membership changes and leaders' blank entries take
/// offsets too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Offset(pub u64);

/// An offset together with the leadership that wrote it: what Raft calls a log id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The term the entry was proposed in.
    pub term: Term,
    /// The leader that proposed it.
    pub leader: NodeId,
    /// Its place in the log.
    pub offset: Offset,
}

/// A cluster's identity, drawn at random when its first node starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl GroupId {
    /// The metadata group.
    pub const METADATA: GroupId = GroupId(0);

    /// The partition this group replicates, or `None` for the metadata group.
    pub fn partition(self) -> Option<PartitionId> {
        self.0.checked_sub(1).map(PartitionId)
    }
}

impl From<PartitionId> for GroupId {
    fn from(partition: PartitionId) -> Self {
        GroupId(partition.0 + 1)
    }
}

impl Offset {
    /// The offset after this one.
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}.{}", self.offset, self.term, self.leader)
    }
}
