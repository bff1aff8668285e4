//! Replicas with equal `consumed` have equal digests, and all of them reach the same.
//!
//! Source: docs/architecture.md: rollups are functions of the multiset of their values, so no order can make a difference.

use super::Violation;
use crate::client::Client;
use crate::trace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Digests by partition and position, with the node that gave them first: of a whole run.
pub type Digests = BTreeMap<(u64, String), (String, String)>;

/// Compares all replicas of all nodes now, with each other and with what is known; `Ok(true)` if every member of every
/// partition has reached the same position too.
pub async fn replicas_identical(client: &Client, hosts: &[String], digests: &mut Digests) -> Result<bool, Violation> {
    let mut positions: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let Some(members) = members(client, &hosts[0]).await else { return Ok(false) };
    let mut have_all_answered = true;
    for host in hosts {
        match client.get(host, "/v1/digest").await {
            Ok(answer) if answer.status == 200 => {
                for replica in answer.body["partitions"].as_array().map(Vec::as_slice).unwrap_or_default() {
                    let partition = replica["partition"].as_u64().unwrap_or(u64::MAX);
                    let node = answer.body["node_id"].as_u64().unwrap_or(0);
                    if !members.contains(&(partition, node)) {
                        continue; // The replica has moved away; what is left of it goes in its own time.
                    }
                    let consumed = replica["consumed_offset"].to_string();
                    compare(host, partition, &consumed, &replica["digest"], digests)?;
                    positions.entry(partition).or_default().push(consumed);
                }
            }
            _ => have_all_answered = false,
        }
    }
    let of = |partition| members.iter().filter(|(id, _)| *id == partition).count();
    let is_whole = members.iter().all(|(id, _)| positions.get(id).is_some_and(|all| all.len() == of(*id)));
    let is_settled =
        have_all_answered && is_whole && positions.values().all(|all| all.iter().all(|one| *one == all[0]));
    if is_settled {
        trace::line(format_args!("all replicas agree: {positions:?}"));
    }
    Ok(is_settled)
}

/// Which node has a replica of which partition.
async fn members(client: &Client, host: &str) -> Option<BTreeSet<(u64, u64)>> {
    let answer = client.get(host, "/v1/cluster").await.ok().filter(|answer| answer.status == 200)?;
    let partitions = answer.body["partitions"].as_array()?;
    let of_one = |partition: &Value| -> Option<Vec<(u64, u64)>> {
        let id = partition["id"].as_u64()?;
        let nodes = partition["replicas"].as_array()?.iter().chain(partition["learners"].as_array()?);
        Some(nodes.filter_map(Value::as_u64).map(|node| (id, node)).collect())
    };
    Some(partitions.iter().filter_map(of_one).flatten().collect())
}

fn compare(host: &str, partition: u64, consumed: &str, digest: &Value, known: &mut Digests) -> Result<(), Violation> {
    let digest = digest.to_string();
    let first = known.entry((partition, consumed.to_owned())).or_insert_with(|| (digest.clone(), host.to_owned()));
    if first.0 == digest {
        return Ok(());
    }
    let (other, other_host) = first;
    let detail = format!("partition {partition} at {consumed}: {host} has {digest}, {other_host} has {other}");
    Err(Violation::new("replicas-identical", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_digest_at_the_same_position_is_seen() {
        let mut known = BTreeMap::new();
        compare("n1", 0, "7", &json!("aa"), &mut known).unwrap();
        compare("n2", 0, "8", &json!("bb"), &mut known).unwrap();
        compare("n3", 0, "7", &json!("aa"), &mut known).unwrap();
        assert!(compare("n4", 0, "7", &json!("cc"), &mut known).is_err());
    }
}
