//! Simulated time, and who runs in it. One thread runs everything.

use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::time::Instant;

thread_local! {
    static STEP: Cell<(Duration, Option<Instant>)> = const { Cell::new((Duration::ZERO, None)) };
    static RUNNING: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Time since the run began.
pub fn now() -> Duration {
    let (at, began) = STEP.get();
    at + began.map_or(Duration::ZERO, |began| began.elapsed())
}

/// The machine that runs now; empty between machines.
pub fn running() -> String {
    RUNNING.with_borrow(String::clone)
}

/// Time is now `at`, and no machine runs.
pub fn set(at: Duration) {
    STEP.set((at, None));
    RUNNING.with_borrow_mut(String::clear);
}

/// `machine` begins to run at `at`; `began` is that moment on its own clock.
pub(super) fn enter(machine: &str, at: Duration, began: Instant) {
    STEP.set((at, Some(began)));
    RUNNING.with_borrow_mut(|running| machine.clone_into(running));
}
