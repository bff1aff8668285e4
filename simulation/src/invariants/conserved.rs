//! What was set aside is told: acked events are counted, or they are in quarantine.
//!
//! Source: docs/architecture.md: events in the log = counted + duplicate + quarantined.

use super::Violation;
use crate::client::Client;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long an entry that is set aside may take to be told of: until the next checkpoint that gets through.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// So many acked events are not counted at `host`: at least as many must be in quarantine (those of careless clients, which
/// may be missing too, are in none of the two).
pub async fn conserved(client: &Client, hosts: &[String], host: &str, missing: u64) -> Result<(), Violation> {
    if missing == 0 {
        return Ok(());
    }
    let deadline = Instant::now() + TOLD_WITHIN;
    loop {
        let checked = check(host, missing, set_aside(client, hosts).await?);
        if checked.is_ok() || Instant::now() > deadline {
            return checked;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// How many events are in quarantine. Each node tells of its own replicas.
async fn set_aside(client: &Client, hosts: &[String]) -> Result<u64, Violation> {
    let mut set_aside = BTreeMap::new();
    for host in hosts {
        let answer =
            client.settled(host, "/v1/quarantine").await.map_err(|error| Violation::new("serves-again", error))?;
        for entry in answer["entries"].as_array().map(Vec::as_slice).unwrap_or_default() {
            set_aside
                .insert((entry["partition"].as_u64(), entry["offset"].as_u64()), entry["events"].as_u64().unwrap_or(0));
        }
    }
    Ok(set_aside.values().sum())
}

fn check(host: &str, missing: u64, set_aside: u64) -> Result<(), Violation> {
    if missing <= set_aside {
        return Ok(());
    }
    let detail = format!("{host}: {missing} acked events are not counted, {set_aside} are in quarantine");
    Err(Violation::new("conserved", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_are_nowhere_are_seen() {
        check("n1", 5, 5).unwrap();
        check("n1", 5, 6).unwrap();
        assert!(check("n1", 5, 4).is_err());
    }
}
