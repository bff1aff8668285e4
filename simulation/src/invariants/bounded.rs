//! Memory and log stay within their bounds.
//!
//! Source: docs/configuration.md, `inflight_bytes_max` and `log_bytes_max`; docs/architecture.md: the log is purged behind what
//! is durable.

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

/// Checks that a node's log is within its bound again: for when all faults are over and all replicas agree.
pub fn log_bounded(host: &str, metrics: &str, bytes_max: u64) -> Result<(), Violation> {
    match figure(metrics, "hourmark_log_bytes") {
        Some(bytes) if bytes <= bytes_max => Ok(()),
        Some(bytes) => {
            let detail = format!("{host}: the log holds {bytes} bytes, must come below {bytes_max}");
            Err(Violation::new("bounded", detail))
        }
        None => Err(Violation::new("bounded", format!("{host} does not tell of its log"))),
    }
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

    #[test]
    fn a_log_beyond_its_bound_is_seen() {
        log_bounded("n1", "hourmark_log_bytes 9", 9).unwrap();
        assert!(log_bounded("n1", "hourmark_log_bytes 10", 9).is_err());
        assert!(log_bounded("n1", "nothing", 9).is_err());
    }
}
