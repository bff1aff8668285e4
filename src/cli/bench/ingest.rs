//! A run of events: build them, warm up, send, wait until all is aggregated, verify.

use super::body::{self, Body};
use super::drive::{Drive, Ran, Work};
use super::process::Usage;
use super::report::Report;
use super::spawn::Cluster;
use super::truth::Truth;
use super::verify;
use super::wire::Answer;
use super::workload::Event;
use super::{Arguments, fsync};
use crate::cli::body_format::BodyFormat;
use crate::cli::cluster_view;
use crate::cli::failure::{Exit, Failure, Outcome};
use bytes::Bytes;
use hourmark::client::{Client, Receipt};
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the cluster may take to aggregate what it has acked.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How often it is asked whether it has.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// How long one request is repeated.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that is sent, ready before the clock starts.
pub struct Load {
    /// Names of the apps.
    pub apps: Vec<String>,
    /// Of the warm-up, then those that are measured.
    pub bodies: Vec<Body>,
    /// How many of them are warm-up.
    pub warm_up: usize,
    /// What they add up to.
    pub truth: Truth,
}

impl Load {
    /// Builds bodies of `events`, of which the first `warm_up` are sent before the clock starts.
    pub fn build(
        events: impl Iterator<Item = Event>,
        apps: Vec<String>,
        format: BodyFormat,
        request_events: usize,
        warm_up: u64,
        bar: &ProgressBar,
    ) -> Load {
        let mut truth = Truth::new(apps.len());
        let bodies = body::build(events, &apps, format, request_events, &mut truth, |done| bar.set_position(done));
        // Whole requests, so that the measured ones are all alike.
        let warm_up = usize::try_from(warm_up.div_ceil(request_events as u64)).unwrap_or(usize::MAX);
        let warm_up = warm_up.min(bodies.len().saturating_sub(1));
        Load { apps, bodies, warm_up, truth }
    }

    /// Sends all of it, measuring nothing.
    pub async fn send(&self, drive: &Drive) -> Outcome {
        let bar = bar(self.events(0..self.bodies.len()), "sending");
        let sending = Sending { load: self, format: BodyFormat::Ndjson, producer: None, bar, accepted: Cell::new(0) };
        drive.run(&sending, 0..self.bodies.len(), None).await?;
        sending.bar.finish_and_clear();
        Ok(())
    }

    fn events(&self, bodies: std::ops::Range<usize>) -> u64 {
        self.bodies[bodies].iter().map(|body| u64::from(body.events)).sum()
    }
}

/// A bar on a terminal, nothing elsewhere.
pub fn bar(length: u64, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{msg:12} {bar:30} {percent:>3} %  {human_pos} events  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    ProgressBar::new(length).with_style(style).with_message(what)
}

/// The requests of a load.
struct Sending<'a> {
    load: &'a Load,
    format: BodyFormat,
    /// Names of the senders begin with this; nothing if they stay unnamed.
    producer: Option<String>,
    bar: ProgressBar,
    accepted: Cell<u64>,
}

impl Work for Sending<'_> {
    fn request(&self, connection: usize, index: usize, host: &str, head: &mut Vec<u8>) -> Bytes {
        use std::io::Write as _;
        let body = &self.load.bodies[index].bytes;
        let (media_type, length) = (self.format.media_type(), body.len());
        let identity = self.producer.as_ref().map_or(String::new(), |producer| {
            format!("hourmark-producer: {producer}-{connection}\r\nhourmark-sequence: {index}\r\n")
        });
        write!(
            head,
            "POST /v1/events HTTP/1.1\r\nhost: {host}\r\ncontent-type: {media_type}\r\n{identity}content-length: {length}\r\n\r\n"
        )
        .expect("writing into memory cannot fail");
        body.clone()
    }

    fn answer(&self, index: usize, answer: &Answer, _: Duration) -> Outcome {
        let body = &self.load.bodies[index];
        let receipt = serde_json::from_slice::<Receipt>(&answer.body).ok().filter(|_| answer.status == 200);
        match receipt {
            Some(receipt) if receipt.accepted + receipt.duplicate == u64::from(body.events) => {
                self.accepted.set(self.accepted.get() + u64::from(body.events));
                self.bar.set_position(self.accepted.get());
                Ok(())
            }
            _ => {
                let text = String::from_utf8_lossy(&answer.body);
                let message = format!("request {index} of {} events: {} {text}", body.events, answer.status);
                Err(Failure::new(Exit::Failed, message))
            }
        }
    }
}

/// Sends a load and measures it; `run`: what no other run has.
pub async fn run(arguments: &Arguments, cluster: &Cluster, load: Load, run: u64) -> Result<Report, Failure> {
    let drive = arguments.drive(cluster)?;
    let fsync = cluster.directory.as_deref().and_then(|directory| fsync::measure(directory).ok());
    let (warm_up, all) = (load.warm_up, load.bodies.len());
    let producer = (!arguments.anonymous).then(|| format!("bench-{run:016x}"));
    let total = load.truth.events();
    let sending = Sending {
        load: &load,
        format: arguments.body_format,
        producer,
        bar: bar(total, "sending"),
        accepted: Cell::new(0),
    };
    let unpaced = Drive { rate: None, ..drive.clone() };
    unpaced.run(&sending, 0..warm_up, None).await?;
    let before = usages(cluster);
    let ran = drive.run(&sending, warm_up..all, None).await?;
    sending.bar.finish_and_clear();
    let client_cpu = Usage::own().since(before.1).cpu;
    let drain_seconds = drain(&cluster.servers).await?.as_secs_f64();
    let nodes: Vec<Usage> =
        usages(cluster).0.into_iter().zip(&before.0).map(|(after, before)| after.since(*before)).collect();
    let partitions = cluster_view::ask(&Client::new(&cluster.servers)?, PATIENCE).await?.partitions.len();
    let measured = Measured { nodes, partitions, client_cpu, drain_seconds, fsync };
    let mut report = measured.report(arguments, &load, ran);
    if cluster.directory.is_some() && report.events > 0 {
        let used = cluster.directory.as_deref().map_or(0, disk_bytes);
        report.disk_bytes_per_event = Some(used as f64 / total as f64);
    }
    if !arguments.no_verify {
        let check = Drive { connections: arguments.connections().min(16), ..unpaced };
        report.verified = Some(verify::verify(&check, &load.apps, load.truth).await?);
    }
    Ok(report)
}

/// What was measured beside the requests themselves.
struct Measured {
    nodes: Vec<Usage>,
    partitions: usize,
    client_cpu: Duration,
    drain_seconds: f64,
    fsync: Option<super::latency::Summary>,
}

impl Measured {
    fn report(self, arguments: &Arguments, load: &Load, mut ran: Ran) -> Report {
        let measured = load.warm_up..load.bodies.len();
        let events = load.events(measured.clone());
        let bytes: usize = load.bodies[measured.clone()].iter().map(|body| body.bytes.len()).sum();
        let seconds = ran.elapsed.as_secs_f64().max(1e-6);
        let per_event = |sum: f64| if events == 0 { 0.0 } else { sum / events as f64 };
        let cpu = self.nodes.iter().map(|node| node.cpu).sum::<Duration>() + self.client_cpu;
        let written: u64 = self.nodes.iter().map(|node| node.written_bytes).sum();
        Report {
            format: arguments.body_format,
            events,
            warm_up_events: load.events(0..load.warm_up),
            requests: measured.len(),
            connections: arguments.connections(),
            partitions: self.partitions,
            target_events_per_second: arguments.rate.map(|rate| rate as f64),
            seconds,
            events_per_second: events as f64 / seconds,
            megabytes_per_second: bytes as f64 / seconds / 1e6,
            ack_latency: ran.latencies.summary(),
            retries: ran.retries,
            drain_seconds: self.drain_seconds,
            written_bytes_per_event: (!self.nodes.is_empty()).then(|| per_event(written as f64)),
            nodes: self.nodes.into_iter().map(Into::into).collect(),
            client_cpu_seconds: self.client_cpu.as_secs_f64(),
            cpu_us_per_event: per_event(cpu.as_secs_f64() * 1e6),
            disk_bytes_per_event: None,
            fsync: self.fsync,
            verified: None,
        }
    }
}

/// Of the nodes, and of this process.
fn usages(cluster: &Cluster) -> (Vec<Usage>, Usage) {
    let nodes = cluster.processes.iter().map(|process| Usage::of(*process).unwrap_or_default());
    (nodes.collect(), Usage::own())
}

/// Waits until every acked event is aggregated and checkpointed; how long that took.
pub async fn drain(servers: &[String]) -> Result<Duration, Failure> {
    let (client, begun) = (Client::new(servers)?, Instant::now());
    loop {
        let view = cluster_view::ask(&client, PATIENCE).await?;
        let lag: u64 = view.partitions.iter().filter_map(|partition| partition.lag_events).sum();
        if lag == 0 {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > DRAIN_MAX {
            let message = format!("{lag} acked events are not aggregated after {} s", DRAIN_MAX.as_secs());
            return Err(Failure::new(Exit::Failed, message));
        }
        sleep(DRAIN_POLL).await;
    }
}

/// Bytes that the files below a directory take.
fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
