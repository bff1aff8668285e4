//! Leader completeness: what was applied under an older leadership stands before everything of a newer one.
//!
//! Source: Ongaro and Ousterhout, ATC 2014, section 5.4. An entry of a newer leadership at or before an offset that an older one
//! had committed, or an older one's behind it, would mean that a leader had not held all that was committed.

use super::Violation;
use super::watch::Position;
use std::collections::BTreeMap;

/// A term and its leader.
type Leadership = (u64, u64);

/// The first and the last offset.
type Stretch = (u64, u64);

/// Where each leadership's applied entries lie.
#[derive(Debug, Default)]
pub struct LeaderComplete {
    stretches: BTreeMap<u64, BTreeMap<Leadership, Stretch>>,
}

impl LeaderComplete {
    /// A replica has applied an entry.
    pub fn applied(&mut self, group: u64, at: Position) -> Result<(), Violation> {
        let stretches = self.stretches.entry(group).or_default();
        let leadership = (at.term, at.leader);
        let known = stretches.get(&leadership).copied();
        if known.is_some_and(|(first, last)| (first..=last).contains(&at.offset)) {
            return Ok(());
        }
        let (first, last) = known.unwrap_or((at.offset, at.offset));
        stretches.insert(leadership, (first.min(at.offset), last.max(at.offset)));
        let older = stretches.range(..leadership).next_back().map(|(_, (_, last))| *last);
        let newer = stretches.range(leadership..).nth(1).map(|(_, (first, _))| *first);
        if older.is_some_and(|older| older >= at.offset) || newer.is_some_and(|newer| newer <= at.offset) {
            let detail = format!("{at:?} of group {group} stands between entries of other leaderships");
            return Err(Violation::new("leader-complete", detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_leaderships_entry_behind_a_newer_ones_is_seen() {
        let mut leaders = LeaderComplete::default();
        let at = |term, offset| Position { term, leader: 1, offset };
        for (term, offset) in [(1, 0), (1, 1), (2, 2), (1, 1), (2, 3)] {
            leaders.applied(1, at(term, offset)).unwrap();
        }
        assert!(leaders.applied(1, at(1, 4)).is_err());
    }
}
