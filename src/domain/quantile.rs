//! Quantiles: 0..=1, and the rank they stand for.

use serde::{Deserialize, Serialize};

/// A quantile, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Quantile(f64);

impl Quantile {
    /// The median.
    pub const MEDIAN: Quantile = Quantile(0.5);

    /// Checks that `value` is a number from 0 to 1.
    pub fn new(value: f64) -> Option<Quantile> {
        // Adding zero makes a plain zero of the negative one, which would be shown as `-0`.
        (0.0..=1.0).contains(&value).then_some(Quantile(value + 0.0))
    }

    /// Its number.
    pub fn value(self) -> f64 {
        self.0
    }

    /// The rank, from 0 in sorted order, of the value it stands for among `count` (at least 1): `floor(q * (count - 1))`.
    pub fn rank(self, count: u64) -> u64 {
        ((self.0 * count.saturating_sub(1) as f64) as u64).min(count.saturating_sub(1))
    }
}

impl TryFrom<f64> for Quantile {
    type Error = &'static str;
    fn try_from(value: f64) -> Result<Quantile, &'static str> {
        Quantile::new(value).ok_or("a quantile is a number from 0 to 1")
    }
}

impl From<Quantile> for f64 {
    fn from(quantile: Quantile) -> f64 {
        quantile.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_zero_to_one_are_quantiles() {
        for value in [0.0, 0.5, 1.0, f64::MIN_POSITIVE] {
            assert_eq!(Quantile::new(value).map(Quantile::value), Some(value));
        }
        assert!(Quantile::new(-0.0).unwrap().value().is_sign_positive());
        for value in [-0.1, 1.000_000_1, f64::NAN, f64::INFINITY] {
            assert_eq!(Quantile::new(value), None);
            assert!(postcard::from_bytes::<Quantile>(&value.to_le_bytes()).is_err());
        }
    }

    #[test]
    fn ranks_are_floored_and_stay_below_the_count() {
        let rank = |q: f64, count| Quantile::new(q).unwrap().rank(count);
        assert_eq!([rank(0.0, 1), rank(1.0, 1), rank(0.5, 2), rank(0.5, 3), rank(0.5, 4)], [0, 0, 0, 1, 1]);
        assert_eq!([rank(0.9, 11), rank(0.99, 101), rank(1.0, 101), rank(0.999, 10)], [9, 99, 100, 8]);
        assert_eq!(rank(1.0, u64::MAX), u64::MAX - 1);
    }
}
