//! The quickest way through a line: the form of the line before it.
//!
//! A service writes all its lines with the same code: same order of fields, same spaces, same further fields. What stands
//! between the three values of a usual line (`usual.rs` has read it) is learned, and lines that have exactly those bytes
//! there are read by jumping from value to value. Whatever does not fit gets no verdict here.
//!
//! Why that is safe: the learned bytes and three plain values made a valid line, and whether a line is valid depends on
//! the values' kinds only: text without a quote or backslash inside, and digits with at most one point.

use super::usual::Fields;
use super::{decimal, timestamp};
use crate::domain::APP_ID_BYTES_MAX;

/// The form of a line.
#[derive(Debug, Clone)]
pub(super) struct Template {
    /// The values in the order of their fields.
    kinds: [Kind; 3],
    /// What stands before each of them, with the opening quote of a text.
    before: [Literal; 3],
    /// What stands behind the last one, with the LF.
    end: Literal,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    AppId,
    TimeText,
    TimeNumber,
    ResponseTime,
}

/// A line read by its form. Whether `app_id` is one, or even UTF-8, has not been checked: it holds no quote and no
/// backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Plain<'a> {
    pub(super) app_id: &'a [u8],
    pub(super) time_ms: u64,
    pub(super) nanoseconds: u64,
}

impl Template {
    /// The form of a usual line, which begins at `text` and ends with the LF before `next`; `None` if it is too long to
    /// be worth it.
    pub(super) fn learn(text: &[u8], fields: &Fields<'_>, next: &[u8]) -> Option<Template> {
        let is_text = text[fields.places.time.0] == b'"';
        let time = if is_text { Kind::TimeText } else { Kind::TimeNumber };
        let mut values = [
            (fields.places.app_id, Kind::AppId),
            (fields.places.time, time),
            (fields.places.response_time, Kind::ResponseTime),
        ];
        values.sort_unstable_by_key(|((from, _), _)| *from);
        let mut behind = 0;
        let mut before = [Literal::default(); 3];
        for (literal, ((from, to), kind)) in before.iter_mut().zip(values) {
            let has_quotes = usize::from(matches!(kind, Kind::AppId | Kind::TimeText));
            *literal = Literal::new(&text[behind..from + has_quotes])?;
            behind = to - has_quotes;
        }
        let end = Literal::new(&text[behind..text.len() - next.len()])?;
        Some(Template { kinds: values.map(|(_, kind)| kind), before, end })
    }

    /// The line at the start of `text`, if it has this form, and what follows its LF.
    #[inline]
    pub(super) fn read<'a>(&self, text: &'a [u8], day: &mut timestamp::Day) -> Option<(Plain<'a>, &'a [u8])> {
        let mut plain = Plain::default();
        let mut rest = text;
        for (kind, before) in self.kinds.iter().zip(&self.before) {
            rest = before.strip(rest)?;
            match kind {
                Kind::AppId => {
                    let length = quoted_length(rest)?;
                    (plain.app_id, rest) = rest.split_at_checked(length)?;
                }
                Kind::TimeText => (plain.time_ms, rest) = day.rfc3339(rest)?,
                Kind::TimeNumber => (plain.time_ms, rest) = timestamp::usual_epoch_ms(rest)?,
                Kind::ResponseTime => (plain.nanoseconds, rest) = decimal::quick(rest)?,
            }
        }
        Some((plain, self.end.strip(rest)?))
    }
}

/// Up to 32 bytes, compared as four words.
#[derive(Debug, Clone, Copy, Default)]
struct Literal {
    words: [u64; 4],
    masks: [u64; 4],
    length: usize,
}

impl Literal {
    const BYTES_MAX: usize = 32;

    fn new(bytes: &[u8]) -> Option<Literal> {
        if bytes.len() > Literal::BYTES_MAX {
            return None;
        }
        let mut padded = [0; Literal::BYTES_MAX];
        padded[..bytes.len()].copy_from_slice(bytes);
        let mut mask = [0; Literal::BYTES_MAX];
        mask[..bytes.len()].fill(0xff);
        Some(Literal { words: words(&padded), masks: words(&mask), length: bytes.len() })
    }

    /// What follows the literal at the start of `text`. Near the end of a body there is no answer.
    #[inline]
    fn strip<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let found = words(text.first_chunk()?);
        let differing = |i: usize| (found[i] ^ self.words[i]) & self.masks[i];
        if differing(0) | differing(1) | differing(2) | differing(3) == 0 { text.get(self.length..) } else { None }
    }
}

#[inline]
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let (eights, _) = bytes.as_chunks::<8>();
    let word = |i: usize| u64::from_le_bytes(eights[i]);
    [word(0), word(1), word(2), word(3)]
}

/// How many bytes stand before the next quote; `None` if a backslash comes first or it is too far.
#[inline]
fn quoted_length(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let equal = |word: u64, byte: u8| {
        let zero = word ^ (ONES * u64::from(byte));
        zero.wrapping_sub(ONES) & !zero & HIGHS
    };
    let mut at = 0;
    while at <= APP_ID_BYTES_MAX {
        let word = u64::from_le_bytes(*text.get(at..)?.first_chunk::<8>()?);
        let (quotes, backslashes) = (equal(word, b'"'), equal(word, b'\\'));
        if quotes | backslashes != 0 {
            // The lowest mark is always a true one.
            let is_quote = quotes.trailing_zeros() < backslashes.trailing_zeros();
            return is_quote.then(|| at + (quotes.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::usual;
    use super::*;
    use proptest::prelude::*;

    fn learn(line: &str) -> Option<Template> {
        let text = line.as_bytes();
        let (fields, rest) = usual::event(text, &mut timestamp::Minute::default()).unwrap();
        Template::learn(text, &fields, rest.strip_prefix(b"\n").unwrap())
    }

    fn read<'a>(template: &Template, text: &'a str) -> Option<(&'a str, u64, u64, usize)> {
        let (plain, rest) = template.read(text.as_bytes(), &mut timestamp::Day::default())?;
        Some((std::str::from_utf8(plain.app_id).unwrap(), plain.time_ms, plain.nanoseconds, rest.len()))
    }

    /// Room behind the line: a form is not compared near the end of a body.
    const ROOM: &str = "                                        ";

    #[test]
    fn lines_of_the_same_form_are_read_in_any_order_of_fields() {
        for (line, other) in [
            (
                "{\"app_id\":\"a\",\"timestamp\":\"2024-02-29T12:00:00.123Z\",\"response_time_ms\":12.75}\n",
                "{\"app_id\":\"checkout-service\",\"timestamp\":\"2024-02-29T12:00:00Z\",\"response_time_ms\":7}\n",
            ),
            (
                "{ \"response_time_ms\": 1.5, \"region\": \"eu\", \"timestamp\": 0, \"app_id\": \"\u{fc}\" }\r\n",
                "{ \"response_time_ms\": 7, \"region\": \"eu\", \"timestamp\": 1709208000000, \"app_id\": \"checkout-service\" }\r\n",
            ),
        ] {
            let template = learn(line).unwrap();
            let text = format!("{other}{ROOM}");
            assert_eq!(read(&template, &text), Some(("checkout-service", 1_709_208_000_000, 7_000_000, ROOM.len())));
        }
    }

    #[test]
    fn what_does_not_fit_gets_no_verdict() {
        let line = "{\"app_id\":\"a\",\"timestamp\":\"2024-02-29T12:00:00.123Z\",\"response_time_ms\":12.75}\n";
        let template = learn(line).unwrap();
        assert!(read(&template, &format!("{line}{ROOM}")).is_some());
        for (from, to) in [
            ("app_id", "app-id"),
            (":\"a\"", ":\"a\\n\""),
            (":\"a\"", ":\"\\\""),
            ("29T", "30T"),
            ("12.75", "-12.75"),
            ("12.75", "12."),
            ("12.75", "012"),
            ("12.75", "1e2"),
            ("12.75", "\"12.75\""),
            ("}", ",\"x\":1}"),
            ("\n", " \n"),
        ] {
            let other = line.replacen(from, to, 1);
            assert_ne!(other, line);
            assert_eq!(read(&template, &format!("{other}{ROOM}")), None, "{other}");
        }
        assert_eq!(read(&template, line), None, "near the end");
        assert!(learn(&line.replace("{", &format!("{{\"x\":\"{}\",", "y".repeat(40)))).is_none(), "too long to learn");
    }

    proptest! {
        #[test]
        fn the_next_quote_is_found_unless_a_backslash_comes_first(
            text in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b'!'), Just(b'#'), Just(0xa2), any::<u8>()], 0..40),
        ) {
            let padded = [&text[..], b"\"       "].concat();
            let special = padded.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap();
            prop_assert_eq!(quoted_length(&padded), (padded[special] == b'"').then_some(special));
        }
    }
}
