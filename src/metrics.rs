//! Every metric the process exports: name, unit, help.
//!
//! A room gets the struct that bears its name and counts in it; handles are cheap to clone. What other parts keep count of
//! themselves (log, replication, disk) is not kept twice: it is shown on the [`Board`] when somebody asks for `/metrics`. Each
//! node has a registry of its own, nothing is global, and the text has one order.
//!
//! The text is that of Prometheus (0.0.4), or OpenMetrics 1.0 for those who prefer it.

mod exposition;

pub use exposition::Exposition;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// A gauge of a size or number, never negative.
pub type Level = Gauge<u64, AtomicU64>;

/// All metrics of one node.
#[derive(Clone)]
pub struct Metrics {
    /// Taking events in.
    pub ingest: IngestMetrics,
    /// Folding events into rollups.
    pub aggregate: AggregateMetrics,
    /// The stored rollups of this node's replicas.
    pub store: StoreMetrics,
    /// Answering questions.
    pub query: QueryMetrics,
    /// What is shown when asked.
    pub board: Board,
    registry: Arc<Registry>,
}

/// Taking events in.
#[derive(Clone)]
pub struct IngestMetrics {
    /// Requests with events that were answered, whatever the answer.
    pub requests: Counter,
    /// Requests turned away with `429` or `503`.
    pub refused: Counter,
    /// Events made durable and counted.
    pub accepted: Counter,
    /// Events of requests that had been counted before.
    pub duplicate: Counter,
    /// Lines refused.
    pub rejected: Counter,
    /// Bytes of events after decompression.
    pub bytes: Counter,
    /// Bytes of events taken in and not yet durable.
    pub in_flight_bytes: Level,
    /// Appends tried again after an error or a timeout.
    pub append_retries: Counter,
    /// Entries refused because this node's clock is far ahead of a leader's.
    pub clock_skew: Counter,
    /// Time from an entry's first append to its answer, retries included.
    pub append_seconds: Histogram,
}

/// Folding events into rollups.
#[derive(Clone)]
pub struct AggregateMetrics {
    /// Events folded by this node's aggregators.
    pub folded: Counter,
    /// Of those, events whose window had been sealed.
    pub late: Counter,
    /// Checkpoints that the log took.
    pub checkpoints: Counter,
    /// Checkpoints that the log did not take, or whose outcome is unknown.
    pub checkpoints_failed: Counter,
    /// Bytes of checkpoints proposed.
    pub checkpoint_bytes: Counter,
    /// Aggregators started again after a panic or a stall.
    pub restarts: Counter,
    /// Entries set aside because they made the aggregator panic again and again.
    pub quarantined: Counter,
}

/// The stored rollups of this node's replicas.
#[derive(Clone)]
pub struct StoreMetrics {
    /// Rows changed since the last write-out.
    pub dirty_rows: Level,
    /// Rows written out.
    pub rows_written: Counter,
    /// Time of a write-out until it is durable.
    pub write_out_seconds: Histogram,
    /// Stores moved aside as damaged and built anew.
    pub rebuilds: Counter,
}

/// Answering questions.
#[derive(Clone)]
pub struct QueryMetrics {
    /// Questions asked.
    pub requests: Counter,
    /// Questions answered with `503`.
    pub unavailable: Counter,
    /// Answers `304`: the client had it already.
    pub not_modified: Counter,
    /// Rollups that did not have to travel, because the cached one was still the newest.
    pub cache_hits: Counter,
    /// Rollups that were not cached, or no longer the newest.
    pub cache_misses: Counter,
    /// Bytes of cached rollups.
    pub cache_bytes: Level,
    /// Time from a question to its answer.
    pub answer_seconds: Histogram,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("hourmark");
        let board = Board::default();
        let metrics = (
            IngestMetrics::register(registry.sub_registry_with_prefix("ingest")),
            AggregateMetrics::register(registry.sub_registry_with_prefix("aggregate")),
            StoreMetrics::register(registry.sub_registry_with_prefix("store")),
            QueryMetrics::register(registry.sub_registry_with_prefix("query")),
        );
        registry.register_collector(Box::new(board.clone()));
        let (ingest, aggregate, store, query) = metrics;
        Metrics { ingest, aggregate, store, query, board, registry: Arc::new(registry) }
    }

    /// The text of `/metrics`.
    pub fn text(&self, exposition: Exposition) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        match exposition {
            Exposition::Prometheus => exposition::prometheus(&text),
            Exposition::OpenMetrics => text,
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// 0.5 ms to 16 s, doubling: from one fsync to the longest deadline.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn byte_counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
    counter
}

fn level(registry: &mut Registry, name: &str, help: &str) -> Level {
    let level = Level::default();
    registry.register(name, help, level.clone());
    level
}

fn byte_level(registry: &mut Registry, name: &str, help: &str) -> Level {
    let level = Level::default();
    registry.register_with_unit(name, help, Unit::Bytes, level.clone());
    level
}

fn timing(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = seconds();
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

impl IngestMetrics {
    fn register(registry: &mut Registry) -> IngestMetrics {
        IngestMetrics {
            requests: counter(registry, "requests", "Requests with events that were answered, whatever the answer"),
            refused: counter(registry, "refused", "Requests with events turned away with 429 or 503"),
            accepted: counter(registry, "events_accepted", "Events made durable and counted"),
            duplicate: counter(registry, "events_duplicate", "Events of requests that had been counted before"),
            rejected: counter(registry, "events_rejected", "Lines refused"),
            bytes: byte_counter(registry, "received", "Bytes of events after decompression"),
            in_flight_bytes: byte_level(registry, "in_flight", "Bytes of events taken in and not yet durable"),
            append_retries: counter(registry, "append_retries", "Appends tried again after an error or a timeout"),
            clock_skew: counter(
                registry,
                "clock_skew",
                "Entries refused because this node's clock is far ahead of a leader's",
            ),
            append_seconds: timing(registry, "append", "Time from an entry's first append to its answer"),
        }
    }
}

impl AggregateMetrics {
    fn register(registry: &mut Registry) -> AggregateMetrics {
        AggregateMetrics {
            folded: counter(registry, "events_folded", "Events folded by this node's aggregators"),
            late: counter(registry, "events_late", "Events folded after their window had been sealed"),
            checkpoints: counter(registry, "checkpoints", "Checkpoints that the log took"),
            checkpoints_failed: counter(
                registry,
                "checkpoints_failed",
                "Checkpoints that the log is not known to have taken",
            ),
            checkpoint_bytes: byte_counter(registry, "checkpoint", "Bytes of checkpoints proposed"),
            restarts: counter(registry, "restarts", "Aggregators started again after a panic or a stall"),
            quarantined: counter(
                registry,
                "entries_quarantined",
                "Entries set aside because they made the aggregator panic",
            ),
        }
    }
}

impl StoreMetrics {
    fn register(registry: &mut Registry) -> StoreMetrics {
        StoreMetrics {
            dirty_rows: level(registry, "dirty_rows", "Rows changed since the last write-out"),
            rows_written: counter(registry, "rows_written", "Rows written out"),
            write_out_seconds: timing(registry, "write_out", "Time of a write-out until it is durable"),
            rebuilds: counter(registry, "rebuilds", "Stores moved aside as damaged and built anew"),
        }
    }
}

impl QueryMetrics {
    fn register(registry: &mut Registry) -> QueryMetrics {
        QueryMetrics {
            requests: counter(registry, "requests", "Questions asked"),
            unavailable: counter(registry, "unavailable", "Questions answered with 503"),
            not_modified: counter(registry, "not_modified", "Answers 304, the client had it already"),
            cache_hits: counter(registry, "cache_hits", "Rollups whose cached copy was still the newest"),
            cache_misses: counter(registry, "cache_misses", "Rollups that were not cached, or no longer the newest"),
            cache_bytes: byte_level(registry, "cache", "Bytes of cached rollups"),
            answer_seconds: timing(registry, "answer", "Time from a question to its answer"),
        }
    }
}

/// What a node knows of itself and its partitions at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Bytes of the write-ahead log.
    pub log_bytes: u64,
    /// Bytes of all files of the node.
    pub disk_bytes: u64,
    /// Batches of the log since the start: each one write and one fsync.
    pub log_fsyncs: u64,
    /// Seconds spent in those.
    pub log_fsync_seconds: f64,
    /// By partition.
    pub partitions: BTreeMap<u16, PartitionFigures>,
}

/// What a node knows of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionFigures {
    /// Whether this node leads it.
    pub is_leader: bool,
    /// Raft's term.
    pub term: u64,
    /// The newest committed offset known here.
    pub commit_offset: u64,
    /// The newest offset folded into stored rollups here.
    pub consumed_offset: u64,
    /// Events applied here and not yet in stored rollups.
    pub lag_events: u64,
    /// How long the oldest of those has been waiting, in ms.
    pub lag_ms: u64,
    /// Entries set aside in this partition.
    pub quarantined: u64,
}

/// Shows the figures that other parts keep, as of the last [`Board::show`].
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Figures>>);

impl Board {
    /// Replaces what is shown.
    pub fn show(&self, figures: Figures) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = figures;
    }
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let figures = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let log_bytes = ConstGauge::new(figures.log_bytes);
        let help = "Size of the write-ahead log";
        log_bytes.encode(encoder.encode_descriptor("log", help, Some(&Unit::Bytes), MetricType::Gauge)?)?;
        let disk_bytes = ConstGauge::new(figures.disk_bytes);
        let help = "Size of all files of the node";
        disk_bytes.encode(encoder.encode_descriptor("disk", help, Some(&Unit::Bytes), MetricType::Gauge)?)?;
        let fsyncs = ConstCounter::new(figures.log_fsyncs);
        let help = "Fsyncs of the write-ahead log";
        fsyncs.encode(encoder.encode_descriptor("log_fsyncs", help, None, MetricType::Counter)?)?;
        let fsync_seconds = ConstCounter::new(figures.log_fsync_seconds);
        let help = "Time spent writing and fsyncing the write-ahead log";
        let unit = Some(&Unit::Seconds);
        fsync_seconds.encode(encoder.encode_descriptor("log_fsync", help, unit, MetricType::Counter)?)?;
        for (name, unit, help, figure) in PARTITION_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for (partition, figures) in &figures.partitions {
                encode_labelled(&mut family, *partition, figure(figures))?;
            }
        }
        Ok(())
    }
}

type PartitionGauge = (&'static str, Option<Unit>, &'static str, fn(&PartitionFigures) -> f64);

/// The gauges that every partition has, labelled `partition`.
const PARTITION_GAUGES: [PartitionGauge; 7] = [
    ("partition_is_leader", None, "1 if this node leads the partition", |figures| {
        f64::from(u8::from(figures.is_leader))
    }),
    ("partition_term", None, "Raft term", |figures| figures.term as f64),
    ("partition_commit_offset", None, "Newest committed offset", |figures| figures.commit_offset as f64),
    ("partition_consumed_offset", None, "Newest offset in stored rollups", |figures| figures.consumed_offset as f64),
    ("partition_lag_events", None, "Events not yet in stored rollups", |figures| figures.lag_events as f64),
    ("partition_lag", Some(Unit::Seconds), "Age of the oldest event not yet in stored rollups", |figures| {
        figures.lag_ms as f64 / 1e3
    }),
    ("partition_quarantined", None, "Entries set aside", |figures| figures.quarantined as f64),
];

fn encode_labelled(family: &mut MetricEncoder<'_>, partition: u16, figure: f64) -> fmt::Result {
    ConstGauge::new(figure).encode(family.encode_family(&[("partition", partition)])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_unit_and_help_and_one_order() {
        let metrics = Metrics::new();
        metrics.ingest.accepted.inc_by(7);
        metrics.ingest.in_flight_bytes.set(12);
        metrics.ingest.append_seconds.observe(0.003);
        let partition = |lag_events| PartitionFigures { lag_events, lag_ms: 1500, ..PartitionFigures::default() };
        let partitions = [(1, partition(5)), (0, partition(3))].into();
        metrics.board.show(Figures { log_bytes: 99, partitions, ..Figures::default() });
        let text = metrics.text(Exposition::OpenMetrics);
        for line in [
            "# HELP hourmark_ingest_events_accepted Events made durable and counted.\n",
            "hourmark_ingest_events_accepted_total 7\n",
            "hourmark_ingest_in_flight_bytes 12\n",
            "# UNIT hourmark_ingest_append_seconds seconds\n",
            "hourmark_ingest_append_seconds_bucket{le=\"0.004\"} 1\n",
            "hourmark_log_bytes 99\n",
            "hourmark_partition_lag_events{partition=\"0\"} 3.0\nhourmark_partition_lag_events{partition=\"1\"} 5.0\n",
            "hourmark_partition_lag_seconds{partition=\"0\"} 1.5\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(text, metrics.text(Exposition::OpenMetrics));
    }

    #[test]
    fn what_left_the_node_is_no_longer_shown() {
        let metrics = Metrics::new();
        metrics.board.show(Figures { partitions: [(4, PartitionFigures::default())].into(), ..Figures::default() });
        assert!(metrics.text(Exposition::OpenMetrics).contains("partition=\"4\""));
        metrics.board.show(Figures::default());
        assert!(!metrics.text(Exposition::OpenMetrics).contains("partition=\"4\""));
    }
}
