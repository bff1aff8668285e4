//! When the faults are over, everything serves again, within a stated time.
//!
//! Source: docs/guarantees.md, "Failures".

use super::Violation;
use crate::client::Client;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// How long a node's yes counts.
const YES_COUNTS: Duration = Duration::from_secs(15);

/// Waits until all these nodes form a whole cluster: each ready, and seeing every node alive and each partition led and with
/// as many replicas as it should have. `within`: how long that may take.
///
/// All have to say so within [`YES_COUNTS`], not at the same moment: where messages are lost for good all the time, there may
/// be no moment at which none of many nodes waits for an answer.
pub async fn serves_again(client: &Client, hosts: &[String], within: Duration) -> Result<(), Violation> {
    let deadline = Instant::now() + within;
    let mut said_yes: Vec<Option<Instant>> = vec![None; hosts.len()];
    loop {
        let mut last = None;
        for (host, said_yes) in hosts.iter().zip(&mut said_yes) {
            if said_yes.is_none_or(|at| at.elapsed() > YES_COUNTS) {
                let reason = not_whole(client, host, hosts.len()).await;
                *said_yes = reason.is_none().then(Instant::now);
                last = reason.or(last);
            }
        }
        let Some(reason) = last else { return Ok(()) };
        if Instant::now() > deadline {
            let detail = format!("not whole again {} s after the last fault: {reason}", within.as_secs());
            return Err(Violation::new("serves-again", detail));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Why a node does not say yes; nothing if it does.
async fn not_whole(client: &Client, host: &str, nodes: usize) -> Option<String> {
    match client.get(host, "/readyz").await {
        Ok(answer) if answer.status == 200 => {}
        Ok(answer) => return Some(format!("{host} is not ready: {}", answer.body)),
        Err(error) => return Some(format!("{host} does not answer: {error}")),
    }
    match client.get(host, "/v1/cluster").await {
        Ok(answer) if answer.status == 200 && is_whole(&answer.body, nodes) => None,
        Ok(answer) => Some(format!("{host} sees {}", answer.body)),
        Err(error) => Some(format!("{host} does not answer: {error}")),
    }
}

/// Replicas of each partition where there are enough nodes, as the product sets it up by default.
const REPLICAS: usize = 3;

fn is_whole(cluster: &Value, count: usize) -> bool {
    let list = |name: &str| cluster[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let alive = list("nodes").iter().filter(|node| node["alive"] == true).count();
    let is_served = |partition: &Value| {
        !partition["leader"].is_null()
            && partition["replicas"].as_array().is_some_and(|replicas| replicas.len() == count.min(REPLICAS))
    };
    alive >= count && !list("partitions").is_empty() && list("partitions").iter().all(is_served)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cluster_is_whole_with_every_node_leader_and_replica() {
        let cluster = |alive: bool, leader: Value, replicas: Value| json!({"nodes": [{"alive": true}, {"alive": alive}], "partitions": [{"leader": leader, "replicas": replicas}]});
        assert!(is_whole(&cluster(true, json!(1), json!([1, 2])), 2));
        assert!(!is_whole(&cluster(false, json!(1), json!([1, 2])), 2));
        assert!(!is_whole(&cluster(true, Value::Null, json!([1, 2])), 2));
        assert!(!is_whole(&cluster(true, json!(1), json!([1])), 2));
    }
}
