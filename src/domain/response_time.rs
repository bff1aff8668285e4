//! Response times as whole nanoseconds, and their exact way back to milliseconds.

use super::ratio;
use serde::{Deserialize, Serialize};

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// A response time: whole nanoseconds, 0 to [`ResponseTime::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ResponseTime(pub u64);

impl ResponseTime {
    /// The longest: 1e11 ms, about three years. Below it a sketch of 2,048 bins never has to give up bins.
    pub const MAX: ResponseTime = ResponseTime(100_000_000_000 * NS_PER_MS);

    /// Milliseconds, the double nearest to the exact value.
    pub fn as_ms(self) -> f64 {
        ms_from_ns(u128::from(self.0))
    }
}

/// Milliseconds of a number of nanoseconds: the double nearest to the exact quotient.
pub fn ms_from_ns(ns: u128) -> f64 {
    const EXACT_MAX: u128 = 1 << 53;
    if ns <= EXACT_MAX {
        // Both operands are exact, so the division rounds once.
        return ns as f64 / NS_PER_MS as f64;
    }
    ratio::nearest(ns, u128::from(NS_PER_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn milliseconds_are_what_the_decimal_text_says() {
        for text in ["12.75", "812.003", "0.000001", "99999999999.999999", "43.428", "1111119.6", "9007199254.740993"] {
            let (whole, fraction) = text.split_once('.').unwrap();
            let ns: u64 = format!("{whole}{fraction:0<6}").parse().unwrap();
            assert_eq!(ResponseTime(ns).as_ms(), text.parse::<f64>().unwrap(), "{text}");
        }
    }
    proptest! {
        #[test]
        fn any_sum_is_what_its_decimal_text_says(ns: u128) {
            let text = format!("{}.{:06}", ns / u128::from(NS_PER_MS), ns % u128::from(NS_PER_MS));
            prop_assert_eq!(ms_from_ns(ns), text.parse::<f64>().unwrap());
        }
    }
}
