//! Bringing the cluster to what it should be.
//!
//! Every node looks after the groups that it leads: it brings their members, one step at a time, to what the metadata
//! group has decided. Whoever leads the metadata group also decides: who votes in it, which nodes hold which partitions,
//! whose share goes to others because it was silent for too long, and, slowly, who should lead what. Between two looks only
//! the silence is remembered, so a new leader goes on where the last one stopped, and is patient anew.

use super::command::Command;
use super::machine;
use super::placement::{self, Led};
use super::reconcile::{CAUGHT_UP_ENTRIES, Step, Wanted, next_step};
use super::silence::Silence;
use super::state::{self, Standing, State};
use crate::message;
use crate::node::Node;
use crate::partition::Replica;
use crate::raft;
use crate::status::Report;
use crate::transport::{Lane, Reply, Request, Response};
use crate::{GroupId, LogPosition, NodeId, PartitionId};
use futures::future::join_all;
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

/// Looks between handovers: time for the last ones to show in the reports.
const LOOKS_PER_HANDOVER: u32 = 4;

/// Partitions that are handed over at a time: enough that a small cluster is even at once, few enough that a large one does
/// not stand still.
const HANDOVERS_MAX: usize = 8;

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
        let is_there = |id: NodeId, known: &state::Node| known.standing != Standing::Left || node.is_alive(id);
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
            let Some(step) = next_step(node.id(), &view, &wanted, |member| node.is_alive(member)) else { break };
            tracing::info!(group = %replica.inner.group.id(), ?step, "changing members");
            match timeout(STEP_TIMEOUT, take(&replica, view.members_at, &step)).await {
                // Whether the other took over shows at the next look.
                Ok(Ok(())) if matches!(step, Step::HandOver(_)) => break,
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

/// Takes a step that was decided when the entry at `seen` named the members.
async fn take(replica: &Replica, seen: Option<LogPosition>, step: &Step) -> io::Result<()> {
    let group = &replica.inner.group;
    match step {
        Step::Finish => group.finish_change(seen).await,
        Step::AddLearner(node) => group.add_learner(seen, *node).await,
        Step::SetVoters(voters) => group.set_voters(seen, voters).await,
        Step::RemoveLearner(node) => group.remove_learner(seen, *node).await,
        Step::HandOver(node) => group.transfer(*node).await,
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
            // Those that take their share decide; others are asked only while there are too few of those.
            let takers = state.takers();
            let in_order = takers.iter().chain(members.difference(&takers));
            let count = metadata_voters(takers.len());
            let voters: BTreeSet<NodeId> = in_order.copied().take(count).collect();
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
    let (mut looks, mut silence) = (0, Silence::default());
    loop {
        ticks.tick().await;
        if node.leaderships.of(GroupId::METADATA).is_none() {
            (looks, silence) = (0, Silence::default());
            continue;
        }
        looks += 1;
        replace(&node, &mut silence).await;
        place(&node).await;
        if looks % LOOKS_PER_HANDOVER == 0 {
            balance(&node).await;
        }
    }
}

/// Gives the share of a node that has been silent for too long to others, and lets one that is back take a share again.
async fn replace(node: &Arc<Node>, silence: &mut Silence) {
    let state = node.state();
    silence.look(Instant::now(), state.members().into_iter().filter(|member| !node.is_alive(*member)));
    let Some(patience) = node.config().replace_after else { return };
    let silent = silence.longer_than(patience, Instant::now());
    if let Some((id, from, to)) = next_standing(&state, &silent, |member| node.is_alive(member)) {
        tracing::warn!(node = %id, ?from, ?to, "a node's standing changes");
        propose(node, &Command::SetStanding { id, from, to }).await;
    }
}

/// Whose standing should change, from what to what. A silent node keeps its share where nobody else could take it: two
/// replicas and the hope of a third are better than two.
fn next_standing(
    state: &State,
    silent: &BTreeSet<NodeId>,
    is_alive: impl Fn(NodeId) -> bool,
) -> Option<(NodeId, Standing, Standing)> {
    let replicas = usize::from(state.cluster.as_ref()?.replication_factor);
    let is_back = |id: &NodeId| state.standing(*id) == Standing::Away && is_alive(*id);
    if let Some(back) = state.members().into_iter().find(is_back) {
        return Some((back, Standing::Away, Standing::Active));
    }
    let takers = state.takers();
    let others = takers.iter().filter(|id| is_alive(**id)).count();
    let gone = takers.into_iter().find(|id| silent.contains(id) && state.standing(*id) == Standing::Active)?;
    (others >= replicas).then_some((gone, Standing::Active, Standing::Away))
}

/// Proposes another placement where the nodes have changed.
async fn place(node: &Arc<Node>) {
    let state = node.state();
    let takers = state.takers();
    let Some(cluster) = state.cluster.as_ref().filter(|_| !takers.is_empty()) else { return };
    let placement = placement::plan(&state.placement, &takers, cluster.replication_factor.into());
    if placement != state.placement {
        tracing::info!(nodes = takers.len(), "placing partitions anew");
        propose(node, &Command::Place { base: state.placement_version, placement }).await;
    }
}

/// Proposes to the metadata group; whether it was decided shows at the next look.
async fn propose(node: &Arc<Node>, command: &Command) {
    let deadline = Instant::now() + STEP_TIMEOUT;
    if let Err(error) = node.append(GroupId::METADATA, machine::encode_command(command), deadline).await {
        tracing::debug!(%error, ?command, "a step of the steward was not decided");
    }
}

/// Asks leaders to hand over where that makes leaders more even, or relieves one whose disk is full or that is to hold
/// nothing.
async fn balance(node: &Arc<Node>) {
    let (state, reports) = (node.state(), node.all_reports());
    let takes = |id: NodeId| state.standing(id) == Standing::Active;
    join_all(handovers(&reports, takes).into_iter().map(|(partition, from, to)| ask(node, partition, from, to))).await;
}

async fn ask(node: &Arc<Node>, partition: PartitionId, from: NodeId, to: NodeId) {
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

/// `takes`: whether a node should hold and lead anything.
fn handovers(reports: &BTreeMap<NodeId, Report>, takes: impl Fn(NodeId) -> bool) -> Vec<(PartitionId, NodeId, NodeId)> {
    let may_lead = |node: &NodeId| takes(*node) && reports.get(node).is_some_and(|report| report.accepts_appends);
    let mut led = BTreeMap::new();
    let all = reports.iter().flat_map(|(node, report)| report.led.iter().map(move |led| (*node, led)));
    let mut terms = BTreeMap::new();
    for (leader, report) in all {
        let ready: BTreeSet<NodeId> = report.caught_up.iter().copied().filter(may_lead).collect();
        let relieved = ready.iter().find(|_| !may_lead(&leader));
        if let Some(to) = relieved {
            return vec![(report.partition, leader, *to)];
        }
        // Two may claim a partition for a moment: the later term is right.
        if terms.get(&report.partition).is_none_or(|term| *term < report.term) {
            terms.insert(report.partition, report.term);
            led.insert(report.partition, Led { leader, ready });
        }
    }
    placement::handovers(led, HANDOVERS_MAX)
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
    use crate::membership::command::NodeAddress;
    use crate::status::LedReport;
    use crate::{ClusterId, Term};
    use bytes::Bytes;

    fn report(accepts_appends: bool, led: &[u16]) -> Report {
        let led = led.iter().map(|partition| LedReport {
            partition: PartitionId(*partition),
            term: Term(1),
            voters: vec![NodeId(1), NodeId(2)],
            learners: Vec::new(),
            members_at: None,
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
        assert_eq!(handovers(&reports, |_| true), [(PartitionId(4), NodeId(1), NodeId(2))]);
        let reports = BTreeMap::from([(NodeId(1), report(false, &[4])), (NodeId(2), report(false, &[5]))]);
        assert_eq!(handovers(&reports, |_| true), []);
    }

    #[test]
    fn a_leader_that_drains_is_relieved() {
        let reports = BTreeMap::from([(NodeId(1), report(true, &[4])), (NodeId(2), report(true, &[5]))]);
        let stays = |node| node != NodeId(1);
        assert_eq!(handovers(&reports, stays), [(PartitionId(4), NodeId(1), NodeId(2))]);
    }

    fn members(count: u64, replication_factor: u8) -> State {
        let address = || NodeAddress { name: String::new(), http: String::new(), cluster: String::new() };
        let mut state = State::default();
        let (cluster, settings, node) = (ClusterId(1), Bytes::new(), address());
        state.apply(Command::Create { cluster, settings, partitions: 2, replication_factor, node });
        for entry in 1..count {
            state.apply(Command::AddNode { entry: entry.into(), node: address() });
        }
        state
    }

    #[test]
    fn a_silent_node_is_replaced_only_where_others_can_take_its_share() {
        let silent = BTreeSet::from([NodeId(2)]);
        let next = |state: &State| next_standing(state, &silent, |node| node != NodeId(2));
        assert_eq!(next(&members(4, 3)), Some((NodeId(2), Standing::Active, Standing::Away)));
        assert_eq!(next(&members(3, 3)), None);
        assert_eq!(next_standing(&members(4, 3), &BTreeSet::new(), |_| true), None);
    }

    #[test]
    fn a_node_that_is_back_takes_a_share_again_but_one_that_drains_does_not() {
        for (standing, next) in
            [(Standing::Away, Some((NodeId(2), Standing::Away, Standing::Active))), (Standing::Draining, None)]
        {
            let mut state = members(4, 3);
            state.apply(Command::SetStanding { id: NodeId(2), from: Standing::Active, to: standing });
            assert_eq!(next_standing(&state, &BTreeSet::new(), |_| true), next);
        }
    }

    #[test]
    fn a_node_that_drains_does_not_vote_on_metadata() {
        let mut state = members(4, 3);
        state.apply(Command::SetStanding { id: NodeId(1), from: Standing::Active, to: Standing::Draining });
        let wanted = wanted(&state, GroupId::METADATA).unwrap();
        assert_eq!(wanted.voters, BTreeSet::from([NodeId(2), NodeId(3), NodeId(4)]));
        assert_eq!(wanted.learners, BTreeSet::from([NodeId(1)]));
    }

    #[test]
    fn the_metadata_group_has_an_odd_number_of_voters_from_three_nodes_on() {
        let voters: Vec<usize> = (1..=8).map(metadata_voters).collect();
        assert_eq!(voters, [1, 2, 3, 3, 5, 5, 5, 5]);
    }
}
