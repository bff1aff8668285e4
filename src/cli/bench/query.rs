//! `hourmark bench query`: questions at a cluster.

use super::drive::{Drive, Work};
use super::ingest::{Load, bar, drain};
use super::latency::{Latencies, Summary};
use super::random::{Random, Zipf};
use super::report::latency_rows;
use super::spawn::{Cluster, Spawn};
use super::wire::Answer;
use super::workload::{Workload, count};
use super::{PATIENCE, drive_of};
use crate::cli::body_format::BodyFormat;
use crate::cli::connection::Connection;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{self, Format, Output, measures};
use bytes::Bytes;
use cluster::environment::{Entropy as _, SystemEntropy};
use hourmark::client::{Client, encode};
use hourmark::config::parse_duration;
use hourmark::domain::Hour;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::time::Duration;

/// Apps that are asked about at most.
const APPS_MAX: usize = 100_000;

/// Different questions that are prepared; they are asked again and again in this order.
const QUESTIONS: usize = 20_000;

/// Events of one request when a new cluster is filled.
const FILL_REQUEST_EVENTS: usize = 10_000;

/// Ask a cluster questions: rate and latency by kind of question
///
/// Asks about the apps that the cluster has; which one, and which of its hours, is drawn at random, hot apps more often
/// (--zipf). Hours are as they come: sealed, amended and open ones. With --spawn, a new cluster is filled with made-up
/// events first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark bench query --spawn 3
  hourmark bench query --mix hour=1 --keys 1       one hour of one app, again and again
  hourmark bench query --mix summary=1 --connections 1 --consistency local")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    spawn: Spawn,
    #[command(flatten)]
    workload: Workload,
    /// How often which question: one hour, the hours of a day, the summary of all hours
    #[arg(long, value_name = "KIND=WEIGHT,…", default_value = "hour=90,hours=5,summary=5", value_parser = mix)]
    mix: Mix,
    /// Ask for so many different things at most
    #[arg(long, value_name = "NUMBER", default_value_t = QUESTIONS, value_parser = keys)]
    keys: usize,
    /// How fresh the answers have to be
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Connections, each with one question under way
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Ask so many questions a second, whatever the answers do [default: as many as are answered]
    #[arg(long, value_name = "QUESTIONS", value_parser = count)]
    rate: Option<u64>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Consistency {
    Linearizable,
    Local,
}

/// The kinds of questions.
const KINDS: [&str; 3] = ["hour", "hours", "summary"];

/// Weights of the kinds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mix([f64; 3]);

fn mix(text: &str) -> Result<Mix, String> {
    let mut weights = [0.0; 3];
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').ok_or("takes hour=90,hours=5,summary=5")?;
        let kind = KINDS.iter().position(|kind| *kind == name).ok_or("knows hour, hours and summary")?;
        weights[kind] =
            weight.parse().ok().filter(|weight| (0.0..=1e6).contains(weight)).ok_or("weights are numbers")?;
    }
    if weights.iter().sum::<f64>() > 0.0 { Ok(Mix(weights)) } else { Err("one weight has to be above 0".into()) }
}

fn keys(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=QUESTIONS).contains(number));
    number.ok_or_else(|| format!("takes a number from 1 to {QUESTIONS}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).filter(|duration| !duration.is_zero()).ok_or_else(|| "write it like 10s or 1m".into())
}

/// An app and the hours it has events in.
#[derive(Debug, Deserialize)]
struct App {
    app_id: String,
    first_hour: String,
    last_hour: String,
}

#[derive(Debug, Deserialize)]
struct AppsPage {
    apps: Vec<App>,
    next: Option<String>,
}

/// Asks and prints what came of it.
pub async fn run(arguments: &Arguments) -> Outcome {
    let report = match arguments.spawn.spawn {
        Some(nodes) => arguments.spawn.with(nodes, |cluster| arguments.fill_and_ask(cluster)).await?,
        None => {
            let servers = arguments.connection.servers().to_vec();
            arguments.ask(&Cluster { servers, ..Cluster::default() }).await?
        }
    };
    output::print(&report.text(arguments.output.format()))
}

impl Arguments {
    async fn fill_and_ask(&self, cluster: Cluster) -> Result<Report, Failure> {
        let apps = self.workload.app_names(SystemEntropy.next_u64());
        let bar = bar(self.workload.events, "filling");
        let events = self.workload.events(0, self.workload.events);
        let load = Load::build(events, apps, BodyFormat::Ndjson, FILL_REQUEST_EVENTS, 0, &bar);
        bar.finish_and_clear();
        load.send(&drive_of(&cluster, 12, None)?).await?;
        drain(&cluster.servers).await?;
        self.ask(&cluster).await
    }

    async fn ask(&self, cluster: &Cluster) -> Result<Report, Failure> {
        let apps = apps(&Client::new(&cluster.servers)?).await?;
        let questions = self.questions(&apps)?;
        let rate = self.rate.map(|rate| rate as f64);
        let drive = drive_of(cluster, usize::from(self.connections), rate)?;
        let asking = Asking { questions, answers: RefCell::default() };
        // Once around, so that what is measured is neither the first connection nor the first look into a file.
        let warm_up = Drive { rate: None, ..drive.clone() };
        warm_up.run(&asking, 0..asking.questions.len(), Some(self.duration / 5)).await?;
        asking.answers.take();
        let ran = drive.run(&asking, 0..usize::MAX, Some(self.duration)).await?;
        Ok(asking.report(ran.elapsed, ran.retries))
    }

    fn questions(&self, apps: &[App]) -> Result<Vec<(usize, String)>, Failure> {
        if apps.is_empty() {
            let message = "the cluster has no events to ask about; send some, or use --spawn";
            return Err(Failure::new(Exit::NotFound, message));
        }
        let mut random = Random::new(self.workload.seed);
        let zipf = Zipf::new(apps.len(), self.workload.zipf);
        let total: f64 = self.mix.0.iter().sum();
        let question = |_| {
            let mut point = random.unit() * total;
            let kind = self.mix.0.iter().position(|weight| {
                point -= weight;
                point < 0.0
            });
            let kind = kind.unwrap_or_default();
            (kind, self.path(kind, &apps[zipf.draw(&mut random)], &mut random))
        };
        Ok((0..self.keys).map(question).collect())
    }

    fn path(&self, kind: usize, app: &App, random: &mut Random) -> String {
        let hour = |text: &str| text.get(..13).and_then(Hour::parse).unwrap_or(Hour(0));
        let (first, last) = (hour(&app.first_hour), hour(&app.last_hour));
        let drawn = Hour(first.0 + random.below(u64::from(last.0.saturating_sub(first.0)) + 1) as u32);
        let (name, consistency) = (encode(&app.app_id), self.consistency());
        match KINDS[kind] {
            "hour" => format!("/v1/apps/{name}/hours/{}?consistency={consistency}", hour_text(drawn)),
            "hours" => {
                let (from, to) = (hour_text(drawn), hour_text(Hour(drawn.0 + 24)));
                format!("/v1/apps/{name}/hours?from={from}&to={to}&consistency={consistency}")
            }
            _ => {
                let (from, to) = (hour_text(first), hour_text(Hour(last.0 + 1)));
                format!("/v1/apps/{name}/summary?from={from}&to={to}&consistency={consistency}")
            }
        }
    }

    fn consistency(&self) -> &'static str {
        match self.consistency {
            Consistency::Linearizable => "linearizable",
            Consistency::Local => "local",
        }
    }
}

/// `2026-11-22T20`.
fn hour_text(hour: Hour) -> String {
    hour.to_string()[..13].to_owned()
}

async fn apps(client: &Client) -> Result<Vec<App>, Failure> {
    let (mut apps, mut cursor) = (Vec::new(), String::new());
    loop {
        let page: AppsPage = client.ask(&format!("/v1/apps?limit=1000{cursor}"), PATIENCE).await?;
        apps.extend(page.apps);
        match page.next {
            Some(next) if apps.len() < APPS_MAX => cursor = format!("&cursor={}", encode(&next)),
            _ => return Ok(apps),
        }
    }
}

/// Questions, and the answers so far by kind.
struct Asking {
    questions: Vec<(usize, String)>,
    answers: RefCell<[Answers; 3]>,
}

#[derive(Default)]
struct Answers {
    latencies: Latencies,
    bytes: u64,
    empty: u64,
}

impl Work for Asking {
    fn request(&self, _: usize, index: usize, host: &str, head: &mut Vec<u8>) -> Bytes {
        let (_, path) = &self.questions[index % self.questions.len()];
        for part in ["GET ", path, " HTTP/1.1\r\nhost: ", host, "\r\n\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        Bytes::new()
    }

    fn answer(&self, index: usize, answer: &Answer, latency: Duration) -> Outcome {
        let (kind, path) = &self.questions[index % self.questions.len()];
        let answers = &mut self.answers.borrow_mut()[*kind];
        match answer.status {
            200 => {}
            // An hour between an app's first and last one may have no events.
            404 => answers.empty += 1,
            status => {
                let text = String::from_utf8_lossy(&answer.body);
                return Err(Failure::new(Exit::Failed, format!("{path}: {status} {text}")));
            }
        }
        answers.latencies.add(latency);
        answers.bytes += answer.body.len() as u64;
        Ok(())
    }
}

/// What a run of questions found.
#[derive(Debug, Serialize)]
struct Report {
    seconds: f64,
    questions_per_second: f64,
    latency: Summary,
    retries: u64,
    kinds: Vec<KindReport>,
}

#[derive(Debug, Serialize)]
struct KindReport {
    kind: &'static str,
    questions: usize,
    empty: u64,
    answer_bytes: f64,
    latency: Summary,
}

impl Asking {
    fn report(self, elapsed: Duration, retries: u64) -> Report {
        let (mut all, mut kinds) = (Latencies::default(), Vec::new());
        for (kind, mut answers) in KINDS.into_iter().zip(self.answers.into_inner()) {
            let questions = answers.latencies.count();
            if questions > 0 {
                let answer_bytes = answers.bytes as f64 / questions as f64;
                let latency = answers.latencies.summary();
                kinds.push(KindReport { kind, questions, empty: answers.empty, answer_bytes, latency });
                all.append(answers.latencies);
            }
        }
        let seconds = elapsed.as_secs_f64().max(1e-6);
        Report { seconds, questions_per_second: all.count() as f64 / seconds, latency: all.summary(), retries, kinds }
    }
}

impl Report {
    fn text(&self, format: Format) -> String {
        measures(format, self, |row| {
            row("questions/s", format!("{:.0}", self.questions_per_second));
            row("retries", self.retries.to_string());
            latency_rows("answer", &self.latency, row);
            for kind in &self.kinds {
                row(&format!("{} questions", kind.kind), kind.questions.to_string());
                row(&format!("{} bytes", kind.kind), format!("{:.0}", kind.answer_bytes));
                row(&format!("{} p50 ms", kind.kind), format!("{:.2}", kind.latency.p50_ms));
                row(&format!("{} p99 ms", kind.kind), format!("{:.2}", kind.latency.p99_ms));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_names_known_kinds_with_weights() {
        assert_eq!(mix("hour=1"), Ok(Mix([1.0, 0.0, 0.0])));
        assert_eq!(mix("summary=2,hours=0.5"), Ok(Mix([0.0, 0.5, 2.0])));
        for text in ["", "hour", "day=1", "hour=-1", "hour=0", "hour=x"] {
            assert!(mix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn answers_are_counted_by_kind() {
        let asking = Asking { questions: vec![(0, "/a".into()), (2, "/b".into())], answers: RefCell::default() };
        for (index, status) in [(0, 200), (1, 200), (2, 404)] {
            let answer = Answer { status, body: Bytes::from_static(b"12345") };
            asking.answer(index, &answer, Duration::from_millis(3)).unwrap();
        }
        assert!(asking.answer(0, &Answer { status: 400, body: Bytes::new() }, Duration::ZERO).is_err());
        let report = asking.report(Duration::from_secs(3), 0);
        assert_eq!(report.questions_per_second, 1.0);
        let kinds: Vec<_> = report.kinds.iter().map(|kind| (kind.kind, kind.questions, kind.empty)).collect();
        assert_eq!(kinds, [("hour", 2, 1), ("summary", 1, 0)]);
    }
}
