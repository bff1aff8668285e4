//! What the cluster must answer: every value that was sent, by app and hour.

use super::workload::Event;
use hourmark::domain::{Hour, ResponseTime, ms_from_ns};
use std::collections::BTreeMap;

/// All values sent, by app and hour.
#[derive(Debug)]
pub struct Truth {
    apps: Vec<BTreeMap<Hour, Vec<u64>>>,
    events: u64,
}

/// The exact numbers of one app and hour, as an answer must show them.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// How many events.
    pub count: u64,
    /// Their sum.
    pub sum_ms: f64,
    /// The smallest.
    pub min_ms: f64,
    /// The largest.
    pub max_ms: f64,
    /// All of them, ascending, in ns.
    pub values: Vec<u64>,
}

impl Truth {
    /// Nothing sent yet to any of `apps` apps.
    pub fn new(apps: usize) -> Truth {
        Truth { apps: vec![BTreeMap::new(); apps], events: 0 }
    }

    /// Notes an event. Apps that were not known at the start are taken in.
    pub fn add(&mut self, event: Event) {
        let app = event.app as usize;
        if app >= self.apps.len() {
            self.apps.resize(app + 1, BTreeMap::new());
        }
        self.apps[app].entry(event.time.hour()).or_default().push(event.value.0);
        self.events += 1;
    }

    /// How many events there are.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hours of an app that have events, if any.
    pub fn hours(&self, app: usize) -> impl Iterator<Item = Hour> + '_ {
        self.apps[app].keys().copied()
    }

    /// The numbers of an app's hours, oldest first; takes them out.
    pub fn take(&mut self, app: usize) -> Vec<(Hour, Expected)> {
        let hours = std::mem::take(&mut self.apps[app]);
        hours.into_iter().map(|(hour, values)| (hour, Expected::of(values))).collect()
    }

    /// The numbers of an app's hour, if any; takes them out.
    pub fn take_hour(&mut self, app: usize, hour: Hour) -> Option<Expected> {
        self.apps[app].remove(&hour).map(Expected::of)
    }
}

impl Expected {
    fn of(mut values: Vec<u64>) -> Expected {
        values.sort_unstable();
        let ms = |value: Option<&u64>| ResponseTime(value.copied().unwrap_or_default()).as_ms();
        Expected {
            count: values.len() as u64,
            sum_ms: ms_from_ns(values.iter().map(|value| u128::from(*value)).sum()),
            min_ms: ms(values.first()),
            max_ms: ms(values.last()),
            values,
        }
    }

    /// The true value of the quantile `q`: rank `floor(q·(n−1))`.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let rank = (q * (self.values.len() - 1) as f64) as usize;
        ResponseTime(self.values[rank]).as_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hourmark::domain::EventTime;

    #[test]
    fn numbers_are_exact_and_by_hour() {
        let mut truth = Truth::new(1);
        for (time, value) in [(0, 3_000_000), (5, 1_500_000), (3_600_000, 7)] {
            truth.add(Event { app: 0, time: EventTime(time), value: ResponseTime(value) });
        }
        assert_eq!(truth.hours(0).map(|hour| hour.0).collect::<Vec<_>>(), [0, 1]);
        let hours = truth.take(0);
        assert_eq!((hours[0].1.count, hours[0].1.sum_ms, hours[0].1.min_ms), (2, 4.5, 1.5));
        assert_eq!((hours[0].1.quantile_ms(0.5), hours[0].1.quantile_ms(1.0)), (1.5, 3.0));
        assert_eq!(hours[1].1.max_ms, 0.000_007);
    }
}
