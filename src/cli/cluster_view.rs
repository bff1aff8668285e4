//! What `GET /v1/cluster` tells, as far as the command line reads it.

use hourmark::client::{Client, Error};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// A node's view of its cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct ClusterView {
    /// The cluster's identity.
    pub cluster_id: String,
    /// Every node that belongs to it.
    pub nodes: Vec<NodeView>,
    /// Every partition.
    pub partitions: Vec<PartitionView>,
    /// The settings fixed at the cluster's creation, and others that help.
    #[serde(default)]
    pub settings: Value,
    /// Bytes of the files of the node that gave this view.
    #[serde(default)]
    pub disk_used_bytes: Option<u64>,
}

/// A node.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeView {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `host:port` for clients.
    pub http_addr: String,
    /// `host:port` for nodes.
    pub cluster_addr: String,
    /// Whether it has been heard of lately.
    pub alive: bool,
}

/// A partition.
#[derive(Debug, Clone, Deserialize)]
pub struct PartitionView {
    /// Its number.
    pub id: u16,
    /// The node that leads it.
    pub leader: Option<u64>,
    /// Nodes with a caught-up copy.
    pub replicas: Vec<u64>,
    /// Raft's term.
    pub term: u64,
    /// How far the log is on a majority.
    #[serde(default)]
    pub commit_offset: Option<u64>,
    /// How far the viewing node's replica has applied it.
    #[serde(default)]
    pub applied_offset: Option<u64>,
    /// How far it is aggregated into rollups.
    #[serde(default)]
    pub consumed_offset: Option<u64>,
    /// Events behind `consumed_offset`.
    #[serde(default)]
    pub lag_events: Option<u64>,
}

impl ClusterView {
    /// Asks any of the client's servers.
    pub async fn ask(client: &Client, patience: Duration) -> Result<ClusterView, Error> {
        client.ask("/v1/cluster", patience).await
    }

    /// What keeps the cluster from being whole with `nodes` nodes; `None` when all live, every partition has a leader and as
    /// many replicas as there are to be.
    pub fn missing(&self, nodes: usize) -> Option<String> {
        let alive = self.nodes.iter().filter(|node| node.alive).count();
        if alive < nodes || alive < self.nodes.len() {
            return Some(format!("{alive} of {} nodes are alive", nodes.max(self.nodes.len())));
        }
        let factor = self.settings["replication_factor"].as_u64().unwrap_or(3);
        let wanted = nodes.min(usize::try_from(factor).unwrap_or(usize::MAX));
        let is_led = |partition: &&PartitionView| partition.leader.is_some();
        let is_full = |partition: &&PartitionView| partition.replicas.len() >= wanted;
        let (all, led) = (self.partitions.len(), self.partitions.iter().filter(is_led).count());
        let full = self.partitions.iter().filter(is_full).count();
        if all == 0 {
            return Some("there are no partitions yet".into());
        }
        if led < all {
            return Some(format!("{led} of {all} partitions have a leader"));
        }
        (full < all).then(|| format!("{full} of {all} partitions have {wanted} caught-up replicas"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(alive: [bool; 3], leader: Option<u64>, replicas: &[u64]) -> ClusterView {
        let nodes: Vec<_> = (1..=3)
            .map(|id| serde_json::json!({"id": id, "name": "n", "http_addr": "h", "cluster_addr": "c", "alive": alive[id - 1]}))
            .collect();
        let partition = serde_json::json!({"id": 0, "leader": leader, "replicas": replicas, "term": 1});
        let view = serde_json::json!({"cluster_id": "c", "nodes": nodes, "partitions": [partition]});
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn whole_means_all_alive_led_and_replicated() {
        assert_eq!(view([true; 3], Some(1), &[1, 2, 3]).missing(3), None);
        assert_eq!(view([true, true, false], Some(1), &[1, 2, 3]).missing(3).unwrap(), "2 of 3 nodes are alive");
        assert_eq!(view([true; 3], None, &[1, 2, 3]).missing(3).unwrap(), "0 of 1 partitions have a leader");
        assert_eq!(
            view([true; 3], Some(1), &[1, 2]).missing(3).unwrap(),
            "0 of 1 partitions have 3 caught-up replicas"
        );
        assert_eq!(view([true; 3], Some(1), &[1, 2, 3]).missing(5).unwrap(), "3 of 5 nodes are alive");
    }
}
