//! The `Date` of answers, written once a second at most.

use axum::http::HeaderValue;
use cluster::environment::Clock;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// Writes dates, and keeps the last one.
#[derive(Default)]
pub struct Dates {
    /// Whole seconds since the epoch, and how they are written.
    last: Mutex<Option<(u64, HeaderValue)>>,
}

impl Dates {
    /// The time of `clock` as `Date` has it.
    pub fn now(&self, clock: &dyn Clock) -> HeaderValue {
        let seconds = clock.since_epoch().as_secs();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, date)) if *at == seconds => date.clone(),
            _ => {
                let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
                let date = HeaderValue::from_maybe_shared(bytes::Bytes::from(date)).expect("a date is visible ASCII");
                last.insert((seconds, date)).1.clone()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Watch(AtomicU64);

    impl Clock for Watch {
        fn since_epoch(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_date_is_that_of_the_clock_whichever_way_it_goes() {
        let (dates, clock) = (Dates::default(), Watch(AtomicU64::new(0)));
        let at = |ms| {
            clock.0.store(ms, Ordering::Relaxed);
            dates.now(&clock).to_str().unwrap().to_owned()
        };
        assert_eq!(at(1_795_348_800_000), "Sun, 22 Nov 2026 12:00:00 GMT");
        assert_eq!(at(1_795_348_800_999), "Sun, 22 Nov 2026 12:00:00 GMT");
        assert_eq!(at(1_795_348_801_000), "Sun, 22 Nov 2026 12:00:01 GMT");
        assert_eq!(at(1_795_348_799_500), "Sun, 22 Nov 2026 11:59:59 GMT");
    }
}
