//! Are all replicas identical? Their stores' digests, compared where they stand at the same offset.

use crate::cli::cluster_view::{ClusterView, NodeView};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{self, Format, Table, json};
use futures::future::join_all;
use hourmark::client::{Client, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How often replicas that stand at different offsets are asked again.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// The digest of one replica.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Digest {
    partition: u16,
    consumed_offset: Value,
    digest: Value,
}

/// What one node's replicas hold.
#[derive(Deserialize)]
struct Digests {
    partitions: Vec<Digest>,
}

/// Every replica's digest, and what they say together.
#[derive(Debug, Serialize)]
struct Comparison {
    verdict: Verdict,
    replicas: Vec<ReplicaDigest>,
}

#[derive(Debug, Serialize)]
struct ReplicaDigest {
    partition: u16,
    node: u64,
    consumed_offset: String,
    digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// All at the same offset with the same digest.
    Identical,
    /// Two at the same offset with different digests.
    Different,
    /// None of this can be said yet: they stand at different offsets.
    Moving,
}

/// Asks every node until all replicas of each partition stand at the same offset; prints what they say.
pub async fn run(view: &ClusterView, patience: Duration, format: Format) -> Outcome {
    let give_up = Instant::now() + patience;
    loop {
        let comparison = compare(&ask_all(&view.nodes, give_up).await?);
        if comparison.verdict == Verdict::Moving && Instant::now() + POLL_INTERVAL < give_up {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        return tell(&comparison, format);
    }
}

async fn ask_all(nodes: &[NodeView], give_up: Instant) -> Result<BTreeMap<u64, Vec<Digest>>, Failure> {
    let answers = nodes.iter().map(|node| async move {
        let client = Client::new(std::slice::from_ref(&node.http_addr))?;
        let patience = give_up.saturating_duration_since(Instant::now()).max(POLL_INTERVAL);
        let answer: Digests = client.ask("/v1/digest", patience).await?;
        Ok((node.id, answer.partitions))
    });
    let answers: Vec<Result<_, Error>> = join_all(answers).await;
    Ok(answers.into_iter().collect::<Result<_, _>>()?)
}

fn compare(digests: &BTreeMap<u64, Vec<Digest>>) -> Comparison {
    let mut at: BTreeMap<u16, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let mut replicas = Vec::new();
    for (node, Digest { partition, consumed_offset, digest }) in
        digests.iter().flat_map(|(node, digests)| digests.iter().map(move |digest| (*node, digest)))
    {
        let (offset, digest) = (text(consumed_offset), text(digest));
        at.entry(*partition).or_default().entry(offset.clone()).or_default().insert(digest.clone());
        replicas.push(ReplicaDigest { partition: *partition, node, consumed_offset: offset, digest });
    }
    replicas.sort_by_key(|replica| (replica.partition, replica.node));
    let verdict = if at.values().flat_map(BTreeMap::values).any(|digests| digests.len() > 1) {
        Verdict::Different
    } else if at.values().any(|offsets| offsets.len() > 1) {
        Verdict::Moving
    } else {
        Verdict::Identical
    };
    Comparison { verdict, replicas }
}

/// A number or a text, as a text.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn tell(comparison: &Comparison, format: Format) -> Outcome {
    let mut table = Table::new(["partition", "node", "consumed_offset", "digest"]);
    table.rows.extend(comparison.replicas.iter().map(|replica| {
        let ReplicaDigest { partition, node, consumed_offset, digest } = replica;
        vec![partition.to_string(), node.to_string(), consumed_offset.clone(), digest.clone()]
    }));
    output::print(&match format {
        Format::Table => table.to_text(),
        Format::Csv => table.to_csv(),
        Format::Json => json(comparison),
    })?;
    match comparison.verdict {
        Verdict::Identical => {
            eprintln!("all replicas are identical");
            Ok(())
        }
        Verdict::Different => Err(Failure::new(Exit::Failed, "replicas at the same offset have different digests")),
        Verdict::Moving => Err(Failure::new(
            Exit::Failed,
            "the replicas never stood at the same offset; try again when fewer events arrive, or with a longer --timeout",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(replicas: &[(u64, u16, u64, &str)]) -> Verdict {
        let mut digests: BTreeMap<u64, Vec<Digest>> = BTreeMap::new();
        for (node, partition, offset, digest) in replicas {
            let digest = Digest { partition: *partition, consumed_offset: (*offset).into(), digest: (*digest).into() };
            digests.entry(*node).or_default().push(digest);
        }
        compare(&digests).verdict
    }

    #[test]
    fn digests_are_compared_at_equal_offsets_only() {
        assert_eq!(verdict(&[]), Verdict::Identical);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 5, "a"), (1, 1, 9, "b"), (2, 1, 9, "b")]), Verdict::Identical);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 6, "b")]), Verdict::Moving);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 5, "b")]), Verdict::Different);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 6, "c"), (3, 0, 5, "b")]), Verdict::Different);
    }
}
