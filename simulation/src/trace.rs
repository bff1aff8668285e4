//! What happened in a run, in order: a hash over all of it, and the last lines for people.
//!
//! Every byte that crosses the simulated network, every fault, every answer to a client and every sync of a disk goes in,
//! with the simulated time. Two runs of one seed are the same run if and only if their hashes are equal.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3Default;

/// Lines kept for a failure's report.
const LINES_KEPT: usize = 60;

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
}

#[derive(Default)]
struct Trace {
    hash: Xxh3Default,
    events: u64,
    lines: VecDeque<String>,
    is_verbose: bool,
}

/// A finished trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// XXH3 over everything that was recorded.
    pub hash: u64,
    /// How many things were recorded.
    pub events: u64,
}

/// Begins a new trace on this thread. A verbose one is also printed to stderr as it goes.
pub fn start(is_verbose: bool) {
    TRACE.with(|trace| *trace.borrow_mut() = Trace { is_verbose, ..Trace::default() });
}

/// Records something that a person would want to read.
pub fn line(line: fmt::Arguments<'_>) {
    let line = format!("{:>10.3}s  {line}", now().as_secs_f64());
    TRACE.with(|trace| {
        let mut trace = trace.borrow_mut();
        trace.hash.update(line.as_bytes());
        trace.events += 1;
        if trace.is_verbose {
            eprintln!("{line}");
        }
        if trace.lines.len() == LINES_KEPT {
            trace.lines.pop_front();
        }
        trace.lines.push_back(line);
    });
}

/// Records bytes that went from one place to another.
pub fn bytes(place: &str, bytes: &[u8]) {
    let now = u64::try_from(now().as_micros()).unwrap_or(u64::MAX);
    TRACE.with(|trace| {
        let mut trace = trace.borrow_mut();
        trace.hash.update(&now.to_le_bytes());
        trace.hash.update(place.as_bytes());
        trace.hash.update(bytes);
        trace.events += 1;
    });
}

/// The trace so far.
pub fn summary() -> Summary {
    TRACE.with(|trace| Summary { hash: trace.borrow().hash.digest(), events: trace.borrow().events })
}

/// The last readable lines.
pub fn last_lines() -> Vec<String> {
    TRACE.with(|trace| trace.borrow().lines.iter().cloned().collect())
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}
