//! What a node knows of a group at one moment, in the cluster's own words.

use super::types::{TypeConfig, position};
use crate::{LogPosition, NodeId, Offset, Term};
use openraft::{EmptyNode, Membership, RaftMetrics, ServerState};
use std::collections::{BTreeMap, BTreeSet};

/// A group as one of its members sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Whether this node leads, as far as it knows.
    pub is_leader: bool,
    /// The newest term it has heard of.
    pub term: Term,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The sets of voters: one, two while a change is under way, none before the group knows its members.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Members without a vote.
    pub learners: BTreeSet<NodeId>,
    /// The entry of this node's log that names these members, committed or not.
    pub members_at: Option<LogPosition>,
    /// All voters of the newest membership that is known to be committed, of both sets while a change is under way.
    pub committed_voters: BTreeSet<NodeId>,
    /// Its members without a vote.
    pub committed_learners: BTreeSet<NodeId>,
    /// The entry that names those.
    pub committed_members_at: Option<LogPosition>,
    /// The last entry in this node's log.
    pub last: Option<Offset>,
    /// What this node knows to be committed.
    pub committed: Option<LogPosition>,
    /// What this node has applied.
    pub applied: Option<LogPosition>,
    /// As a leader: how far each member's log matches, itself included.
    pub matched: BTreeMap<NodeId, Option<Offset>>,
    /// Why the group has stopped, if it has.
    pub failure: Option<String>,
}

impl View {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> View {
        let membership = metrics.membership_config.membership();
        let committed = metrics.committed_membership_config.membership();
        let matched = metrics.replication.iter().flatten();
        View {
            is_leader: metrics.state == ServerState::Leader,
            term: Term(metrics.current_term),
            leader: metrics.current_leader.map(NodeId),
            voters: voters(membership),
            learners: membership.learner_ids().map(NodeId).collect(),
            members_at: metrics.membership_config.log_id().as_ref().map(position),
            committed_voters: committed.voter_ids().map(NodeId).collect(),
            committed_learners: committed.learner_ids().map(NodeId).collect(),
            committed_members_at: metrics.committed_membership_config.log_id().as_ref().map(position),
            last: metrics.last_log_index.map(Offset),
            committed: metrics.local_committed.as_ref().map(position),
            applied: metrics.last_applied.as_ref().map(position),
            matched: matched.map(|(id, at)| (NodeId(*id), at.as_ref().map(|at| Offset(at.index)))).collect(),
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// All voters, of both sets while a change is under way.
    pub fn all_voters(&self) -> BTreeSet<NodeId> {
        self.voters.iter().flatten().copied().collect()
    }

    /// Whether a member of the group, voting or learning.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.learners.contains(&node) || self.voters.iter().any(|set| set.contains(&node))
    }

    /// As a leader: whether a member's log is within `entries` of the last entry.
    pub fn is_caught_up(&self, node: NodeId, entries: u64) -> bool {
        let last = self.last.map_or(0, |last| last.0 + 1);
        let matched = self.matched.get(&node).copied().flatten().map_or(0, |at| at.0 + 1);
        matched + entries >= last
    }
}

/// The sets of voters of a membership.
pub(super) fn voters(membership: &Membership<u64, EmptyNode>) -> Vec<BTreeSet<NodeId>> {
    membership.get_joint_config().iter().map(|set| set.iter().map(|id| NodeId(*id)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn members(voters: &[u64], learners: &[u64]) -> Arc<openraft::alias::StoredMembershipOf<TypeConfig>> {
        let all: BTreeMap<u64, EmptyNode> = voters.iter().chain(learners).map(|id| (*id, EmptyNode::new())).collect();
        let membership = Membership::new(vec![voters.iter().copied().collect()], all).unwrap();
        Arc::new(openraft::alias::StoredMembershipOf::<TypeConfig>::new(None, membership))
    }

    #[test]
    fn members_that_are_not_committed_are_told_apart() {
        let mut metrics = RaftMetrics::<TypeConfig>::new_initial(1);
        metrics.membership_config = members(&[1, 2], &[]);
        metrics.committed_membership_config = members(&[1, 3], &[4]);
        let view = View::of(&metrics);
        assert_eq!(view.all_voters(), [NodeId(1), NodeId(2)].into());
        assert_eq!(view.committed_voters, [NodeId(1), NodeId(3)].into());
        assert_eq!(view.committed_learners, [NodeId(4)].into());
    }
}
