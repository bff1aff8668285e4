//! Quantiles: 0..=1, and the rank they stand for.

use serde::{Deserialize, Serialize};

/// A quantile, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Quantile(f64);

impl Quantile {
    /// The median.
    pub const MEDIAN: Quantile = Quantile(0.5);

    /// Checks that `value` is a number from 0 to 1.
    pub fn new(value: f64) -> Option<Quantile> {
        (0.0..=1.0).contains(&value).then_some(Quantile(value))
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
