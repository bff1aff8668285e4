//! Answers about hours, as a client reads them.

use serde_json::Value;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u128 = 1_000_000;

/// The numbers of an hour in an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Hour {
    /// Hours since the Unix epoch.
    pub hour: u64,
    /// Events.
    pub count: u64,
    /// How often the stored rollup has changed.
    pub revision: u64,
    /// Events that came after it was sealed.
    pub late: u64,
    /// Sum, in ms.
    pub sum_ms: f64,
    /// Smallest, in ms.
    pub min_ms: f64,
    /// Largest, in ms.
    pub max_ms: f64,
    /// The bound of a quantile's relative error.
    pub relative_accuracy: f64,
    /// Quantiles and their values in ms.
    pub quantiles: Vec<(f64, f64)>,
}

/// An answer about many hours together.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// How many hours had events.
    pub hours: u64,
    /// The numbers of all of them, as if they were one hour.
    pub whole: Hour,
}

impl Summary {
    /// Reads it.
    pub fn read(answer: &Value) -> Result<Summary, String> {
        let hours = answer["hours"].as_u64().ok_or_else(|| format!("an answer without hours: {answer}"))?;
        Ok(Summary { hours, whole: Hour::read_summary(answer)? })
    }
}

impl Hour {
    /// Reads one hour of an answer.
    pub fn read(answer: &Value) -> Result<Hour, String> {
        let revision = answer["revision"].as_u64().ok_or_else(|| format!("an answer without revision: {answer}"))?;
        Hour::read_from(answer, "hour", revision)
    }

    /// Reads a summary as if it were one hour, the first of its range.
    pub fn read_summary(answer: &Value) -> Result<Hour, String> {
        Hour::read_from(answer, "from", 0)
    }

    fn read_from(answer: &Value, hour: &str, revision: u64) -> Result<Hour, String> {
        let strange = |name: &str| format!("an answer without {name}: {answer}");
        let number = |name: &str| answer[name].as_f64().ok_or_else(|| strange(name));
        let whole = |name: &str| answer[name].as_u64().ok_or_else(|| strange(name));
        let quantiles = answer["quantiles"].as_array().ok_or_else(|| strange("quantiles"))?;
        let quantiles =
            quantiles.iter().map(|quantile| Some((quantile["q"].as_f64()?, quantile["value_ms"].as_f64()?)));
        Ok(Hour {
            hour: answer[hour].as_str().and_then(hour_of_text).ok_or_else(|| strange(hour))?,
            count: whole("count")?,
            revision,
            late: whole("late")?,
            sum_ms: number("sum_ms")?,
            min_ms: number("min_ms")?,
            max_ms: number("max_ms")?,
            relative_accuracy: number("relative_accuracy")?,
            quantiles: quantiles.collect::<Option<_>>().ok_or_else(|| strange("values of quantiles"))?,
        })
    }

    /// The sum in whole ns: exact up to `2^53` ns.
    pub fn sum_ns(&self) -> u128 {
        (self.sum_ms * 1e6).round() as u128
    }
}

/// The double nearest to so many nanoseconds in milliseconds.
pub fn ms(ns: u128) -> f64 {
    format!("{}.{:06}", ns / NS_PER_MS, ns % NS_PER_MS).parse().expect("digits, a point and digits are a number")
}

/// `2026-11-22T20` of the hours since the epoch; simulated time stays in one month.
pub fn hour_text(hour: u64) -> String {
    let since_month = hour.saturating_sub(crate::schedule::MONTH_MS / 3_600_000);
    format!("2026-11-{:02}T{:02}", since_month / 24 + 1, since_month % 24)
}

fn hour_of_text(text: &str) -> Option<u64> {
    let (day, hour) = (text.strip_prefix("2026-11-")?.get(..2)?, text.get(11..13)?);
    Some(
        crate::schedule::MONTH_MS / 3_600_000
            + (day.parse::<u64>().ok()?.checked_sub(1)?) * 24
            + hour.parse::<u64>().ok()?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_have_one_text() {
        let hour = crate::schedule::BEGAN_MS / 3_600_000;
        assert_eq!(hour_text(hour), "2026-11-22T20");
        assert_eq!(hour_of_text("2026-11-22T20:00:00Z"), Some(hour));
        assert_eq!(hour_of_text("2026-12-22T20:00:00Z"), None);
    }

    #[test]
    fn nanoseconds_are_the_nearest_double() {
        assert_eq!(ms(12_750_000), 12.75);
        assert_eq!(ms(812_003_000), 812.003);
    }
}
