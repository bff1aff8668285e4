//! What `hourmark send` tells: progress while it runs, refused lines, the sum at the end.

use super::ledger::{Ledger, Totals};
use crate::cli::failure::Failure;
use crate::cli::output::{Format, Table, json};
use hourmark::client::LineError;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Refused lines shown on a terminal; more would scroll everything else away.
const SHOWN_MAX: u64 = 20;

/// Where progress and refused lines go.
pub struct Report {
    bar: ProgressBar,
    started: Instant,
    rejects: Rejects,
}

/// Where refused lines go.
enum Rejects {
    /// As JSON lines.
    File(BufWriter<File>),
    /// As text; on a terminal only the first few.
    Stderr { shown: u64, is_terminal: bool },
}

/// The sum of a run, as it is printed.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    totals: &'a Totals,
    seconds: f64,
    events_per_second: f64,
    producer: &'a str,
    token: &'a str,
}

impl Report {
    /// Begins; `length`: bytes of the input, where they are known; `rejects`: a file to make for the refused lines.
    pub fn new(length: Option<u64>, rejects: Option<&Path>) -> Result<Report, Failure> {
        let is_terminal = std::io::stderr().is_terminal();
        let rejects = match rejects {
            Some(path) => {
                let file = File::create(path).map_err(|error| {
                    Failure::io(format!("creating the file of --rejects {}", path.display()), &error)
                })?;
                Rejects::File(BufWriter::new(file))
            }
            None => Rejects::Stderr { shown: 0, is_terminal },
        };
        let bar = if is_terminal { bar(length) } else { ProgressBar::hidden() };
        Ok(Report { bar, started: Instant::now(), rejects })
    }

    /// Shows how far the run is; `position`: bytes of the input.
    pub fn progress(&self, position: u64, totals: &Totals) {
        self.bar.set_position(self.bar.position().max(position));
        let rejected = if totals.rejected > 0 { format!(", {} rejected", totals.rejected) } else { String::new() };
        let events = totals.accepted + totals.duplicate;
        self.bar.set_message(format!("{events} events, {:.0}/s{rejected}", rate(events, self.started.elapsed())));
    }

    /// Tells of refused lines.
    pub fn refused(&mut self, errors: &[LineError]) -> Result<(), Failure> {
        for error in errors {
            match &mut self.rejects {
                Rejects::File(file) => {
                    let line = serde_json::to_string(error).expect("numbers and texts are always JSON");
                    writeln!(file, "{line}").map_err(|error| Failure::io("writing the file of --rejects", &error))?;
                }
                Rejects::Stderr { shown, is_terminal } => {
                    *shown += 1;
                    if !*is_terminal || *shown <= SHOWN_MAX {
                        let LineError { line, code, message } = error;
                        self.bar.suspend(|| eprintln!("line {line}: {code}: {message}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends: the sum as text for stdout. Tells of refused lines that were not told one by one.
    pub fn finish(mut self, ledger: &Ledger, producer: &str, format: Format) -> Result<String, Failure> {
        self.bar.finish_and_clear();
        match &mut self.rejects {
            Rejects::File(file) => {
                file.flush().map_err(|error| Failure::io("writing the file of --rejects", &error))?;
            }
            Rejects::Stderr { shown, is_terminal: true } if *shown > SHOWN_MAX => {
                eprintln!("… and {} more; --rejects FILE writes down every one", *shown - SHOWN_MAX);
            }
            Rejects::Stderr { .. } => {}
        }
        if ledger.unlisted > 0 {
            eprintln!("{} further lines were rejected that the server did not list", ledger.unlisted);
        }
        Ok(summary(ledger, self.started.elapsed(), producer, format))
    }
}

fn summary(ledger: &Ledger, elapsed: Duration, producer: &str, format: Format) -> String {
    let totals = &ledger.totals;
    let rate = rate(totals.accepted + totals.duplicate, elapsed);
    let seconds = (elapsed.as_secs_f64() * 1000.0).round() / 1000.0;
    let token = ledger.token();
    if format == Format::Json {
        return json(&Summary { totals, seconds, events_per_second: rate.round(), producer, token });
    }
    let mut table =
        Table::new(["accepted", "duplicate", "rejected", "bytes", "requests", "seconds", "events_per_second"]);
    let counts = [totals.accepted, totals.duplicate, totals.rejected, totals.bytes, totals.requests];
    let mut row: Vec<_> = counts.iter().map(u64::to_string).collect();
    row.extend([format!("{seconds:.3}"), format!("{rate:.0}")]);
    table.rows.push(row);
    if format == Format::Csv { table.to_csv() } else { table.to_text() }
}

fn rate(events: u64, elapsed: Duration) -> f64 {
    if events == 0 { 0.0 } else { events as f64 / elapsed.as_secs_f64().max(0.001) }
}

fn bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:30} {percent:>3} %  {bytes}/{total_bytes}  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is a constant that tests have shown"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hourmark::client::Receipt;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let receipt =
            Receipt { accepted: 998, duplicate: 0, rejected: 2, errors: Vec::new(), token: Some("0.7".into()) };
        ledger.answer(0, 1, 100_000, receipt);
        ledger
    }

    #[test]
    fn the_sum_is_a_table_a_document_or_a_line() {
        let of = |format| summary(&ledger(), Duration::from_millis(500), "p1", format);
        assert_eq!(
            of(Format::Table),
            "accepted  duplicate  rejected   bytes  requests  seconds  events_per_second\n     \
             998          0         2  100000         1    0.500               1996\n"
        );
        assert_eq!(
            of(Format::Csv),
            "accepted,duplicate,rejected,bytes,requests,seconds,events_per_second\n998,0,2,100000,1,0.500,1996\n"
        );
        let document: serde_json::Value = serde_json::from_str(&of(Format::Json)).unwrap();
        assert_eq!(
            document,
            serde_json::json!({"accepted": 998, "duplicate": 0, "rejected": 2, "bytes": 100_000, "requests": 1,
                "seconds": 0.5, "events_per_second": 1996.0, "producer": "p1", "token": "0.7"})
        );
    }

    #[test]
    fn nothing_sent_has_no_rate() {
        assert!(summary(&Ledger::default(), Duration::ZERO, "p", Format::Csv).ends_with("0,0,0,0,0,0.000,0\n"));
    }

    #[test]
    fn both_bars_can_be_drawn() {
        bar(Some(10)).finish();
        bar(None).finish();
    }
}
