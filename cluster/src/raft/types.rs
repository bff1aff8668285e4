//! openraft's types, filled in with ours, and the way between its words and the cluster's.
//!
//! A leadership is named by term *and* node: openraft orders votes by both, so that two candidates of one term need no
//! second round, and a log id carries both ([`LogPosition`]).

use super::runtime::Runtime;
use crate::{LogPosition, NodeId, Offset, Term};
use bytes::Bytes;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::vote::leader_id_adv::CommittedLeaderId;
use openraft::{EmptyNode, Membership};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::{fmt, io};

openraft::declare_raft_types!(
    /// The types that every Raft group of a node uses. Addresses are not in Raft's membership: they come from the
    /// metadata group.
    pub TypeConfig: D = Data, R = Answer, NodeId = u64, Node = EmptyNode, AsyncRuntime = Runtime,
);

/// The payload of an appended entry. Never goes through serde: the log and the network carry its bytes beside the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data(pub Bytes);

/// What the state machine answered to an appended entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer(pub Bytes);

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

pub type Entry = EntryOf<TypeConfig>;
pub type LogId = LogIdOf<TypeConfig>;
pub type Vote = VoteOf<TypeConfig>;
pub type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub type Snapshot = SnapshotOf<TypeConfig, super::applier::SnapshotData>;
pub type StoredMembership = StoredMembershipOf<TypeConfig>;
pub type Raft = openraft::Raft<TypeConfig, super::applier::Applier>;

/// Names a leadership: what openraft calls a committed leader id.
pub fn leadership(term: Term, leader: NodeId) -> CommittedLeaderId<u64, u64> {
    CommittedLeaderId { term: term.0, node_id: leader.0 }
}

/// A position as openraft's log id.
pub fn log_id(position: LogPosition) -> LogId {
    LogId { leader_id: leadership(position.term, position.leader), index: position.offset.0 }
}

/// openraft's log id as a position.
pub fn position(log_id: &LogId) -> LogPosition {
    LogPosition {
        term: Term(log_id.leader_id.term),
        leader: NodeId(log_id.leader_id.node_id),
        offset: Offset(log_id.index),
    }
}

/// A vote as it is stored and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    pub term: Term,
    pub node: NodeId,
    pub committed: bool,
}

impl From<&Vote> for Ballot {
    fn from(vote: &Vote) -> Ballot {
        Ballot { term: Term(vote.leader_id.term), node: NodeId(vote.leader_id.node_id), committed: vote.committed }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Vote {
        Vote { leader_id: leadership(ballot.term, ballot.node), committed: ballot.committed }
    }
}

/// A group's members as they are stored and sent: one set of voters, or two while a change is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Where in the log they were decided; `None` before there are any.
    pub position: Option<LogPosition>,
    /// The sets of voters; a majority of each decides.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Voters and learners together.
    pub nodes: BTreeSet<NodeId>,
}

impl Members {
    pub fn new(position: Option<LogPosition>, membership: &Membership<u64, EmptyNode>) -> Members {
        let voters = membership.get_joint_config().iter();
        Members {
            position,
            voters: voters.map(|set| set.iter().map(|id| NodeId(*id)).collect()).collect(),
            nodes: membership.nodes().map(|(id, _)| NodeId(*id)).collect(),
        }
    }

    pub fn of_stored(stored: &StoredMembership) -> Members {
        Members::new(stored.log_id().as_ref().map(position), stored.membership())
    }

    pub fn membership(&self) -> io::Result<Membership<u64, EmptyNode>> {
        let voters = self.voters.iter().map(|set| set.iter().map(|id| id.0).collect()).collect();
        let nodes: std::collections::BTreeMap<_, _> = self.nodes.iter().map(|id| (id.0, EmptyNode::new())).collect();
        if self.voters.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(voters, nodes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    pub fn stored(&self) -> io::Result<StoredMembership> {
        Ok(StoredMembership::new(self.position.map(log_id), self.membership()?))
    }

    /// The bytes that the log holds and that travel with a snapshot.
    pub fn encode(&self) -> Bytes {
        super::wire::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> io::Result<Members> {
        super::wire::decode(bytes)
    }
}
