//! What a run found: a table of names and numbers for people, a document for programs.

use super::latency::Summary;
use super::process::Usage;
use super::verify::Verdict;
use crate::cli::body_format::BodyFormat;
use crate::cli::output::{Format, Row, measures};
use serde::Serialize;

/// Numbers of a run of events.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How events were written.
    pub format: BodyFormat,
    /// Events that were measured; those of the warm-up come on top.
    pub events: u64,
    /// Of the warm-up.
    pub warm_up_events: u64,
    /// Requests that were measured.
    pub requests: usize,
    /// Connections.
    pub connections: usize,
    /// Partitions of the cluster.
    pub partitions: usize,
    /// Events a second that were asked for, if a rate was.
    pub target_events_per_second: Option<f64>,
    /// From the first request due to the last ack.
    pub seconds: f64,
    /// Acked events a second.
    pub events_per_second: f64,
    /// Body bytes a second, in 10^6.
    pub megabytes_per_second: f64,
    /// From when a request was due to its ack.
    pub ack_latency: Summary,
    /// Requests that were repeated.
    pub retries: u64,
    /// From the last ack until every event is aggregated and checkpointed.
    pub drain_seconds: f64,
    /// What each node used meanwhile; empty if the nodes' processes are not ours.
    pub nodes: Vec<NodeUsage>,
    /// CPU of this process.
    pub client_cpu_seconds: f64,
    /// CPU of all processes per event, in µs; without the nodes' if they are not ours.
    pub cpu_us_per_event: f64,
    /// Bytes that all nodes together had the disk write, per event.
    pub written_bytes_per_event: Option<f64>,
    /// Bytes on disk at the end per event, warm-up included, all nodes together.
    pub disk_bytes_per_event: Option<f64>,
    /// Writing and syncing 64 KiB on the nodes' disk, before the run.
    pub fsync: Option<Summary>,
    /// What the answers were compared with; nothing with --no-verify.
    pub verified: Option<Verdict>,
}

/// What a node used.
#[derive(Debug, Clone, Serialize)]
pub struct NodeUsage {
    /// CPU seconds, user and system, until all is aggregated.
    pub cpu_seconds: f64,
    /// The most memory it held since its start.
    pub memory_bytes_max: u64,
    /// Bytes it had the disk write.
    pub written_bytes: u64,
}

impl From<Usage> for NodeUsage {
    fn from(usage: Usage) -> NodeUsage {
        NodeUsage {
            cpu_seconds: usage.cpu.as_secs_f64(),
            memory_bytes_max: usage.memory_bytes_max,
            written_bytes: usage.written_bytes,
        }
    }
}

impl Report {
    /// The text for stdout.
    pub fn text(&self, format: Format) -> String {
        measures(format, self, |row| {
            row("events", self.events.to_string());
            row("seconds", format!("{:.3}", self.seconds));
            row("acked events/s", format!("{:.0}", self.events_per_second));
            row("body MB/s", format!("{:.1}", self.megabytes_per_second));
            row("requests", self.requests.to_string());
            row("partitions", self.partitions.to_string());
            row("retries", self.retries.to_string());
            latency_rows("ack", &self.ack_latency, row);
            row("drained after s", format!("{:.2}", self.drain_seconds));
            for (number, node) in (1..).zip(&self.nodes) {
                row(&format!("node {number} CPU s"), format!("{:.2}", node.cpu_seconds));
                row(&format!("node {number} memory MiB, most"), (node.memory_bytes_max >> 20).to_string());
            }
            row("client CPU s", format!("{:.2}", self.client_cpu_seconds));
            row("CPU µs/event", format!("{:.3}", self.cpu_us_per_event));
            if let Some(bytes) = self.written_bytes_per_event {
                row("bytes written/event", format!("{bytes:.1}"));
            }
            if let Some(bytes) = self.disk_bytes_per_event {
                row("bytes on disk/event", format!("{bytes:.1}"));
            }
            if let Some(fsync) = &self.fsync {
                row("64 KiB fsync p50 ms", format!("{:.2}", fsync.p50_ms));
                row("64 KiB fsync p99 ms", format!("{:.2}", fsync.p99_ms));
            }
            if let Some(verdict) = &self.verified {
                row("rollups verified", verdict.rollups.to_string());
                row("rollups wrong", verdict.wrong.to_string());
            }
        })
    }
}

/// A row for each quantile of latencies.
pub fn latency_rows(of: &str, latency: &Summary, row: Row) {
    let Summary { p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = latency;
    for (name, value) in [("p50", p50_ms), ("p90", p90_ms), ("p99", p99_ms), ("p99.9", p999_ms), ("max", max_ms)] {
        row(&format!("{of} {name} ms"), format!("{value:.2}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_document_hold_the_same_run() {
        let report = Report {
            format: BodyFormat::Ndjson,
            events: 1000,
            warm_up_events: 10,
            requests: 2,
            connections: 1,
            partitions: 3,
            target_events_per_second: None,
            seconds: 0.5,
            events_per_second: 2000.0,
            megabytes_per_second: 0.2,
            ack_latency: Summary { p50_ms: 1.5, ..Summary::default() },
            retries: 0,
            drain_seconds: 0.1,
            nodes: vec![NodeUsage { cpu_seconds: 0.25, memory_bytes_max: 50 << 20, written_bytes: 9 }],
            client_cpu_seconds: 0.01,
            cpu_us_per_event: 260.0,
            written_bytes_per_event: Some(0.9),
            disk_bytes_per_event: None,
            fsync: None,
            verified: Some(Verdict { rollups: 7, ..Verdict::default() }),
        };
        let text = report.text(Format::Table);
        for part in ["acked events/s", " 2000\n", "partitions", "node 1 CPU s", "ack p50 ms", "rollups wrong"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let document: serde_json::Value = serde_json::from_str(&report.text(Format::Json)).unwrap();
        assert_eq!(document["ack_latency"]["p50_ms"], 1.5);
        assert_eq!(document["nodes"][0]["memory_bytes_max"], 50 << 20);
    }
}
