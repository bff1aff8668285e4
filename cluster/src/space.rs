//! Keeping the log within its bound: whoever is in the way lets go of old entries.
//!
//! One entry of an idle group keeps every segment behind it, so it is not enough that busy groups purge. About once a
//! second, while the log is too large or the disk is full, a node asks its log for the groups in the way. What their
//! state machines hold durably is purged at once. What they do not is named to the product ([`crate::Cluster::unwanted`]),
//! and in the node's reports to the others: a follower cannot move a partition's state on, only its leader can.

use crate::log::Space;
use crate::node::Node;
use crate::{NodeId, Offset, PartitionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Has every group let go of what it can, again and again; while the disk is full, leaves elections to others. Transfers
/// that others have abandoned let go of their memory as well.
pub async fn keep(node: Arc<Node>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        node.donors.sweep().await;
        let is_full = node.context.log.space() == Space::Full;
        for replica in node.replicas() {
            let voters = replica.view().all_voters();
            let may_lead = !is_full || !voters.iter().any(|voter| *voter != node.id() && node.has_space(*voter));
            replica.inner.group.set_may_lead(may_lead);
        }
        for pin in node.context.log.pins() {
            if let Some(replica) = node.replica_of(pin.group) {
                replica.let_go(pin.upto.offset);
            }
        }
    }
}

impl Node {
    /// Whether another node is alive, and has reported that its disk has room.
    pub fn has_space(&self, other: NodeId) -> bool {
        let reports = self.reports.fresh(self.config().alive_timeout);
        reports.get(&other).is_some_and(|report| report.accepts_appends)
    }

    /// Up to where the log holds entries of this node's partitions that should go, but are not in durable state.
    pub fn pinned(&self) -> BTreeMap<PartitionId, Offset> {
        let is_durable = |replica: &crate::Replica, upto| {
            let durable = replica.inner.machine.durable().position;
            durable.is_some_and(|durable| durable.offset >= upto)
        };
        let pins = self.context.log.pins().into_iter().filter_map(|pin| {
            let partition = pin.group.partition()?;
            let replica = self.replica_of(pin.group)?;
            (!is_durable(&replica, pin.upto.offset)).then_some((partition, pin.upto.offset))
        });
        pins.collect()
    }

    /// As [`Node::pinned`], together with what other nodes report of the partitions that this one leads.
    pub fn unwanted(&self) -> BTreeMap<PartitionId, Offset> {
        let mut unwanted = self.pinned();
        let reports = self.reports.fresh(self.config().alive_timeout);
        for (partition, upto) in reports.into_values().flat_map(|report| report.pinned) {
            if self.leaderships.of(partition.into()).is_some() {
                let known = unwanted.entry(partition).or_insert(upto);
                *known = upto.max(*known);
            }
        }
        unwanted
    }
}
