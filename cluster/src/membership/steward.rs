//! Bringing the cluster to what it should be.
//!
//! Every node looks after the groups that it leads: it brings their members, one step at a time, to what the metadata
//! group has decided. Whoever leads the metadata group also decides: who votes in it, which nodes hold which partitions,
//! and, slowly, who should lead what. Nothing is remembered between two looks, so a new leader goes on where the last one
//! stopped.

use super::command::Command;
use super::machine;
use super::placement::{self, Led};
use super::reconcile::{CAUGHT_UP_ENTRIES, Step, Wanted, next_step};
use super::state::{self, State};
use crate::message;
use crate::node::Node;
use crate::partition::Replica;
use crate::raft;
use crate::status::Report;
use crate::transport::{Lane, Reply, Request, Response};
use crate::{GroupId, NodeId, PartitionId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Most voters of the metadata group: two failures are survived, and more would slow every decision.
const METADATA_VOTERS_MAX: usize = 5;

/// A step that takes longer is given up and looked at anew.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks between two handovers: time for the last one to show in the reports.
const LOOKS_PER_HANDOVER: u32 = 4;

/// Asks a leader to hand a partition over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct HandOver {
    to: NodeId,
}

/// Tells the other nodes what this one leads, again and again.
pub async fn report(node: Arc<Node>) {
    let mut ticks = ticks(node.config().report_interval);
    loop {
        ticks.tick().await;
        let header = raft::encode(&node.report());
        let deadline = Instant::now() + node.config().stall_timeout;
        // One that has left still has to hear who leads without it.
        let is_there = |id: NodeId, known: &state::Node| !known.has_left || node.is_alive(id);
        let state = node.state();
        let peers = state.nodes.iter().filter(|(id, known)| **id != node.id() && is_there(**id, known));
        for peer in peers.map(|(id, _)| *id) {
            let (kind, group, header) = (message::REPORT, GroupId::METADATA, header.clone());
            let request = Request { kind, group, header, body: Vec::new() };
            // Whether it arrives is seen in what the peer reports; the call keeps both sides' connection alive.
            drop(node.transport().send(peer, Lane::Control, request, deadline));
        }
    }
}

/// Looks after one group as long as it is open here: as its leader, brings its members to what is wanted.
pub async fn tend(node: Arc<Node>, replica: Replica) {
    let mut ticks = ticks(node.config().report_interval);
    while !replica.is_closing() {
        ticks.tick().await;
        while replica.leading().is_some() {
            let view = replica.view();
            let Some(wanted) = wanted(&node.state(), replica.inner.group.id()) else { break };
            let Some(step) = next_step(&view, &wanted, |member| node.is_alive(member)) else { break };
            tracing::info!(group = %replica.inner.group.id(), ?step, "changing members");
            match timeout(STEP_TIMEOUT, take(&replica, &step)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(group = %replica.inner.group.id(), ?step, %error, "a change of members failed");
                    break;
                }
                Err(_) => break,
            }
        }
    }
}

async fn take(replica: &Replica, step: &Step) -> io::Result<()> {
    let group = &replica.inner.group;
    match step {
        Step::Finish => group.finish_change().await,
        Step::AddLearner(node) => group.add_learner(*node).await,
        Step::SetVoters(voters) => group.set_voters(voters).await,
        Step::RemoveLearner(node) => group.remove_learner(*node).await,
    }
}

/// Who should belong to a group.
fn wanted(state: &State, group: GroupId) -> Option<Wanted> {
    let members = state.members();
    match group.partition() {
        Some(partition) => {
            let voters: BTreeSet<NodeId> = state.placement.get(&partition)?.iter().copied().collect();
            Some(Wanted { voters, learners: BTreeSet::new() })
        }
        None if members.is_empty() => None,
        None => {
            let count = metadata_voters(members.len());
            let voters: BTreeSet<NodeId> = members.iter().copied().take(count).collect();
            Some(Wanted { learners: members.difference(&voters).copied().collect(), voters })
        }
    }
}

/// How many of so many nodes vote in the metadata group: two while there are two, else an odd number.
fn metadata_voters(nodes: usize) -> usize {
    match nodes.min(METADATA_VOTERS_MAX) {
        count @ (1 | 2) => count,
        count => count - (count + 1) % 2,
    }
}

/// Decides for the cluster while this node leads the metadata group.
pub async fn decide(node: Arc<Node>) {
    let mut ticks = ticks(node.config().report_interval);
    let mut looks = 0;
    loop {
        ticks.tick().await;
        if node.leaderships.of(GroupId::METADATA).is_none() {
            looks = 0;
            continue;
        }
        looks += 1;
        place(&node).await;
        if looks % LOOKS_PER_HANDOVER == 0 {
            balance(&node).await;
        }
    }
}

/// Proposes another placement where the nodes have changed.
async fn place(node: &Arc<Node>) {
    let state = node.state();
    let members = state.members();
    let Some(cluster) = state.cluster.as_ref().filter(|_| !members.is_empty()) else { return };
    let placement = placement::plan(&state.placement, &members, cluster.replication_factor.into());
    if placement == state.placement {
        return;
    }
    tracing::info!(nodes = members.len(), "placing partitions anew");
    let command = Command::Place { base: state.placement_version, placement };
    let deadline = Instant::now() + STEP_TIMEOUT;
    if let Err(error) = node.append(GroupId::METADATA, machine::encode_command(&command), deadline).await {
        tracing::debug!(%error, "the placement was not decided");
    }
}

/// Asks one leader to hand over, if that makes leaders more even or relieves one whose disk is full.
async fn balance(node: &Arc<Node>) {
    let reports = node.all_reports();
    let Some((partition, from, to)) = next_handover(&reports) else { return };
    tracing::info!(%partition, %from, %to, "asking a leader to hand over");
    if from == node.id() {
        node.hand_over(partition, to).await;
        return;
    }
    let header = raft::encode(&HandOver { to });
    let request = Request { kind: message::HAND_OVER, group: partition.into(), header, body: Vec::new() };
    let deadline = Instant::now() + node.config().stall_timeout;
    if let Err(error) = node.transport().call(from, Lane::Control, request, deadline).await {
        tracing::debug!(%partition, %from, %error, "a leader was not reached");
    }
}

fn next_handover(reports: &BTreeMap<NodeId, Report>) -> Option<(PartitionId, NodeId, NodeId)> {
    let has_space = |node: &NodeId| reports.get(node).is_some_and(|report| report.accepts_appends);
    let mut led = BTreeMap::new();
    let all = reports.iter().flat_map(|(node, report)| report.led.iter().map(move |led| (*node, led)));
    let mut terms = BTreeMap::new();
    for (leader, report) in all {
        let ready: BTreeSet<NodeId> = report.caught_up.iter().copied().filter(has_space).collect();
        let relieved = ready.iter().find(|_| !has_space(&leader));
        if let Some(to) = relieved {
            return Some((report.partition, leader, *to));
        }
        // Two may claim a partition for a moment: the later term is right.
        if terms.get(&report.partition).is_none_or(|term| *term < report.term) {
            terms.insert(report.partition, report.term);
            led.insert(report.partition, Led { leader, ready });
        }
    }
    placement::next_handover(&led)
}

impl Node {
    /// Serves the steward's request to hand a partition over.
    pub async fn serve_hand_over(self: Arc<Self>, request: Request, reply: Reply) {
        if let (Ok(ask), Some(partition)) = (raft::decode::<HandOver>(&request.header), request.group.partition()) {
            self.hand_over(partition, ask.to).await;
            reply.send(Response::default());
        }
    }

    /// Hands a partition that this node leads over to a voter that has caught up; otherwise does nothing.
    async fn hand_over(&self, partition: PartitionId, to: NodeId) {
        let Some(replica) = self.replica_of(partition.into()).filter(|replica| replica.leading().is_some()) else {
            return;
        };
        let view = replica.view();
        let may_take = view.voters.len() == 1 && view.all_voters().contains(&to) && self.has_space(to);
        if may_take
            && view.is_caught_up(to, CAUGHT_UP_ENTRIES)
            && let Err(error) = replica.inner.group.transfer(to).await
        {
            tracing::debug!(%partition, %to, %error, "leadership was not handed over");
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Term;
    use crate::status::LedReport;

    fn report(accepts_appends: bool, led: &[u16]) -> Report {
        let led = led.iter().map(|partition| LedReport {
            partition: PartitionId(*partition),
            term: Term(1),
            voters: vec![NodeId(1), NodeId(2)],
            learners: Vec::new(),
            caught_up: vec![NodeId(1), NodeId(2)],
            committed: None,
            applied: None,
            log_bytes: 0,
        });
        Report { led: led.collect(), accepts_appends, ..Report::default() }
    }

    #[test]
    fn a_leader_whose_disk_is_full_is_relieved_by_one_whose_disk_is_not() {
        let reports = BTreeMap::from([(NodeId(1), report(false, &[4])), (NodeId(2), report(true, &[5]))]);
        assert_eq!(next_handover(&reports), Some((PartitionId(4), NodeId(1), NodeId(2))));
        let reports = BTreeMap::from([(NodeId(1), report(false, &[4])), (NodeId(2), report(false, &[5]))]);
        assert_eq!(next_handover(&reports), None);
    }

    #[test]
    fn the_metadata_group_has_an_odd_number_of_voters_from_three_nodes_on() {
        let voters: Vec<usize> = (1..=8).map(metadata_voters).collect();
        assert_eq!(voters, [1, 2, 3, 3, 5, 5, 5, 5]);
    }
}
