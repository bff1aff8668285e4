//! Simulated time, and who runs in it. One thread runs everything.

use std::cell::{Cell, RefCell};
use std::time::Duration;

thread_local! {
    static BETWEEN_TICKS: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static IS_TICKING: Cell<bool> = const { Cell::new(false) };
    static MACHINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static RUNNING: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Time since the run began.
pub fn now() -> Duration {
    let host = if IS_TICKING.get() { turmoil::sim_elapsed() } else { None };
    host.unwrap_or(BETWEEN_TICKS.get())
}

/// The machine that runs now; empty between machines.
pub fn running() -> String {
    RUNNING.get().map(|number| MACHINES.with_borrow(|machines| machines[number].clone())).unwrap_or_default()
}

/// The number by which [`enter`] knows a machine.
pub fn number(machine: &str) -> usize {
    MACHINES.with_borrow_mut(|machines| {
        machines.iter().position(|known| known == machine).unwrap_or_else(|| {
            machines.push(machine.to_owned());
            machines.len() - 1
        })
    })
}

/// A machine begins to run.
pub fn enter(number: usize) {
    RUNNING.set(Some(number));
}

/// No machine runs any more.
pub fn leave() {
    RUNNING.set(None);
}

/// A tick begins: machines have their own time in it.
pub(super) fn begin_tick() {
    IS_TICKING.set(true);
}

/// No tick runs, and time is `at`.
pub(super) fn stand(at: Duration) {
    IS_TICKING.set(false);
    BETWEEN_TICKS.set(at);
}
