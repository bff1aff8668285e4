//! How far event time has come in a partition, and which events are late.
//!
//! Event time, watermark and allowed lateness are those of Akidau et al., "The Dataflow Model", VLDB 2015. The watermark
//! is the highest event time folded so far, but an event that was ahead of the clock of the node that took it in never
//! moves it: a far-future timestamp must not seal other apps' hours. Lateness decides only how an event is labelled;
//! every late event is folded all the same (it amends).

use crate::domain::EventTime;

/// The watermark of one partition. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    reached_ms: u64,
    lateness_ms: u64,
}

impl Watermark {
    /// A watermark that has reached `reached_ms`; windows are sealed `lateness_ms` after their end.
    pub fn new(reached_ms: u64, lateness_ms: u64) -> Watermark {
        Watermark { reached_ms, lateness_ms }
    }

    /// Event time reached, in ms since the Unix epoch.
    pub fn reached_ms(self) -> u64 {
        self.reached_ms
    }

    /// Takes note of an event at `time` that was accepted when the clock showed `stamp_ms`.
    pub fn observe(&mut self, time: EventTime, stamp_ms: u64) {
        if time.0 <= stamp_ms {
            self.reached_ms = self.reached_ms.max(time.0);
        }
    }

    /// Moves on with the wall clock while no events come: what ended more than `lag_ms` ago will not be waited for.
    /// Returns whether that seals any window.
    pub fn advance_idle(&mut self, now_ms: u64, lag_ms: u64) -> bool {
        let candidate = now_ms.saturating_sub(lag_ms);
        if candidate <= self.reached_ms {
            return false;
        }
        let sealed_before = self.sealed_hours();
        let moved = Watermark { reached_ms: candidate, ..*self };
        if moved.sealed_hours() == sealed_before {
            return false;
        }
        *self = moved;
        true
    }

    /// How many hours since the epoch are sealed: the watermark has passed their end plus the allowed lateness.
    pub fn sealed_hours(self) -> u64 {
        self.reached_ms.saturating_sub(self.lateness_ms) / MS_PER_HOUR
    }
}

const MS_PER_HOUR: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = MS_PER_HOUR;

    #[test]
    fn hour_is_sealed_when_the_watermark_passes_end_plus_lateness() {
        let mut watermark = Watermark::new(0, HOUR);
        watermark.observe(EventTime(12 * HOUR - 1), u64::MAX);
        assert_eq!(watermark.sealed_hours(), 10, "hour 10 ends at 11:00, lateness lasts to 12:00");
        watermark.observe(EventTime(12 * HOUR), u64::MAX);
        assert_eq!(watermark.sealed_hours(), 11);
    }

    #[test]
    fn event_ahead_of_the_clock_seals_nothing() {
        let mut watermark = Watermark::new(0, 0);
        watermark.observe(EventTime(900 * HOUR), 100 * HOUR);
        assert_eq!(watermark.reached_ms(), 0);
        watermark.observe(EventTime(50 * HOUR), 100 * HOUR);
        assert_eq!(watermark.reached_ms(), 50 * HOUR);
    }

    #[test]
    fn watermark_never_goes_back() {
        let mut watermark = Watermark::new(10 * HOUR, 0);
        watermark.observe(EventTime(3 * HOUR), u64::MAX);
        assert!(!watermark.advance_idle(5 * HOUR, 0));
        assert_eq!(watermark.reached_ms(), 10 * HOUR);
    }

    #[test]
    fn idle_time_moves_it_only_when_a_window_is_sealed_by_that() {
        let mut watermark = Watermark::new(10 * HOUR, HOUR);
        assert!(!watermark.advance_idle(10 * HOUR + 5000, 1000), "no further hour would be sealed");
        assert_eq!(watermark.reached_ms(), 10 * HOUR);
        assert!(watermark.advance_idle(11 * HOUR + 1000, 1000));
        assert_eq!(watermark.sealed_hours(), 10);
    }
}
