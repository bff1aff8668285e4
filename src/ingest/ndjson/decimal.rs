//! Decimal text to whole nanoseconds, without a float in between.

use crate::domain::ResponseTime;
use crate::ingest::Reason;

const NANOSECONDS_MAX: u64 = ResponseTime::MAX.0;
/// Decimal digits of the longest response time.
const DIGITS_MAX: i64 = 18;
/// A millisecond has 10^6 nanoseconds.
const EXPONENT_NANOSECONDS: i64 = 6;
const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// The value of a usual JSON number of milliseconds at the start of `text`, as nanoseconds, and what follows it.
///
/// Usual: no sign, no exponent, at most 19 digits. `None` for everything else, valid or not, and for what is out of range.
#[inline]
pub(super) fn usual(text: &[u8]) -> Option<(u64, &[u8])> {
    let (whole, rest) = digits(text, 0);
    let whole_digits = text.len() - rest.len();
    if whole_digits == 0 || (text[0] == b'0' && whole_digits > 1) {
        return None;
    }
    let (mantissa, fraction_digits, rest) = match rest {
        [b'.', fraction @ ..] => {
            let (mantissa, rest) = digits(fraction, whole);
            (mantissa, fraction.len() - rest.len(), rest)
        }
        _ => (whole, 0, rest),
    };
    let is_bare_point = rest.len() + whole_digits != text.len() && fraction_digits == 0;
    if is_bare_point || whole_digits + fraction_digits > 19 || matches!(rest.first(), Some(b'e' | b'E')) {
        return None;
    }
    let nanoseconds = if fraction_digits <= 6 {
        mantissa.checked_mul(POWERS[6 - fraction_digits])?
    } else {
        let unit = POWERS[fraction_digits - 6];
        round_half_even(mantissa / unit, (mantissa % unit).cmp(&(unit / 2)), mantissa.is_multiple_of(unit))?
    };
    (nanoseconds <= NANOSECONDS_MAX).then_some((nanoseconds, rest))
}

/// [`usual`] for numbers that end within eight bytes, their end included, such as `1234.56}`; those need no loop.
#[inline]
pub(super) fn quick(text: &[u8]) -> Option<(u64, &[u8])> {
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let Some(eight) = text.first_chunk::<8>() else { return usual(text) };
    let digits = u64::from_le_bytes(*eight) ^ u64::from_le_bytes([b'0'; 8]);
    // The highest bit of each byte that is no digit.
    let others = (((digits & !HIGHS) + u64::from_le_bytes([0x76; 8])) | digits) & HIGHS;
    let whole_digits = others.trailing_zeros() / 8;
    let (packed, length, fraction_digits) = match eight.get(whole_digits as usize) {
        Some(b'.') => {
            let end = (others & (others - 1)).trailing_zeros() / 8;
            let low = (1u64 << (8 * whole_digits)) - 1;
            ((digits & low) | ((digits >> 8) & !low), end, end.wrapping_sub(whole_digits + 1))
        }
        _ => (digits, whole_digits, 0),
    };
    let is_quick = whole_digits > 0 && length < 8 && (length == whole_digits || fraction_digits > 0);
    if !is_quick || (eight[0] == b'0' && whole_digits > 1) || matches!(eight[length as usize], b'e' | b'E') {
        return usual(text);
    }
    let mantissa = eight_digits(packed << (8 * (8 - (whole_digits + fraction_digits))));
    Some((mantissa * POWERS[6 - fraction_digits as usize], &text[length as usize..]))
}

/// The value of eight digits, the first in the lowest byte; each byte is 0 to 9.
#[inline]
fn eight_digits(digits: u64) -> u64 {
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

/// Appends the leading digits of `text` to `mantissa` (wrapping; the caller bounds their number); what follows them.
#[inline]
fn digits(text: &[u8], mut mantissa: u64) -> (u64, &[u8]) {
    let mut rest = text;
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = after;
    }
    (mantissa, rest)
}

/// `whole` and a remainder, given by how it compares to a half, as one number; `None` beyond the longest response time.
#[inline]
fn round_half_even(whole: u64, to_half: std::cmp::Ordering, is_exact: bool) -> Option<u64> {
    if whole > NANOSECONDS_MAX || (whole == NANOSECONDS_MAX && !is_exact) {
        return None;
    }
    Some(match to_half {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Equal => whole + whole % 2,
        std::cmp::Ordering::Greater => whole + 1,
    })
}

/// The value of a JSON number of milliseconds, of any length and exponent, as nanoseconds, half to even.
///
/// `number` must be valid JSON (asserted by use: it comes from a JSON parser). Errors: out of range, then negative;
/// both are decided on the exact value, before rounding. `-0` is 0.
pub(super) fn nanoseconds(number: &str) -> Result<u64, Reason> {
    let (is_negative, unsigned) = match number.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, number),
    };
    let (decimal, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let significant = || whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0');
    let significant_digits = length(significant().count());
    if significant_digits == 0 {
        return Ok(0);
    }
    // The value is the significant digits, a point before the first one, times ten to this power.
    let power = saturating_exponent(exponent)
        .saturating_add(EXPONENT_NANOSECONDS)
        .saturating_sub(length(fraction.len()))
        .saturating_add(significant_digits);
    if power > DIGITS_MAX {
        return Err(Reason::ResponseTimeOutOfRange);
    }
    let value = whole_nanoseconds(significant(), power).ok_or(Reason::ResponseTimeOutOfRange)?;
    if is_negative { Err(Reason::Negative) } else { Ok(value) }
}

/// `0.DIGITS` times ten to `power`, half to even.
fn whole_nanoseconds(mut digits: impl Iterator<Item = u8>, power: i64) -> Option<u64> {
    if power < 0 {
        return Some(0);
    }
    let whole = (0..power).fold(0, |whole, _| whole * 10 + u64::from(digits.next().unwrap_or(b'0') - b'0'));
    let tenth = digits.next().unwrap_or(b'0');
    let is_tail_zero = digits.all(|digit| digit == b'0');
    let to_half =
        tenth.cmp(&b'5').then(if is_tail_zero { std::cmp::Ordering::Equal } else { std::cmp::Ordering::Greater });
    round_half_even(whole, to_half, tenth == b'0' && is_tail_zero)
}

/// The exponent's value; beyond ±10^15, which no line is long enough to make up for, it no longer matters.
fn saturating_exponent(exponent: &str) -> i64 {
    const LIMIT: i64 = 1_000_000_000_000_000;
    let (is_negative, digits) = match exponent.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let value = digits.iter().fold(0_i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(LIMIT));
    if is_negative { -value } else { value }
}

fn length(count: usize) -> i64 {
    i64::try_from(count).expect("a line is at most 1 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimal_text_becomes_whole_nanoseconds() {
        for (text, expected) in [
            ("0", 0),
            ("0.0", 0),
            ("-0", 0),
            ("-0.000e5", 0),
            ("12.75", 12_750_000),
            ("43.428000000000004", 43_428_000),
            ("1.25E+1", 12_500_000),
            ("12500e-3", 12_500_000),
            ("0.0000005", 0),
            ("0.0000015", 2),
            ("0.00000050000000000000000000000000000000001", 1),
            ("2.0000005", 2_000_000),
            ("2.0000015", 2_000_002),
            ("0.00000049999999999999999999999999999999999", 0),
            ("5e-324", 0),
            ("1e-400", 0),
            ("1e-99999999999999999999999", 0),
            ("0e99999999999999999999999", 0),
            ("100000000000", NANOSECONDS_MAX),
            ("1e11", NANOSECONDS_MAX),
            ("100000000000.0000000000000000000000000", NANOSECONDS_MAX),
            ("99999999999.99999999999999999999999999", NANOSECONDS_MAX),
        ] {
            assert_eq!(nanoseconds(text), Ok(expected), "{text}");
        }
        assert_eq!(nanoseconds(&format!("12.{}", "3".repeat(300))), Ok(12_333_333));
        assert_eq!(nanoseconds(&format!("{}e-299", "1".repeat(300))), Ok(1_111_111));
    }

    #[test]
    fn beyond_the_range_is_refused_before_the_sign_is_looked_at() {
        for text in ["1e400", "-1e400", "1e99999999999999999999", "100000000000.0000000001", "100000000001", "-1e12"] {
            assert_eq!(nanoseconds(text), Err(Reason::ResponseTimeOutOfRange), "{text}");
        }
        for text in ["-0.001", "-250", "-1e-9", "-1e11"] {
            assert_eq!(nanoseconds(text), Err(Reason::Negative), "{text}");
        }
    }

    #[test]
    fn unusual_numbers_are_left_to_the_exact_path() {
        for text in ["", "-1", "+1", "01", "1.", ".5", "1e3", "1.5E3", "12345678901234567890", "100000000000.1"] {
            assert_eq!(usual(text.as_bytes()), None, "{text}");
        }
        assert_eq!(usual(b"0,"), Some((0, &b","[..])));
        assert_eq!(usual(b"12.5}"), Some((12_500_000, &b"}"[..])));
    }

    proptest! {
        #[test]
        fn the_quick_path_reads_what_the_usual_one_reads(text in "[0-9.]{0,9}[0-9.eE,}+ -]{0,3}") {
            prop_assert_eq!(quick(text.as_bytes()), usual(text.as_bytes()), "{}", text);
        }

        #[test]
        fn both_paths_read_the_same_value(text in "(0|[1-9][0-9]{0,11})(\\.[0-9]{1,13})?") {
            if let Some((value, rest)) = usual(text.as_bytes()) {
                prop_assert_eq!(nanoseconds(&text), Ok(value));
                prop_assert!(rest.is_empty());
            }
        }
    }
}
