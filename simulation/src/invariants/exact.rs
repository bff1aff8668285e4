//! Count, sum, minimum and maximum are exact: compared with `==`.
//!
//! Source: docs/guarantees.md, "Numbers".

use super::Violation;
use crate::answer::{Hour, ms};
use crate::oracle::Tally;

/// An answer has exactly these numbers.
pub fn exact(place: &str, answer: &Hour, truth: &Tally) -> Result<(), Violation> {
    let pairs = [
        ("count", answer.count as f64, truth.count as f64),
        ("sum_ms", answer.sum_ms, ms(truth.sum)),
        ("min_ms", answer.min_ms, ms(u128::from(truth.min))),
        ("max_ms", answer.max_ms, ms(u128::from(truth.max))),
    ];
    match pairs.into_iter().find(|(_, found, truth)| found != truth) {
        None => Ok(()),
        Some((name, found, truth)) => {
            Err(Violation::new("exact-numbers", format!("{place}: {name} is {found}, must be {truth}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_number_is_seen() {
        let mut truth = Tally::default();
        truth.add(1_000_000);
        truth.add(3_500_000);
        let right = Hour {
            hour: 1,
            count: 2,
            revision: 1,
            late: 0,
            sum_ms: 4.5,
            min_ms: 1.0,
            max_ms: 3.5,
            relative_accuracy: 0.01,
            quantiles: Vec::new(),
        };
        exact("", &right, &truth).unwrap();
        assert!(exact("", &Hour { count: 3, ..right.clone() }, &truth).is_err());
        assert!(exact("", &Hour { sum_ms: 4.500_001, ..right.clone() }, &truth).is_err());
        assert!(exact("", &Hour { min_ms: 0.9, ..right.clone() }, &truth).is_err());
        assert!(exact("", &Hour { max_ms: 3.6, ..right }, &truth).is_err());
    }
}
