//! Events as clients draw them, and as they are sent.

use super::Actor;
use crate::oracle::Events;
use rand::RngExt;
use std::fmt::Write;

/// Events may be as far ahead of the simulated clock, in ms: well below what nodes refuse, even with clocks that are off.
const AHEAD_MS: u64 = 2000;

impl Actor {
    /// Events for the apps that producers share, around now or late.
    pub(super) fn draw_events(&mut self) -> Events {
        let load = self.shared.plan.load.clone();
        let now_ms = self.shared.now_ms();
        let count = self.random.random_range(1..=load.events_max);
        (0..count)
            .map(|_| {
                // Half of everything is one app's: partitions are not loaded alike.
                let app = if self.random.random_bool(0.5) { 0 } else { self.random.random_range(0..load.apps) };
                let time = self.draw_time(now_ms, load.late_ms);
                (format!("app-{app}"), time, self.draw_value())
            })
            .collect()
    }

    /// Mostly now, sometimes late, now and then ahead.
    pub(super) fn draw_time(&mut self, now_ms: u64, late_ms: u64) -> u64 {
        match self.random.random_range(0..10) {
            0 => now_ms + self.random.random_range(0..AHEAD_MS),
            1 | 2 => now_ms - self.random.random_range(0..=late_ms),
            _ => now_ms - self.random.random_range(0..2000),
        }
    }

    /// Response times over nine orders of magnitude, in ns.
    fn draw_value(&mut self) -> u64 {
        let magnitude = 10u64.pow(self.random.random_range(1..=10));
        self.random.random_range(0..magnitude)
    }
}

/// The body of a request.
pub(super) fn ndjson(events: &Events) -> String {
    let mut body = String::with_capacity(events.len() * 80);
    for (app, time, ns) in events {
        let (whole, fraction) = (ns / 1_000_000, ns % 1_000_000);
        // Writing to a String cannot fail.
        let _ =
            writeln!(body, "{{\"app_id\":\"{app}\",\"timestamp\":{time},\"response_time_ms\":{whole}.{fraction:06}}}");
    }
    body
}
