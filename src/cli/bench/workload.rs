//! What is sent: the flags that shape it, and the events they mean.

use super::random::{Random, Zipf};
use cluster::environment::{Clock as _, SystemClock};
use hourmark::domain::{EventTime, Hour, MS_PER_HOUR, ResponseTime};

/// How far an event may come after its time without being late: machines differ, buffers fill.
const JITTER_MS: u64 = 2_000;

/// How many hours a late event comes too late at most.
const LATE_HOURS_MAX: u64 = 3;

/// The shape of the load.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Load")]
pub struct Workload {
    /// Events to send and measure; 10M and 500k are understood
    #[arg(long, value_name = "NUMBER", default_value = "5M", value_parser = count)]
    pub events: u64,
    /// Apps
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub apps: u32,
    /// How unequal apps are: app of rank r has a share of r^-EXPONENT; 0 makes them equal
    #[arg(long, value_name = "EXPONENT", default_value_t = 1.1, value_parser = not_negative)]
    pub zipf: f64,
    /// Hours that the events spread over
    #[arg(long, value_name = "NUMBER", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub hours: u32,
    /// The first of them, UTC [default: the last one ends with the hour before this one]
    #[arg(long, value_name = "YYYY-MM-DDThh", value_parser = hour)]
    pub first_hour: Option<Hour>,
    /// Median of the response times in ms
    #[arg(long, value_name = "MS", default_value_t = 20.0, value_parser = positive)]
    pub median_ms: f64,
    /// Spread of the response times: deviation of their logarithm (they are lognormal, in steps of 0.01 ms)
    #[arg(long, value_name = "SIGMA", default_value_t = 1.0, value_parser = not_negative)]
    pub sigma: f64,
    /// Share of events that come up to three hours late
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, value_parser = share)]
    pub late: f64,
    /// Send the hours mixed up instead of one after the other
    #[arg(long)]
    pub shuffle: bool,
    /// The same seed, the same events (with --prefix and --first-hour: to the byte)
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// What the apps' names begin with [default: random, so that runs do not add to each other]
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
}

/// A number of events as people write it.
pub fn count(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.filter(|number| *number <= 1_000_000_000).ok_or_else(|| "takes a number up to 1000M, such as 500k".into())
}

fn hour(text: &str) -> Result<Hour, String> {
    Hour::parse(text).ok_or_else(|| "takes an hour such as 2026-11-22T20".into())
}

fn number(text: &str, is_allowed: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && is_allowed(*number)).ok_or_else(|| what.to_owned())
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |number| (0.0..=100.0).contains(&number), "takes a number from 0 to 100")
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0 && number <= 1e9, "takes a number above 0, up to 1e9")
}

/// A share of a whole.
pub fn share(text: &str) -> Result<f64, String> {
    number(text, |number| (0.0..=1.0).contains(&number), "takes a number from 0 to 1")
}

/// An event to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which app.
    pub app: u32,
    /// When it happened.
    pub time: EventTime,
    /// How long it took.
    pub value: ResponseTime,
}

impl Workload {
    /// The apps' names. `run`: names that no other run has, where the user gave none.
    pub fn app_names(&self, run: u64) -> Vec<String> {
        let prefix = self.prefix.clone().unwrap_or_else(|| format!("b{:05x}", run & 0xf_ffff));
        let digits = self.apps.saturating_sub(1).to_string().len().max(4);
        (0..self.apps).map(|app| format!("{prefix}-{app:0digits$}")).collect()
    }

    /// The hours that the events lie in, those of late ones not counted.
    pub fn hours(&self) -> std::ops::Range<Hour> {
        let now = EventTime(SystemClock.now_ms()).hour();
        let first = self.first_hour.unwrap_or(Hour(now.0.saturating_sub(self.hours)));
        first..Hour(first.0 + self.hours)
    }

    /// `warm_up` events over the first hour, then `count` over all of them, one after the other unless shuffled. Those are the same
    /// whatever came before.
    pub fn events(&self, warm_up: u64, count: u64) -> impl Iterator<Item = Event> + use<> {
        let (mut random, mut random_before) = (Random::new(self.seed), Random::new(!self.seed));
        // Which app is hot is no matter of its name.
        let mut apps: Vec<u32> = (0..self.apps).collect();
        for place in (1..apps.len()).rev() {
            apps.swap(place, random.below(place as u64 + 1) as usize);
        }
        let zipf = Zipf::new(apps.len(), self.zipf);
        let (start, span) = (self.hours().start.start().0, u64::from(self.hours) * MS_PER_HOUR);
        let workload = self.clone();
        (0..warm_up + count).map(move |index| {
            let (random, in_order) = match index.checked_sub(warm_up) {
                Some(index) => (&mut random, index as f64 / count as f64),
                None => (&mut random_before, index as f64 / warm_up as f64 / f64::from(workload.hours)),
            };
            let progress = if workload.shuffle { random.unit() } else { in_order };
            let jitter = random.below(JITTER_MS);
            let is_late = random.unit() < workload.late;
            let delay = if is_late { random.below(LATE_HOURS_MAX * MS_PER_HOUR) } else { jitter };
            let time = EventTime((start + (progress * span as f64) as u64).saturating_sub(delay).max(start));
            let hundredths = workload.median_ms * 100.0 * (workload.sigma * random.normal()).exp();
            let value = ResponseTime((hundredths.min(1e13) as u64 * 10_000).min(ResponseTime::MAX.0));
            Event { app: apps[zipf.draw(random)], time, value }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn workload(arguments: &[&str]) -> Workload {
        let command = Workload::augment_args(clap::Command::new("bench").no_binary_name(true));
        Workload::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_events_in_the_hours_asked_for() {
        let workload = workload(&["--first-hour", "2026-01-05T10", "--hours", "2", "--apps", "5"]);
        let events: Vec<_> = workload.events(0, 10_000).collect();
        assert_eq!(events, workload.events(0, 10_000).collect::<Vec<_>>());
        let hours = workload.hours();
        assert!(events.iter().all(|event| hours.contains(&event.time.hour()) && event.app < 5));
        assert!(events.windows(2).filter(|pair| pair[1].time.0 + JITTER_MS < pair[0].time.0).count() > 2, "late ones");
        assert_eq!(workload.app_names(0x12345)[4], "b12345-0004");
    }

    #[test]
    fn what_is_measured_covers_all_hours_whatever_came_before() {
        let workload = workload(&["--first-hour", "2026-01-05T10", "--hours", "24", "--late", "0"]);
        let hour = |event: &Event| event.time.hour().0 - workload.hours().start.0;
        let events: Vec<_> = workload.events(24_000, 24_000).collect();
        assert!(events[..24_000].iter().all(|event| hour(event) == 0));
        assert_eq!(events[24_000..], workload.events(0, 24_000).collect::<Vec<_>>());
        for (own, events) in (0..).zip(events[24_000..].chunks(1000)) {
            let is_own = |event: &&Event| hour(event) == own;
            assert!(events.iter().filter(is_own).count() > 950, "those of hour {own}, but for a jitter of seconds");
        }
    }

    #[test]
    fn counts_have_units() {
        assert_eq!(count("10M"), Ok(10_000_000));
        assert_eq!(count("500k"), Ok(500_000));
        assert_eq!(count("7"), Ok(7));
        for text in ["", "M", "-1", "1.5M", "2000M"] {
            assert!(count(text).is_err(), "{text}");
        }
    }
}
