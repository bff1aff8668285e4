//! What `GET /v1/cluster` tells, and whether that is a whole cluster.

pub use hourmark::admin::{ClusterAnswer as ClusterView, NodeAnswer as NodeView, PartitionAnswer as PartitionView};
use hourmark::client::{Client, Error};
use std::time::Duration;

/// Asks any of the client's servers.
pub async fn ask(client: &Client, patience: Duration) -> Result<ClusterView, Error> {
    client.ask("/v1/cluster", patience).await
}

/// What keeps the cluster from being whole with `nodes` nodes; `None` when all live, every partition has a leader and as
/// many replicas as there are to be.
pub fn missing(view: &ClusterView, nodes: usize) -> Option<String> {
    let alive = view.nodes.iter().filter(|node| node.alive).count();
    if alive < nodes || alive < view.nodes.len() {
        return Some(format!("{alive} of {} nodes are alive", nodes.max(view.nodes.len())));
    }
    let wanted = nodes.min(view.settings.replication_factor.into());
    let is_full = |partition: &&PartitionView| partition.replicas.len() >= wanted;
    let (all, led) = (view.partitions.len(), led(view));
    let full = view.partitions.iter().filter(is_full).count();
    if all == 0 {
        return Some("there are no partitions yet".into());
    }
    if led < all {
        return Some(format!("{led} of {all} partitions have a leader"));
    }
    (full < all).then(|| format!("{full} of {all} partitions have {wanted} caught-up replicas"))
}

/// What keeps leaders from being even: a node that leads two or more above another; `None` if there is none.
pub fn uneven(view: &ClusterView) -> Option<String> {
    let leads = |node: &NodeView| view.partitions.iter().filter(|partition| partition.leader == Some(node.id)).count();
    let counts: Vec<usize> = view.nodes.iter().map(leads).collect();
    let (least, most) = (counts.iter().min()?, counts.iter().max()?);
    (least + 2 <= *most).then(|| format!("one node leads {most} partitions, another {least}"))
}

/// How many partitions have a leader.
pub fn led(view: &ClusterView) -> usize {
    view.partitions.iter().filter(|partition| partition.leader.is_some()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(alive: [bool; 3], leader: Option<u64>, replicas: &[u64]) -> ClusterView {
        let nodes: Vec<_> = (1..=3)
            .map(|id| serde_json::json!({"id": id, "name": "n", "http_addr": "h", "cluster_addr": "c", "alive": alive[id - 1]}))
            .collect();
        let partition = serde_json::json!({"id": 0, "leader": leader, "replicas": replicas, "term": 1});
        let settings = serde_json::json!({"replication_factor": 3});
        let view =
            serde_json::json!({"cluster_id": "c", "nodes": nodes, "partitions": [partition], "settings": settings});
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn whole_means_all_alive_led_and_replicated() {
        assert_eq!(missing(&view([true; 3], Some(1), &[1, 2, 3]), 3), None);
        assert_eq!(missing(&view([true, true, false], Some(1), &[1, 2, 3]), 3).unwrap(), "2 of 3 nodes are alive");
        assert_eq!(missing(&view([true; 3], None, &[1, 2, 3]), 3).unwrap(), "0 of 1 partitions have a leader");
        assert_eq!(
            missing(&view([true; 3], Some(1), &[1, 2]), 3).unwrap(),
            "0 of 1 partitions have 3 caught-up replicas"
        );
        assert_eq!(missing(&view([true; 3], Some(1), &[1, 2, 3]), 5).unwrap(), "3 of 5 nodes are alive");
    }
}
