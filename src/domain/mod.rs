//! What things are: apps, events, hours, rollups, producers. No I/O, no async, no clock.

mod app_id;
mod counts;
mod identity;
mod quantile;
mod ratio;
mod response_time;
mod rollup;
mod sketch;
mod time;

pub use app_id::{APP_ID_BYTES_MAX, AppId, AppIdError, SLOTS, slot_of};
pub use identity::{Identity, PRODUCER_ID_BYTES_MAX, ProducerId, Sequence, Verdict, Verdicts};
pub use quantile::Quantile;
pub use response_time::{NS_PER_MS, ResponseTime, ms_from_ns};
pub use rollup::{EXACT_VALUES_MAX, Estimate, Rollup, Values};
pub use sketch::{BINS_MAX, RELATIVE_ACCURACY_DEFAULT, Sketch, SketchConfig};
pub use time::{
    EventTime, Hour, MS_PER_HOUR, TimeLimits, civil_from_days, days_from_civil, days_in_month, is_leap_year,
};
