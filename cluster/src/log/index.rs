//! One group's log in memory: its ends, its vote, and where each entry lies.
//!
//! ```text
//!      purged   first                    last
//!   ─────┤       ├──── entries ───────────┤
//! ```
//!
//! Writing and recovery go through the same [`Group::refusal`] and [`Group::apply`], so a log that was accepted when it
//! was written is accepted when it is read again, and one that would have a hole is neither.

use super::GroupState;
use crate::{LogPosition, Offset};
use bytes::Bytes;
use std::collections::VecDeque;

/// A group's state without its entries: what a state record holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogState {
    /// Offset of the first entry, or of the one after the last where there is none.
    pub first: Offset,
    /// Vote and ends.
    pub state: GroupState,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's generation.
    pub generation: u64,
    /// The byte in the segment that the record begins at.
    pub at: u64,
    /// The record's LSN.
    pub lsn: u64,
}

/// An entry, and where its record lies.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub position: LogPosition,
    pub label: u8,
    pub length: u32,
    pub place: Place,
    /// The payload, as long as it is cached.
    pub payload: Option<Bytes>,
}

/// What a record changes in its group.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// An entry; the payload is there when it is written, and left where it is when it is recovered.
    Entry {
        position: LogPosition,
        label: u8,
        length: u32,
        payload: Option<Bytes>,
    },
    Vote(Bytes),
    Truncate(Option<LogPosition>),
    Purge(LogPosition),
    Committed(Option<LogPosition>),
    Reset,
}

/// One group's log.
#[derive(Debug, Default)]
pub(super) struct Group {
    first: Offset,
    state: GroupState,
    entries: VecDeque<Located>,
    payload_bytes: u64,
}

impl Group {
    /// A group as a state record describes it; its entries lie in older segments, and are known only if those were read.
    pub fn restored(log: LogState) -> Group {
        Group { first: log.first, state: log.state, ..Group::default() }
    }

    /// Vote and ends.
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// What a state record has to hold.
    pub fn log_state(&self) -> LogState {
        LogState { first: self.first, state: self.state.clone() }
    }

    /// Bytes of the payloads of all entries.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Why a change does not fit behind what is there, or `None` if it does.
    pub fn refusal(&self, change: &Change) -> Option<String> {
        let (purged, last) = (self.state.purged, self.state.last);
        match change {
            Change::Entry { position, .. } if last.is_some_and(|last| last.offset.next() != position.offset) => {
                Some(format!("entry {position} does not follow {}", shown(last)))
            }
            Change::Truncate(to) => {
                let is_known = match to {
                    None => purged.is_none(),
                    Some(_) if *to == purged => true,
                    // An entry whose record was not found may be truncated after: what is missing is checked at the end.
                    Some(to) => match self.get(to.offset) {
                        Some(entry) => entry.position == *to,
                        None => to.offset >= self.first && Some(to.offset) < self.located_from(),
                    },
                };
                (!is_known).then(|| format!("cannot truncate after {}, which is not in the log", shown(*to)))
            }
            _ => None,
        }
    }

    /// Whether a change would leave everything as it is.
    pub fn is_noop(&self, change: &Change) -> bool {
        match change {
            Change::Truncate(to) => *to == self.state.last,
            Change::Purge(upto) => self.state.purged.is_some_and(|purged| purged.offset >= upto.offset),
            Change::Committed(committed) => *committed == self.state.committed,
            _ => false,
        }
    }

    /// Makes a change whose record lies at `place`; it fits ([`Group::refusal`]). Returns the bytes of cached payloads
    /// that it dropped.
    pub fn apply(&mut self, change: Change, place: Place) -> usize {
        match change {
            Change::Entry { position, label, length, payload } => {
                self.append(Located { position, label, length, place, payload });
            }
            Change::Vote(vote) => self.state.vote = Some(vote),
            Change::Committed(committed) => self.state.committed = committed,
            Change::Truncate(last) => return self.truncate_after(last),
            Change::Purge(upto) => return self.purge(upto),
            Change::Reset => {
                self.first = Offset(0);
                let dropped = self.state.dropped.max(self.state.last);
                self.state = GroupState { vote: self.state.vote.take(), dropped, ..GroupState::default() };
                let dropped = std::mem::take(&mut self.entries);
                return self.forget(dropped);
            }
        }
        0
    }

    /// The entry at an offset.
    pub fn get(&self, offset: Offset) -> Option<&Located> {
        let from = self.entries.front()?.position.offset;
        self.entries.get(usize::try_from(offset.0.checked_sub(from.0)?).ok()?)
    }

    /// Lets go of the cached payload of an entry if it still is the record `lsn`; returns its bytes.
    pub fn evict(&mut self, offset: Offset, lsn: u64) -> usize {
        let Some(from) = self.entries.front().map(|entry| entry.position.offset) else { return 0 };
        let entry = offset.0.checked_sub(from.0).and_then(|at| self.entries.get_mut(at as usize));
        match entry {
            Some(entry) if entry.place.lsn == lsn => entry.payload.take().map_or(0, |payload| payload.len()),
            _ => 0,
        }
    }

    /// The entries from an offset on.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = &Located> {
        let from = self.entries.front().map_or(0, |entry| entry.position.offset.0);
        let skipped = usize::try_from(offset.0.saturating_sub(from)).unwrap_or(usize::MAX);
        self.entries.range(skipped.min(self.entries.len())..)
    }

    /// The segment that the oldest entry lies in.
    pub fn oldest_generation(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.place.generation)
    }

    /// The last entry that lies in a segment or an older one.
    pub fn last_in(&self, generation: u64) -> Option<&Located> {
        let behind = self.entries.partition_point(|entry| entry.place.generation <= generation);
        self.entries.get(behind.checked_sub(1)?)
    }

    /// Offsets that should be there but whose records were not found, empty if the log is whole.
    pub fn missing(&self) -> Option<(Offset, Offset)> {
        let located_from = self.located_from()?;
        (self.first < located_from).then(|| (self.first, Offset(located_from.0 - 1)))
    }

    /// The first offset whose record was found, or the one after the last.
    fn located_from(&self) -> Option<Offset> {
        let front = self.entries.front().map(|entry| entry.position.offset);
        front.or(self.state.last.map(|last| last.offset.next()))
    }

    fn append(&mut self, entry: Located) {
        if self.state.last.is_none() {
            self.first = entry.position.offset;
        }
        self.state.last = Some(entry.position);
        self.payload_bytes += u64::from(entry.length);
        self.entries.push_back(entry);
    }

    fn truncate_after(&mut self, last: Option<LogPosition>) -> usize {
        let kept = self.entries.partition_point(|entry| Some(entry.position.offset) <= last.map(|last| last.offset));
        let dropped = self.entries.split_off(kept);
        self.state.last = last;
        if last.is_none() {
            self.first = Offset(0);
        }
        self.forget(dropped)
    }

    fn purge(&mut self, upto: LogPosition) -> usize {
        let gone = self.entries.partition_point(|entry| entry.position.offset <= upto.offset);
        let dropped = self.entries.drain(..gone).collect();
        self.state.purged = Some(upto);
        if self.state.last.is_none_or(|last| last.offset <= upto.offset) {
            self.state.last = Some(upto);
        }
        self.first = self.first.max(upto.offset.next());
        self.forget(dropped)
    }

    fn forget(&mut self, dropped: VecDeque<Located>) -> usize {
        self.payload_bytes -= dropped.iter().map(|entry| u64::from(entry.length)).sum::<u64>();
        dropped.iter().filter_map(|entry| entry.payload.as_ref()).map(Bytes::len).sum()
    }
}

fn shown(position: Option<LogPosition>) -> String {
    position.map_or_else(|| "the beginning".into(), |position| position.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeId, Term};

    fn position(term: u64, offset: u64) -> LogPosition {
        LogPosition { term: Term(term), leader: NodeId(1), offset: Offset(offset) }
    }

    fn entry(term: u64, offset: u64) -> Change {
        Change::Entry {
            position: position(term, offset),
            label: 0,
            length: 5,
            payload: Some(Bytes::from_static(b"12345")),
        }
    }

    fn group(changes: impl IntoIterator<Item = Change>) -> Group {
        let mut group = Group::default();
        for (at, change) in changes.into_iter().enumerate() {
            assert_eq!(group.refusal(&change), None, "{change:?}");
            group.apply(change, Place { generation: 1 + at as u64 / 3, at: at as u64, lsn: at as u64 });
        }
        group
    }

    fn offsets(group: &Group) -> Vec<u64> {
        group.from(Offset(0)).map(|entry| entry.position.offset.0).collect()
    }

    #[test]
    fn entries_have_no_holes() {
        let group = group([entry(1, 5), entry(1, 6)]);
        assert!(group.refusal(&entry(1, 8)).is_some());
        assert!(group.refusal(&entry(1, 6)).is_some());
        assert_eq!(group.refusal(&entry(1, 7)), None);
        assert_eq!((offsets(&group), group.payload_bytes(), group.missing()), (vec![5, 6], 10, None));
    }

    #[test]
    fn truncation_ends_at_an_entry_that_is_there() {
        let mut group = group([entry(1, 0), entry(1, 1), entry(2, 2)]);
        assert!(group.refusal(&Change::Truncate(Some(position(2, 1)))).is_some(), "another term");
        assert!(group.refusal(&Change::Truncate(Some(position(2, 3)))).is_some(), "behind the end");
        assert!(group.is_noop(&Change::Truncate(Some(position(2, 2)))));
        let place = Place { generation: 2, at: 0, lsn: 9 };
        assert_eq!(group.apply(Change::Truncate(Some(position(1, 0))), place), 10);
        assert_eq!((offsets(&group), group.state().last), (vec![0], Some(position(1, 0))));
        group.apply(Change::Truncate(None), place);
        assert_eq!((offsets(&group), group.state().last), (vec![], None));
    }

    #[test]
    fn purging_beyond_the_end_moves_the_end() {
        let mut group = group([entry(1, 0), entry(1, 1)]);
        let place = Place { generation: 2, at: 0, lsn: 9 };
        group.apply(Change::Purge(position(3, 7)), place);
        assert_eq!(group.state().last, Some(position(3, 7)));
        assert!(group.refusal(&Change::Truncate(None)).is_some(), "purged entries cannot be truncated");
        assert!(group.is_noop(&Change::Purge(position(3, 6))));
        assert_eq!(group.refusal(&entry(3, 8)), None);
        assert_eq!(group.log_state().first, Offset(8));
    }

    #[test]
    fn the_segment_of_the_oldest_entry_is_known() {
        let mut group = group([entry(1, 0), entry(1, 1), entry(1, 2), entry(1, 3)]);
        assert_eq!(group.oldest_generation(), Some(1));
        assert_eq!(group.last_in(1).map(|entry| entry.position.offset), Some(Offset(2)));
        group.apply(Change::Purge(position(1, 2)), Place { generation: 2, at: 9, lsn: 9 });
        assert_eq!(group.oldest_generation(), Some(2));
    }

    #[test]
    fn what_a_state_record_promises_is_missed() {
        let state = GroupState { last: Some(position(1, 4)), ..GroupState::default() };
        let mut group = Group::restored(LogState { first: Offset(2), state });
        let place = Place { generation: 2, at: 9, lsn: 9 };
        assert_eq!(group.missing(), Some((Offset(2), Offset(4))));
        group.apply(entry(1, 5), place);
        group.apply(Change::Purge(position(1, 3)), place);
        assert_eq!(group.missing(), Some((Offset(4), Offset(4))));
        group.apply(Change::Purge(position(1, 4)), place);
        assert_eq!(group.missing(), None);
    }

    #[test]
    fn a_payload_is_evicted_only_as_the_record_it_was() {
        let mut group = group([entry(1, 0), entry(1, 1)]);
        assert_eq!(group.evict(Offset(1), 0), 0);
        assert_eq!(group.evict(Offset(1), 1), 5);
        assert_eq!(group.evict(Offset(1), 1), 0);
        assert_eq!(group.evict(Offset(2), 1), 0);
    }

    #[test]
    fn a_reset_keeps_the_vote_and_how_far_the_log_went() {
        let mut group = group([Change::Vote(Bytes::from_static(b"v")), entry(1, 0), entry(2, 1), Change::Reset]);
        let (vote, dropped) = (Some(Bytes::from_static(b"v")), Some(position(2, 1)));
        assert_eq!(*group.state(), GroupState { vote, dropped, ..GroupState::default() });
        assert_eq!(group.refusal(&entry(4, 9)), None);
        let place = Place { generation: 2, at: 9, lsn: 9 };
        group.apply(entry(1, 7), place);
        group.apply(Change::Reset, place);
        assert_eq!(group.state().dropped, dropped, "an older entry takes nothing back");
    }
}
