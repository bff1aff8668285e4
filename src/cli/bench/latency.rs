//! Latencies: every one is kept, so every quantile is exact.

use std::time::Duration;

/// Latencies of requests.
#[derive(Debug, Default)]
pub struct Latencies {
    microseconds: Vec<u32>,
}

/// Quantiles of latencies in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// The median.
    pub p50_ms: f64,
    /// 9 of 10 are not above it.
    pub p90_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1000.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.microseconds.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds all of `other`.
    pub fn append(&mut self, mut other: Latencies) {
        self.microseconds.append(&mut other.microseconds);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.microseconds.len()
    }

    /// Their quantiles: the smallest latency that so many are not above. Zero if there is none.
    pub fn summary(&mut self) -> Summary {
        self.microseconds.sort_unstable();
        let last = self.microseconds.len().saturating_sub(1);
        let at = |quantile: f64| {
            let rank = ((quantile * self.microseconds.len() as f64).ceil() as usize).saturating_sub(1);
            self.microseconds.get(rank.min(last)).map_or(0.0, |value| f64::from(*value) / 1000.0)
        };
        Summary { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), Summary::default());
        (1..=1000).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let summary = latencies.summary();
        assert_eq!([summary.p50_ms, summary.p99_ms, summary.p999_ms, summary.max_ms], [500.0, 990.0, 999.0, 1000.0]);
    }
}
