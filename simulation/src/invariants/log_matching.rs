//! Log matching: all replicas apply the same entry at the same offset, and each applies them without a hole.
//!
//! Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", ATC 2014, sections 5.3 and 5.4.3 (State
//! Machine Safety).

use super::Violation;
use super::watch::Position;
use std::collections::BTreeMap;

/// The entries that were applied anywhere.
#[derive(Debug, Default)]
pub struct LogMatching {
    entries: BTreeMap<(u64, u64), (Position, u64)>,
    last: BTreeMap<(String, u64), u64>,
}

impl LogMatching {
    /// A machine begins anew: it may apply again what it had applied.
    pub fn begins(&mut self, machine: &str) {
        self.last.retain(|(known, _), _| known != machine);
    }

    /// A replica was opened or its state replaced: it goes on behind `offset`, or from the first entry.
    pub fn goes_on(&mut self, machine: &str, group: u64, offset: Option<u64>) {
        let replica = (machine.to_owned(), group);
        match offset {
            Some(offset) => self.last.insert(replica, offset),
            None => self.last.remove(&replica),
        };
    }

    /// A replica has applied an entry.
    pub fn applied(&mut self, machine: &str, group: u64, at: Position, hash: u64) -> Result<(), Violation> {
        let known = *self.entries.entry((group, at.offset)).or_insert((at, hash));
        if known != (at, hash) {
            let detail = format!("{machine} applied {at:?} ({hash:08x}) in group {group}, another applied {known:?}");
            return Err(Violation::new("log-matching", detail));
        }
        let last = self.last.insert((machine.to_owned(), group), at.offset);
        match last {
            Some(last) if last + 1 != at.offset => {
                let detail = format!("{machine} applied offset {} of group {group} right after {last}", at.offset);
                Err(Violation::new("log-matching", detail))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, offset: u64) -> Position {
        Position { term, leader: 1, offset }
    }

    #[test]
    fn another_entry_at_an_offset_or_a_hole_is_seen() {
        let mut log = LogMatching::default();
        log.applied("n1", 1, at(1, 0), 5).unwrap();
        log.applied("n2", 1, at(1, 0), 5).unwrap();
        log.applied("n2", 2, at(1, 0), 6).unwrap();
        assert!(log.applied("n3", 1, at(2, 0), 5).is_err(), "another term");
        assert!(log.applied("n3", 1, at(1, 0), 6).is_err(), "other bytes");
        assert!(log.applied("n1", 1, at(1, 2), 7).is_err(), "a hole");
        log.begins("n1");
        log.applied("n1", 1, at(1, 0), 5).unwrap();
        log.goes_on("n1", 1, Some(7));
        assert!(log.applied("n1", 1, at(1, 9), 5).is_err(), "a hole behind what was durable");
    }
}
