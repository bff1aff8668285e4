//! The short way for usual lines: one pass, no allocation, no opinion on anything unusual.
//!
//! Usual: each of the three fields once, in any order, besides unknown ones with plain values; strings without escapes and
//! control characters; decimal numbers without exponent. Source of the eight-bytes-at-a-time tests: S. E. Anderson, "Bit
//! Twiddling Hacks", "Determine if a word has a zero byte" and "... a byte less than n".

use super::{decimal, timestamp};
use crate::domain::APP_ID_BYTES_MAX;

/// The three fields of a usual line, each within its own rules.
pub(super) struct Fields<'a> {
    pub(super) app_id: &'a str,
    pub(super) time_ms: u64,
    pub(super) nanoseconds: u64,
    pub(super) places: Places,
}

/// Where the values stand in the line, quotes included.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Places {
    pub(super) app_id: Place,
    pub(super) time: Place,
    pub(super) response_time: Place,
}

/// From the first byte to the one behind the last.
pub(super) type Place = (usize, usize);

/// The event at the start of `text` and what follows it and its spaces (an LF ends the spaces). `None` is no verdict.
#[inline]
pub(super) fn event<'a>(text: &'a [u8], minute: &mut timestamp::Minute) -> Option<(Fields<'a>, &'a [u8])> {
    let (mut app_id, mut time_ms, mut nanoseconds) = (None, None, None);
    let mut places = Places::default();
    let place = |from: &[u8], to: &[u8]| (text.len() - from.len(), text.len() - to.len());
    let mut rest = skip_spaces(text).strip_prefix(b"{")?;
    loop {
        rest = skip_spaces(rest);
        if let Some(after) = rest.strip_prefix(b"\"app_id\"") {
            let from = value(after)?;
            let (bytes, after) = string(from)?;
            (rest, places.app_id) = (after, place(from, after));
            set(&mut app_id, std::str::from_utf8(bytes).ok()?)?;
        } else if let Some(after) = rest.strip_prefix(b"\"timestamp\"") {
            let from = value(after)?;
            let (time, after) = time(from, minute)?;
            (rest, places.time) = (after, place(from, after));
            set(&mut time_ms, time)?;
        } else if let Some(after) = rest.strip_prefix(b"\"response_time_ms\"") {
            let from = value(after)?;
            let (value, after) = decimal::usual(from)?;
            (rest, places.response_time) = (after, place(from, after));
            set(&mut nanoseconds, value)?;
        } else {
            rest = unknown_field(rest)?;
        }
        rest = skip_spaces(rest);
        match rest {
            [b',', after @ ..] => rest = after,
            [b'}', after @ ..] => {
                let app_id: &str = app_id?;
                let is_app_id = (1..=APP_ID_BYTES_MAX).contains(&app_id.len());
                let fields = Fields { app_id, time_ms: time_ms?, nanoseconds: nanoseconds?, places };
                return is_app_id.then_some((fields, skip_spaces(after)));
            }
            _ => return None,
        }
    }
}

/// Fills a field that must be empty.
#[inline]
fn set<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

#[inline]
fn skip_spaces(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let [b' ' | b'\t' | b'\r', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// What stands behind a field's colon.
#[inline]
fn value(text: &[u8]) -> Option<&[u8]> {
    skip_spaces(text).strip_prefix(b":").map(skip_spaces)
}

#[inline]
fn time<'a>(text: &'a [u8], minute: &mut timestamp::Minute) -> Option<(u64, &'a [u8])> {
    if text.first() != Some(&b'"') {
        return timestamp::usual_epoch_ms(text);
    }
    let (bytes, rest) = string(text)?;
    Some((minute.rfc3339(bytes).ok()?, rest))
}

/// Skips a field that has no meaning here, if its value is a plain string, number or word.
fn unknown_field(text: &[u8]) -> Option<&[u8]> {
    let (name, rest) = string(text)?;
    std::str::from_utf8(name).ok()?;
    let text = value(rest)?;
    match text.first()? {
        b'"' => {
            let (bytes, rest) = string(text)?;
            std::str::from_utf8(bytes).ok()?;
            Some(rest)
        }
        b'0'..=b'9' => decimal::usual(text).map(|(_, rest)| rest),
        _ => [&b"true"[..], b"false", b"null"].into_iter().find_map(|word| text.strip_prefix(word)),
    }
}

/// The bytes of a string without escapes, control characters and DEL, and what follows its closing quote.
#[inline]
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let end = plain_length(text);
    match text.split_at(end) {
        (bytes, [b'"', rest @ ..]) => Some((bytes, rest)),
        _ => None,
    }
}

/// How many bytes stand before the first quote, backslash, control character or DEL.
#[inline]
fn plain_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some((eight, _)) = text[at..].split_first_chunk::<8>() {
        let special = special_bytes(u64::from_le_bytes(*eight));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = text[at..].iter();
    at + rest.take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f | 0x7f)).count()
}

/// Marks the special bytes of a word by their highest bit; bytes behind the first mark may be marked wrongly.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word;
    let equal = |byte: u64| below(word ^ (ONES * byte), 1);
    (equal(u64::from(b'"')) | equal(u64::from(b'\\')) | equal(0x7f) | below(word, 0x20)) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Option<(String, u64, u64)> {
        let (fields, rest) = event(line.as_bytes(), &mut timestamp::Minute::default())?;
        rest.is_empty().then(|| (fields.app_id.to_owned(), fields.time_ms, fields.nanoseconds))
    }

    #[test]
    fn usual_lines_take_the_short_way() {
        let expected = Some(("a b/\u{fc}".to_owned(), 1_709_208_000_123, 12_750_000));
        for line in [
            "{\"app_id\":\"a b/\u{fc}\",\"timestamp\":\"2024-02-29T12:00:00.123Z\",\"response_time_ms\":12.75}",
            " { \"response_time_ms\" : 12.75 ,\t\"timestamp\":1709208000123, \"app_id\" : \"a b/\u{fc}\" } \r",
            "{\"x\":\"y\",\"timestamp\":\"2024-02-29T13:00:00.123+01:00\",\"n\":1.5,\"response_time_ms\":12.7500000000,\"app_id\":\"a b/\u{fc}\",\"t\":true}",
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn everything_else_is_left_to_the_exact_way() {
        let (app, time, value) = ("\"app_id\":\"a\"", "\"timestamp\":0", "\"response_time_ms\":1");
        assert!(read(&format!("{{{app},{time},{value}}}")).is_some());
        for line in [
            String::new(),
            "{".into(),
            "{}".into(),
            format!("{{{app},{time}}}"),
            format!("{{{app},{time},{value}"),
            format!("{{{app},{time},{value},}}"),
            format!("{{{app},{time},{value}}}}}"),
            format!("{{{app},{time},{value},{value}}}"),
            format!("{{{app},{time},{value},\"x\":[1]}}"),
            format!("{{{app},{time},{value},\"x\":truex}}"),
            format!("{{{app},{time},\"response_time_ms\":1e3}}"),
            format!("{{\"app_id\":\"\",{time},{value}}}"),
            format!("{{\"app_id\":\"{}\",{time},{value}}}", "x".repeat(257)),
            format!("{{\"app_id\":\"a\\u0062\",{time},{value}}}"),
            format!("{{\"app_id\":\"a\u{7f}\",{time},{value}}}"),
        ] {
            assert_eq!(read(&line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn eight_bytes_at_a_time_finds_what_one_at_a_time_finds(
            text in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(0x1f), Just(0x20), Just(0x7f), Just(0x80), Just(b'a'), any::<u8>()], 0..40),
        ) {
            let expected = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f | 0x7f));
            prop_assert_eq!(plain_length(&text), expected.unwrap_or(text.len()));
        }
    }
}
