//! What was set aside is told: acked events are counted, or they are in quarantine.
//!
//! Source: docs/architecture.md: events in the log = counted + duplicate + quarantined.

use super::Violation;
use crate::client::Client;

/// So many acked events are not counted: as many must be in quarantine at a node, or fewer if those of careless clients are.
pub async fn conserved(client: &Client, host: &str, missing: u64) -> Result<(), Violation> {
    let answer = client.settled(host, "/v1/quarantine").await.map_err(|error| Violation::new("serves-again", error))?;
    let entries = answer["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let set_aside: u64 = entries.iter().filter_map(|entry| entry["events"].as_u64()).sum();
    check(host, missing, set_aside)
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
