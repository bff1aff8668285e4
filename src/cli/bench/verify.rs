//! After the load: every answer of the cluster against what was sent, exactly.

use super::drive::{Drive, Work};
use super::truth::{Expected, Truth};
use super::wire::Answer;
use crate::cli::failure::{Exit, Failure, Outcome};
use bytes::Bytes;
use hourmark::client::encode;
use hourmark::domain::Hour;
use serde::Deserialize;
use std::cell::RefCell;
use std::time::Duration;

/// Quantiles that are asked for.
const QUANTILES: &str = "0,0.5,0.9,0.99,1";

/// Differences that are told; the rest is counted.
const TOLD_MAX: usize = 5;

/// Hours asked for at once: the most that one page holds.
const HOURS_MAX: u32 = 10_000;

/// What was compared.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Rollups that are exactly what was sent.
    pub rollups: u64,
    /// Events in them.
    pub events: u64,
    /// Rollups that differ, are missing, or should not be there.
    pub wrong: u64,
    /// The first of those, in words.
    pub differences: Vec<String>,
}

/// Asks for all hours of all apps and compares.
pub async fn verify(drive: &Drive, apps: &[String], truth: Truth) -> Result<Verdict, Failure> {
    let mut questions = Vec::new();
    for app in 0..apps.len() {
        let mut hours = truth.hours(app);
        let Some(first) = hours.next() else { continue };
        let last = hours.last().unwrap_or(first);
        questions.extend((first.0..=last.0).step_by(HOURS_MAX as usize).map(|from| (app, Hour(from), last)));
    }
    let check = Check { apps, questions, state: RefCell::new((truth, Verdict::default())) };
    drive.run(&check, 0..check.questions.len(), None).await?;
    let (mut truth, mut verdict) = check.state.into_inner();
    for (app, name) in apps.iter().enumerate() {
        truth.take(app).into_iter().for_each(|(hour, _)| verdict.differ(name, hour, "is missing"));
    }
    Ok(verdict)
}

struct Check<'a> {
    apps: &'a [String],
    /// App, first hour of the page, last hour of the app.
    questions: Vec<(usize, Hour, Hour)>,
    state: RefCell<(Truth, Verdict)>,
}

#[derive(Deserialize)]
struct Page {
    hours: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    hour: String,
    count: u64,
    sum_ms: f64,
    average_ms: f64,
    min_ms: f64,
    max_ms: f64,
    quantiles: Vec<Quantile>,
    relative_accuracy: f64,
}

#[derive(Deserialize)]
struct Quantile {
    q: f64,
    value_ms: f64,
    low_ms: f64,
    high_ms: f64,
}

impl Work for Check<'_> {
    fn request(&self, _: usize, index: usize, host: &str, head: &mut Vec<u8>) -> Bytes {
        let (app, from, last) = self.questions[index];
        let to = Hour(last.0.min(from.0 + HOURS_MAX - 1) + 1);
        let app = encode(&self.apps[app]);
        let path = format!("/v1/apps/{app}/hours?from={from}&to={to}&limit={HOURS_MAX}&q={QUANTILES}");
        head.extend_from_slice(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
        Bytes::new()
    }

    fn answer(&self, index: usize, answer: &Answer, _: Duration) -> Outcome {
        let app = self.questions[index].0;
        let name = &self.apps[app];
        let page = match answer.status {
            200 => serde_json::from_slice::<Page>(&answer.body)
                .map_err(|error| Failure::new(Exit::Failed, format!("the hours of {name}: {error}")))?,
            404 => Page { hours: Vec::new() },
            status => {
                let text = String::from_utf8_lossy(&answer.body);
                return Err(Failure::new(Exit::Failed, format!("the hours of {name}: {status} {text}")));
            }
        };
        let (truth, verdict) = &mut *self.state.borrow_mut();
        for row in page.hours {
            let Some(hour) = row.hour.get(..13).and_then(Hour::parse) else {
                let message = format!("{name}: {:?} is no hour", row.hour);
                return Err(Failure::new(Exit::Failed, message));
            };
            match truth.take_hour(app, hour).map(|expected| (row.difference(&expected), expected.count)) {
                None => verdict.differ(name, hour, "has events that were never sent"),
                Some((Some(difference), _)) => verdict.differ(name, hour, &difference),
                Some((None, count)) => {
                    verdict.rollups += 1;
                    verdict.events += count;
                }
            }
        }
        Ok(())
    }
}

impl Verdict {
    fn differ(&mut self, app: &str, hour: Hour, difference: &str) {
        self.wrong += 1;
        if self.differences.len() < TOLD_MAX {
            self.differences.push(format!("{app} {hour}: {difference}"));
        }
    }
}

impl Row {
    /// What is not as it must be.
    fn difference(&self, expected: &Expected) -> Option<String> {
        if self.count != expected.count {
            return Some(format!("count {} instead of {}", self.count, expected.count));
        }
        for (name, is, must) in [
            ("sum_ms", self.sum_ms, expected.sum_ms),
            ("min_ms", self.min_ms, expected.min_ms),
            ("max_ms", self.max_ms, expected.max_ms),
        ] {
            if is != must {
                return Some(format!("{name} {is} instead of {must}"));
            }
        }
        // Their quotient, but rounded twice here and once there.
        let average_ms = expected.sum_ms / expected.count as f64;
        if (self.average_ms - average_ms).abs() > average_ms * 1e-15 {
            return Some(format!("average_ms {} instead of {average_ms}", self.average_ms));
        }
        self.quantiles.iter().find_map(|quantile| {
            let truth = expected.quantile_ms(quantile.q);
            let is_bounded = quantile.low_ms <= truth && truth <= quantile.high_ms;
            // One part in 10^9 for the rounding of the estimate itself.
            let is_near = (quantile.value_ms - truth).abs() <= truth * (self.relative_accuracy + 1e-9);
            (!is_bounded || !is_near).then(|| format!("quantile {} is {} for {truth}", quantile.q, quantile.value_ms))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::Event;
    use super::*;
    use hourmark::domain::{EventTime, ResponseTime};

    fn row(count: u64, sum_ms: f64, median: f64) -> String {
        let quantile = format!(r#"{{"q":0.5,"value_ms":{median},"low_ms":{median},"high_ms":{median}}}"#);
        format!(
            r#"{{"hour":"1970-01-01T00:00:00Z","count":{count},"sum_ms":{sum_ms},"average_ms":{},"min_ms":1.5,"max_ms":3.0,"quantiles":[{quantile}],"relative_accuracy":0.01}}"#,
            sum_ms / 2.0
        )
    }

    fn check(rows: &[String]) -> Verdict {
        let apps = ["a".to_owned()];
        let mut truth = Truth::new(1);
        for value in [3_000_000, 1_500_000] {
            truth.add(Event { app: 0, time: EventTime(0), value: ResponseTime(value) });
        }
        let state = RefCell::new((truth, Verdict::default()));
        let check = Check { apps: &apps, questions: vec![(0, Hour(0), Hour(0))], state };
        let body = format!(r#"{{"hours":[{}]}}"#, rows.join(",")).into();
        check.answer(0, &Answer { status: 200, body }, Duration::ZERO).unwrap();
        check.state.into_inner().1
    }

    #[test]
    fn equal_is_equal_and_every_difference_is_told() {
        assert_eq!(check(&[row(2, 4.5, 1.5)]), Verdict { rollups: 1, events: 2, ..Verdict::default() });
        for (row, told) in [
            (row(3, 4.5, 1.5), "a 1970-01-01T00:00:00Z: count 3 instead of 2"),
            (row(2, 4.500_000_000_000_001, 1.5), "a 1970-01-01T00:00:00Z: sum_ms 4.500000000000001 instead of 4.5"),
            (row(2, 4.5, 1.6), "a 1970-01-01T00:00:00Z: quantile 0.5 is 1.6 for 1.5"),
        ] {
            let verdict = check(&[row]);
            assert_eq!((verdict.wrong, verdict.differences), (1, vec![told.to_owned()]));
        }
        let twice = check(&[row(2, 4.5, 1.5), row(2, 4.5, 1.5)]);
        assert!(twice.differences[0].contains("never sent"), "{twice:?}");
    }
}
