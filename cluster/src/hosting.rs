//! Which replicas are open on this node: those that the metadata group places here, and those that have not left yet.

use crate::error::Error;
use crate::membership::state::Standing;
use crate::membership::steward;
use crate::node::Node;
use crate::partition::{self, Replica};
use crate::status::{LedReport, Report};
use crate::{GroupId, LogPosition, NodeId, PartitionId, StateMachine};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// The first and the longest wait before a lost store is fetched again.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The replicas that are being opened in the background, and where they say that they are done.
pub struct Opening {
    partitions: BTreeSet<PartitionId>,
    done: mpsc::UnboundedSender<PartitionId>,
    finished: mpsc::UnboundedReceiver<PartitionId>,
}

/// Opens every replica that is placed on this node, and every other that its log still holds: one that was about to move
/// away when the node stopped may still be a member, and if not it is closed like any other that has left. A replica whose
/// store is lost is rebuilt in the background, and one that cannot be opened because the disk is full waits there for room.
///
/// `is_founding`: the partitions' groups are new, and this node is their first member.
pub async fn open_all(node: &Arc<Node>, is_founding: bool) -> Result<Opening, Error> {
    let (done, finished) = mpsc::unbounded_channel();
    let mut opening = Opening { partitions: BTreeSet::new(), done, finished };
    let placed: BTreeSet<PartitionId> = node.state().placed_on(node.id()).into_iter().collect();
    for partition in placed.union(&held_by_log(node)).copied() {
        match open_if_whole(node, partition).await {
            Ok(Some(replica)) if is_founding => {
                let initialized = replica.inner.group.initialize().await;
                initialized.map_err(|source| Error::Open { group: partition.into(), source })?;
            }
            Ok(Some(_)) => {}
            Ok(None) if donors(node, partition).is_empty() => return Err(Error::StoreLost { partition }),
            Ok(None) => opening.spawn(node, partition),
            Err(error) if error.is_disk_full() && !is_founding => opening.spawn(node, partition),
            Err(error) => return Err(error),
        }
    }
    Ok(opening)
}

/// The partitions of which this node's log holds, or has purged, anything.
fn held_by_log(node: &Node) -> BTreeSet<PartitionId> {
    let (log, state) = (&node.context.log, node.state());
    let groups = log.groups().into_iter().filter(|group| log.group(*group).state().last.is_some());
    let partitions = groups.filter_map(GroupId::partition);
    partitions.filter(|partition| state.placement.contains_key(partition)).collect()
}

/// Opens a group over its machine, and looks after it from then on.
pub async fn open(node: &Arc<Node>, group: GroupId, machine: Arc<dyn StateMachine>) -> Result<Replica, Error> {
    let opened = Replica::open(&node.context, group, machine, node.leaderships.clone()).await;
    let replica = opened.map_err(|source| Error::Open { group, source })?;
    node.insert_replica(group, replica.clone());
    node.spawn("tend", steward::tend(node.clone(), replica.clone()));
    Ok(replica)
}

/// Keeps to the placement as it changes.
pub async fn keep(node: Arc<Node>, mut opening: Opening) {
    let (mut states, mut told) = (node.machine.watch(), node.has_left.subscribe());
    loop {
        let state = states.borrow_and_update().clone();
        let has_left = *told.borrow_and_update() || state.standing(node.id()) == Standing::Left;
        let placed = if has_left { Vec::new() } else { state.placed_on(node.id()) };
        let placed: BTreeSet<PartitionId> = placed.into_iter().collect();
        let counted_on = if has_left { BTreeSet::new() } else { counted_on(&fresh_reports(&node), node.id()) };
        for partition in placed.union(&counted_on) {
            if node.replica_of((*partition).into()).is_none() && !opening.partitions.contains(partition) {
                opening.spawn(&node, *partition);
            }
        }
        let open = node.replicas().into_iter().filter_map(|replica| replica.inner.group.id().partition());
        let leaving: Vec<PartitionId> = open.filter(|partition| !placed.contains(partition)).collect();
        for partition in &leaving {
            if close_if_left(&node, *partition).await == Leaving::CameBack {
                opening.spawn(&node, *partition);
            }
        }
        if has_left && leaving.is_empty() && opening.partitions.is_empty() {
            let (id, cluster) = (node.id(), node.cluster);
            node.environment()
                .tasks
                .fail(format!("node {id} was removed from cluster {cluster} and holds nothing any more"));
            return;
        }
        let interval = node.config().report_interval;
        tokio::select! {
            biased;
            changed = states.changed() => if changed.is_err() { return },
            changed = told.changed() => if changed.is_err() { return },
            Some(partition) = opening.finished.recv() => drop(opening.partitions.remove(&partition)),
            () = sleep(interval) => {}
        }
    }
}

impl Opening {
    fn spawn(&mut self, node: &Arc<Node>, partition: PartitionId) {
        self.partitions.insert(partition);
        let (keeper, done) = (node.clone(), self.done.clone());
        node.spawn("open", async move {
            if let Err(error) = open_when_whole(&keeper, partition).await {
                keeper.environment().tasks.fail(error.to_string());
            }
            // The keeper ends with the node.
            let _ = done.send(partition);
        });
    }
}

/// Opens a replica; `None` if its store is lost.
async fn open_if_whole(node: &Arc<Node>, partition: PartitionId) -> Result<Option<Replica>, Error> {
    let machine = open_machine(node, partition).await?;
    if partition::has_lost_store(&node.context.log.group(partition.into()), &*machine) {
        return Ok(None);
    }
    open(node, partition.into(), machine).await.map(Some)
}

/// Opens a replica, for as long as it takes: while the disk is full, and while its lost state cannot be had from another one.
async fn open_when_whole(node: &Arc<Node>, partition: PartitionId) -> Result<(), Error> {
    let mut wait = RETRY_MIN;
    loop {
        match open_rebuilt(node, partition).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.is_disk_full() => {
                tracing::warn!(%partition, "a partition is not opened: the disk is full; it is tried again");
            }
            Err(error) => return Err(error),
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Opens a replica; fetches its state from another one first if it is lost. `false` if it cannot be had now.
async fn open_rebuilt(node: &Arc<Node>, partition: PartitionId) -> Result<bool, Error> {
    let machine = open_machine(node, partition).await?;
    let group = GroupId::from(partition);
    if partition::has_lost_store(&node.context.log.group(group), &*machine) {
        if let Err(error) = fetch(node, partition, &machine).await {
            tracing::warn!(%partition, %error, "this node has lost a partition's store and cannot rebuild it yet");
            return Ok(false);
        }
        tracing::info!(%partition, "a lost store was rebuilt from another replica");
    }
    open(node, group, machine).await?;
    Ok(true)
}

async fn fetch(node: &Arc<Node>, partition: PartitionId, machine: &Arc<dyn StateMachine>) -> io::Result<()> {
    let mut last = io::Error::other("there is no other replica");
    for donor in donors(node, partition) {
        match partition::fetch(&node.context, partition.into(), machine, donor).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn donors(node: &Node, partition: PartitionId) -> Vec<NodeId> {
    let state = node.state();
    let holders = state.placement.get(&partition).into_iter().flatten();
    holders.copied().filter(|holder| *holder != node.id()).collect()
}

async fn open_machine(node: &Arc<Node>, partition: PartitionId) -> Result<Arc<dyn StateMachine>, Error> {
    let started = Instant::now();
    let settings = node.state().cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default();
    let opened = node.host().open(partition, settings).await;
    let machine = opened.map_err(|source| Error::Open { group: partition.into(), source })?;
    let offset = machine.durable().position.map(|position| position.offset.0);
    tracing::debug!(partition = partition.0, offset, elapsed = ?started.elapsed(), "a partition's store is open");
    Ok(machine)
}

/// What became of a replica that is placed elsewhere.
#[derive(Debug, PartialEq, Eq)]
enum Leaving {
    /// It stays open: it is not known yet that it has left.
    Stays,
    /// It is closed.
    Left,
    /// It was made a member again while it was being closed, and has to be opened.
    CameBack,
}

/// Closes a replica that is placed elsewhere now, once its leader says that it is decided that this node is no member any
/// more; before that its vote may still be needed. What it held is removed, so that it begins anew should it come back.
///
/// A report may be old: a replica that was made a member again since then has acked entries under that membership, and
/// must not lose them. So the report counts only if its membership is not older than what the replica has in its own log,
/// and that is looked at once more when the replica can ack nothing any more.
async fn close_if_left(node: &Arc<Node>, partition: PartitionId) -> Leaving {
    let group = GroupId::from(partition);
    let Some(replica) = node.replica_of(group) else { return Leaving::Left };
    let reports = fresh_reports(node);
    let is_left = |known| has_left(&reports, partition, node.id(), known);
    if !is_left(replica.view().members_at) {
        return Leaving::Stays;
    }
    let Some(replica) = node.take_replica(group) else { return Leaving::Left };
    replica.leave().await;
    if !is_left(replica.view().members_at) {
        tracing::info!(%partition, "this node's replica came back as it moved away");
        return Leaving::CameBack;
    }
    tracing::info!(%partition, "this node's replica has moved away");
    // First the log, so that a crash in between never leaves a log without the state that it builds on.
    if let Err(error) = node.context.log.group(group).reset().await {
        tracing::warn!(%partition, %error, "the log of a replica that moved away was not dropped");
        return Leaving::Left;
    }
    if let Err(error) = node.host().close(partition).await {
        tracing::warn!(%partition, %error, "the state of a replica that moved away was not removed");
    }
    Leaving::Left
}

fn fresh_reports(node: &Node) -> BTreeMap<NodeId, Report> {
    node.reports.fresh(node.config().alive_timeout)
}

/// Whether the newest leader of a partition reports a node as no member, in a membership that is not older than the one
/// that the node knows, at `known`. What leaders report is committed.
fn has_left(
    reports: &BTreeMap<NodeId, Report>,
    partition: PartitionId,
    node: NodeId,
    known: Option<LogPosition>,
) -> bool {
    let led = reports.values().flat_map(|report| &report.led).filter(|led| led.partition == partition);
    let newest = led.max_by_key(|led| led.term);
    newest.is_some_and(|led| !led.is_member(node) && led.members_at >= known)
}

/// The partitions whose newest leader reports a node as a member. Its replicas of these have to be open, wherever the
/// placement wants them: a replica may have been placed here, and placed elsewhere again before it heard of its leader, who
/// then can neither use nor dismiss it without its answer.
fn counted_on(reports: &BTreeMap<NodeId, Report>, node: NodeId) -> BTreeSet<PartitionId> {
    let mut newest: BTreeMap<PartitionId, &LedReport> = BTreeMap::new();
    for led in reports.values().flat_map(|report| &report.led) {
        let known = newest.entry(led.partition).or_insert(led);
        if led.term > known.term {
            *known = led;
        }
    }
    newest.into_iter().filter(|(_, led)| led.is_member(node)).map(|(partition, _)| partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Offset, Term};

    fn at(term: u64, offset: u64) -> Option<LogPosition> {
        Some(LogPosition { term: Term(term), leader: NodeId(1), offset: Offset(offset) })
    }

    fn report(term: u64, voters: &[u64], learners: &[u64]) -> Report {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let led = LedReport {
            partition: PartitionId(1),
            term: Term(term),
            voters: ids(voters),
            learners: ids(learners),
            members_at: at(4, 20),
            caught_up: Vec::new(),
            committed: None,
            applied: None,
            log_bytes: 0,
        };
        Report { led: vec![led], ..Report::default() }
    }

    #[test]
    fn a_node_has_left_when_the_newest_leader_says_so() {
        let left = |reports: &[(u64, Report)], partition: u16| {
            let reports = reports.iter().map(|(node, report)| (NodeId(*node), report.clone())).collect();
            has_left(&reports, PartitionId(partition), NodeId(3), at(4, 20))
        };
        assert!(left(&[(1, report(5, &[1, 2, 4], &[]))], 1));
        assert!(!left(&[(1, report(5, &[1, 2, 4], &[]))], 2), "nobody says so");
        assert!(!left(&[(1, report(5, &[1, 2, 3], &[4]))], 1));
        assert!(!left(&[(1, report(5, &[1, 2, 4], &[3]))], 1), "it learns");
        assert!(!left(&[(1, report(5, &[1, 2, 4], &[])), (2, report(6, &[1, 2, 3], &[]))], 1));
    }

    #[test]
    fn a_node_is_counted_on_where_the_newest_leader_says_so() {
        let counted_on = |reports: &[(u64, Report)]| {
            let reports = reports.iter().map(|(node, report)| (NodeId(*node), report.clone())).collect();
            !counted_on(&reports, NodeId(3)).is_empty()
        };
        assert!(counted_on(&[(1, report(5, &[1, 2, 3], &[]))]));
        assert!(counted_on(&[(1, report(5, &[1, 2], &[3]))]), "it learns");
        assert!(!counted_on(&[(1, report(5, &[1, 2], &[4]))]));
        assert!(!counted_on(&[(1, report(6, &[1, 2], &[])), (2, report(5, &[1, 2, 3], &[]))]));
        assert!(counted_on(&[(1, report(5, &[1, 2], &[])), (2, report(6, &[1, 2, 3], &[]))]));
    }

    #[test]
    fn an_old_report_does_not_close_a_replica_that_was_made_a_member_again() {
        let reports = BTreeMap::from([(NodeId(1), report(5, &[1, 2, 4], &[]))]);
        let left = |known| has_left(&reports, PartitionId(1), NodeId(3), known);
        assert!(left(None));
        assert!(left(at(4, 19)), "the entry that removed it never came");
        assert!(left(at(3, 30)), "what it knows was never committed");
        assert!(!left(at(4, 21)));
        assert!(!left(at(5, 3)));
    }
}
