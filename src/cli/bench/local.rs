//! `hourmark bench local`: what this machine could take in if there were no network and no log.
//!
//! The product's own stages, in one process: read a body and route its events, encode the entries that a log would hold,
//! decode them, fold them into windows. A cluster does all of it as well; what it costs beyond is what replication costs.

use super::ingest::{Load, bar};
use super::process::Usage;
use super::workload::Workload;
use super::{bulk_events, request_events};
use crate::cli::body_format::BodyFormat;
use crate::cli::cores;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{self, Format, Output, measures};
use cluster::PartitionId;
use cluster::environment::{Entropy as _, SystemEntropy, Tasks, ThreadPool};
use futures::future::join_all;
use hourmark::aggregate::{Acceptance, Watermark, WindowTable};
use hourmark::domain::{MS_PER_HOUR, SLOTS, SketchConfig, TimeLimits};
use hourmark::format::{BatchBuilder, Entry, EventsEntry, Part};
use hourmark::ingest::{Kind, PartitionEvents, Request};
use serde::Serialize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// Measure what this machine could do without network and log
///
/// Reads, routes, encodes, decodes and folds made-up events in this process, on all cores: the same work that a cluster does
/// besides taking events over HTTP, replicating and storing them. What a cluster on this machine reaches of it is the
/// share that is left for the events themselves.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark bench local
  hourmark bench local --events 10M --apps 100000 --format binary")]
pub struct Arguments {
    #[command(flatten)]
    workload: Workload,
    /// How events are written
    #[arg(long = "format", value_name = "FORMAT", value_enum, default_value_t = BodyFormat::Ndjson)]
    body_format: BodyFormat,
    /// Events of one body [default: 50k lines, or 150k events in binary]
    #[arg(long, value_name = "NUMBER", value_parser = request_events)]
    request_events: Option<usize>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Shares that apps are spread over, as the partitions of a cluster
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1024))]
    partitions: u16,
    #[command(flatten)]
    output: Output,
}

/// What a run found.
#[derive(Debug, Serialize)]
struct Report {
    format: BodyFormat,
    events: u64,
    threads: usize,
    seconds: f64,
    events_per_second: f64,
    megabytes_per_second: f64,
    cpu_us_per_event: f64,
}

/// Measures and prints. Fails if not every event was counted.
pub async fn run(arguments: &Arguments) -> Outcome {
    let report = arguments.measure().await?;
    output::print(&report.text(arguments.output.format()))
}

impl Arguments {
    async fn measure(&self) -> Result<Report, Failure> {
        let (events, apps) = (self.workload.events, self.workload.app_names(SystemEntropy.next_u64()));
        let request_events = self.request_events.unwrap_or(bulk_events(self.body_format));
        let bar = bar(events, "building");
        let load = Load::build(self.workload.events(0, events), apps, self.body_format, request_events, 0, &bar);
        bar.finish_and_clear();
        let bytes: usize = load.bodies.iter().map(|body| body.bytes.len()).sum();
        let threads = self.threads.map_or_else(cores, usize::from);
        let mill = Arc::new(Mill::new(load, self.body_format, self.partitions));
        let tasks = Tasks::new(Arc::new(ThreadPool::default()));
        let (before, begun) = (Usage::own(), Instant::now());
        let grinding = (0..threads).map(|_| {
            let mill = mill.clone();
            tasks.blocking(move || mill.grind())
        });
        join_all(grinding).await.into_iter().collect::<Outcome>()?;
        let counting = (0..mill.partitions.len()).map(|partition| {
            let mill = mill.clone();
            tasks.blocking(move || mill.counted(partition))
        });
        let counted: u64 = join_all(counting).await.into_iter().sum();
        let (seconds, cpu) = (begun.elapsed().as_secs_f64().max(1e-6), Usage::own().since(before).cpu);
        if counted != events {
            return Err(Failure::new(Exit::Failed, format!("{counted} of {events} events were counted")));
        }
        Ok(Report {
            format: self.body_format,
            events,
            threads,
            seconds,
            events_per_second: events as f64 / seconds,
            megabytes_per_second: bytes as f64 / seconds / 1e6,
            cpu_us_per_event: cpu.as_secs_f64() * 1e6 / events.max(1) as f64,
        })
    }
}

/// Bodies, and the windows that they are folded into.
struct Mill {
    load: Load,
    kind: Kind,
    slots: Vec<PartitionId>,
    sketch: SketchConfig,
    partitions: Vec<Mutex<Windows>>,
    next: AtomicUsize,
}

/// Open windows of a partition.
struct Windows {
    table: WindowTable,
    watermark: Watermark,
}

impl Mill {
    fn new(load: Load, format: BodyFormat, partitions: u16) -> Mill {
        let kind = match format {
            BodyFormat::Ndjson => Kind::Lines,
            BodyFormat::Binary => Kind::Batch,
        };
        let windows =
            || Mutex::new(Windows { table: WindowTable::default(), watermark: Watermark::new(0, MS_PER_HOUR) });
        Mill {
            load,
            kind,
            slots: (0..SLOTS).map(|slot| PartitionId(slot % partitions)).collect(),
            sketch: SketchConfig::default(),
            partitions: (0..partitions).map(|_| windows()).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Takes body after body until none is left. Several threads may do so.
    fn grind(&self) -> Outcome {
        let mut builder = BatchBuilder::default();
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(body) = self.load.bodies.get(index) else { return Ok(()) };
            let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, format!("body {index}: {error}"));
            let request =
                Request::read_with(&mut builder, &body.bytes, self.kind, TimeLimits::NONE, &self.slots, |_| ())
                    .map_err(|error| failed(&error))?;
            let mut parts: Vec<_> = request.partitions.into_iter().collect();
            // Threads begin at different partitions, so that they rarely wait for each other.
            let begin = index % parts.len().max(1);
            parts.rotate_left(begin);
            for (partition, events) in parts {
                self.fold(partition, events, index).map_err(|error| failed(&error))?;
            }
        }
    }

    /// The events' way through the log: what is folded is what was encoded.
    fn fold(
        &self,
        partition: PartitionId,
        events: PartitionEvents,
        index: usize,
    ) -> Result<(), hourmark::format::Error> {
        let PartitionEvents { events, batch } = events;
        let part = Part { identity: None, events, batch };
        let entry = EventsEntry { edge: 0, edge_sequence: index as u64, stamp_ms: u64::MAX, parts: vec![part] };
        let bytes = Entry::Events(entry).encode();
        let Entry::Events(entry) = Entry::decode(&bytes)? else { unreachable!("it was encoded as events") };
        let mut windows = self.lock(usize::from(partition.0));
        let Windows { table, watermark } = &mut *windows;
        table.fold(&entry, &Acceptance::All, watermark, &self.sketch)
    }

    /// What a partition's windows count, all of them complete.
    fn counted(&self, partition: usize) -> u64 {
        self.lock(partition).table.deltas(&self.sketch).iter().map(|(_, _, delta)| delta.count()).sum()
    }

    fn lock(&self, partition: usize) -> std::sync::MutexGuard<'_, Windows> {
        self.partitions[partition].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Report {
    fn text(&self, format: Format) -> String {
        measures(format, self, |row| {
            row("events", self.events.to_string());
            row("threads", self.threads.to_string());
            row("seconds", format!("{:.3}", self.seconds));
            row("events/s", format!("{:.0}", self.events_per_second));
            row("body MB/s", format!("{:.1}", self.megabytes_per_second));
            row("CPU µs/event", format!("{:.3}", self.cpu_us_per_event));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn arguments(flags: &[&str]) -> Arguments {
        let command = Arguments::augment_args(clap::Command::new("local").no_binary_name(true));
        Arguments::from_arg_matches(&command.get_matches_from(flags)).unwrap()
    }

    #[tokio::test]
    async fn every_event_is_counted_by_any_number_of_threads() {
        for (format, threads) in [("ndjson", "1"), ("ndjson", "3"), ("binary", "2")] {
            let flags = ["--events", "10005", "--request-events", "100", "--format", format, "--threads", threads];
            let report = arguments(&flags).measure().await.unwrap();
            assert_eq!((report.events, report.threads.to_string().as_str()), (10_005, threads));
            assert!(report.text(Format::Csv).contains("events,10005"));
        }
    }
}
