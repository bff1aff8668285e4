//! What happened in a run, in order: a hash over all of it, and the last lines for people.
//!
//! Every byte that crosses the simulated network or is written to a disk, every sync, every fault and every answer to a client goes in,
//! with the simulated time. Two runs of one seed are the same run if and only if their hashes are equal.

use crate::kernel::time;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
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
    sink: Option<Box<dyn Write>>,
}

/// A finished trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// XXH3 over everything that was recorded.
    pub hash: u64,
    /// How many things were recorded.
    pub events: u64,
}

/// Begins a new trace on this thread. A verbose one is also printed to stderr as it goes; all of it goes to `sink`.
pub fn start(is_verbose: bool, sink: Option<Box<dyn Write>>) {
    TRACE.with(|trace| *trace.borrow_mut() = Trace { is_verbose, sink, ..Trace::default() });
}

/// Records something that a person would want to read.
pub fn line(line: fmt::Arguments<'_>) {
    let line = format!("{:>10.3}s  {line}", time::now().as_secs_f64());
    TRACE.with(|trace| {
        let mut trace = trace.borrow_mut();
        trace.hash.update(line.as_bytes());
        trace.events += 1;
        if trace.is_verbose {
            eprintln!("{line}");
        }
        trace.write(|| line.clone());
        if trace.lines.len() == LINES_KEPT {
            trace.lines.pop_front();
        }
        trace.lines.push_back(line);
    });
}

/// Prints something that only helps who reads along; it is no part of the trace.
pub fn aside(line: fmt::Arguments<'_>) {
    if TRACE.with(|trace| trace.borrow().is_verbose) {
        eprintln!("{:>10.3}s  {line}", time::now().as_secs_f64());
    }
}

/// Records bytes that went from one place to another.
pub fn bytes(place: &str, bytes: &[u8]) {
    let now = u64::try_from(time::now().as_micros()).unwrap_or(u64::MAX);
    TRACE.with(|trace| {
        let mut trace = trace.borrow_mut();
        trace.hash.update(&now.to_le_bytes());
        trace.hash.update(place.as_bytes());
        trace.hash.update(bytes);
        trace.events += 1;
        trace.write(|| format!("{now} {place} {}", hexadecimal(bytes)));
    });
}

/// Ends the trace: its hash and size.
pub fn end() -> Summary {
    TRACE.with(|trace| {
        let mut trace = trace.borrow_mut();
        // Closes the file.
        trace.sink = None;
        Summary { hash: trace.hash.digest(), events: trace.events }
    })
}

/// The last readable lines.
pub fn last_lines() -> Vec<String> {
    TRACE.with(|trace| trace.borrow().lines.iter().cloned().collect())
}

impl Trace {
    fn write(&mut self, line: impl FnOnce() -> String) {
        if let Some(sink) = &mut self.sink
            && let Err(error) = writeln!(sink, "{}", line())
        {
            eprintln!("the trace cannot be written any further: {error}");
            self.sink = None;
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
