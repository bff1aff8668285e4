//! When the faults are over, everything serves again, within a stated time.
//!
//! Source: docs/guarantees.md, "Failures".

use super::Violation;
use crate::client::{Answer, Client};
use futures::future::join_all;
use serde_json::Value;
use std::time::Duration;

/// Waits until all these nodes form a whole cluster: each alive and ready, each partition led and with as many replicas as it
/// should have. `within`: how long that may take.
pub async fn serves_again(client: &Client, hosts: &[String], within: Duration) -> Result<(), Violation> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let last = match not_whole(client, hosts).await {
            None => return Ok(()),
            Some(reason) => reason,
        };
        if tokio::time::Instant::now() > deadline {
            let detail = format!("not whole again {} s after the last fault: {last}", within.as_secs());
            return Err(Violation::new("serves-again", detail));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// How often a node is asked that gives no answer. A question or an answer may be lost although nothing is wrong, and with
/// many nodes some would be in most rounds; a node that is down gives none however often it is asked.
const TRIES: usize = 3;

/// Asks all nodes at the same time.
async fn not_whole(client: &Client, hosts: &[String]) -> Option<String> {
    let ready = hosts.iter().map(async |host| match ask(client, host, "/readyz").await {
        Ok(answer) if answer.status == 200 => None,
        Ok(answer) => Some(format!("{host} is not ready: {}", answer.body)),
        Err(error) => Some(format!("{host} does not answer: {error}")),
    });
    if let Some(reason) = join_all(ready).await.into_iter().flatten().next() {
        return Some(reason);
    }
    let whole = hosts.iter().map(async |host| match ask(client, host, "/v1/cluster").await {
        Ok(answer) if answer.status == 200 && is_whole(&answer.body, hosts.len()) => None,
        Ok(answer) => Some(format!("{host} sees {}", answer.body)),
        Err(error) => Some(format!("{host} does not answer: {error}")),
    });
    join_all(whole).await.into_iter().flatten().next()
}

async fn ask(client: &Client, host: &str, path: &str) -> Result<Answer, String> {
    let mut answer = client.get(host, path).await;
    for _ in 1..TRIES {
        if answer.is_err() {
            answer = client.get(host, path).await;
        }
    }
    answer
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
