//! A quantile is within the stated relative accuracy of the value of its rank.
//!
//! Source: docs/guarantees.md, "Numbers"; Masson, Rim and Lee, "DDSketch", VLDB 2019, section 2.

use super::Violation;
use crate::answer::{Hour, ms};

/// All quantiles of an answer fit these values, which are sorted.
pub fn quantiles_bounded(place: &str, answer: &Hour, sorted: &[u64]) -> Result<(), Violation> {
    for (q, value) in &answer.quantiles {
        let rank = (q * (sorted.len() - 1) as f64) as usize;
        let truth = ms(u128::from(sorted[rank]));
        if (value - truth).abs() > answer.relative_accuracy * truth * (1.0 + 1e-9) {
            let bound = answer.relative_accuracy;
            let detail = format!("{place}: quantile {q} is {value}, must be within {bound} of {truth}");
            return Err(Violation::new("quantiles-bounded", detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_beyond_its_bound_is_seen() {
        let answer = |value| Hour {
            hour: 1,
            count: 3,
            revision: 1,
            late: 0,
            sum_ms: 0.0,
            min_ms: 1.0,
            max_ms: 9.0,
            relative_accuracy: 0.01,
            quantiles: vec![(0.5, value)],
        };
        let sorted = [1_000_000, 5_000_000, 9_000_000];
        quantiles_bounded("", &answer(5.04), &sorted).unwrap();
        assert!(quantiles_bounded("", &answer(5.06), &sorted).is_err());
    }
}
