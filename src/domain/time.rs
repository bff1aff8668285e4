//! Event time and the hours it falls into. All UTC.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Milliseconds in an hour.
pub const MS_PER_HOUR: u64 = 3_600_000;

/// First year after the last one that an event may lie in (rule R7).
pub const YEAR_END: i64 = 2262;

/// When an event happened: milliseconds since the Unix epoch, UTC, fractions of a millisecond cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct EventTime(pub u64);

/// An hour: whole hours since the Unix epoch, UTC. Its window is half-open, `start <= t < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hour(pub u32);

/// Which event times are taken, inclusive, besides the fixed years 1970 to 2261.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeLimits {
    /// Older events are refused.
    pub earliest: EventTime,
    /// Newer events are refused.
    pub latest: EventTime,
}

impl TimeLimits {
    /// Everything that the fixed years allow.
    pub const NONE: TimeLimits = TimeLimits { earliest: EventTime(0), latest: EventTime(u64::MAX) };
}

impl EventTime {
    /// The first moment behind all that is allowed: 2262-01-01T00:00:00Z.
    pub fn end() -> EventTime {
        EventTime(u64::try_from(days_from_civil(YEAR_END, 1, 1)).expect("2262 is after 1970") * 86_400_000)
    }

    /// The hour it falls into.
    pub fn hour(self) -> Hour {
        Hour(u32::try_from(self.0 / MS_PER_HOUR).unwrap_or(u32::MAX))
    }
}

impl Hour {
    /// The first moment of the hour.
    pub fn start(self) -> EventTime {
        EventTime(u64::from(self.0) * MS_PER_HOUR)
    }

    /// The first moment after the hour.
    pub fn end(self) -> EventTime {
        EventTime((u64::from(self.0) + 1) * MS_PER_HOUR)
    }

    /// Reads `2026-11-22T20`, an hour that events may lie in.
    pub fn parse(text: &str) -> Option<Hour> {
        Hour::parse_any(text).filter(|hour| hour.start() < EventTime::end())
    }

    fn parse_any(text: &str) -> Option<Hour> {
        let (date, hour) = text.split_once('T')?;
        let days = parse_date(date)?;
        let hour: u64 = digits(hour, 2)?;
        (hour < 24).then(|| u32::try_from(days * 24 + hour).ok().map(Hour))?
    }

    /// Reads a border of a range: RFC 3339, `YYYY-MM-DD` or `YYYY-MM-DDThh`; for a time inside an hour, that time.
    pub fn parse_border(text: &str) -> Option<EventTime> {
        if let Some(hour) = Hour::parse_any(text) {
            return Some(hour.start());
        }
        if let Some(days) = parse_date(text) {
            return Some(EventTime(days * 86_400_000));
        }
        let timestamp: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(timestamp.as_millisecond()).ok().map(EventTime)
    }

    /// The hours whose windows begin in `[from, to)`.
    pub fn between(from: EventTime, to: EventTime) -> Range<Hour> {
        let first = |time: EventTime| Hour(u32::try_from(time.0.div_ceil(MS_PER_HOUR)).unwrap_or(u32::MAX));
        first(from)..first(to)
    }
}

/// `2026-11-22T20:00:00Z`.
impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(i64::from(self.0 / 24));
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:00:00Z", self.0 % 24)
    }
}

/// `2026-11-22T20:15:03.123Z`.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(i64::try_from(self.0 / 86_400_000).unwrap_or(i64::MAX / 2));
        let ms = self.0 % 86_400_000;
        let (hour, minute, second) = (ms / MS_PER_HOUR, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    }
}

/// Days since the epoch of `YYYY-MM-DD`, a real date from 1970 on.
fn parse_date(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let is_in_range = year >= 1970 && (1..=12).contains(&month);
    let (year, month) = (i64::try_from(year).ok()?, u32::try_from(month).ok()?);
    let day = u32::try_from(day).ok()?;
    (is_in_range && (1..=days_in_month(year, month)).contains(&day))
        .then(|| u64::try_from(days_from_civil(year, month, day)).ok())?
}

/// The number that exactly `count` ASCII digits write.
fn digits(text: &str, count: usize) -> Option<u64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Whether a year of the Gregorian calendar has a 29 February.
pub fn is_leap_year(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days in a month (1 to 12) of the Gregorian calendar.
pub fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if is_leap_year(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar. Source: Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `days_from_civil`.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = u32::try_from(day_of_year - (153 * month_from_march + 2) / 5 + 1).expect("a day of a month");
    let month = u32::try_from((month_from_march + 2) % 12 + 1).expect("a month");
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_agree_with_jiff() {
        for days in (0..106_652).step_by(7) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
            let date = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(days);
            let theirs = (i64::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs());
            assert_eq!((year, month, day), (theirs.0, u32::from(theirs.1), u32::from(theirs.2)));
        }
    }

    #[test]
    fn hour_reads_and_writes_its_forms() {
        let hour = Hour::parse("2026-11-22T20").unwrap();
        assert_eq!(hour.to_string(), "2026-11-22T20:00:00Z");
        assert_eq!(hour.start().hour(), hour);
        assert_eq!(EventTime(hour.end().0 - 1).hour(), hour);
        for text in
            ["2026-11-22T24", "2026-02-29T00", "2026-11-22", "1969-12-31T23", "2262-01-01T00", "2026-1-22T20", ""]
        {
            assert_eq!(Hour::parse(text), None, "{text}");
        }
    }

    #[test]
    fn borders_take_three_forms() {
        let day = Hour::parse_border("2024-02-29").unwrap();
        assert_eq!(day.to_string(), "2024-02-29T00:00:00.000Z");
        assert_eq!(Hour::parse_border("2024-02-29T00"), Some(day));
        assert_eq!(Hour::parse_border("2024-02-29T01:00:00+01:00"), Some(day));
        for last in ["2262-01-01", "2262-01-01T00", "2262-01-01T00:00:00Z"] {
            assert_eq!(Hour::parse_border(last), Some(EventTime::end()));
        }
        assert_eq!(Hour::parse_border("yesterday"), None);
    }

    #[test]
    fn range_holds_the_hours_that_begin_in_it() {
        let hours = Hour::between(EventTime(1), EventTime(2 * MS_PER_HOUR));
        assert_eq!(hours, Hour(1)..Hour(2));
        let hours = Hour::between(EventTime(0), EventTime(2 * MS_PER_HOUR + 1));
        assert_eq!(hours, Hour(0)..Hour(3));
    }
}
