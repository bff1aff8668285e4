//! Requests' bodies, built before the clock starts.

use super::truth::Truth;
use super::workload::Event;
use crate::cli::body_format::BodyFormat;
use bytes::Bytes;
use hourmark::domain::{EventTime, NS_PER_MS, ResponseTime, civil_from_days};
use hourmark::format::BatchBuilder;
use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;

/// A body and how many events it has.
#[derive(Debug, Clone)]
pub struct Body {
    /// What is sent.
    pub bytes: Bytes,
    /// How many events.
    pub events: u32,
}

/// Events that are handed to the writing thread at a time.
const CHUNK_EVENTS: usize = 4096;

/// Chunks that wait for the writing thread.
const CHUNKS_AHEAD: usize = 2;

/// Writes events into bodies of `events_max` and notes what they add up to. Calls `progress` with the events done.
///
/// Drawing events takes about as long as writing them down, so another thread does that: a plain one, which ends with this call,
/// because nobody simulates this command.
pub fn build(
    events: impl Iterator<Item = Event>,
    apps: &[String],
    format: BodyFormat,
    events_max: usize,
    truth: &mut Truth,
    mut progress: impl FnMut(u64),
) -> Vec<Body> {
    std::thread::scope(|scope| {
        let (sender, chunks) = sync_channel::<Vec<Event>>(CHUNKS_AHEAD);
        let writing = scope.spawn(move || {
            let mut writer = Writer::new(format);
            let events = chunks.into_iter().flatten();
            let bodies = events.filter_map(|event| {
                writer.add(&apps[event.app as usize], event.time, event.value);
                (writer.events as usize == events_max).then(|| writer.finish())
            });
            let mut bodies: Vec<_> = bodies.collect();
            if writer.events > 0 {
                bodies.push(writer.finish());
            }
            bodies
        });
        let (mut events, mut done) = (events.peekable(), 0);
        while events.peek().is_some() {
            let chunk: Vec<_> = events.by_ref().take(CHUNK_EVENTS).inspect(|event| truth.add(*event)).collect();
            done += chunk.len() as u64;
            // A writer that is gone has panicked.
            if sender.send(chunk).is_err() {
                break;
            }
            progress(done);
        }
        drop(sender);
        writing.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

struct Writer {
    format: BodyFormat,
    text: Vec<u8>,
    batch: BatchBuilder,
    events: u32,
}

impl Writer {
    fn new(format: BodyFormat) -> Writer {
        Writer { format, text: Vec::new(), batch: BatchBuilder::default(), events: 0 }
    }

    fn add(&mut self, app: &str, time: EventTime, value: ResponseTime) {
        self.events += 1;
        match self.format {
            BodyFormat::Binary => self.batch.add(app, time, value),
            BodyFormat::Ndjson => put_line(&mut self.text, app, time, value),
        }
    }

    fn finish(&mut self) -> Body {
        let bytes = match self.format {
            BodyFormat::Binary => self.batch.finish(),
            BodyFormat::Ndjson => Bytes::copy_from_slice(&self.text),
        };
        self.text.clear();
        Body { bytes, events: std::mem::take(&mut self.events) }
    }
}

/// One line as most services write it.
pub fn put_line(out: &mut Vec<u8>, app: &str, time: EventTime, value: ResponseTime) {
    out.extend_from_slice(b"{\"app_id\":\"");
    put_escaped(out, app);
    out.extend_from_slice(b"\",\"timestamp\":\"");
    put_time(out, time);
    out.extend_from_slice(b"\",\"response_time_ms\":");
    put_ms(out, value);
    out.extend_from_slice(b"}\n");
}

/// App ids hold no control characters.
fn put_escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

fn put_time(out: &mut Vec<u8>, time: EventTime) {
    let (year, month, day) = civil_from_days((time.0 / 86_400_000).cast_signed());
    let in_day = time.0 % 86_400_000;
    put_digits(out, year.unsigned_abs(), 4);
    for (mark, value, digits) in [
        (b'-', u64::from(month), 2),
        (b'-', u64::from(day), 2),
        (b'T', in_day / 3_600_000, 2),
        (b':', in_day / 60_000 % 60, 2),
        (b':', in_day / 1000 % 60, 2),
        (b'.', in_day % 1000, 3),
    ] {
        out.push(mark);
        put_digits(out, value, digits);
    }
    out.push(b'Z');
}

/// The shortest decimal text of a number of milliseconds.
fn put_ms(out: &mut Vec<u8>, value: ResponseTime) {
    let whole = value.0 / NS_PER_MS;
    put_digits(out, whole, whole.checked_ilog10().map_or(1, |log| log as usize + 1));
    let (mut fraction, mut digits) = (value.0 % NS_PER_MS, 6);
    if fraction > 0 {
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            digits -= 1;
        }
        out.push(b'.');
        put_digits(out, fraction, digits);
    }
}

fn put_digits(out: &mut Vec<u8>, mut value: u64, digits: usize) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_services_write() {
        let mut text = Vec::new();
        put_line(&mut text, "checkout", EventTime(1_795_378_503_123), ResponseTime(12_750_000));
        put_line(&mut text, "a", EventTime(0), ResponseTime(0));
        put_line(&mut text, "a\"\\", EventTime(7), ResponseTime(1_000_000_001));
        let expected = concat!(
            "{\"app_id\":\"checkout\",\"timestamp\":\"2026-11-22T20:15:03.123Z\",\"response_time_ms\":12.75}\n",
            "{\"app_id\":\"a\",\"timestamp\":\"1970-01-01T00:00:00.000Z\",\"response_time_ms\":0}\n",
            "{\"app_id\":\"a\\\"\\\\\",\"timestamp\":\"1970-01-01T00:00:00.007Z\",\"response_time_ms\":1000.000001}\n",
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn bodies_hold_all_events_and_the_last_one_the_rest() {
        let event = Event { app: 0, time: EventTime(5), value: ResponseTime(7) };
        let apps = ["a".to_owned()];
        for format in [BodyFormat::Ndjson, BodyFormat::Binary] {
            let mut truth = Truth::new(1);
            let bodies = build(std::iter::repeat_n(event, 25), &apps, format, 10, &mut truth, |_| {});
            assert_eq!(bodies.iter().map(|body| body.events).collect::<Vec<_>>(), [10, 10, 5]);
            assert_eq!(truth.events(), 25);
        }
    }

    #[test]
    fn events_stay_in_order_over_many_chunks() {
        let count = 3 * CHUNK_EVENTS as u64 + 7;
        let events = (0..count).map(|time| Event { app: 0, time: EventTime(time), value: ResponseTime(1) });
        let (apps, mut truth, mut told) = (["a".to_owned()], Truth::new(1), 0);
        let mut expected = Vec::new();
        events.clone().for_each(|event| put_line(&mut expected, "a", event.time, event.value));
        for events_max in [10, 2 * CHUNK_EVENTS + 1] {
            let bodies = build(events.clone(), &apps, BodyFormat::Ndjson, events_max, &mut truth, |done| told = done);
            assert!(bodies.iter().flat_map(|body| body.bytes.to_vec()).eq(expected.iter().copied()), "all, in order");
            assert!(bodies.iter().rev().skip(1).all(|body| body.events as usize == events_max));
            assert_eq!(told, count);
        }
        assert!(build(std::iter::empty(), &apps, BodyFormat::Ndjson, 10, &mut truth, |_| ()).is_empty());
    }
}
