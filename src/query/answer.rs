//! What a client is answered: exact numbers, and estimates with their bounds.
//!
//! Milliseconds are the doubles nearest to the exact decimals: `12.75` and not `12.750000000000002`.
//!
//! `as_of` stands in these types for the description of the interface; it is no part of a finished answer and is put behind it
//! where it is sent ([`super::finished`]).

use super::reads::{AppHours, StoredAt};
use super::state::{HourState, Version};
use crate::domain::{AppId, Hour, Quantile, Rollup, SketchConfig, ms_from_ns};
use cluster::PartitionId;
use serde::Serialize;
use std::ops::Range;
use utoipa::ToSchema;

/// The rollup of one app and hour.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HourAnswer {
    /// The app.
    #[schema(example = "checkout")]
    pub app_id: String,
    /// When the hour begins, UTC.
    #[schema(format = DateTime, example = "2026-11-22T20:00:00Z")]
    pub hour: String,
    /// Where the hour stands between running and final.
    pub state: HourState,
    /// How many checkpoints have changed the stored rollup.
    #[schema(example = 7)]
    pub revision: u64,
    /// Its numbers.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// How far this node's replica is; only with `consistency=local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub as_of: Option<AsOf>,
}

/// A page of hours.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HoursAnswer {
    /// The app.
    #[schema(example = "checkout")]
    pub app_id: String,
    /// Hours with events, oldest first.
    pub hours: Vec<HourAnswer>,
    /// The `cursor` of the next page, or null behind the last.
    #[schema(example = "2026-11-23T20")]
    pub next: Option<String>,
    /// How far this node's replica is; only with `consistency=local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub as_of: Option<AsOf>,
}

/// One rollup of a range of hours.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SummaryAnswer {
    /// The app.
    #[schema(example = "checkout")]
    pub app_id: String,
    /// When the first hour of the range begins, UTC.
    #[schema(format = DateTime, example = "2026-11-22T00:00:00Z")]
    pub from: String,
    /// When the first hour behind the range begins, UTC.
    #[schema(format = DateTime, example = "2026-11-23T00:00:00Z")]
    pub to: String,
    /// How many hours of the range have events.
    #[schema(example = 24)]
    pub hours: u64,
    /// Their numbers.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// How far this node's replica is; only with `consistency=local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub as_of: Option<AsOf>,
}

/// The numbers of a rollup, response times in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Numbers {
    /// How many events; exact.
    #[schema(example = 1234)]
    pub count: u64,
    /// How many of them came after their hour was sealed; exact.
    pub late: u64,
    /// The exact sum divided by the exact count.
    #[schema(example = 18.4)]
    pub average_ms: f64,
    /// The smallest; exact.
    #[schema(example = 0.9)]
    pub min_ms: f64,
    /// The largest; exact.
    #[schema(example = 812.003)]
    pub max_ms: f64,
    /// The quantile 0.5.
    #[schema(example = 12.75)]
    pub median_ms: f64,
    /// The sum; exact.
    #[schema(example = 22705.6)]
    pub sum_ms: f64,
    /// The quantiles asked for, in that order.
    pub quantiles: Vec<QuantileAnswer>,
    /// How far a quantile may lie from the truth, relative to it. Small counts are exact all the same.
    #[schema(example = 0.01)]
    pub relative_accuracy: f64,
}

/// One quantile: the value of rank `floor(q * (count - 1))`, counted from 0 in sorted order.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct QuantileAnswer {
    /// Which.
    #[schema(minimum = 0, maximum = 1, example = 0.5)]
    pub q: f64,
    /// The estimate; the truth itself where `low_ms` equals `high_ms`.
    #[schema(example = 12.75)]
    pub value_ms: f64,
    /// The truth is not below this.
    #[schema(example = 12.62)]
    pub low_ms: f64,
    /// The truth is not above this.
    #[schema(example = 12.88)]
    pub high_ms: f64,
}

/// How far a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AsOf {
    /// The partition.
    pub partition: u16,
    /// The answer holds the partition's log up to and including this offset; null if nothing of it.
    pub offset: Option<u64>,
    /// How long ago the replica last knew that it had everything, in ms.
    pub age_ms: u64,
}

/// A page of apps.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AppsAnswer {
    /// In the order of their names' bytes.
    pub apps: Vec<AppAnswer>,
    /// The `cursor` of the next page, or null behind the last.
    pub next: Option<String>,
    /// How far this node's replicas are; only with `consistency=local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub as_of: Option<Vec<AsOf>>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AppAnswer {
    /// Its name.
    #[schema(example = "checkout")]
    pub app_id: String,
    /// When its first hour with events begins, UTC.
    #[schema(format = DateTime, example = "2026-11-22T20:00:00Z")]
    pub first_hour: String,
    /// When its last hour with events begins, UTC.
    #[schema(format = DateTime, example = "2026-11-23T08:00:00Z")]
    pub last_hour: String,
}

impl HourAnswer {
    /// The answer for an hour that has events.
    pub fn new(
        app: &AppId,
        hour: Hour,
        version: Version,
        rollup: &Rollup,
        quantiles: &[Quantile],
        sketch: &SketchConfig,
    ) -> HourAnswer {
        HourAnswer {
            app_id: app.as_str().to_owned(),
            hour: hour.to_string(),
            state: version.state,
            revision: version.revision,
            numbers: Numbers::new(rollup, quantiles, sketch),
            as_of: None,
        }
    }
}

impl SummaryAnswer {
    /// The answer for a range in which `hours` hours have events.
    pub fn new(
        app: &AppId,
        range: &Range<Hour>,
        hours: u64,
        rollup: &Rollup,
        quantiles: &[Quantile],
        sketch: &SketchConfig,
    ) -> SummaryAnswer {
        SummaryAnswer {
            app_id: app.as_str().to_owned(),
            from: range.start.to_string(),
            to: range.end.to_string(),
            hours,
            numbers: Numbers::new(rollup, quantiles, sketch),
            as_of: None,
        }
    }
}

impl Numbers {
    /// The numbers of a rollup that has events (asserted).
    pub fn new(rollup: &Rollup, quantiles: &[Quantile], sketch: &SketchConfig) -> Numbers {
        assert!(rollup.count() > 0, "a rollup without events has no numbers");
        let with_median: Vec<Quantile> = std::iter::once(Quantile::MEDIAN).chain(quantiles.iter().copied()).collect();
        let estimates = rollup.quantiles(&with_median, sketch);
        let quantiles = quantiles.iter().zip(&estimates[1..]).map(|(quantile, estimate)| QuantileAnswer {
            q: quantile.value(),
            value_ms: estimate.value_ms,
            low_ms: estimate.low_ms,
            high_ms: estimate.high_ms,
        });
        Numbers {
            count: rollup.count(),
            late: rollup.late(),
            average_ms: rollup.average_ms(),
            min_ms: rollup.min().as_ms(),
            max_ms: rollup.max().as_ms(),
            median_ms: estimates[0].value_ms,
            sum_ms: ms_from_ns(rollup.sum_ns()),
            quantiles: quantiles.collect(),
            relative_accuracy: sketch.relative_accuracy(),
        }
    }
}

impl AsOf {
    /// How far the replica of `partition` is.
    pub fn new(partition: PartitionId, at: &StoredAt) -> AsOf {
        let age_ms = u64::try_from(at.age.as_millis()).unwrap_or(u64::MAX);
        AsOf { partition: partition.0, offset: at.consumed.map(|offset| offset.0), age_ms }
    }
}

impl From<&AppHours> for AppAnswer {
    fn from(app: &AppHours) -> AppAnswer {
        AppAnswer {
            app_id: app.app.as_str().to_owned(),
            first_hour: app.first.to_string(),
            last_hour: app.last.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ResponseTime;

    #[test]
    fn an_hour_has_the_fields_of_the_contract_in_order() {
        let sketch = SketchConfig::default();
        let mut rollup = Rollup::default();
        for ns in [12_750_000, 900_000, 812_003_000, 2_347_000] {
            rollup.record(ResponseTime(ns), ns == 900_000, &sketch);
        }
        let version = Version { revision: 7, count: 4, late: 1, state: HourState::Amended };
        let app = AppId::new("checkout").unwrap();
        let quantiles = [Quantile::new(1.0).unwrap()];
        let answer =
            HourAnswer::new(&app, Hour::parse("2026-11-22T20").unwrap(), version, &rollup, &quantiles, &sketch);
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"app_id":"checkout","hour":"2026-11-22T20:00:00Z","state":"amended","revision":7,"count":4,"late":1,"#
                .to_owned()
                + r#""average_ms":207.0,"min_ms":0.9,"max_ms":812.003,"median_ms":2.347,"sum_ms":828.0,"#
                + r#""quantiles":[{"q":1.0,"value_ms":812.003,"low_ms":812.003,"high_ms":812.003}],"relative_accuracy":0.01}"#
        );
    }
}
