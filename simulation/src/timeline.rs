//! What a person wants to see of a run afterwards: who was up, who led, what struck, what was acked and read.

use crate::kernel::time;
use crate::observe::Message;
use serde::Serialize;
use std::cell::RefCell;

/// So many marks are kept before answers of clients are left out: a page with more cannot be read.
const MARKS_MAX: usize = 60_000;

/// Something at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// Simulated ms since the run began.
    pub at_ms: u64,
    /// Which lane: a node's name, or `faults`, `clients`.
    pub lane: String,
    /// What kind, for its colour: `start`, `down`, `pause`, `resume`, `leads`, `leads_no_more`, `fault`, `end`, `ack`, `unknown`,
    /// `refused`, `read`, `note`, `violation`.
    pub kind: &'static str,
    /// For `leads` and `leads_no_more` the group's number; otherwise words.
    pub text: String,
}

thread_local! {
    static MARKS: RefCell<Option<Vec<Mark>>> = const { RefCell::new(None) };
}

/// Begins to keep marks.
pub fn start() {
    MARKS.with_borrow_mut(|marks| *marks = Some(Vec::new()));
}

/// Keeps a mark, if anybody wants to see them.
pub fn mark(lane: &str, kind: &'static str, text: impl FnOnce() -> String) {
    MARKS.with_borrow_mut(|marks| {
        let is_answer = ["ack", "read", "refused", "unknown"].contains(&kind);
        if let Some(marks) = marks.as_mut().filter(|marks| !is_answer || marks.len() < MARKS_MAX) {
            let at_ms = u64::try_from(time::now().as_millis()).unwrap_or(u64::MAX);
            marks.push(Mark { at_ms, lane: lane.to_owned(), kind, text: text() });
        }
    });
}

/// The product has said something.
pub fn heard(message: &Message) {
    let group = || message.number("group").unwrap_or(0).to_string();
    match message.text.as_str() {
        "leads" => mark(&message.machine, "leads", group),
        "leads no more" => mark(&message.machine, "leads_no_more", group),
        "entry quarantined"
        | "snapshot installed"
        | "node stops"
        | "changing members"
        | "entered the cluster"
        | "aggregator ended, starting a fresh one" => {
            mark(&message.machine, "note", || format!("{}{}", message.text, message.rest));
        }
        _ => {}
    }
}

/// All marks, if they were kept.
pub fn marks() -> Vec<Mark> {
    MARKS.with_borrow(|marks| marks.clone().unwrap_or_default())
}
