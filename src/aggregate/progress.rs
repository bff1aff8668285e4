//! What an aggregator lets its supervisor see while it works, and what is left of it after it died.

use cluster::Offset;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Progress of the aggregator of one partition. Shared between aggregator, its waker and its supervisor.
#[derive(Debug, Default)]
pub struct Progress {
    wake_is_under_way: AtomicBool,
    folding: Mutex<Option<Offset>>,
    /// The last folded offset plus one; 0 when nothing was folded.
    folded_count: AtomicU64,
    waits_for_log: AtomicBool,
    checkpoint_is_wanted: AtomicBool,
}

impl Progress {
    /// Takes the one credit for a wake; `false` if it is out.
    pub fn take_wake_credit(&self) -> bool {
        !self.wake_is_under_way.swap(true, Relaxed)
    }

    /// Gives the credit back: entries applied from now on are worth a wake.
    pub fn return_wake_credit(&self) {
        self.wake_is_under_way.store(false, Relaxed);
    }

    /// Notes whether the log refuses a checkpoint for now: until it takes it, standing still is no stall.
    pub fn set_waits_for_log(&self, waits: bool) {
        self.waits_for_log.store(waits, Relaxed);
    }

    /// Whether it does.
    pub fn waits_for_log(&self) -> bool {
        self.waits_for_log.load(Relaxed)
    }

    /// A checkpoint is wanted soon, also of entries without events.
    pub fn want_checkpoint(&self) {
        self.checkpoint_is_wanted.store(true, Relaxed);
    }

    /// Whether one is, asked once.
    pub fn take_wanted_checkpoint(&self) -> bool {
        self.checkpoint_is_wanted.swap(false, Relaxed)
    }

    /// An entry is about to be folded.
    pub fn folding(&self, offset: Offset) {
        *self.folding.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(offset);
    }

    /// The entry was folded.
    pub fn not_folding(&self) {
        *self.folding.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }

    /// The entry that was being folded when the aggregator died, taken out.
    pub fn take_folding(&self) -> Option<Offset> {
        self.folding.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Everything up to this offset has been folded.
    pub fn folded(&self, offset: Option<Offset>) {
        self.folded_count.store(offset.map_or(0, |offset| offset.0 + 1), Relaxed);
    }

    /// The last folded offset.
    pub fn last_folded(&self) -> Option<Offset> {
        self.folded_count.load(Relaxed).checked_sub(1).map(Offset)
    }
}
