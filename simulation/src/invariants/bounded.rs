//! Memory and log stay within their bounds.
//!
//! Source: docs/configuration.md, `inflight_bytes_max`; docs/architecture.md: the log is purged behind what is durable.

use super::Violation;

/// Bytes of requests being worked on, by default at most.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;

/// Bytes of all files of a node at most, in any run: no run writes nearly as much, but a log that is never purged and
/// snapshots that are never removed would.
const DISK_BYTES_MAX: u64 = 64 << 20;

/// Checks a node's `/metrics`.
pub fn bounded(host: &str, metrics: &str) -> Result<(), Violation> {
    for (name, most) in
        [("hourmark_ingest_in_flight_bytes", IN_FLIGHT_BYTES_MAX), ("hourmark_disk_bytes", DISK_BYTES_MAX)]
    {
        if let Some(value) = figure(metrics, name).filter(|value| *value > most) {
            return Err(Violation::new("bounded", format!("{host}: {name} is {value}, must be at most {most}")));
        }
    }
    Ok(())
}

fn figure(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_beyond_its_bound_is_seen() {
        let metrics =
            |bytes: u64| format!("# HELP\nhourmark_ingest_in_flight_bytes {bytes}\nhourmark_disk_bytes 5\n# EOF");
        bounded("n1", &metrics(7)).unwrap();
        assert!(bounded("n1", &metrics(1 << 40)).is_err());
    }
}
