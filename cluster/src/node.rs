//! One node: what its rooms share, and where other nodes' requests come in.

use crate::config::Config;
use crate::environment::Environment;
use crate::membership::command::NodeAddress;
use crate::membership::join::{Answer, Ask};
use crate::membership::machine::{self, Machine};
use crate::membership::reconcile::CAUGHT_UP_ENTRIES;
use crate::membership::state::{Standing, State};
use crate::partition::{Donors, Leaderships, Replica};
use crate::status::{LedReport, NodeStatus, PartitionStatus, Report, Reports, Status};
use crate::transport::{Directory, Handler, Peer, Reply, Request, Response, Transport};
use crate::{ClusterId, GroupId, Host, NodeId, PartitionId, message, raft};
use raft::GroupContext;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a member that was asked to let a node in tries to get that decided.
const JOIN_TIMEOUT: Duration = Duration::from_secs(4);

/// A node of a cluster.
pub struct Node {
    pub(crate) cluster: ClusterId,
    /// What it tells the others of itself since this start; the state follows when they have decided it.
    pub(crate) address: NodeAddress,
    pub(crate) context: GroupContext,
    pub(crate) machine: Arc<Machine>,
    pub(crate) leaderships: Leaderships,
    pub(crate) reports: Reports,
    host: Arc<dyn Host>,
    pub(crate) donors: Donors,
    replicas: RwLock<BTreeMap<GroupId, Replica>>,
    /// Once the cluster has them, its slots never change.
    slots: OnceLock<Arc<[PartitionId]>>,
    /// Whether others say that this node has left: who has left does not always hear of the decision itself.
    pub(crate) has_left: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Node {
    pub fn new(
        cluster: ClusterId,
        address: NodeAddress,
        context: GroupContext,
        machine: Arc<Machine>,
        host: Arc<dyn Host>,
    ) -> Node {
        Node {
            cluster,
            address,
            context,
            machine,
            leaderships: Leaderships::default(),
            reports: Reports::default(),
            host,
            donors: Donors::default(),
            replicas: RwLock::default(),
            slots: OnceLock::new(),
            has_left: watch::Sender::new(false),
            tasks: Mutex::default(),
        }
    }

    pub fn id(&self) -> NodeId {
        self.context.node
    }

    pub fn config(&self) -> &Config {
        &self.context.config
    }

    pub fn environment(&self) -> &Environment {
        &self.context.environment
    }

    pub fn transport(&self) -> &Transport {
        &self.context.transport
    }

    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    pub fn state(&self) -> Arc<State> {
        self.machine.state()
    }

    /// The partition of each slot; empty before the cluster is made.
    pub fn slots(&self) -> Arc<[PartitionId]> {
        if let Some(slots) = self.slots.get() {
            return slots.clone();
        }
        let slots: Arc<[PartitionId]> = self.state().slots.as_slice().into();
        if slots.is_empty() { slots } else { self.slots.get_or_init(|| slots).clone() }
    }

    /// Spawns a task that ends with the node.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.environment().tasks.spawn(name, task);
        let mut tasks = self.tasks();
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle);
    }

    /// Ends the tasks of this node.
    pub fn end_tasks(&self) {
        for task in self.tasks().drain(..) {
            task.abort();
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// This node's replica of a group, if it is open.
    pub fn replica_of(&self, group: GroupId) -> Option<Replica> {
        self.replicas.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&group).cloned()
    }

    /// All open replicas, the metadata group's among them, by group.
    pub fn replicas(&self) -> Vec<Replica> {
        self.replicas.read().unwrap_or_else(|poisoned| poisoned.into_inner()).values().cloned().collect()
    }

    pub fn insert_replica(&self, group: GroupId, replica: Replica) {
        self.replicas.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(group, replica);
    }

    pub fn take_replica(&self, group: GroupId) -> Option<Replica> {
        self.replicas.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&group)
    }

    /// Whether a node was heard of lately.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.context.is_alive(node)
    }

    /// Who leads a group, as far as this node knows.
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        if let Some(replica) = self.replica_of(group) {
            let leader = replica.inner.group.leader();
            if leader.is_some() || replica.view().is_member(self.id()) {
                return leader;
            }
        }
        self.reports.leader_of(group.partition()?)
    }

    /// This node, if it holds a replica; otherwise some node that is alive and should.
    pub fn replica_holder(&self, partition: PartitionId) -> Option<NodeId> {
        if self.replica_of(partition.into()).is_some() {
            return Some(self.id());
        }
        let state = self.state();
        let holders = state.placement.get(&partition)?;
        holders.iter().copied().find(|node| *node != self.id() && self.is_alive(*node))
    }

    /// What this node leads now.
    pub fn report(&self) -> Report {
        let led = self.replicas().into_iter().filter_map(|replica| self.led_report(&replica)).collect();
        let state = self.state();
        let left = state.nodes.keys().copied().filter(|id| state.standing(*id) == Standing::Left && self.is_alive(*id));
        Report { led, accepts_appends: self.context.log.accepts_appends(), pinned: self.pinned(), left: left.collect() }
    }

    fn led_report(&self, replica: &Replica) -> Option<LedReport> {
        let partition = replica.inner.group.id().partition()?;
        let term = replica.leading()?;
        let view = replica.view();
        // What is not committed may never be: who leaves because of it would take a vote away that is still needed.
        let voters = view.committed_voters.clone();
        let is_ready = |node: &NodeId| view.is_caught_up(*node, CAUGHT_UP_ENTRIES) && self.is_alive(*node);
        Some(LedReport {
            partition,
            term,
            caught_up: voters.iter().copied().filter(|node| *node == self.id() || is_ready(node)).collect(),
            voters: voters.into_iter().collect(),
            learners: view.committed_learners.iter().copied().collect(),
            members_at: view.committed_members_at,
            committed: view.committed.map(|at| at.offset),
            applied: view.applied.map(|at| at.offset),
            log_bytes: replica.inner.group.log().bytes(),
        })
    }

    /// The newest reports, this node's own included.
    pub fn all_reports(&self) -> BTreeMap<NodeId, Report> {
        let mut reports = self.reports.fresh(self.config().alive_timeout);
        reports.insert(self.id(), self.report());
        reports
    }

    /// The cluster as this node knows it.
    pub fn status(&self) -> Status {
        let state = self.state();
        let reports = self.all_reports();
        let nodes = state.nodes.iter().filter(|(_, node)| node.standing != Standing::Left);
        let nodes = nodes.map(|(id, node)| NodeStatus {
            id: *id,
            name: node.address.name.clone(),
            http_address: node.address.http.clone(),
            cluster_address: node.address.cluster.clone(),
            alive: self.is_alive(*id),
            standing: node.standing,
        });
        let metadata_leader = self.leader_of(GroupId::METADATA).filter(|leader| self.is_alive(*leader));
        Status {
            cluster_id: self.cluster,
            node: self.id(),
            nodes: nodes.collect(),
            partitions: state.placement.keys().map(|id| self.partition_status(*id, &reports)).collect(),
            metadata_leader,
        }
    }

    fn partition_status(&self, id: PartitionId, reports: &BTreeMap<NodeId, Report>) -> PartitionStatus {
        let led = reports.iter().flat_map(|(node, report)| report.led.iter().map(move |led| (*node, led)));
        let newest = led.filter(|(_, led)| led.partition == id).max_by_key(|(node, led)| (led.term, *node));
        let here = self.replica_of(id.into());
        let view = here.as_ref().map(Replica::view);
        let here_term = view.as_ref().map(|view| view.term);
        let term = here_term.max(newest.map(|(_, led)| led.term)).unwrap_or_default();
        // Who led in an older term than the newest heard of leads no more.
        let reported = newest.filter(|(_, led)| led.term == term).map(|(node, _)| node);
        let followed = view.as_ref().filter(|view| view.term == term).and_then(|view| view.leader);
        let reachable = reported.or(followed).filter(|leader| self.is_alive(*leader));
        let leader = reachable.filter(|_| match &view {
            Some(view) if view.is_member(self.id()) => view.voters.iter().all(|set| self.is_majority_alive(set)),
            _ => newest.is_none_or(|(_, led)| self.is_majority_alive(&led.voters)),
        });
        let newest = newest.filter(|(node, _)| Some(*node) == leader).map(|(_, led)| led);
        let here_committed = view.as_ref().and_then(|view| view.committed).map(|at| at.offset);
        let here_bytes = here.as_ref().map(|replica| replica.inner.group.log().bytes());
        PartitionStatus {
            id,
            leader,
            replicas: newest.map(|led| led.caught_up.clone()).unwrap_or_default(),
            voters: newest.map(|led| led.voters.clone()).unwrap_or_default(),
            learners: newest.map(|led| led.learners.clone()).unwrap_or_default(),
            term,
            commit_offset: here_committed.max(newest.and_then(|led| led.committed)),
            applied_offset: match view {
                Some(view) => view.applied.map(|at| at.offset),
                None => newest.and_then(|led| led.applied),
            },
            log_bytes: here_bytes.or(newest.map(|led| led.log_bytes)).unwrap_or(0),
        }
    }

    /// Whether more than half of a set of voters was heard of lately: a leader of fewer decides nothing.
    fn is_majority_alive<'a>(&self, voters: impl IntoIterator<Item = &'a NodeId>) -> bool {
        let (mut all, mut alive) = (0, 0);
        for voter in voters {
            all += 1;
            alive += usize::from(self.is_alive(*voter));
        }
        2 * alive > all
    }

    async fn serve_join(self: Arc<Self>, request: Request, reply: Reply) {
        let Ok(ask) = raft::decode::<Ask>(&request.header) else { return };
        let answer = match ask.command(self.cluster) {
            None => Answer::Refused,
            // The first node is still writing down what its cluster is: whoever asks now may ask again.
            Some(_) if self.state().cluster.is_none() => Answer::NotNow,
            Some(command) => {
                let deadline = Instant::now() + JOIN_TIMEOUT;
                match self.append(GroupId::METADATA, machine::encode_command(&command), deadline).await {
                    Ok(appended) => machine::decode_outcome(&appended.answer).map_or(Answer::NotNow, Answer::of),
                    Err(_) => Answer::NotNow,
                }
            }
        };
        reply.send(Response { header: raft::encode(&answer), body: Vec::new() });
    }

    fn serve_fetch(self: &Arc<Self>, from: NodeId, request: Request, reply: Reply) {
        let Some(replica) = self.replica_of(request.group) else { return };
        let donors = self.donors.clone();
        self.environment().tasks.spawn("give-snapshot", async move {
            donors.serve(from, request, replica.inner.machine.clone(), reply).await;
        });
    }

    fn accept(self: &Arc<Self>, from: Peer, request: Request, reply: Reply) {
        let (node, tasks) = (self.clone(), &self.environment().tasks);
        match (request.kind, from) {
            (message::JOIN, _) => drop(tasks.spawn("join", node.serve_join(request, reply))),
            (_, Peer::Stranger) => {}
            (message::FORWARD | message::CALL, _) => drop(tasks.spawn("forward", node.serve_forwarded(request, reply))),
            (message::REPORT, Peer::Node(from)) => {
                if let Ok(report) = raft::decode::<Report>(&request.header) {
                    if report.left.contains(&self.id()) {
                        self.has_left.send_if_modified(|has_left| !std::mem::replace(has_left, true));
                    }
                    self.reports.insert(from, report);
                    reply.send(Response::default());
                }
            }
            (message::HAND_OVER, _) => drop(tasks.spawn("hand-over", node.serve_hand_over(request, reply))),
            (message::FETCH_SNAPSHOT, Peer::Node(from)) => self.serve_fetch(from, request, reply),
            (_, Peer::Node(from)) => {
                // Without a replica the reply is dropped: the sender learns that it was not answered.
                if let Some(replica) = self.replica_of(request.group) {
                    replica.inner.group.accept(from, request, reply);
                }
            }
        }
    }
}

/// The node's door for the transport, which is there before the node is and must not keep it alive.
#[derive(Default)]
pub struct Door {
    node: OnceLock<Weak<Node>>,
    machine: OnceLock<Weak<Machine>>,
}

impl Door {
    /// Opens the door: addresses are known from now on.
    pub fn know(&self, machine: &Arc<Machine>) {
        // Set once, at the start of the only node behind this door.
        let _ = self.machine.set(Arc::downgrade(machine));
    }

    /// Requests are taken from now on.
    pub fn open(&self, node: &Arc<Node>) {
        // Set once, at the start of the only node behind this door.
        let _ = self.node.set(Arc::downgrade(node));
    }
}

impl Handler for Door {
    fn accept(&self, from: Peer, request: Request, reply: Reply) {
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            node.accept(from, request, reply);
        }
    }

    fn serves_strangers(&self, kind: u8) -> bool {
        kind == message::JOIN
    }
}

impl Directory for Door {
    fn address(&self, node: NodeId) -> Option<String> {
        self.machine.get().and_then(Weak::upgrade)?.address(node)
    }
}
