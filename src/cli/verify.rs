//! `hourmark verify`: are all replicas identical, and is every event accounted for? Digests and counters, compared where
//! replicas stand at the same offset.

use super::cluster_view::{self, ClusterView};
use super::connection::{Connection, timeout};
use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Format, Output, Table, json};
use futures::future::join_all;
use hourmark::admin::{Digest, DigestAnswer};
use hourmark::client::{Client, Error};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How often replicas that stand at different offsets are asked again.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Check that replicas are identical and that every event is accounted for
///
/// Asks each node what its replicas hold. Replicas at the same `consumed_offset` must have the same digest, and of the
/// events in the log each one is counted, a duplicate, in quarantine, or pending: behind `consumed_offset`, and counted at
/// the next checkpoint. While events arrive, replicas stand at different offsets: they are asked again until they meet. Exit
/// code 1: something differs, or they did not meet in time.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark verify
  hourmark verify -o json --timeout 60s")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// Give up after so long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

/// Every replica's digest and counters, and what they say together.
#[derive(Debug, Serialize)]
struct Comparison {
    verdict: Verdict,
    replicas: Vec<Replica>,
}

#[derive(Debug, Serialize)]
struct Replica {
    node: u64,
    #[serde(flatten)]
    digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// All at the same offset with the same digest, and every event is accounted for.
    Identical,
    /// Somewhere the events that were counted, repeated, set aside and are pending are not those of the log.
    Unbalanced,
    /// Two at the same offset with different digests.
    Different,
    /// None of this can be said yet: they stand at different offsets.
    Moving,
}

/// Asks every node until all replicas of each partition stand at the same offset; prints what they say.
pub async fn run(arguments: &Arguments) -> Outcome {
    let client = arguments.connection.client()?;
    let give_up = Instant::now() + arguments.timeout;
    loop {
        let view = cluster_view::ask(&client, patience(give_up)).await?;
        let comparison = compare(ask_all(&view, give_up).await?);
        if comparison.verdict == Verdict::Moving && Instant::now() + POLL_INTERVAL < give_up {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        return tell(&comparison, arguments.output.format());
    }
}

fn patience(give_up: Instant) -> Duration {
    give_up.saturating_duration_since(Instant::now()).max(POLL_INTERVAL)
}

/// What the nodes' replicas hold. Those that have moved away are left out: what is left of them goes in its own time.
async fn ask_all(view: &ClusterView, give_up: Instant) -> Result<Vec<Replica>, Failure> {
    let answers = view.nodes.iter().map(|node| async move {
        let client = Client::new(std::slice::from_ref(&node.http_addr))?;
        let answer: DigestAnswer = client.ask("/v1/digest", patience(give_up)).await?;
        Ok((node.id, answer.partitions))
    });
    let answers: Vec<Result<_, Error>> = join_all(answers).await;
    let mut replicas = Vec::new();
    for answer in answers {
        let (node, digests) = answer?;
        let mine = digests.into_iter().filter(|digest| has_replica(view, digest.partition, node));
        replicas.extend(mine.map(|digest| Replica { node, digest }));
    }
    Ok(replicas)
}

fn has_replica(view: &ClusterView, partition: u16, node: u64) -> bool {
    let members = view.partitions.iter().filter(|known| known.id == partition);
    members.flat_map(|known| known.replicas.iter().chain(&known.voters).chain(&known.learners)).any(|id| *id == node)
}

fn compare(mut replicas: Vec<Replica>) -> Comparison {
    let mut at: BTreeMap<u16, BTreeMap<Option<u64>, BTreeSet<&str>>> = BTreeMap::new();
    for Replica { digest, .. } in &replicas {
        at.entry(digest.partition).or_default().entry(digest.consumed_offset).or_default().insert(&digest.digest);
    }
    let verdict = if !replicas.iter().all(|replica| is_balanced(&replica.digest)) {
        Verdict::Unbalanced
    } else if at.values().flat_map(BTreeMap::values).any(|digests| digests.len() > 1) {
        Verdict::Different
    } else if at.values().any(|offsets| offsets.len() > 1) {
        Verdict::Moving
    } else {
        Verdict::Identical
    };
    replicas.sort_by_key(|replica| (replica.digest.partition, replica.node));
    Comparison { verdict, replicas }
}

/// Whether every event of the log is accounted for.
fn is_balanced(digest: &Digest) -> bool {
    let parts = [digest.counted, digest.duplicate, digest.quarantined, digest.pending];
    parts.into_iter().try_fold(0u64, u64::checked_add) == Some(digest.events)
}

fn tell(comparison: &Comparison, format: Format) -> Outcome {
    let mut table = Table::new([
        "partition",
        "node",
        "consumed_offset",
        "events",
        "counted",
        "duplicate",
        "quarantined",
        "pending",
        "digest",
    ]);
    table.rows.extend(comparison.replicas.iter().map(|Replica { node, digest }| {
        vec![
            digest.partition.to_string(),
            node.to_string(),
            digest.consumed_offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string()),
            digest.events.to_string(),
            digest.counted.to_string(),
            digest.duplicate.to_string(),
            digest.quarantined.to_string(),
            digest.pending.to_string(),
            digest.digest.clone(),
        ]
    }));
    output::print(&match format {
        Format::Table => table.to_text(),
        Format::Csv => table.to_csv(),
        Format::Json => json(comparison),
    })?;
    let message = match comparison.verdict {
        Verdict::Identical => {
            eprintln!("all replicas are identical, and every event is accounted for");
            return Ok(());
        }
        Verdict::Unbalanced => {
            "a replica's log holds other events than were counted, repeated, set aside and are pending"
        }
        Verdict::Different => "replicas at the same offset have different digests",
        Verdict::Moving => {
            "the replicas never stood at the same offset; try again when fewer events arrive, or with a longer --timeout"
        }
    };
    Err(Failure::new(Exit::Failed, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica((node, partition, offset, digest): (u64, u16, u64, &str)) -> Replica {
        let digest = Digest {
            partition,
            consumed_offset: Some(offset),
            digest: digest.to_owned(),
            events: 12,
            counted: 6,
            duplicate: 2,
            quarantined: 1,
            pending: 3,
        };
        Replica { node, digest }
    }

    fn verdict(replicas: &[(u64, u16, u64, &str)]) -> Verdict {
        compare(replicas.iter().copied().map(replica).collect()).verdict
    }

    #[test]
    fn digests_are_compared_at_equal_offsets_only() {
        assert_eq!(verdict(&[]), Verdict::Identical);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 5, "a"), (1, 1, 9, "b"), (2, 1, 9, "b")]), Verdict::Identical);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 6, "b")]), Verdict::Moving);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 5, "b")]), Verdict::Different);
        assert_eq!(verdict(&[(1, 0, 5, "a"), (2, 0, 6, "c"), (3, 0, 5, "b")]), Verdict::Different);
    }

    #[test]
    fn an_event_that_is_nowhere_or_twice_is_seen() {
        for (counted, expected) in [(5, Verdict::Unbalanced), (6, Verdict::Identical), (7, Verdict::Unbalanced)] {
            let mut replica = replica((1, 0, 5, "a"));
            replica.digest.counted = counted;
            assert_eq!(compare(vec![replica]).verdict, expected);
        }
        let mut replica = replica((1, 0, 5, "a"));
        replica.digest.pending = 0;
        assert_eq!(compare(vec![replica]).verdict, Verdict::Unbalanced, "what is not counted yet is not forgotten");
    }
}
