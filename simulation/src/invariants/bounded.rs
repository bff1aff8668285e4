//! Memory and log stay within their bounds.
//!
//! Source: docs/configuration.md, `inflight_bytes_max` and `log_bytes_max`; docs/architecture.md: the log is purged behind what
//! is durable.

use super::Violation;

/// Bytes of requests being worked on, at most: 16 clients with a request of 4,000 events each send less at once.
const IN_FLIGHT_BYTES_MAX: u64 = 16 << 20;

/// Bytes of all files of a node at most, in any run: no run writes nearly as much, but a log that is never purged and
/// snapshots that are never removed would.
const DISK_BYTES_MAX: u64 = 64 << 20;

/// Checks a node's `/metrics`.
pub fn bounded(host: &str, metrics: &str) -> Result<(), Violation> {
    for (name, most) in
        [("hourmark_ingest_in_flight_bytes", IN_FLIGHT_BYTES_MAX), ("hourmark_disk_bytes", DISK_BYTES_MAX)]
    {
        let value =
            figure(metrics, name).ok_or_else(|| Violation::new("bounded", format!("{host} does not tell {name}")))?;
        if value > most {
            return Err(Violation::new("bounded", format!("{host}: {name} is {value}, must be at most {most}")));
        }
    }
    Ok(())
}

/// Checks that a node's log is within its bound again and that nothing is held for requests: for when all faults are over, no
/// request is under way, and all replicas agree.
pub fn settled_bounds(host: &str, metrics: &str, bytes_max: u64) -> Result<(), Violation> {
    let held = figure(metrics, "hourmark_ingest_in_flight_bytes");
    if held != Some(0) {
        let detail = format!("{host} holds {held:?} bytes of requests while there are none");
        return Err(Violation::new("bounded", detail));
    }
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
        assert!(
            bounded("n1", "hourmark_disk_bytes 5\n# EOF").is_err(),
            "a figure that is not told is not within its bound"
        );
    }

    #[test]
    fn what_is_not_given_back_in_the_end_is_seen() {
        let metrics = |held: u64, log: u64| format!("hourmark_ingest_in_flight_bytes {held}\nhourmark_log_bytes {log}");
        settled_bounds("n1", &metrics(0, 9), 9).unwrap();
        assert!(settled_bounds("n1", &metrics(0, 10), 9).is_err());
        assert!(settled_bounds("n1", &metrics(1, 9), 9).is_err());
        assert!(settled_bounds("n1", "nothing", 9).is_err());
    }
}
