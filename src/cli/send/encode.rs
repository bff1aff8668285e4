//! Lines to a batch, and what a node says of the batch's events back to the lines they came from.
//!
//! The lines are read by the code that a node reads them with: the same ones are refused here, for the same reasons, as it
//! would refuse. What only a node can know, its clock and its limits, is left to it; it names an event by its place in the batch.

use bytes::Bytes;
use cluster::PartitionId;
use hourmark::client::{LineError, Receipt};
use hourmark::domain::{SLOTS, TimeLimits};
use hourmark::ingest::ndjson::Parser;
use hourmark::ingest::{Kind, PartitionEvents, Request};
use std::collections::BTreeMap;

/// Bytes of lines that are never too many for one batch: an event's line is always longer than the event in a batch.
pub const LINES_BYTES_MAX: usize = hourmark::format::BATCH_BYTES_MAX;

/// All events go into one batch.
const SLOTS_ALL_ALIKE: [PartitionId; SLOTS as usize] = [PartitionId(0); SLOTS as usize];

/// The events of a body's lines.
#[derive(Debug)]
pub struct Encoded {
    /// The batch; empty if there is no event.
    pub batch: Bytes,
    lines: Bytes,
    events: u64,
    refused: Vec<LineError>,
}

/// Reads lines of at most [`LINES_BYTES_MAX`] bytes, or a single line, and as many as an answer can list.
pub fn encode(lines: Bytes) -> Encoded {
    let request = Request::read(&lines, Kind::Lines, TimeLimits::NONE, &SLOTS_ALL_ALIKE);
    let request = request.expect("the batch is shorter than its lines");
    let PartitionEvents { events, batch } = request.partitions.into_values().next().unwrap_or_default();
    let refused = request.rejections.listed.into_iter().map(|(line, reason)| LineError {
        line,
        code: reason.code().to_owned(),
        message: reason.to_string(),
    });
    Encoded { batch, lines, events: events.into(), refused: refused.collect() }
}

impl Encoded {
    /// The receipt for the lines, from the one for the batch; nothing if that one is not about these events.
    pub fn receipt(self, of_batch: Receipt) -> Option<Receipt> {
        let Receipt { accepted, duplicate, rejected, errors, token } = of_batch;
        if accepted + duplicate + rejected != self.events {
            return None;
        }
        let mut all = self.refused;
        let rejected = rejected + all.len() as u64;
        if !errors.is_empty() {
            let places = places(&self.lines);
            for error in errors {
                let place = usize::try_from(error.line.checked_sub(1)?).ok()?;
                all.push(LineError { line: *places.get(place)?, ..error });
            }
            all.sort_by_key(|error| error.line);
        }
        Some(Receipt { accepted, duplicate, rejected, errors: all, token })
    }

    /// The receipt where there is nothing to send.
    pub fn without_events(self) -> Receipt {
        let rejected = self.refused.len() as u64;
        Receipt { accepted: 0, duplicate: 0, rejected, errors: self.refused, token: None }
    }
}

/// The line of each event of the lines' batch: app by app as they first occur, each app's in the order of the lines.
fn places(lines: &[u8]) -> Vec<u64> {
    let (mut parser, mut numbers, mut groups) =
        (Parser::new(TimeLimits::NONE), BTreeMap::new(), Vec::<Vec<u64>>::new());
    let (mut rest, mut number) = (lines, 0);
    while !rest.is_empty() {
        let (line, next) = parser.first_line(rest);
        (rest, number) = (next, number + 1);
        if let Ok(Some(event)) = line {
            let group = *numbers.entry(event.app_id.into_owned()).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(number);
        }
    }
    groups.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hourmark::domain::EventTime;

    fn line(app: &str, time: u64) -> String {
        format!("{{\"app_id\":\"{app}\",\"timestamp\":{time},\"response_time_ms\":1}}\n")
    }

    /// What a node with this latest time says of a body.
    fn node(body: &[u8], kind: Kind, latest: u64) -> Receipt {
        let limits = TimeLimits { latest: EventTime(latest), ..TimeLimits::NONE };
        let request = Request::read(body, kind, limits, &SLOTS_ALL_ALIKE).unwrap();
        let error = |(line, reason): (u64, hourmark::ingest::Reason)| LineError {
            line,
            code: reason.code().into(),
            message: reason.to_string(),
        };
        Receipt {
            accepted: request.partitions.into_values().map(|part| u64::from(part.events)).sum(),
            duplicate: 0,
            rejected: request.rejections.count,
            errors: request.rejections.listed.into_iter().map(error).collect(),
            token: None,
        }
    }

    #[test]
    fn a_receipt_is_the_one_that_the_lines_themselves_get() {
        let mut lines = String::new();
        for number in 0..300u64 {
            lines += &match number {
                50 | 120 => "broken\n".to_owned(),
                60 => " \n".to_owned(),
                70 => line("a\\u0001", 1),
                _ => line(["b", "a", "c\\n", "d"][(number * number % 4) as usize], number * 7919 % 1000),
            };
        }
        for latest in [1000, 500, 0] {
            let encoded = encode(lines.clone().into());
            let of_batch = node(&encoded.batch, Kind::Batch, latest);
            assert_eq!(encoded.receipt(of_batch).unwrap(), node(lines.as_bytes(), Kind::Lines, latest), "{latest}");
        }
    }

    #[test]
    fn lines_without_events_need_no_node() {
        let encoded = encode("x\n\n".into());
        assert!(encoded.batch.is_empty());
        assert_eq!(encoded.without_events(), node(b"x\n\n", Kind::Lines, 0));
    }

    #[test]
    fn an_answer_about_something_else_is_none() {
        let encoded = || encode(line("a", 5).into());
        let receipt = |accepted, rejected, lines: &[u64]| {
            let error = |line: &u64| LineError { line: *line, code: "invalid_batch".into(), message: String::new() };
            Receipt { accepted, duplicate: 0, rejected, errors: lines.iter().map(error).collect(), token: None }
        };
        assert!(encoded().receipt(receipt(1, 0, &[])).is_some());
        for wrong in [receipt(2, 0, &[]), receipt(0, 0, &[]), receipt(0, 1, &[2]), receipt(0, 1, &[0])] {
            assert_eq!(encoded().receipt(wrong), None);
        }
    }

    #[test]
    fn the_lines_with_the_longest_batches_fit() {
        let mut lines = String::new();
        for number in 0.. {
            let next = format!(
                "{{\"app_id\":\"{number:x}\",\"timestamp\":{},\"response_time_ms\":{}}}\n",
                number * 7_919_000_017_u64 % 9_000_000_000_000,
                number * 77_777_777 % 99_999_999_999
            );
            if lines.len() + next.len() > LINES_BYTES_MAX {
                break;
            }
            lines += &next;
        }
        assert!(encode(lines.into()).batch.len() < LINES_BYTES_MAX / 2);
    }
}
