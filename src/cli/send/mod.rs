//! `hourmark send`: a file or a stream of events into the cluster, each counted exactly once.
//!
//! ```text
//!   Source ── Chunker ── bodies ── (batches) ──▶ up to `--connections` requests in flight ──▶ Ledger ──▶ Report
//! ```
//!
//! Every body has its place in the input as its sequence, under one producer. So a request whose answer was lost is sent
//! again, to any server, and counts once; and so is a whole run that is repeated with the same `--producer`.

mod chunk;
mod encode;
mod ledger;
mod report;
mod source;

pub use source::Source;

use super::body_format::BodyFormat;
use super::connection::{Connection, timeout};
use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Output};
use super::signals::Signals;
use bytes::Bytes;
use chunk::{Body, Chunker, LINES_MAX, Piece};
use cluster::environment::{Entropy as _, SystemEntropy, Tasks, ThreadPool};
use encode::encode;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use hourmark::client::{Client, Error, Events, LineError, Receipt};
use hourmark::config::{format_bytes, parse_bytes};
use ledger::Ledger;
use report::Report;
use std::cell::Cell;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Send events from a file or stdin
///
/// The input is NDJSON, one event per line as in the example below, plain or compressed with gzip or zstd.
///
/// Requests without an answer are sent again, to the next server if there are several, until --timeout has passed
/// without progress; each event counts once all the same. Prints accepted, duplicate (counted before) and rejected on
/// stdout; rejected lines go to stderr with number and reason, and the exit code is 1 if there are any.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An event:
  {\"app_id\": \"checkout\", \"timestamp\": \"2026-11-22T20:15:03.123Z\", \"response_time_ms\": 12.75}

Examples:
  hourmark send events.ndjson
  zcat logs-*.gz | hourmark send --server http://10.0.0.5:3600 --server http://10.0.0.6:3600
  hourmark send events.ndjson.zst --rejects rejected.ndjson -o json
  hourmark send events.ndjson --format binary

After a run that failed midway, the message tells how to go on without counting anything twice.")]
pub struct Arguments {
    /// The file; - or nothing is stdin
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// Write rejected lines here instead of stderr, as JSON lines of line, code and message
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    rejects: Option<PathBuf>,
    /// Give up after so long without progress
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = timeout)]
    timeout: Duration,
    /// Requests in flight at once
    #[arg(long, value_name = "NUMBER", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Lines of one request, in bytes before they are encoded or compressed
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = body_bytes)]
    body_bytes: usize,
    /// How bodies are written: as the lines they are, or as columnar batches, a tenth of the bytes
    #[arg(long = "format", value_name = "FORMAT", value_enum, default_value_t = BodyFormat::Ndjson)]
    body_format: BodyFormat,
    /// Compress bodies: saves network, costs CPU here and there
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Compression::None)]
    compress: Compression,
    /// Identity of this run; the same input under the same identity counts once [default: random]
    #[arg(long, value_name = "ID")]
    producer: Option<String>,
    /// Leave out the bodies before this one, to go on with a run that failed midway
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "producer")]
    resume_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Bodies within what every node takes: see its setting `body_bytes_max`.
fn body_bytes(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text).filter(|bytes| (1..=8 << 20).contains(bytes));
    bytes.ok_or_else(|| "takes a size from 1B to 8MiB, such as 256KiB".into())
}

/// Sends everything and prints the sum.
pub async fn run(arguments: &Arguments) -> Outcome {
    let max = encode::LINES_BYTES_MAX;
    if arguments.body_format == BodyFormat::Binary && arguments.body_bytes > max {
        return Err(Failure::new(
            Exit::Usage,
            format!("--format binary takes --body-bytes up to {}: that fits a batch for sure", format_bytes(max)),
        ));
    }
    let path = arguments.file.as_deref();
    let name = path.map_or("stdin".into(), |path| path.display().to_string());
    let client = arguments.connection.client()?;
    if path.is_none() && io::stdin().is_terminal() {
        eprintln!("reading events from the terminal, one per line; end with Ctrl-D");
    }
    let source = Source::open(path).map_err(|error| Failure::new(Exit::Usage, format!("opening {name}: {error}")))?;
    let mut report = Report::new(source.length, arguments.rejects.as_deref())?;
    let producer = arguments.producer.clone().unwrap_or_else(|| format!("send-{:032x}", SystemEntropy.next_u128()));
    let sender = Sender {
        client,
        producer,
        format: arguments.body_format,
        compression: arguments.compress,
        patience: arguments.timeout,
        progressed_at: Cell::new(Instant::now()),
        tasks: Tasks::new(Arc::new(ThreadPool::default())),
    };
    let mut ledger = Ledger::default();
    let flow = Flow { sender: &sender, arguments, input: &name };
    let failure = flow.run(source, &mut ledger, &mut report).await.err();
    report.refused(&ledger.remaining())?;
    output::print(&report.finish(&ledger, &sender.producer, arguments.output.format())?)?;
    match failure {
        Some(failure) => {
            eprintln!("{}", flow.way_on(&ledger));
            Err(failure)
        }
        None if ledger.totals.rejected > 0 => Err(Failure::told(Exit::Failed)),
        None => Ok(()),
    }
}

/// One body's way to an answer.
struct Sender {
    client: Client,
    producer: String,
    format: BodyFormat,
    compression: Compression,
    patience: Duration,
    /// When a body was answered, or the first one of several was begun.
    progressed_at: Cell<Instant>,
    tasks: Tasks,
}

/// A body that was begun, and what became of it.
struct Done {
    piece: u64,
    first_line: u64,
    last_line: u64,
    bytes: u64,
    /// Bytes of the input up to the end of this body.
    position: u64,
    result: Result<Receipt, Error>,
}

impl Sender {
    async fn send(&self, piece: u64, position: u64, body: Body) -> Done {
        let Body { bytes, first_line, lines } = body;
        let last_line = first_line + lines.saturating_sub(1);
        let length = bytes.len() as u64;
        let result = match self.format {
            BodyFormat::Ndjson => self.request(piece, bytes).await,
            BodyFormat::Binary => self.send_batch(piece, bytes).await,
        };
        if result.is_ok() {
            self.progressed_at.set(Instant::now());
        }
        Done { piece, first_line, last_line, bytes: length, position, result }
    }

    /// Sends lines as a batch; the receipt is as if they had been sent themselves.
    async fn send_batch(&self, piece: u64, lines: Bytes) -> Result<Receipt, Error> {
        let encoded = self.tasks.blocking(move || encode(lines)).await;
        if encoded.batch.is_empty() {
            return Ok(encoded.without_events());
        }
        let receipt = self.request(piece, encoded.batch.clone()).await?;
        encoded.receipt(receipt).ok_or_else(|| Error::Foreign {
            server: "a server".into(),
            why: "its receipt is not about the events of the batch that was sent".into(),
        })
    }

    async fn request(&self, piece: u64, body: Bytes) -> Result<Receipt, Error> {
        let (body, encoding) = self.compress(body).await;
        let events = Events {
            body,
            media_type: self.format.media_type(),
            encoding,
            producer: &self.producer,
            sequence: piece,
            errors_max: LINES_MAX,
        };
        self.client.send(&events, || self.progressed_at.get() + self.patience).await
    }

    async fn compress(&self, body: Bytes) -> (Bytes, Option<&'static str>) {
        let compress: fn(&[u8]) -> io::Result<Vec<u8>> = match self.compression {
            Compression::None => return (body, None),
            Compression::Gzip => gzip,
            Compression::Zstd => |body| zstd::bulk::compress(body, 1),
        };
        let encoding = if self.compression == Compression::Gzip { "gzip" } else { "zstd" };
        let compressed = self.tasks.blocking(move || compress(&body)).await;
        (compressed.expect("compression into memory cannot fail").into(), Some(encoding))
    }
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// A chunker and the piece it has just cut: they travel to the thread that reads and back.
type Cut = (Chunker<Box<dyn Read + Send>>, io::Result<Option<Piece>>);

/// The flow of a whole input.
struct Flow<'a> {
    sender: &'a Sender,
    arguments: &'a Arguments,
    input: &'a str,
}

impl Flow<'_> {
    /// Reads and sends to the end, or to the first failure; then waits for what is in flight.
    async fn run(&self, source: Source, ledger: &mut Ledger, report: &mut Report) -> Outcome {
        let position = source.position;
        let mut signals = Signals::new()?;
        let mut failure = None;
        let mut in_flight = FuturesUnordered::new();
        let mut next_piece = 0;
        let mut idle = Some(Chunker::new(source.reader, self.arguments.body_bytes));
        let mut reading: Option<BoxFuture<'static, Cut>> = None;
        loop {
            let has_room = in_flight.len() < usize::from(self.arguments.connections) && ledger.may_begin(next_piece);
            if has_room
                && failure.is_none()
                && let Some(chunker) = idle.take()
            {
                reading = Some(self.cut(chunker));
            }
            if reading.is_none() && in_flight.is_empty() {
                break;
            }
            tokio::select! {
                (chunker, piece) = async { reading.as_mut().expect("checked by the branch").await }, if reading.is_some() => {
                    reading = None;
                    match piece {
                        Ok(None) => continue,
                        Ok(Some(piece)) => {
                            let begun = self.begin(next_piece, piece, &position, ledger, report)?;
                            if let Some((body, position)) = begun {
                                if in_flight.is_empty() {
                                    self.sender.progressed_at.set(Instant::now());
                                }
                                in_flight.push(self.sender.send(next_piece, position, body));
                            }
                            next_piece += 1;
                            idle = Some(chunker);
                        }
                        Err(error) => { failure.get_or_insert(Failure::io(format!("reading {}", self.input), &error)); }
                    }
                }
                Some(done) = in_flight.next() => {
                    if let Err(failed) = self.end(done, ledger, report) {
                        failure.get_or_insert(failed);
                    }
                }
                () = signals.next() => {
                    if failure.is_some() {
                        break;
                    }
                    failure = Some(Failure::new(Exit::Failed, "interrupted"));
                }
            }
            if failure.is_some() {
                reading = None;
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn cut(&self, mut chunker: Chunker<Box<dyn Read + Send>>) -> BoxFuture<'static, Cut> {
        let tasks = self.sender.tasks.clone();
        Box::pin(async move {
            let cut = move || {
                let piece = chunker.next();
                (chunker, piece)
            };
            tasks.blocking(cut).await
        })
    }

    /// Decides about a piece; returns the body to send and the position in the input behind it.
    fn begin(
        &self,
        number: u64,
        piece: Piece,
        position: &AtomicU64,
        ledger: &mut Ledger,
        report: &mut Report,
    ) -> Result<Option<(Body, u64)>, Failure> {
        let tellable = match piece {
            _ if number < self.arguments.resume_at => ledger.leave_out(number),
            Piece::Body(body) => return Ok(Some((body, position.load(Ordering::Relaxed)))),
            Piece::TooLong(line) => {
                let message = "the line is longer than 1 MiB".to_owned();
                ledger.refuse(number, LineError { line, code: "line_too_long".into(), message })
            }
        };
        report.refused(&tellable)?;
        Ok(None)
    }

    /// Notes what became of a body.
    fn end(&self, done: Done, ledger: &mut Ledger, report: &mut Report) -> Outcome {
        let Done { piece, first_line, last_line, bytes, position, result } = done;
        match result {
            Ok(receipt) => {
                let tellable = ledger.answer(piece, first_line, bytes, receipt);
                report.progress(position, &ledger.totals);
                report.refused(&tellable)
            }
            Err(error) => {
                let hint = match &error {
                    Error::Refused(refusal) if refusal.code.starts_with("sequence_") => {
                        "\nThe producer is known with other bodies; send other input, or in other bodies, as another --producer"
                    }
                    _ => "",
                };
                // A refusal is no wrong usage here: no flag is at fault.
                let is_unavailable = matches!(error, Error::Unavailable { .. });
                let exit = if is_unavailable { Exit::Unavailable } else { Exit::Failed };
                Err(Failure::new(exit, format!("lines {first_line} to {last_line} of {}: {error}{hint}", self.input)))
            }
        }
    }

    /// How to go on after a failure without counting anything twice.
    fn way_on(&self, ledger: &Ledger) -> String {
        let format = if self.arguments.body_format == BodyFormat::Binary { " --format binary" } else { "" };
        format!(
            "To go on without counting anything twice, send the same input again with\n  --producer {} --resume-at {} \
             --body-bytes {}{format}",
            self.sender.producer,
            ledger.first_open(),
            self.arguments.body_bytes
        )
    }
}
