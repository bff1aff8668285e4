//! What clients were told, and so what the cluster must answer in the end.
//!
//! A request that was acked counts exactly once. One whose outcome its client never learned is *unknown*: it counts once
//! or not at all. Such a request has an app of its own, so that the answers show which of the two it was.

use std::collections::BTreeMap;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u128 = 1_000_000;

/// An app and an hour (hours since the Unix epoch).
pub type Key = (String, u64);

/// The events of one request: app, time in ms since the epoch, response time in ns.
pub type Events = Vec<(String, u64, u64)>;

/// The numbers of one app and hour, computed plainly.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    values: Vec<u64>,
}

/// What clients know.
#[derive(Debug, Default)]
pub struct Oracle {
    acked: BTreeMap<Key, Truth>,
    unknown: BTreeMap<Key, Truth>,
    acked_events: u64,
}

impl Oracle {
    /// A request was answered: all its events count.
    pub fn acked(&mut self, events: &Events) {
        self.acked_events += events.len() as u64;
        add(&mut self.acked, events);
    }

    /// A request was sent and never answered: its events count once or not at all.
    pub fn unknown(&mut self, events: &Events) {
        add(&mut self.unknown, events);
    }

    /// How many events were acked.
    pub fn acked_events(&self) -> u64 {
        self.acked_events
    }

    /// Everything that must be answered.
    pub fn acked_truths(&self) -> impl Iterator<Item = (&Key, &Truth)> {
        self.acked.iter()
    }

    /// Everything that may be answered.
    pub fn unknown_truths(&self) -> impl Iterator<Item = (&Key, &Truth)> {
        self.unknown.iter()
    }
}

impl Truth {
    /// Compares with an answer about the hour; says what differs.
    pub fn check(&self, answer: &serde_json::Value) -> Result<(), String> {
        let mut values = self.values.clone();
        values.sort_unstable();
        let number = |name: &str| answer[name].as_f64().ok_or_else(|| format!("no number {name} in {answer}"));
        let same = |name: &str, truth: f64| match number(name)? {
            found if found == truth => Ok(()),
            found => Err(format!("{name} is {found}, must be {truth}")),
        };
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        same("count", values.len() as f64)?;
        same("sum_ms", ms(sum))?;
        same("min_ms", ms(u128::from(values[0])))?;
        same("max_ms", ms(u128::from(values[values.len() - 1])))?;
        let accuracy = number("relative_accuracy")?;
        for quantile in answer["quantiles"].as_array().ok_or("no quantiles")? {
            let q = quantile["q"].as_f64().ok_or("a quantile without q")?;
            let value = quantile["value_ms"].as_f64().ok_or("a quantile without value_ms")?;
            let truth = ms(u128::from(values[(q * (values.len() - 1) as f64) as usize]));
            if (value - truth).abs() > accuracy * truth * (1.0 + 1e-9) {
                return Err(format!("quantile {q} is {value}, must be within {accuracy} of {truth}"));
            }
        }
        Ok(())
    }
}

/// The double nearest to so many nanoseconds in milliseconds.
fn ms(ns: u128) -> f64 {
    format!("{}.{:06}", ns / NS_PER_MS, ns % NS_PER_MS).parse().expect("digits, a point and digits are a number")
}

fn add(truths: &mut BTreeMap<Key, Truth>, events: &Events) {
    for (app, time, value) in events {
        truths.entry((app.clone(), time / 3_600_000)).or_default().values.push(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn oracle() -> Oracle {
        let mut oracle = Oracle::default();
        oracle.acked(&vec![("a".to_owned(), 5, 1_000_000), ("a".to_owned(), 7, 3_500_000)]);
        oracle
    }

    fn answer() -> serde_json::Value {
        json!({"count": 2, "sum_ms": 4.5, "min_ms": 1.0, "max_ms": 3.5, "relative_accuracy": 0.01,
               "quantiles": [{"q": 0.5, "value_ms": 1.005}]})
    }

    #[test]
    fn right_answer_passes_and_each_wrong_number_is_seen() {
        let oracle = oracle();
        let (_, truth) = oracle.acked_truths().next().unwrap();
        assert_eq!(truth.check(&answer()), Ok(()));
        for (name, wrong) in [("count", 3.0), ("sum_ms", 4.500_001), ("min_ms", 0.9), ("max_ms", 3.6)] {
            let mut spoiled = answer();
            spoiled[name] = json!(wrong);
            assert!(truth.check(&spoiled).is_err(), "{name}");
        }
        let mut spoiled = answer();
        spoiled["quantiles"][0]["value_ms"] = json!(1.02);
        assert!(truth.check(&spoiled).is_err(), "quantile");
    }
}
