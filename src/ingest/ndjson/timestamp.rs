//! RFC 3339 text, or integer text, to milliseconds since the Unix epoch.

use crate::domain::{EventTime, civil_from_days, days_from_civil, days_in_month};
use crate::ingest::Reason;

const SECONDS_PER_DAY: i64 = 86_400;

/// Remembers the minute of the last timestamp: neighbours mostly share it, and the calendar is then not needed.
#[derive(Debug, Default)]
pub(super) struct Minute {
    /// `YYYY-MM-DDThh:mm` of a valid UTC time.
    prefix: Option<[u8; 16]>,
    start_ms: u64,
}

impl Minute {
    /// [`rfc3339`], faster for UTC times of the remembered minute.
    #[inline]
    pub(super) fn rfc3339(&mut self, text: &[u8]) -> Result<u64, Reason> {
        if let Some((prefix, within)) = text.split_first_chunk::<16>()
            && let Some(within_ms) = utc_within_minute(within)
        {
            if self.prefix.as_ref() != Some(prefix) {
                let time_ms = rfc3339(text)?;
                *self = Minute { prefix: Some(*prefix), start_ms: time_ms - within_ms };
            }
            return Ok(self.start_ms + within_ms);
        }
        rfc3339(text)
    }
}

/// Remembers the day of the last `YYYY-MM-DDThh:mm:ss.mmmZ`, the form that most programs write: the rest of it is digits
/// at known places.
#[derive(Debug, Default)]
pub(super) struct Day {
    /// The words that hold `YYYY-MM-DDT`.
    words: Option<[u64; 2]>,
    start_ms: u64,
    minute: Minute,
}

impl Day {
    /// The time in quotes whose opening one stands before `text`, and its text's end, the closing quote; `None` for what
    /// [`rfc3339`] refuses.
    #[inline]
    pub(super) fn rfc3339<'a>(&mut self, text: &'a [u8]) -> Option<(u64, &'a [u8])> {
        if let Some((time, rest)) = text.split_first_chunk::<24>()
            && let Some((words, within_ms)) = within_day(time)
        {
            if self.words != Some(words) {
                let time_ms = rfc3339(time).ok()?;
                *self = Day { words: Some(words), start_ms: time_ms - within_ms, minute: Minute::default() };
            }
            return Some((self.start_ms + within_ms, rest));
        }
        let length = text.iter().take(64).position(|byte| *byte == b'"')?;
        let (time, rest) = text.split_at(length);
        Some((self.minute.rfc3339(time).ok()?, rest))
    }
}

/// The first eleven bytes as two words, and the milliseconds within the day, of a text of the form
/// `YYYY-MM-DDThh:mm:ss.mmmZ`. Year, month and day are not looked at. `None` for any other form, and second 60.
#[inline]
fn within_day(time: &[u8; 24]) -> Option<([u64; 2], u64)> {
    const DATE: u64 = 0x0000_0000_00ff_ffff;
    let (eights, _) = time.as_chunks::<8>();
    let word = |i: usize| u64::from_le_bytes(eights[i]);
    let (date, hours, seconds) = (word(0), word(1), word(2));
    // "DDThh:mm" and ":ss.mmmZ": marks where they belong, digits everywhere else.
    let hours_marks = u64::from_le_bytes([0, 0, 0, 0, 0, b':', 0, 0]);
    let seconds_marks = u64::from_le_bytes([b':', 0, 0, b'.', 0, 0, 0, b'Z']);
    let hours_digits = hours ^ (hours_marks | u64::from_le_bytes([0, 0, 0, b'0', b'0', 0, b'0', b'0']));
    let seconds_digits = seconds ^ (seconds_marks | u64::from_le_bytes([0, b'0', b'0', 0, b'0', b'0', b'0', 0]));
    let hours_digits = hours_digits & !DATE;
    let digits_max = u64::from_le_bytes([0, 0, 0, 2, 9, 0, 5, 9]);
    let seconds_max = u64::from_le_bytes([0, 5, 9, 0, 9, 9, 9, 0]);
    let digit = |word: u64, at: u32| (word >> (8 * at)) & 0xff;
    let hour = digit(hours_digits, 3) * 10 + digit(hours_digits, 4);
    if !is_at_most(hours_digits, digits_max) || !is_at_most(seconds_digits, seconds_max) || hour > 23 {
        return None;
    }
    let minute = digit(hours_digits, 6) * 10 + digit(hours_digits, 7);
    let second = digit(seconds_digits, 1) * 10 + digit(seconds_digits, 2);
    let ms = digit(seconds_digits, 4) * 100 + digit(seconds_digits, 5) * 10 + digit(seconds_digits, 6);
    Some(([date, hours & DATE], ((hour * 60 + minute) * 60 + second) * 1000 + ms))
}

/// Whether each byte of `word` is at most that of `most`, whose bytes are below 0x80.
#[inline]
fn is_at_most(word: u64, most: u64) -> bool {
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    // With the highest bit set in each byte of the minuend no byte borrows from its neighbour.
    let differences = (most | HIGHS).wrapping_sub(word & !HIGHS);
    (word & HIGHS) == 0 && differences & HIGHS == HIGHS
}

/// The milliseconds of `:ss[.digits]Z`; `None` for second 60, another zone or anything malformed.
#[inline]
fn utc_within_minute(text: &[u8]) -> Option<u64> {
    let [b':', tens @ b'0'..=b'5', ones @ b'0'..=b'9', fraction @ ..] = text else { return None };
    let (fraction_ms, zone) = fraction_ms(fraction)?;
    let seconds = u64::from(tens - b'0') * 10 + u64::from(ones - b'0');
    matches!(zone, [b'Z' | b'z']).then_some(seconds * 1000 + fraction_ms)
}

/// The milliseconds of an optional `.digits`, cut, and what follows it; `None` for a point without digits.
#[inline]
fn fraction_ms(text: &[u8]) -> Option<(u64, &[u8])> {
    let [b'.', fraction @ ..] = text else { return Some((0, text)) };
    let (mut value, mut weight, mut rest) = (0, 100, fraction);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        value += u64::from(digit - b'0') * weight;
        weight /= 10;
        rest = after;
    }
    (rest.len() < fraction.len()).then_some((value, rest))
}

/// Reads `YYYY-MM-DDThh:mm:ss[.digits](Z|±hh:mm)`; fractions of a millisecond are cut. A space may stand for the `T`, as
/// the RFC permits.
///
/// Second 60 is taken only in the last minute of a UTC day and counts as second 59, so that it stays within its hour.
/// Errors: `bad_timestamp` for what is no time (or, in UTC, in no year from 1 to 9999), then `timestamp_out_of_range`.
pub(super) fn rfc3339(text: &[u8]) -> Result<u64, Reason> {
    let (seconds, fraction_ms) = utc(text).ok_or(Reason::BadTimestamp)?;
    let seconds = u64::try_from(seconds).map_err(|_| Reason::TimestampOutOfRange)?;
    in_range(seconds * 1000 + fraction_ms).ok_or(Reason::TimestampOutOfRange)
}

fn in_range(time_ms: u64) -> Option<u64> {
    (time_ms < EventTime::end().0).then_some(time_ms)
}

/// Seconds since the epoch and milliseconds within the second.
fn utc(text: &[u8]) -> Option<(i64, u64)> {
    let (year, rest) = text.split_first_chunk::<4>()?;
    let (date_and_time, rest) = rest.split_first_chunk::<15>()?;
    let [b'-', m0, m1, b'-', d0, d1, b'T' | b't' | b' ', h0, h1, b':', n0, n1, b':', s0, s1] = *date_and_time else {
        return None;
    };
    let (year, month, day) = (i64::from(number(year)?), number(&[m0, m1])?, number(&[d0, d1])?);
    let (hour, minute, second) = (number(&[h0, h1])?, number(&[n0, n1])?, number(&[s0, s1])?);
    let is_date = year >= 1 && (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ms, zone) = fraction_ms(rest)?;
    let second_of_day = i64::from(hour * 3600 + minute * 60 + second.min(59));
    let seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY + second_of_day - offset_seconds(zone)?;
    let (utc_year, _, _) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let is_last_minute = seconds.rem_euclid(SECONDS_PER_DAY) >= SECONDS_PER_DAY - 60;
    ((1..=9999).contains(&utc_year) && (second < 60 || is_last_minute)).then_some((seconds, fraction_ms))
}

/// East of UTC is positive.
fn offset_seconds(zone: &[u8]) -> Option<i64> {
    match zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (number(&[*h0, *h1])?, number(&[*m0, *m1])?);
            let seconds = i64::from(hours * 3600 + minutes * 60);
            (hours <= 23 && minutes <= 59).then_some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// ASCII digits only.
fn number<const DIGITS: usize>(digits: &[u8; DIGITS]) -> Option<u32> {
    const { assert!(DIGITS <= 4) };
    digits.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0')))
}

/// Reads a JSON number that must be an integer of milliseconds since the epoch.
///
/// `number` must be valid JSON. Errors: `bad_timestamp` for a fraction or an exponent, then `timestamp_out_of_range`.
pub(super) fn epoch_ms(number: &str) -> Result<u64, Reason> {
    if number.contains(['.', 'e', 'E']) {
        return Err(Reason::BadTimestamp);
    }
    let digits = if number == "-0" { "0" } else { number };
    digits.parse().ok().and_then(in_range).ok_or(Reason::TimestampOutOfRange)
}

/// The integer of milliseconds since the epoch at the start of `text` and what follows it; `None` for anything but 1 to
/// 15 digits within the range.
#[inline]
pub(super) fn usual_epoch_ms(text: &[u8]) -> Option<(u64, &[u8])> {
    let (mut time_ms, mut rest) = (0, text);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        time_ms = u64::wrapping_add(u64::wrapping_mul(time_ms, 10), u64::from(digit - b'0'));
        rest = after;
    }
    let digits = text.len() - rest.len();
    let is_usual = (1..=15).contains(&digits)
        && (text[0] != b'0' || digits == 1)
        && !matches!(rest.first(), Some(b'.' | b'e' | b'E'));
    if is_usual { in_range(time_ms).map(|time_ms| (time_ms, rest)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hour(text: &str) -> Result<u64, Reason> {
        rfc3339(text.as_bytes()).map(|time_ms| time_ms / 3_600_000)
    }

    #[test]
    fn known_times_are_read() {
        assert_eq!(rfc3339(b"1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(rfc3339(b"2024-02-29T12:00:00.5Z"), Ok(1_709_208_000_500));
        assert_eq!(rfc3339(b"2026-11-22T20:15:03.1239999999Z"), Ok(1_795_378_503_123));
        assert_eq!(rfc3339(b"2261-12-31T23:59:59.999999Z"), Ok(9_214_646_399_999));
        assert_eq!(rfc3339(b"2024-02-29t12:00:00z"), rfc3339(b"2024-02-29 12:00:00-00:00"));
    }

    #[test]
    fn the_utc_hour_counts() {
        assert_eq!(hour("2024-02-29T05:29:59+05:30"), hour("2024-02-28T23:59:59Z"));
        assert_eq!(hour("2024-01-01T00:30:00+01:00"), hour("2023-12-31T23:30:00Z"));
        assert_eq!(hour("2024-02-29T12:30:00-12:00"), hour("2024-03-01T00:30:00Z"));
        assert_eq!(hour("2016-12-31T23:59:60.9Z"), hour("2016-12-31T23:00:00Z"));
        assert_eq!(hour("2017-01-01T00:59:60+01:00"), hour("2016-12-31T23:00:00Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2024-02-29",
            "2024-02-29T12:00:00",
            "1709164800",
            "2024-13-01T00:00:00Z",
            "2023-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "2024-02-29T24:00:00Z",
            "2024-02-29T12:60:00Z",
            "2024-02-29T12:00:61Z",
            "2024-02-00T12:00:00Z",
            "2024-02-29T12:00:00+24:00",
            "2024-02-29T12:00:00+05:60",
            "2024-02-29T12:00:00+5:30",
            "2024-02-29T12:00:00+0530",
            "12024-02-29T12:00:00Z",
            "-0001-02-28T12:00:00Z",
            "2024-02-29T12:00:00Zx",
            "2024-02-29T12:00:60Z",
            "2024-02-29T12:00:00.Z",
            "2024-02-29T12:00:00,5Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59-00:01",
            "0001-01-01T00:00:00+00:01",
            "+024-02-29T12:00:00Z",
            "2024-02-29T12:00:00.5",
            "2024-02-29T1\u{662}:00:00Z",
        ] {
            assert_eq!(rfc3339(text.as_bytes()), Err(Reason::BadTimestamp), "{text}");
        }
        for text in ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z", "2262-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
        {
            assert_eq!(rfc3339(text.as_bytes()), Err(Reason::TimestampOutOfRange), "{text}");
        }
        assert_eq!(rfc3339(b"2262-01-01T00:00:00+00:01"), Ok(9_214_646_340_000));
    }

    #[test]
    fn integers_are_milliseconds() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("1709164800000", Ok(1_709_164_800_000)),
            ("-1", Err(Reason::TimestampOutOfRange)),
            ("9214646400000", Err(Reason::TimestampOutOfRange)),
            ("99999999999999999999999999", Err(Reason::TimestampOutOfRange)),
            ("1.0", Err(Reason::BadTimestamp)),
            ("1e12", Err(Reason::BadTimestamp)),
        ] {
            assert_eq!(epoch_ms(text), expected, "{text}");
        }
        assert_eq!(usual_epoch_ms(b"1709164800000,"), Some((1_709_164_800_000, &b","[..])));
        for text in ["", "-1", "01", "1.0", "1e12", "9214646400000", "10000000000000000000000000"] {
            assert_eq!(usual_epoch_ms(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_remembered_day_changes_nothing(
            texts in prop::collection::vec(
                "(2023-12-31|2024-02-29|1969-12-31|2024-02-30|0000-00-00)[Tt ](23:59|00:00|24:00|19:60|1::00|2/:10):(00|59|60|6x|5:)(\\.[0-9]{3}|\\.[0-9]{0,10}|\\.12:|)(Z|z|[+-]00:30|)",
                1..20,
            ),
        ) {
            let mut day = Day::default();
            for text in texts {
                let quoted = format!("{text}\"}}\n");
                let expected = rfc3339(text.as_bytes()).ok();
                let read = day.rfc3339(quoted.as_bytes()).map(|(time_ms, rest)| {
                    assert_eq!(rest, b"\"}\n");
                    time_ms
                });
                prop_assert_eq!(read, expected, "{}", text);
            }
        }

        #[test]
        fn the_remembered_minute_changes_nothing(
            texts in prop::collection::vec(
                "(2023-12-31|2024-02-29|1969-12-31|2024-02-30)[Tt ](23:59|00:00|24:00):(00|59|60|6x)(\\.[0-9]{0,10})?(Z|z|[+-]00:30|)",
                1..20,
            ),
        ) {
            let mut minute = Minute::default();
            for text in texts {
                prop_assert_eq!(minute.rfc3339(text.as_bytes()), rfc3339(text.as_bytes()), "{}", text);
            }
        }
    }
}
