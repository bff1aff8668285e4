//! What a disk can be told to do wrong.

use crate::kernel::time;
use std::io;
use std::time::Duration;

/// The operation within which the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A write to a file: a part of it may be there.
    Write,
    /// Making a file's bytes durable.
    Sync,
    /// Giving a file another name.
    Rename,
}

/// Something that goes wrong with the next operations of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// The next so many reads fail.
    Reads(u64),
    /// The next so many writes stop half-way and fail.
    Writes(u64),
    /// The next so many syncs fail, of files or directories; what those of files should have made durable never will be.
    Syncs(u64),
}

/// What is wrong with a disk now.
#[derive(Default)]
pub(super) struct Wrongs {
    reads: u64,
    writes: u64,
    syncs: u64,
    /// When anything went wrong last.
    failed_at: Option<Duration>,
    cut: Option<(Cut, Box<dyn FnOnce() + Send>)>,
}

impl Wrongs {
    pub fn add(&mut self, fault: DiskFault) {
        match fault {
            DiskFault::Reads(count) => self.reads += count,
            DiskFault::Writes(count) => self.writes += count,
            DiskFault::Syncs(count) => self.syncs += count,
        }
    }

    /// Nothing is wrong any more.
    pub fn clear(&mut self) {
        *self = Wrongs::default();
    }

    /// At the next such operation the power goes; `then` cuts it.
    pub fn cut_at(&mut self, cut: Cut, then: Box<dyn FnOnce() + Send>) {
        self.cut = Some((cut, then));
    }

    /// Whether the power goes in this operation.
    pub fn is_cut_at(&self, operation: Cut) -> bool {
        self.cut.as_ref().is_some_and(|(cut, _)| *cut == operation)
    }

    /// What cuts the power, if this is the operation to do it in.
    pub fn takes_cut(&mut self, operation: Cut) -> Option<Box<dyn FnOnce() + Send>> {
        let (_, then) = self.cut.take_if(|(cut, _)| *cut == operation)?;
        Some(then)
    }

    /// Whether anything has gone wrong since this was last asked, and no longer ago than so long: what a node lives with for
    /// that time is no reason to end.
    pub fn take_failed(&mut self, within: Duration) -> bool {
        self.failed_at.take().is_some_and(|at| time::now().saturating_sub(at) <= within)
    }

    pub fn read(&mut self) -> io::Result<()> {
        let outcome = take(&mut self.reads, "read");
        self.note(outcome)
    }

    pub fn write(&mut self) -> io::Result<()> {
        let outcome = take(&mut self.writes, "written");
        self.note(outcome)
    }

    pub fn sync(&mut self) -> io::Result<()> {
        let outcome = take(&mut self.syncs, "synced");
        self.note(outcome)
    }

    fn note(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        if outcome.is_err() {
            self.failed_at = Some(time::now());
        }
        outcome
    }
}

fn take(count: &mut u64, what: &str) -> io::Result<()> {
    if *count == 0 {
        return Ok(());
    }
    *count -= 1;
    Err(io::Error::other(format!("simulated: the disk could not be {what}")))
}
