//! Durations and byte counts as people write them: `1h30m`, `250ms`, `16MiB`.

use std::time::Duration;

/// Suffixes of a duration and their length in nanoseconds, longest first.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Suffixes of a byte count and their size, largest first.
const BYTE_UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration: whole numbers, each with its unit, added up (`10m`, `1h30m`, `250ms`; a bare `0` needs no unit).
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ns: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let (_, unit_ns) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        total_ns = total_ns.checked_add(number.checked_mul(*unit_ns)?)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total_ns))
}

/// Writes a duration so that [`parse_duration`] reads it back, in the largest unit that divides it.
pub fn format_duration(duration: Duration) -> String {
    let total_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let (unit, unit_ns) = DURATION_UNITS
        .iter()
        .find(|(_, unit_ns)| total_ns >= *unit_ns && total_ns.is_multiple_of(*unit_ns))
        .unwrap_or(&("s", 1_000_000_000));
    format!("{}{unit}", total_ns / unit_ns)
}

/// Reads a byte count: a whole number with `KiB`, `MiB`, `GiB`, `B` or nothing behind it, a space between them or not.
pub fn parse_bytes(text: &str) -> Option<usize> {
    let (number, unit) = split_number(text)?;
    let unit = unit.trim_start();
    let (_, unit_bytes) =
        BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit) || unit.is_empty() && *name == "B")?;
    usize::try_from(number).ok()?.checked_mul(*unit_bytes)
}

/// Writes a byte count so that [`parse_bytes`] reads it back, in the largest unit that divides it.
pub fn format_bytes(bytes: usize) -> String {
    let (unit, unit_bytes) = BYTE_UNITS
        .iter()
        .find(|(_, unit_bytes)| bytes >= *unit_bytes && bytes.is_multiple_of(*unit_bytes))
        .unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / unit_bytes)
}

/// A leading whole number and what follows it.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_add_their_parts() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
    }

    #[test]
    fn durations_without_a_unit_or_with_nonsense_are_refused() {
        for text in ["", "10", "m", "10 m", "-1s", "1.5h", "10x", "99999999999999d", "off"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_take_binary_units_only() {
        assert_eq!(parse_bytes("16MiB"), Some(16 << 20));
        assert_eq!(parse_bytes("16 mib"), Some(16 << 20));
        assert_eq!(parse_bytes("4096"), Some(4096));
        for text in ["", "MiB", "1.5GiB", "-1", "10MB", "99999999999999999999"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_survive_writing_and_reading(ns in any::<u64>()) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn bytes_survive_writing_and_reading(bytes in any::<usize>()) {
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }
    }
}
