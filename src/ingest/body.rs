//! A request's body to its lines: decompression within a bound, NDJSON or JSON.

use super::admission::{Overloaded, Permit};
use super::ndjson::{Event, Parser};
use super::reason::Reason;
use crate::domain::{EventTime, ResponseTime};
use bytes::Bytes;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::io::{self, Read};

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// gzip, one or more members.
    Gzip,
    /// Zstandard, one or more frames.
    Zstd,
}

impl Encoding {
    /// The encoding that a `Content-Encoding` header names.
    pub fn named(name: &str) -> Option<Encoding> {
        look_up(&ENCODINGS, name.trim())
    }
}

const ENCODINGS: [(&str, Encoding); 5] = [
    ("", Encoding::Identity),
    ("identity", Encoding::Identity),
    ("gzip", Encoding::Gzip),
    ("x-gzip", Encoding::Gzip),
    ("zstd", Encoding::Zstd),
];

/// What is named so, whichever case it is written in.
fn look_up<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

/// How a body writes its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One JSON object a line.
    Lines,
    /// One JSON object, or an array of them.
    Json,
    /// A columnar [batch](crate::format::Batch).
    Batch,
}

impl Kind {
    /// The kind that a `Content-Type` header names; its parameters say nothing that matters here.
    pub fn named(media_type: &str) -> Option<Kind> {
        let essence = media_type.split(';').next().unwrap_or_default();
        look_up(&KINDS, essence.trim())
    }
}

const KINDS: [(&str, Kind); 5] = [
    ("application/x-ndjson", Kind::Lines),
    ("application/ndjson", Kind::Lines),
    ("application/jsonl", Kind::Lines),
    ("application/json", Kind::Json),
    ("application/vnd.hourmark.batch", Kind::Batch),
];

/// Why a body could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// More bytes than a request may have.
    #[error("the decompressed body is larger than {0} bytes")]
    TooLarge(usize),
    /// Not what its encoding says.
    #[error("decompress the body")]
    Damaged(#[source] io::Error),
    /// The node has no room for it now.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

/// Bytes that are decompressed, and taken from the budget, at a time.
const STEP_BYTES: usize = 64 * 1024;

/// The largest window of a Zstandard frame, as a power of two: 16 MiB is more than any level but the last three asks for,
/// and what a frame's header asks for is allocated before its first byte is known to be good.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

/// Decompresses a body. Stops at the first byte over `bytes_max`, whatever the body promises.
///
/// `permit` already holds the compressed bytes; they are given back when they are no longer needed.
pub fn inflate(
    compressed: Bytes,
    encoding: Encoding,
    bytes_max: usize,
    permit: &mut Permit,
) -> Result<Bytes, InflateError> {
    let body = match encoding {
        Encoding::Identity if compressed.len() > bytes_max => return Err(InflateError::TooLarge(bytes_max)),
        // A body of no bytes is no events, compressed or not.
        _ if compressed.is_empty() => return Ok(compressed),
        Encoding::Identity => return Ok(compressed),
        Encoding::Gzip => collect(flate2::read::MultiGzDecoder::new(&compressed[..]), bytes_max, permit)?,
        Encoding::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(&compressed[..]).map_err(InflateError::Damaged)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(InflateError::Damaged)?;
            collect(decoder, bytes_max, permit)?
        }
    };
    permit.shrink(compressed.len());
    Ok(body)
}

fn collect(mut reader: impl Read, bytes_max: usize, permit: &mut Permit) -> Result<Bytes, InflateError> {
    let mut body = Vec::new();
    loop {
        let room = STEP_BYTES.min(bytes_max + 1 - body.len());
        permit.grow(room)?;
        let read = reader.by_ref().take(room as u64).read_to_end(&mut body).map_err(InflateError::Damaged)?;
        permit.shrink(room - read);
        if body.len() > bytes_max {
            return Err(InflateError::TooLarge(bytes_max));
        }
        if read < room {
            return Ok(body.into());
        }
    }
}

/// Bytes of a body of lines that are shown at a time, before they are read: few enough to be in the cache still.
const BLOCK_BYTES: usize = 64 * 1024;

/// Takes what is read from a body.
pub trait Take<'a> {
    /// Is shown the next bytes of the body, before what begins in them is read. All blocks are the body.
    fn block(&mut self, _bytes: &[u8]) {}

    /// Takes an event if its app id is that of an event taken before; otherwise takes nothing, and is given the whole line.
    fn take_known(&mut self, _app_id: &[u8], _time: EventTime, _response_time: ResponseTime) -> bool {
        false
    }

    /// Takes an event or the refusal of a line, with its number from 1.
    fn take(&mut self, line: u64, verdict: Result<Event<'a>, Reason>);
}

impl<'a, F: FnMut(u64, Result<Event<'a>, Reason>)> Take<'a> for F {
    fn take(&mut self, line: u64, verdict: Result<Event<'a>, Reason>) {
        self(line, verdict);
    }
}

/// How a body of text writes its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// One JSON object a line.
    Lines,
    /// One JSON object, or an array of them.
    Json,
}

/// Reads a body of text and hands each event and each refused line to `take`, with its number from 1. Lines are counted with the
/// blank ones, elements of a JSON array one by one, and a single object is line 1.
///
/// An error means that the whole body is refused (a JSON array with a flaw in it: where its elements begin and end is
/// anyone's guess); forget what `take` got.
pub fn read<'a>(body: &'a [u8], text: Text, parser: &mut Parser, mut take: impl Take<'a>) -> Result<(), Reason> {
    match text {
        Text::Lines => {
            read_lines(body, parser, take);
            Ok(())
        }
        Text::Json => {
            take.block(body);
            match body.trim_ascii_start() {
                [b'[', ..] => read_array(body, parser, take),
                [] => Ok(()),
                object => {
                    if let Some(verdict) = parser.line(object).transpose() {
                        take.take(1, verdict);
                    }
                    Ok(())
                }
            }
        }
    }
}

fn read_lines<'a>(body: &'a [u8], parser: &mut Parser, mut take: impl Take<'a>) {
    let (mut rest, mut number, mut behind) = (body, 0, body.len());
    for block in body.chunks(BLOCK_BYTES) {
        take.block(block);
        behind -= block.len();
        // The lines that begin in this block.
        while rest.len() > behind {
            number += 1;
            if let Some((event, next)) = parser.likely(rest)
                && take.take_known(event.app_id, event.time, event.response_time)
            {
                rest = next;
                continue;
            }
            let (line, next) = parser.first_line(rest);
            if let Some(verdict) = line.transpose() {
                take.take(number, verdict);
            }
            rest = next;
        }
    }
}

fn read_array<'a>(body: &'a [u8], parser: &mut Parser, take: impl Take<'a>) -> Result<(), Reason> {
    let text = std::str::from_utf8(body).map_err(|_| Reason::InvalidUtf8)?;
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_seq(Elements { parser, take }).map_err(|_| Reason::InvalidJson)?;
    json.end().map_err(|_| Reason::InvalidJson)
}

/// Visits the elements of an array without collecting them.
struct Elements<'p, T> {
    parser: &'p mut Parser,
    take: T,
}

impl<'a, T: Take<'a>> Visitor<'a> for Elements<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(element) = elements.next_element::<&'a RawValue>()? {
            number += 1;
            if let Some(verdict) = self.parser.line(element.get().as_bytes()).transpose() {
                self.take.take(number, verdict);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::admission::Admission;
    use super::super::ndjson::LINE_BYTES_MAX;
    use super::*;
    use crate::domain::TimeLimits;
    use crate::metrics::Level;
    use std::io::Write;

    const GOOD: &str = r#"{"app_id":"a","timestamp":0,"response_time_ms":1}"#;

    fn gzip(body: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap().into()
    }

    fn zstd(body: &[u8]) -> Bytes {
        zstd::encode_all(body, 1).unwrap().into()
    }

    fn inflated(compressed: Bytes, encoding: Encoding, bytes_max: usize) -> Result<(Bytes, u64), InflateError> {
        let level = Level::default();
        let mut permit = Admission::new(1 << 30, 1, level.clone()).admit().unwrap();
        permit.grow(compressed.len()).unwrap();
        let body = inflate(compressed, encoding, bytes_max, &mut permit)?;
        Ok((body, level.get()))
    }

    fn lines(body: &str, kind: Text) -> Result<Vec<(u64, Option<Reason>)>, Reason> {
        let mut lines = Vec::new();
        read(
            body.as_bytes(),
            kind,
            &mut Parser::new(TimeLimits::NONE),
            |number, verdict: Result<Event<'_>, Reason>| {
                lines.push((number, verdict.err()));
            },
        )?;
        Ok(lines)
    }

    #[test]
    fn every_encoding_gives_the_same_body_and_holds_its_bytes() {
        for length in [0, 1, STEP_BYTES, STEP_BYTES + 1, 300_000] {
            let body: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let double = |compressed: Bytes| Bytes::from([&compressed[..], &compressed[..]].concat());
            for (compressed, encoding, times) in [
                (Bytes::from(body.clone()), Encoding::Identity, 1),
                (gzip(&body), Encoding::Gzip, 1),
                (zstd(&body), Encoding::Zstd, 1),
                (double(gzip(&body)), Encoding::Gzip, 2),
                (double(zstd(&body)), Encoding::Zstd, 2),
            ] {
                let (inflated, held) = inflated(compressed, encoding, 600_000).unwrap();
                assert_eq!(inflated, body.repeat(times), "{encoding:?}");
                assert_eq!(held, inflated.len() as u64, "{encoding:?}");
            }
        }
        assert!(inflated(Bytes::new(), Encoding::Gzip, 1).unwrap().0.is_empty());
    }

    #[test]
    fn a_body_over_the_bound_is_given_up_at_the_bound() {
        let bomb = vec![b' '; 64 << 20];
        for (compressed, encoding) in [(gzip(&bomb), Encoding::Gzip), (zstd(&bomb), Encoding::Zstd)] {
            assert!(compressed.len() < 1 << 20);
            let mut permit = Admission::new(3 << 20, 1, Level::default()).admit().unwrap();
            let result = inflate(compressed.clone(), encoding, 1 << 20, &mut permit);
            assert!(matches!(result, Err(InflateError::TooLarge(_))), "{encoding:?}");
            let mut permit = Admission::new(1 << 20, 1, Level::default()).admit().unwrap();
            let result = inflate(compressed, encoding, 16 << 20, &mut permit);
            assert!(matches!(result, Err(InflateError::Overloaded(_))), "{encoding:?}");
        }
        for (length, is_good) in [(1000, true), (1001, false)] {
            let body = vec![b'x'; length];
            for (compressed, encoding) in [
                (body.clone().into(), Encoding::Identity),
                (gzip(&body), Encoding::Gzip),
                (zstd(&body), Encoding::Zstd),
            ] {
                assert_eq!(inflated(compressed, encoding, 1000).is_ok(), is_good, "{encoding:?} {length}");
            }
        }
    }

    #[test]
    fn a_damaged_body_is_no_body() {
        for (compressed, encoding) in [(gzip(&[7; 1000]), Encoding::Gzip), (zstd(&[7; 1000]), Encoding::Zstd)] {
            for damaged in [compressed.slice(..compressed.len() - 3), Bytes::from_static(b"plain text")] {
                assert!(matches!(inflated(damaged, encoding, 10_000), Err(InflateError::Damaged(_))), "{encoding:?}");
            }
        }
    }

    #[test]
    fn lines_are_counted_with_the_blank_ones() {
        let body = format!("\n{GOOD}\r\n \nx\n\n{GOOD}");
        let expected = vec![(2, None), (4, Some(Reason::InvalidJson)), (6, None)];
        assert_eq!(lines(&body, Text::Lines), Ok(expected));
        assert_eq!(lines("", Text::Lines), Ok(vec![]));
    }

    #[test]
    fn elements_of_an_array_are_lines() {
        let pretty = GOOD.replace(',', ",\n  ");
        let long = format!("\"{}\"", "x".repeat(LINE_BYTES_MAX));
        let body = format!("\n[ {GOOD},\n{pretty} , 17,[{GOOD}],{long},{{}}]\n ");
        let bad = [Reason::NotAnObject, Reason::NotAnObject, Reason::LineTooLong];
        let missing = Reason::MissingField(super::super::Field::AppId);
        let expected =
            vec![(1, None), (2, None), (3, Some(bad[0])), (4, Some(bad[1])), (5, Some(bad[2])), (6, Some(missing))];
        assert_eq!(lines(&body, Text::Json), Ok(expected));
        for empty in ["", " \n", "[]", " [ ] "] {
            assert_eq!(lines(empty, Text::Json), Ok(vec![]), "{empty:?}");
        }
    }

    #[test]
    fn a_flaw_in_an_array_spoils_all_of_it() {
        for flawed in [
            format!("[{GOOD},]"),
            format!("[{GOOD}"),
            format!("[{GOOD}] x"),
            format!("[{GOOD} {GOOD}]"),
            "[".repeat(100_000),
        ] {
            assert_eq!(lines(&flawed, Text::Json), Err(Reason::InvalidJson));
        }
        let mut parser = Parser::new(TimeLimits::NONE);
        assert_eq!(
            read(b"[\"\xff\"]", Text::Json, &mut parser, |_, _: Result<Event<'_>, Reason>| {}),
            Err(Reason::InvalidUtf8)
        );
    }

    #[test]
    fn a_single_object_is_line_one() {
        assert_eq!(lines(&GOOD.replace(',', ",\n"), Text::Json), Ok(vec![(1, None)]));
        let two = format!("{GOOD}\n{GOOD}");
        assert_eq!(lines(&two, Text::Json), Ok(vec![(1, Some(Reason::InvalidJson))]));
        assert_eq!(lines("17", Text::Json), Ok(vec![(1, Some(Reason::NotAnObject))]));
    }

    #[test]
    fn headers_name_kinds_and_encodings() {
        assert_eq!(Kind::named("Application/JSON; charset=utf-8"), Some(Kind::Json));
        for lines in ["application/x-ndjson", "application/ndjson", " application/jsonl ;charset=utf-8"] {
            assert_eq!(Kind::named(lines), Some(Kind::Lines), "{lines}");
        }
        assert_eq!(Kind::named("application/vnd.hourmark.batch"), Some(Kind::Batch));
        assert_eq!((Kind::named("text/csv"), Kind::named("")), (None, None));
        for (encoding, names) in [
            (Encoding::Identity, ["", "Identity"]),
            (Encoding::Gzip, ["GZIP", "x-gzip"]),
            (Encoding::Zstd, ["zstd", " Zstd "]),
        ] {
            assert_eq!(names.map(Encoding::named), [Some(encoding); 2], "{names:?}");
        }
        assert_eq!((Encoding::named("gzip, zstd"), Encoding::named("br")), (None, None));
    }
}
