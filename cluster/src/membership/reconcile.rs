//! The next step that brings a group's members to what is wanted. Pure; one step at a time, each safe by itself.

use crate::NodeId;
use crate::raft::View;
use std::collections::BTreeSet;

/// How many entries a learner may be behind and still count as caught up: what is under way to it at full load.
pub const CAUGHT_UP_ENTRIES: u64 = 256;

/// Who should belong to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Who should vote; not empty.
    pub voters: BTreeSet<NodeId>,
    /// Who should follow without a vote.
    pub learners: BTreeSet<NodeId>,
}

/// A change of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// End the change that a former leader began.
    Finish,
    /// Let a node follow.
    AddLearner(NodeId),
    /// Let exactly these vote.
    SetVoters(BTreeSet<NodeId>),
    /// Let a learner go.
    RemoveLearner(NodeId),
    /// Let a voter lead instead: this one is about to go.
    HandOver(NodeId),
}

/// The next step for the leader of a group, or `None` if there is nothing (more) to do now.
///
/// `is_alive`: whether a node has been heard of lately. Voters are added once they are caught up and alive; voters are
/// removed only in the same step that leaves all wanted ones in, so a group never has fewer than it had or should have. A
/// leader that is not wanted hands over before it goes, so that the group is not without one until an election; one that
/// has no vote any more changes nothing.
pub fn next_step(own: NodeId, view: &View, wanted: &Wanted, is_alive: impl Fn(NodeId) -> bool) -> Option<Step> {
    // Who was let go leads on for a moment, until a voter has taken over: that one decides.
    if !view.voters.iter().any(|set| set.contains(&own)) {
        return None;
    }
    if view.voters.len() > 1 {
        return Some(Step::Finish);
    }
    let voters = view.voters.first()?;
    let members = wanted.voters.union(&wanted.learners).copied();
    if let Some(missing) = members.into_iter().find(|node| !view.is_member(*node)) {
        return Some(Step::AddLearner(missing));
    }
    let is_ready =
        |node: &NodeId| voters.contains(node) || (is_alive(*node) && view.is_caught_up(*node, CAUGHT_UP_ENTRIES));
    let ready: BTreeSet<NodeId> = wanted.voters.iter().copied().filter(is_ready).collect();
    let next = if ready == wanted.voters { ready } else { voters.union(&ready).copied().collect() };
    // While some of the wanted are not ready, others join only up to the number wanted.
    if next != *voters && (next == wanted.voters || next.len() <= wanted.voters.len()) {
        if next.contains(&own) {
            return Some(Step::SetVoters(next));
        }
        let may_lead = |node: &&NodeId| is_alive(**node) && view.is_caught_up(**node, CAUGHT_UP_ENTRIES);
        let successor = voters.intersection(&next).find(may_lead).copied();
        return Some(successor.map_or(Step::SetVoters(next), Step::HandOver));
    }
    let is_wanted = |node: &&NodeId| wanted.voters.contains(node) || wanted.learners.contains(node);
    view.learners.iter().find(|node| !is_wanted(node)).map(|node| Step::RemoveLearner(*node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offset;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn wanted(voters: &[u64]) -> Wanted {
        Wanted { voters: set(voters), learners: set(&[]) }
    }

    /// A leader's view: last entry 1000, and how far members' logs match.
    fn view(voters: &[&[u64]], learners: &[u64], matched: &[(u64, u64)]) -> View {
        View {
            is_leader: true,
            voters: voters.iter().map(|ids| set(ids)).collect(),
            learners: set(learners),
            last: Some(Offset(1000)),
            matched: matched.iter().map(|(id, at)| (NodeId(*id), Some(Offset(*at)))).collect(),
            ..View::default()
        }
    }

    fn step(view: &View, wanted: &Wanted) -> Option<Step> {
        next_step(NodeId(1), view, wanted, |_| true)
    }

    #[test]
    fn a_new_node_learns_first() {
        assert_eq!(step(&view(&[&[1]], &[], &[]), &wanted(&[1, 2])), Some(Step::AddLearner(NodeId(2))));
    }

    #[test]
    fn a_learner_far_behind_does_not_vote() {
        assert_eq!(step(&view(&[&[1]], &[2], &[(1, 1000), (2, 700)]), &wanted(&[1, 2])), None);
    }

    #[test]
    fn a_learner_that_caught_up_votes() {
        let now = view(&[&[1]], &[2], &[(1, 1000), (2, 990)]);
        assert_eq!(step(&now, &wanted(&[1, 2])), Some(Step::SetVoters(set(&[1, 2]))));
    }

    #[test]
    fn a_dead_learner_does_not_vote_even_if_nothing_was_written_since() {
        let now = view(&[&[1]], &[2], &[(1, 1000), (2, 1000)]);
        assert_eq!(next_step(NodeId(1), &now, &wanted(&[1, 2]), |node| node != NodeId(2)), None);
    }

    #[test]
    fn those_who_caught_up_do_not_wait_for_those_who_did_not() {
        let now = view(&[&[1]], &[2, 3], &[(1, 1000), (2, 1000), (3, 0)]);
        assert_eq!(step(&now, &wanted(&[1, 2, 3])), Some(Step::SetVoters(set(&[1, 2]))));
    }

    #[test]
    fn a_change_left_half_done_is_ended_first() {
        assert_eq!(step(&view(&[&[1], &[1, 2]], &[], &[]), &wanted(&[1, 2])), Some(Step::Finish));
    }

    #[test]
    fn a_replica_moves_only_when_its_successor_is_ready() {
        let behind = view(&[&[1, 2, 3]], &[4], &[(4, 10)]);
        assert_eq!(step(&behind, &wanted(&[1, 2, 4])), None);
        let ready = view(&[&[1, 2, 3]], &[4], &[(4, 1000)]);
        assert_eq!(step(&ready, &wanted(&[1, 2, 4])), Some(Step::SetVoters(set(&[1, 2, 4]))));
    }

    #[test]
    fn a_leader_that_is_not_wanted_hands_over_first() {
        let now = view(&[&[1, 2, 3]], &[], &[(1, 1000), (2, 1000), (3, 1000)]);
        assert_eq!(step(&now, &wanted(&[2, 3])), Some(Step::HandOver(NodeId(2))));
        assert_eq!(
            next_step(NodeId(1), &now, &wanted(&[2, 3]), |node| node == NodeId(3)),
            Some(Step::HandOver(NodeId(3)))
        );
        let alone = view(&[&[1]], &[2], &[(1, 1000), (2, 1000)]);
        assert_eq!(step(&alone, &wanted(&[2])), Some(Step::SetVoters(set(&[2]))));
    }

    #[test]
    fn a_leader_that_was_let_go_changes_nothing_any_more() {
        let gone = view(&[&[2, 3]], &[5], &[(2, 1000), (3, 1000), (5, 1000)]);
        assert_eq!(step(&gone, &wanted(&[2, 3, 4])), None);
        assert_eq!(step(&gone, &wanted(&[1, 2, 3])), None);
        assert_eq!(step(&gone, &wanted(&[2, 3])), None);
        assert_eq!(step(&view(&[&[2, 3], &[3, 4]], &[], &[]), &wanted(&[3, 4])), None);
    }

    #[test]
    fn a_learner_nobody_wants_leaves() {
        let now = view(&[&[1, 2]], &[3], &[(2, 1000), (3, 1000)]);
        assert_eq!(step(&now, &wanted(&[1, 2])), Some(Step::RemoveLearner(NodeId(3))));
    }

    #[test]
    fn nothing_to_do_is_nothing() {
        assert_eq!(step(&view(&[&[1, 2, 3]], &[], &[]), &wanted(&[1, 2, 3])), None);
    }

    #[test]
    fn steps_lead_from_one_node_to_three() {
        let mut now = view(&[&[1]], &[], &[(1, 1000)]);
        for _ in 0..8 {
            match step(&now, &wanted(&[1, 2, 3])) {
                Some(Step::AddLearner(node)) => {
                    now.learners.insert(node);
                    now.matched.insert(node, Some(Offset(1000)));
                }
                Some(Step::SetVoters(voters)) => {
                    now.learners.retain(|node| !voters.contains(node));
                    now.voters = vec![voters];
                }
                Some(step) => panic!("{step:?}"),
                None => break,
            }
        }
        assert_eq!(now.voters, vec![set(&[1, 2, 3])]);
    }
}
