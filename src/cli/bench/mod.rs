//! `hourmark bench`: load on a cluster, and a check that it counted every event of it.
//!
//! ```text
//!   Workload or Replay ── events ──▶ bodies, Truth ──▶ Drive ──▶ cluster ──▶ Report
//!                                                 └──────▶ verify: every answer against Truth
//! ```
//!
//! Bodies are built before the clock starts and sent over raw connections: what is measured is the cluster, also where it
//! shares the machine with the load.

mod body;
mod drive;
mod fsync;
mod ingest;
mod latency;
mod local;
mod process;
mod query;
mod random;
mod replay;
mod report;
mod spawn;
mod truth;
mod verify;
mod wire;
mod workload;

use super::body_format::BodyFormat;
use super::connection::Connection;
use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Output};
use cluster::environment::{Entropy as _, SystemEntropy};
use drive::Drive;
use ingest::{Load, PATIENCE, bar};
use spawn::{Cluster, Spawn};
use std::path::PathBuf;
use workload::{Workload, count};

/// Put load on a cluster: rate, latency, cost, and whether every answer is exact
///
/// Sends made-up events (or those of a file) over several connections, as fast as they are acked or at --rate. At a rate,
/// latency counts from the moment a request was due, sent or not. Then it waits until everything is aggregated, asks for
/// every hour of every app and compares: counts, sums, minima and maxima must be equal, quantiles within their bounds. The
/// exit code is 1 if one is not.
///
/// With --spawn the nodes are processes of this command: then their CPU time, memory and disk are measured, too.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  hourmark bench --spawn 3                              three nodes on this machine, five million events
  hourmark bench --spawn 3 --events 10M --format binary
  hourmark bench --spawn 3 --rate 1000k                 latency at a million events a second
  hourmark bench --spawn 3 --events 100k --request-events 1 --connections 64
  hourmark bench --server http://10.0.0.5:3600 --server http://10.0.0.6:3600 -o json
  hourmark bench query --spawn 3                        questions instead of events
  hourmark bench local                                  what this machine could do without network and log

The events stay in the cluster, under app names that no other run uses. CPU time is that of sending,
storing and aggregating together: the fairest number where other work shares the machine."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    spawn: Spawn,
    #[command(flatten)]
    workload: Workload,
    /// Send the events of this file (NDJSON, plain or compressed) instead of made-up ones
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    replay: Option<PathBuf>,
    /// Write the events as NDJSON into this file instead of sending them, to measure something else with them
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    save: Option<PathBuf>,
    /// How events are written
    #[arg(long = "format", value_name = "FORMAT", value_enum, default_value_t = BodyFormat::Ndjson)]
    body_format: BodyFormat,
    /// Events of one request [default: 50k lines, or 150k events in binary; 10k at a --rate]
    #[arg(long, value_name = "NUMBER", value_parser = request_events)]
    request_events: Option<usize>,
    /// Connections, each with one request under way
    #[arg(long, value_name = "NUMBER", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Send so many events a second, whatever the answers do [default: as many as are acked]
    #[arg(long, value_name = "EVENTS", value_parser = count)]
    rate: Option<u64>,
    /// Events that are sent, but not measured, before the others, in whole requests [default: four requests of each connection,
    /// but no less than a tenth and no more than a half of the others; of a file its first tenth]
    #[arg(long, value_name = "NUMBER", value_parser = count)]
    warm_up: Option<u64>,
    /// Send without producer and sequence: cheaper by a round trip where there are several partitions, but not safe to repeat
    #[arg(long)]
    anonymous: bool,
    /// Do not compare the answers with what was sent
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Query(query::Arguments),
    Local(local::Arguments),
}

/// Events of one request at a rate, where latency is what is asked: 0.9 MB of lines.
const PACED_EVENTS: usize = 10_000;

/// Requests of each connection before the clock starts.
const WARM_UP_REQUESTS: usize = 4;

/// The most events of one request: 16 MiB, the default limit of a body, are 190,000 lines.
const REQUEST_EVENTS_MAX: usize = 150_000;

/// Events of one request where only throughput counts: beyond these, 4.5 MB of lines or 1.9 MB of a batch, it gains little.
fn bulk_events(format: BodyFormat) -> usize {
    match format {
        BodyFormat::Ndjson => 50_000,
        BodyFormat::Binary => 150_000,
    }
}

/// Events before those that are measured: enough for nodes to have taken most of the memory that they keep, which costs a
/// seventh of the time of a run of 20 M events.
fn warm_up_events(events: u64, connections: usize, request_events: usize) -> u64 {
    let some_each = (WARM_UP_REQUESTS * connections * request_events) as u64;
    let warm_up = some_each.clamp(events / 10, events / 2);
    warm_up - warm_up % request_events as u64
}

fn request_events(text: &str) -> Result<usize, String> {
    let events = usize::try_from(count(text)?).ok().filter(|events| (1..=REQUEST_EVENTS_MAX).contains(events));
    events.ok_or_else(|| format!("takes a number from 1 to {REQUEST_EVENTS_MAX}"))
}

/// Runs the benchmark that is asked for.
pub async fn run(arguments: &Arguments) -> Outcome {
    match &arguments.command {
        Some(Command::Query(questions)) => query::run(questions).await,
        Some(Command::Local(local)) => local::run(local).await,
        None => run_events(arguments).await,
    }
}

async fn run_events(arguments: &Arguments) -> Outcome {
    let run = SystemEntropy.next_u64();
    if let Some(path) = &arguments.save {
        return arguments.save(path, run);
    }
    let load = arguments.load(run)?;
    let report = match arguments.spawn.spawn {
        Some(nodes) => {
            arguments
                .spawn
                .with(nodes, |cluster| async move { ingest::run(arguments, &cluster, load, run).await })
                .await?
        }
        None => {
            let cluster = Cluster { servers: arguments.connection.servers().to_vec(), ..Cluster::default() };
            ingest::run(arguments, &cluster, load, run).await?
        }
    };
    output::print(&report.text(arguments.output.format()))?;
    match &report.verified {
        Some(verdict) if verdict.wrong > 0 => {
            let message = format!("{} answers are wrong:\n  {}", verdict.wrong, verdict.differences.join("\n  "));
            Err(Failure::new(Exit::Failed, message))
        }
        _ => Ok(()),
    }
}

impl Arguments {
    fn connections(&self) -> usize {
        usize::from(self.connections)
    }

    fn request_events(&self) -> usize {
        let default = if self.rate.is_some() { PACED_EVENTS } else { bulk_events(self.body_format) };
        self.request_events.unwrap_or(default)
    }

    fn drive(&self, cluster: &Cluster) -> Result<Drive, Failure> {
        let rate = self.rate.map(|events| events as f64 / self.request_events() as f64);
        drive_of(cluster, self.connections(), rate)
    }

    fn load(&self, run: u64) -> Result<Load, Failure> {
        let (format, request_events) = (self.body_format, self.request_events());
        if let Some(path) = &self.replay {
            let replay = replay::read(path)?;
            let bar = bar(replay.events.len() as u64, "building");
            let warm_up = self.warm_up.unwrap_or(replay.events.len() as u64 / 10);
            return Ok(Load::build(replay.events.into_iter(), replay.apps, format, request_events, warm_up, &bar));
        }
        let warm_up =
            self.warm_up.unwrap_or_else(|| warm_up_events(self.workload.events, self.connections(), request_events));
        let warm_up = warm_up.next_multiple_of(request_events as u64);
        let bar = bar(warm_up + self.workload.events, "building");
        let load = Load::build(
            self.workload.events(warm_up, self.workload.events),
            self.workload.app_names(run),
            format,
            request_events,
            warm_up,
            &bar,
        );
        bar.finish_and_clear();
        Ok(load)
    }

    fn save(&self, path: &std::path::Path, run: u64) -> Outcome {
        use std::io::Write as _;
        let failed = |error| Failure::io(format!("writing {}", path.display()), &error);
        let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(failed)?);
        let (apps, mut line) = (self.workload.app_names(run), Vec::new());
        for event in self.workload.events(0, self.workload.events) {
            line.clear();
            body::put_line(&mut line, &apps[event.app as usize], event.time, event.value);
            file.write_all(&line).map_err(failed)?;
        }
        file.flush().map_err(failed)
    }
}

/// How requests are made to a cluster.
fn drive_of(cluster: &Cluster, connections: usize, rate: Option<f64>) -> Result<Drive, Failure> {
    let servers = cluster.servers.iter().map(|url| wire::address(url));
    let servers = servers.collect::<Result<_, _>>().map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(Drive { servers, connections, rate, patience: PATIENCE })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    #[test]
    fn every_connection_warms_up_unless_that_is_more_than_half() {
        assert_eq!(warm_up_events(10_000_000, 24, 50_000), 4_800_000);
        assert_eq!(warm_up_events(20_000_000, 24, 150_000), 9_900_000, "in whole requests");
        assert_eq!(warm_up_events(34_000, 24, 50_000), 0);
        assert_eq!(warm_up_events(150_000, 64, 1), 15_000);
        assert_eq!(warm_up_events(1, 1, 1), 0);
    }

    #[test]
    fn as_many_events_are_measured_as_were_asked_for() {
        for flags in ["--events 34k", "--events 110k", "--events 120k --format binary", "--events 5k --warm-up 7"] {
            let command = Arguments::augment_args(clap::Command::new("bench").no_binary_name(true));
            let arguments = Arguments::from_arg_matches(&command.get_matches_from(flags.split(' '))).unwrap();
            let load = arguments.load(1).unwrap();
            let measured = load.bodies[load.warm_up..].iter().map(|body| u64::from(body.events)).sum::<u64>();
            assert_eq!(measured, arguments.workload.events, "{flags}");
        }
    }
}
