//! How much may be under way at once: a request over the budget is turned away at the door, not queued.

use crate::metrics::Level;
use std::sync::{Arc, Mutex, PoisonError};

/// The node's budget for events that were taken in and are not answered yet.
#[derive(Clone)]
pub struct Admission {
    budget: Arc<Budget>,
}

struct Budget {
    bytes_max: u64,
    requests_max: u64,
    used: Mutex<Used>,
    level: Level,
}

#[derive(Default)]
struct Used {
    bytes: u64,
    requests: u64,
}

/// The budget is used up: come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node has as many events under way as it may hold")]
pub struct Overloaded;

impl Admission {
    /// A budget of bytes (after decompression) and requests; `level` shows the bytes in use.
    pub fn new(bytes_max: u64, requests_max: u64, level: Level) -> Admission {
        Admission { budget: Arc::new(Budget { bytes_max, requests_max, used: Mutex::default(), level }) }
    }

    /// Lets one request in, with no bytes yet.
    pub fn admit(&self) -> Result<Permit, Overloaded> {
        self.budget.take(0, 1)?;
        Ok(Permit { budget: self.budget.clone(), bytes: 0 })
    }
}

impl Budget {
    fn take(&self, bytes: u64, requests: u64) -> Result<(), Overloaded> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, requests) = (used.bytes.saturating_add(bytes), used.requests + requests);
        if bytes > self.bytes_max || requests > self.requests_max {
            return Err(Overloaded);
        }
        *used = Used { bytes, requests };
        self.level.set(bytes);
        Ok(())
    }

    fn give_back(&self, bytes: u64, requests: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes -= bytes;
        used.requests -= requests;
        self.level.set(used.bytes);
    }
}

/// A request's share of the budget, given back when dropped.
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Permit {
    /// Takes `bytes` more, before they are held in memory.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Overloaded> {
        let bytes = bytes as u64;
        self.budget.take(bytes, 0)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives `bytes` of those taken back early.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = (bytes as u64).min(self.bytes);
        self.bytes -= bytes;
        self.budget.give_back(bytes, 0);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_over_the_budget_are_refused_until_others_are_done() {
        let level = Level::default();
        let admission = Admission::new(100, 10, level.clone());
        let mut first = admission.admit().unwrap();
        let mut second = admission.admit().unwrap();
        first.grow(60).unwrap();
        second.grow(40).unwrap();
        assert_eq!(second.grow(1), Err(Overloaded));
        assert_eq!(level.get(), 100);
        first.shrink(1);
        assert_eq!(second.grow(1), Ok(()));
        drop(first);
        assert_eq!(level.get(), 41);
        assert_eq!(second.grow(59), Ok(()));
        assert_eq!(second.grow(usize::MAX), Err(Overloaded));
        drop(second);
        assert_eq!(level.get(), 0);
    }

    #[test]
    fn requests_over_the_budget_are_refused_until_others_are_done() {
        let admission = Admission::new(100, 2, Level::default());
        let first = admission.admit().unwrap();
        let _second = admission.admit().unwrap();
        assert!(admission.admit().is_err());
        drop(first);
        assert!(admission.admit().is_ok());
    }
}
