//! One line to one event, by the letter of the rules.
//!
//! A usual line (the three fields in any order, plain strings and numbers) is read by [`usual`], which allocates nothing
//! and refuses nothing: whatever it does not know, right or wrong, goes to [`exact`], which is built on `serde_json` and
//! has the last word. Where both have an opinion they agree (tested on mutated lines).

mod decimal;
mod exact;
#[cfg(test)]
mod tests;
mod timestamp;
mod usual;

use super::Reason;
use crate::domain::{EventTime, ResponseTime, TimeLimits};
use std::borrow::Cow;
use std::io::BufRead;

/// The longest line in bytes, without its line end. Usual lines have about 90; the room is for fields that are ignored.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// One event, still pointing into its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// 1 to 256 bytes without control characters.
    pub app_id: Cow<'a, str>,
    /// When it happened.
    pub time: EventTime,
    /// How long it took.
    pub response_time: ResponseTime,
}

fn check_time(limits: &TimeLimits, time_ms: u64) -> Result<EventTime, Reason> {
    if time_ms < limits.earliest.0 {
        Err(Reason::TimestampOutOfRange)
    } else if time_ms > limits.latest.0 {
        Err(Reason::TimestampInFuture)
    } else {
        Ok(EventTime(time_ms))
    }
}

/// Reads lines under one set of limits. Cheap to make: one per request.
#[derive(Debug)]
pub struct Parser {
    limits: TimeLimits,
    minute: timestamp::Minute,
}

impl Parser {
    /// A parser that takes event times within `limits`.
    pub fn new(limits: TimeLimits) -> Parser {
        Parser { limits, minute: timestamp::Minute::default() }
    }

    /// Reads one line without its LF. `None` for a blank one.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Result<Option<Event<'a>>, Reason> {
        match self.usual(line) {
            Some((event, [])) => Ok(Some(event)),
            _ => self.exact(line),
        }
    }

    /// Reads the first line of a body that is not empty; returns what follows its LF, too.
    pub fn first_line<'a>(&mut self, body: &'a [u8]) -> (Result<Option<Event<'a>>, Reason>, &'a [u8]) {
        match self.usual(body) {
            Some((event, [])) => return (Ok(Some(event)), &[]),
            Some((event, [b'\n', next @ ..])) => return (Ok(Some(event)), next),
            _ => {}
        }
        let mut next = body;
        let length = next.skip_until(b'\n').expect("reading from memory does not fail");
        let line = &body[..length];
        (self.exact(line.strip_suffix(b"\n").unwrap_or(line)), next)
    }

    /// The event at the start of `text` if it is a usual one that keeps all rules, and what follows it and its spaces.
    fn usual<'a>(&mut self, text: &'a [u8]) -> Option<(Event<'a>, &'a [u8])> {
        let (fields, rest) = usual::event(text, &mut self.minute)?;
        let time = check_time(&self.limits, fields.time_ms).ok()?;
        let is_short = text.len() - rest.len() <= LINE_BYTES_MAX;
        let event =
            Event { app_id: Cow::Borrowed(fields.app_id), time, response_time: ResponseTime(fields.nanoseconds) };
        is_short.then_some((event, rest))
    }

    fn exact<'a>(&self, line: &'a [u8]) -> Result<Option<Event<'a>>, Reason> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > LINE_BYTES_MAX {
            return Err(Reason::LineTooLong);
        }
        if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            return Ok(None);
        }
        exact::event(line, &self.limits).map(Some)
    }
}
