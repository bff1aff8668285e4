//! One line to one event, by the letter of the rules.
//!
//! A usual line (the three fields in any order, plain strings and numbers) is read by [`usual`], which allocates nothing
//! and refuses nothing: whatever it does not know, right or wrong, goes to [`exact`], which is built on `serde_json` and
//! has the last word. Where both have an opinion they agree (tested on mutated lines).

mod decimal;
mod exact;
mod template;
#[cfg(test)]
mod tests;
mod timestamp;
mod usual;

use super::Reason;
use crate::domain::{EventTime, ResponseTime, TimeLimits};
use std::borrow::Cow;
use std::io::BufRead;
use template::Template;

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

pub(super) fn check_time(limits: &TimeLimits, time_ms: u64) -> Result<EventTime, Reason> {
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
    day: timestamp::Day,
    template: Option<Template>,
    /// Lines in a row that the template did not fit.
    misses: u32,
}

/// A line of the form of the one before it. `app_id` is not known to be one: it may break the rules of names, or of UTF-8.
#[derive(Debug, Clone, Copy)]
pub(super) struct Likely<'a> {
    pub(super) app_id: &'a [u8],
    pub(super) time: EventTime,
    pub(super) response_time: ResponseTime,
}

impl Parser {
    /// A parser that takes event times within `limits`.
    pub fn new(limits: TimeLimits) -> Parser {
        let (minute, day) = Default::default();
        Parser { limits, minute, day, template: None, misses: 0 }
    }

    /// Reads the first line of a body, if it has the form of the line before, and returns what follows its LF. It is an
    /// event if its app id equals that of another event, and has no verdict otherwise: then ask [`Parser::first_line`].
    #[inline]
    pub(super) fn likely<'a>(&mut self, body: &'a [u8]) -> Option<(Likely<'a>, &'a [u8])> {
        let template = self.template.as_ref()?;
        let Some((plain, next)) = template.read(body, &mut self.day) else {
            self.misses = self.misses.saturating_add(1);
            return None;
        };
        self.misses = 0;
        let time = check_time(&self.limits, plain.time_ms).ok()?;
        Some((Likely { app_id: plain.app_id, time, response_time: ResponseTime(plain.nanoseconds) }, next))
    }

    /// Reads one line without its LF. `None` for a blank one.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Result<Option<Event<'a>>, Reason> {
        match self.usual(line) {
            Some((event, _, [])) => Ok(Some(event)),
            _ => self.exact(line),
        }
    }

    /// Reads the first line of a body that is not empty; returns what follows its LF, too.
    pub fn first_line<'a>(&mut self, body: &'a [u8]) -> (Result<Option<Event<'a>>, Reason>, &'a [u8]) {
        match self.usual(body) {
            Some((event, _, [])) => return (Ok(Some(event)), &[]),
            Some((event, fields, [b'\n', next @ ..])) => {
                // Where forms take turns, learning each line's would cost more than it saves.
                if self.template.is_none() || self.misses.is_power_of_two() {
                    self.template = Template::learn(body, &fields, next);
                }
                return (Ok(Some(event)), next);
            }
            _ => {}
        }
        let mut next = body;
        let length = next.skip_until(b'\n').expect("reading from memory does not fail");
        let line = &body[..length];
        (self.exact(line.strip_suffix(b"\n").unwrap_or(line)), next)
    }

    /// The event at the start of `text` if it is a usual one that keeps all rules, and what follows it and its spaces.
    fn usual<'a>(&mut self, text: &'a [u8]) -> Option<(Event<'a>, usual::Fields<'a>, &'a [u8])> {
        let (fields, rest) = usual::event(text, &mut self.minute)?;
        let time = check_time(&self.limits, fields.time_ms).ok()?;
        let is_short = text.len() - rest.len() <= LINE_BYTES_MAX;
        let event =
            Event { app_id: Cow::Borrowed(fields.app_id), time, response_time: ResponseTime(fields.nanoseconds) };
        is_short.then_some((event, fields, rest))
    }

    fn exact<'a>(&self, line: &'a [u8]) -> Result<Option<Event<'a>>, Reason> {
        exact_line(line, &self.limits)
    }
}

/// Reads one line without its LF by the rules alone: slow, and what every quick way has to agree with. `None` for a blank
/// one.
pub fn exact_line<'a>(line: &'a [u8], limits: &TimeLimits) -> Result<Option<Event<'a>>, Reason> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > LINE_BYTES_MAX {
        return Err(Reason::LineTooLong);
    }
    if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
        return Ok(None);
    }
    exact::event(line, limits).map(Some)
}
