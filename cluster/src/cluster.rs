//! A node of a cluster, as the product holds it in its hands.

use crate::config::Config;
use crate::environment::Environment;
use crate::error::Error;
use crate::log::Activity;
use crate::membership::command::{Command, Outcome};
use crate::membership::machine;
use crate::membership::state::Standing;
use crate::node::Node;
use crate::partition::{AppendError, Appended, Replica};
use crate::router::{CallError, Target};
use crate::status::Status;
use crate::{ClusterId, GroupId, Host, NodeId, Offset, PartitionId, Term, start};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a node that shuts down waits for others to take over what it leads.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);

/// This node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Cluster {
    node: Arc<Node>,
}

impl Cluster {
    /// Starts a node in the environment's data directory. On an empty one it makes a new cluster, or, with
    /// `config.join`, enters that of a member, asking until one lets it in. Returns when the node knows its cluster and has
    /// opened its replicas; a replica whose store is lost is still being rebuilt then, and groups may have no leader yet.
    ///
    /// Takes the exclusive use of the data directory. Whoever runs the node watches [`crate::environment::Tasks::failed`].
    pub async fn start(environment: Environment, config: Config, host: Arc<dyn Host>) -> Result<Cluster, Error> {
        start::start(environment, config, host).await.map(|node| Cluster { node })
    }

    /// This node's number.
    pub fn node_id(&self) -> NodeId {
        self.node.id()
    }

    /// The cluster's identity.
    pub fn cluster_id(&self) -> ClusterId {
        self.node.cluster
    }

    /// The product's settings, as given to the first node; the same on every node for ever.
    pub fn settings(&self) -> Bytes {
        self.node.state().cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default()
    }

    /// Which partition owns each of the 1024 slots.
    pub fn slots(&self) -> Arc<[PartitionId]> {
        self.node.slots()
    }

    /// All partitions, by id.
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.node.state().placement.keys().copied().collect()
    }

    /// What people call this node.
    pub fn node_name(&self) -> String {
        self.node.address.name.clone()
    }

    /// Where this node listens for other nodes, as it tells them.
    pub fn cluster_address(&self) -> String {
        self.node.address.cluster.clone()
    }

    /// Appends at the partition's leader, wherever it is. On return the entry is durable on a majority and applied on the
    /// leader.
    ///
    /// It is tried again until the deadline, also where an attempt's outcome is unknown: the same bytes may stand in the
    /// log more than once, and the product's state machine tells them apart by what is inside.
    pub async fn append(
        &self,
        partition: PartitionId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Appended, AppendError> {
        self.node.append(partition.into(), payload, deadline).await
    }

    /// Has a request served by the product ([`Host::serve`]) at a replica. It may be served more than once. A request and
    /// its answer go through at most one other node, and are bounded as an append is.
    pub async fn call(
        &self,
        partition: PartitionId,
        target: Target,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        self.node.call(partition, target, request, deadline).await
    }

    /// This node's replica of a partition, if it has one that is open.
    pub fn replica(&self, partition: PartitionId) -> Option<Replica> {
        self.node.replica_of(partition.into())
    }

    /// The partitions that this node leads and may serve, each with its term. A leadership appears only after the
    /// leader's own first entry is applied, and disappears as soon as this node knows that it has ended.
    pub fn leaderships(&self) -> watch::Receiver<BTreeMap<PartitionId, Term>> {
        self.node.leaderships.partitions()
    }

    /// Has a node's replicas moved to others (`true`), or lets it take its share again. `false` if there is no such node, or
    /// nobody else is there to take them. On return it is decided; the status shows how far the replicas are.
    pub async fn drain_node(&self, id: NodeId, drains: bool, deadline: Instant) -> Result<bool, AppendError> {
        let to = if drains { Standing::Draining } else { Standing::Active };
        let usual = if drains { Standing::Active } else { Standing::Draining };
        // What this node knows of its standing may be old.
        for from in [usual, Standing::Away] {
            if self.decide(&Command::SetStanding { id, from, to }, deadline).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets a node go for good: its replicas move to others, and it must not come back. `false` if there is no such node,
    /// or it is the last one. On return it is decided; the status shows how far the replicas are.
    pub async fn remove_node(&self, id: NodeId, deadline: Instant) -> Result<bool, AppendError> {
        self.decide(&Command::RemoveNode { id }, deadline).await
    }

    async fn decide(&self, command: &Command, deadline: Instant) -> Result<bool, AppendError> {
        let appended = self.node.append(GroupId::METADATA, machine::encode_command(command), deadline).await?;
        Ok(machine::decode_outcome(&appended.answer).is_ok_and(|outcome| outcome == Outcome::Done))
    }

    /// How many replicas a partition should have, as far as there are nodes.
    pub fn replication_factor(&self) -> u8 {
        self.node.state().cluster.as_ref().map_or(0, |cluster| cluster.replication_factor)
    }

    /// What writing this node's log has cost since it started.
    pub fn log_activity(&self) -> Activity {
        self.node.context.log.activity()
    }

    /// Up to where partitions' entries keep a log above its bound because the state of a replica is not durable that far:
    /// this node's log, or for partitions that it leads, any member's. The product is to make them durable: the log purges
    /// them by itself then. Empty while there is room.
    pub fn unwanted(&self) -> BTreeMap<PartitionId, Offset> {
        self.node.unwanted()
    }

    /// The cluster as this node knows it.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Whether reads and writes can be served; if not, why.
    pub fn ready(&self) -> Result<(), String> {
        if !self.node.context.log.accepts_appends() {
            return Err("the disk is full: writes are refused until there is room".to_owned());
        }
        let state = self.node.state();
        for partition in state.placed_on(self.node.id()) {
            if self.node.replica_of(partition.into()).is_none() {
                return Err(format!("partition {partition} is being opened or rebuilt on this node"));
            }
        }
        match self.node.status().partitions.iter().find(|partition| partition.leader.is_none()) {
            Some(partition) => Err(format!("partition {} has no leader with a majority behind it", partition.id)),
            None => Ok(()),
        }
    }

    /// Stops the node: hands over what it leads to members that have caught up, then stops its groups, closes the log and
    /// the connections. What was acknowledged stays, and nothing touches the state machines any more.
    pub async fn shutdown(&self) {
        let replicas = self.node.replicas();
        let deadline = Instant::now() + HAND_OVER_TIMEOUT;
        for replica in &replicas {
            self.start_hand_over(replica).await;
        }
        for replica in &replicas {
            wait_for_successor(replica, deadline).await;
        }
        self.node.end_tasks();
        for replica in replicas {
            self.node.take_replica(replica.inner.group.id());
            replica.leave().await;
        }
        self.node.context.log.close().await;
        self.node.transport().shutdown();
    }

    /// Asks the voter that is alive, has room and is furthest to take over.
    async fn start_hand_over(&self, replica: &Replica) {
        let view = replica.view();
        let others = view.all_voters().into_iter().filter(|node| *node != self.node.id() && self.node.has_space(*node));
        let best = others.max_by_key(|node| (view.matched.get(node).copied().flatten(), *node));
        if let Some(to) = best.filter(|_| view.is_leader) {
            let group = replica.inner.group.id();
            match replica.inner.group.transfer(to).await {
                Ok(()) => tracing::info!(%group, %to, "handing leadership over"),
                Err(error) => tracing::warn!(%group, %to, %error, "leadership was not handed over"),
            }
        }
    }
}

/// Waits until a group is led elsewhere, or nobody else could lead it.
async fn wait_for_successor(replica: &Replica, deadline: Instant) {
    let mut changes = replica.inner.group.changes();
    let led_elsewhere = async {
        loop {
            let view = replica.view();
            if !view.is_leader || view.all_voters().len() <= 1 || !changes.next().await {
                return;
            }
        }
    };
    if timeout_at(deadline, led_elsewhere).await.is_err() {
        let group: GroupId = replica.inner.group.id();
        // Usual where all nodes stop together. Nobody can do anything about it, and clients try again.
        tracing::info!(%group, "nobody took over in time; an election will decide");
    }
}
