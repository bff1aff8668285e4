//! When the faults are over, everything serves again, within a stated time.
//!
//! Source: docs/guarantees.md, "Failures".

use super::Violation;
use crate::client::Client;
use serde_json::Value;
use std::time::Duration;

/// Waits until each of these nodes has said that it is ready, and then that it sees a whole cluster: every node alive, each
/// partition led and with as many replicas as it should have. `within`: how long that may take.
///
/// Each is asked until it says so, and then no more: where messages are lost for good all the time, there may be no moment
/// at which none of many nodes waits for an answer.
pub async fn serves_again(client: &Client, hosts: &[String], within: Duration) -> Result<(), Violation> {
    let deadline = tokio::time::Instant::now() + within;
    for question in [Question::Ready, Question::Whole { nodes: hosts.len() }] {
        for host in hosts {
            while let Some(reason) = question.ask(client, host).await {
                if tokio::time::Instant::now() > deadline {
                    let detail = format!("not whole again {} s after the last fault: {reason}", within.as_secs());
                    return Err(Violation::new("serves-again", detail));
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
    Ok(())
}

enum Question {
    /// Is it ready?
    Ready,
    /// Does it see so many nodes, all alive, and all partitions served?
    Whole { nodes: usize },
}

impl Question {
    /// Why a node does not say yes; nothing if it does.
    async fn ask(&self, client: &Client, host: &str) -> Option<String> {
        let path = match self {
            Question::Ready => "/readyz",
            Question::Whole { .. } => "/v1/cluster",
        };
        let answer = match client.get(host, path).await {
            Ok(answer) => answer,
            Err(error) => return Some(format!("{host} does not answer: {error}")),
        };
        let is_good = answer.status == 200;
        match self {
            Question::Ready => (!is_good).then(|| format!("{host} is not ready: {}", answer.body)),
            Question::Whole { nodes } => {
                (!is_good || !is_whole(&answer.body, *nodes)).then(|| format!("{host} sees {}", answer.body))
            }
        }
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
