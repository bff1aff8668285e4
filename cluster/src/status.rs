//! What operators, the dashboard and the simulator may see of the cluster, as this node knows it.
//!
//! Nodes tell each other what they lead ([`Report`], every `report_interval`), so that each can answer for all. What is
//! said of a partition led elsewhere may be that old.

use crate::membership::state::Standing;
use crate::{ClusterId, LogPosition, NodeId, Offset, PartitionId, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// The cluster as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node that answers.
    pub node: NodeId,
    /// All nodes that have not left, by id.
    pub nodes: Vec<NodeStatus>,
    /// All partitions, by id.
    pub partitions: Vec<PartitionStatus>,
    /// Who leads the metadata group, if known and alive.
    pub metadata_leader: Option<NodeId>,
}

/// A node as another one knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its number.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Where clients reach it.
    pub http_address: String,
    /// Where nodes reach it.
    pub cluster_address: String,
    /// Whether it was heard of lately.
    pub alive: bool,
    /// Whether it takes its share of partitions.
    pub standing: Standing,
}

/// A partition as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// Its number.
    pub id: PartitionId,
    /// Who leads it, if known and alive, and a majority of its voters with it.
    pub leader: Option<NodeId>,
    /// Voters whose log has all but the newest entries, by id; empty while there is no leader to say so.
    pub replicas: Vec<NodeId>,
    /// All voters, by id; empty while there is no leader to say so.
    pub voters: Vec<NodeId>,
    /// Members that do not vote, by id: on their way in.
    pub learners: Vec<NodeId>,
    /// The newest term heard of.
    pub term: Term,
    /// The last entry known to be committed.
    pub commit_offset: Option<Offset>,
    /// The last entry applied: by this node's replica where it has one, by the leader's otherwise.
    pub applied_offset: Option<Offset>,
    /// Bytes of the entries in the log, of the same replica.
    pub log_bytes: u64,
}

/// What a node tells the others about what it leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The partitions that it leads and serves.
    pub led: Vec<LedReport>,
    /// Whether its disk has room: a leader without is relieved by the steward.
    pub accepts_appends: bool,
    /// The partitions whose entries up to an offset keep its log too large, because its state is not durable that far.
    pub pinned: BTreeMap<PartitionId, Offset>,
    /// Nodes that are heard of although they have left: they may not know it.
    pub left: Vec<NodeId>,
}

/// One partition, as its leader reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedReport {
    pub partition: PartitionId,
    pub term: Term,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// The entry that names voters and learners.
    pub members_at: Option<LogPosition>,
    /// Voters that are caught up, the leader among them.
    pub caught_up: Vec<NodeId>,
    pub committed: Option<Offset>,
    pub applied: Option<Offset>,
    pub log_bytes: u64,
}

impl LedReport {
    /// Whether a node votes or learns there.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

/// The newest report of each node.
#[derive(Debug, Default)]
pub struct Reports {
    newest: Mutex<BTreeMap<NodeId, (Instant, Report)>>,
}

impl Reports {
    /// Takes a report in.
    pub fn insert(&self, from: NodeId, report: Report) {
        self.lock().insert(from, (Instant::now(), report));
    }

    /// What was last reported by each node, not older than `age_max`.
    pub fn fresh(&self, age_max: Duration) -> BTreeMap<NodeId, Report> {
        let reports = self.lock();
        let fresh = reports.iter().filter(|(_, (at, _))| at.elapsed() <= age_max);
        fresh.map(|(node, (_, report))| (*node, report.clone())).collect()
    }

    /// Who last reported to lead a partition, in the newest term.
    pub fn leader_of(&self, partition: PartitionId) -> Option<NodeId> {
        let reports = self.lock();
        let led = reports.iter().flat_map(|(node, (_, report))| report.led.iter().map(move |led| (*node, led)));
        let of_partition = led.filter(|(_, led)| led.partition == partition);
        of_partition.max_by_key(|(node, led)| (led.term, *node)).map(|(node, _)| node)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Instant, Report)>> {
        self.newest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(partition: u16, term: u64) -> Report {
        let led = LedReport {
            partition: PartitionId(partition),
            term: Term(term),
            voters: Vec::new(),
            learners: Vec::new(),
            members_at: None,
            caught_up: Vec::new(),
            committed: None,
            applied: None,
            log_bytes: 0,
        };
        Report { led: vec![led], accepts_appends: true, ..Report::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_of_the_newest_term_is_believed() {
        let reports = Reports::default();
        reports.insert(NodeId(1), led(0, 3));
        reports.insert(NodeId(2), led(0, 4));
        assert_eq!(reports.leader_of(PartitionId(0)), Some(NodeId(2)));
        assert_eq!(reports.leader_of(PartitionId(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_report_is_not_fresh() {
        let reports = Reports::default();
        reports.insert(NodeId(1), led(0, 3));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(reports.fresh(Duration::from_secs(2)).is_empty());
    }
}
