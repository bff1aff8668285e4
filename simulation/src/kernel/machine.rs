//! A machine: one process with its own clock, which can be paused, run fast or slow, and lose power.

use super::time;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::time::{Instant, sleep_until};

/// What a machine runs. It should not end.
pub type Software = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// How a process ended.
pub type Ended = Result<(), String>;

/// A machine and the process on it, if one runs.
pub struct Machine {
    name: String,
    process: Option<Process>,
    is_paused: bool,
    /// How much faster its monotonic clock runs than the world's, in parts per million.
    drift_ppm: i64,
}

struct Process {
    // Dropped before the runtime that its tasks live in.
    software: Software,
    runtime: Runtime,
    /// The moment on its clock that it has run up to.
    until: Instant,
    /// Microseconds of drift that do not make a millisecond yet.
    drift_us: i64,
    /// Time that passed while it was paused.
    missed: Duration,
}

impl Machine {
    /// A machine that is off.
    pub fn new(name: &str) -> Machine {
        Machine { name: name.to_owned(), process: None, is_paused: false, drift_ppm: 0 }
    }

    /// Whether a process runs (or is paused).
    pub fn is_on(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process; `seed` decides what tokio leaves to chance.
    pub fn start(&mut self, seed: u64, now: Duration, software: impl FnOnce() -> Software) {
        self.stop();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let until = runtime.block_on(async {
            // Tokio's timers have whole milliseconds; from here on its clock stands on one.
            tokio::time::sleep(Duration::from_millis(1)).await;
            Instant::now()
        });
        let software = {
            let _inside = runtime.enter();
            time::enter(&self.name, now, until);
            software()
        };
        time::set(now);
        self.process = Some(Process { software, runtime, until, drift_us: 0, missed: Duration::ZERO });
    }

    /// Ends the process where it stands; its memory is gone. What its destructors do happens at once.
    pub fn stop(&mut self) {
        self.is_paused = false;
        if let Some(process) = self.process.take() {
            let _inside = process.runtime.enter();
            drop(process.software);
        }
    }

    /// Stops the process from running without ending it.
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Lets it run again: it finds that time has passed.
    pub fn resume(&mut self) {
        self.is_paused = false;
    }

    /// Makes its monotonic clock run faster, or slower, from now on.
    pub fn set_drift(&mut self, ppm: i64) {
        self.drift_ppm = ppm;
    }

    /// Runs from `now` on for `step`. Returns how the process ended, if it did.
    pub fn run(&mut self, now: Duration, step: Duration) -> Option<Ended> {
        let process = self.process.as_mut()?;
        if self.is_paused {
            process.missed += step;
            return None;
        }
        process.catch_up(&self.name, now);
        let began = process.until;
        let own_step = process.drifted(step, self.drift_ppm);
        process.until += own_step;
        time::enter(&self.name, now, began);
        let ended = process.runtime.block_on(run_until(&mut process.software, process.until));
        if ended.is_some() {
            self.stop();
        }
        time::set(now);
        ended
    }
}

impl Process {
    /// After a pause all timers that are due fire late, at once.
    fn catch_up(&mut self, name: &str, now: Duration) {
        let missed = std::mem::take(&mut self.missed);
        if !missed.is_zero() {
            time::enter(name, now, self.until);
            self.runtime.block_on(tokio::time::advance(missed));
            self.until += missed;
        }
    }

    fn drifted(&mut self, step: Duration, ppm: i64) -> Duration {
        let step_us = step.as_micros() as i64;
        self.drift_us += step_us * ppm / 1_000_000;
        let whole_ms = self.drift_us / 1000;
        // Its clock never stands still or runs backwards.
        let shift_ms = whole_ms.max(-(step_us / 1000) + 1);
        self.drift_us -= shift_ms * 1000;
        Duration::from_micros((step_us + shift_ms * 1000) as u64)
    }
}

/// Runs everything in the runtime up to a moment, or until the software ends.
async fn run_until(software: &mut Software, until: Instant) -> Option<Ended> {
    let mut deadline = std::pin::pin!(sleep_until(until));
    std::future::poll_fn(|context| {
        if let Poll::Ready(ended) = software.as_mut().poll(context) {
            return Poll::Ready(Some(ended));
        }
        deadline.as_mut().poll(context).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    const MS: Duration = Duration::from_millis(1);

    /// A machine that notes when its timer of 100 ms fires.
    fn ticking() -> (Machine, Rc<RefCell<Vec<u128>>>) {
        let fired = Rc::new(RefCell::new(Vec::new()));
        let (mut machine, noted) = (Machine::new("a"), fired.clone());
        machine.start(1, Duration::ZERO, || {
            Box::pin(async move {
                loop {
                    tokio::time::sleep(100 * MS).await;
                    noted.borrow_mut().push(time::now().as_millis());
                }
            })
        });
        (machine, fired)
    }

    fn run(machine: &mut Machine, from_ms: u32, to_ms: u32) {
        (from_ms..to_ms).for_each(|at| assert!(machine.run(at * MS, MS).is_none()));
    }

    #[test]
    fn timers_fire_in_simulated_time() {
        let (mut machine, fired) = ticking();
        run(&mut machine, 0, 350);
        assert_eq!(*fired.borrow(), [100, 200, 300]);
    }

    #[test]
    fn a_paused_machine_finds_its_timers_late() {
        let (mut machine, fired) = ticking();
        run(&mut machine, 0, 150);
        machine.pause();
        run(&mut machine, 150, 1000);
        machine.resume();
        run(&mut machine, 1000, 1120);
        assert_eq!(*fired.borrow(), [100, 1000, 1100]);
    }

    #[test]
    fn a_fast_clock_fires_early() {
        let (mut machine, fired) = ticking();
        machine.set_drift(250_000);
        run(&mut machine, 0, 330);
        assert_eq!(fired.borrow().len(), 4, "400 ms of its own have passed");
    }

    #[test]
    fn a_process_that_ends_says_how() {
        let mut machine = Machine::new("a");
        machine.start(1, Duration::ZERO, || Box::pin(async { Err("why".to_owned()) }));
        assert_eq!(machine.run(Duration::ZERO, MS), Some(Err("why".to_owned())));
        assert!(!machine.is_on());
    }
}
