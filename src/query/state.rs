//! Which state of an hour an answer shows.

use crate::domain::Hour;
use crate::format::StoredRollup;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where an hour stands between running and final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HourState {
    /// The watermark has not passed its end plus the allowed lateness: more events are expected.
    Open,
    /// The watermark has passed, and no event came after that.
    Sealed,
    /// Events came after it was sealed, and are in it.
    Amended,
}

/// Tells apart all that an hour's numbers have ever been.
///
/// Within an app and hour the count alone names the multiset of events: a partition's events are folded in the log's
/// order, so two answers with equal counts hold the same events. The rest tells apart how they are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// How many checkpoints have changed the stored rollup.
    pub revision: u64,
    /// Events, stored and open.
    pub count: u64,
    /// Of those, events that came late.
    pub late: u64,
    /// Where the hour stands.
    pub state: HourState,
}

impl HourState {
    /// The state of an hour with `late` late events when event time has reached `watermark_ms`.
    pub fn of(hour: Hour, late: u64, watermark_ms: u64, lateness: Duration) -> HourState {
        let lateness_ms = u64::try_from(lateness.as_millis()).unwrap_or(u64::MAX);
        match hour.end().0.saturating_add(lateness_ms) <= watermark_ms {
            false => HourState::Open,
            true if late == 0 => HourState::Sealed,
            true => HourState::Amended,
        }
    }
}

impl Version {
    /// The version of an hour with these numbers when event time has reached `watermark_ms`.
    pub fn of(hour: Hour, stored: &StoredRollup, watermark_ms: u64, lateness: Duration) -> Version {
        let StoredRollup { revision, rollup } = stored;
        let state = HourState::of(hour, rollup.late(), watermark_ms, lateness);
        Version { revision: *revision, count: rollup.count(), late: rollup.late(), state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MS_PER_HOUR;

    #[test]
    fn an_hour_is_open_until_the_watermark_passes_its_end_plus_lateness() {
        let lateness = Duration::from_secs(600);
        let sealed_at = 11 * MS_PER_HOUR + 600_000;
        assert_eq!(HourState::of(Hour(10), 0, sealed_at - 1, lateness), HourState::Open);
        assert_eq!(HourState::of(Hour(10), 0, sealed_at, lateness), HourState::Sealed);
        assert_eq!(HourState::of(Hour(10), 2, sealed_at, lateness), HourState::Amended);
    }

    #[test]
    fn no_watermark_overflows() {
        assert_eq!(HourState::of(Hour(u32::MAX), 0, u64::MAX, Duration::MAX), HourState::Sealed);
        assert_eq!(HourState::of(Hour(0), 0, 0, Duration::MAX), HourState::Open);
    }
}
