//! What the log holds in memory, and where the next record goes.
//!
//! A record gets its LSN, its segment and its byte the moment it is accepted, under one lock; the writer then only copies
//! what was decided. So the order of the log is the order of the calls, an entry can be read (from memory) at once, and
//! whether there is room is known before anything is promised.
//!
//! ```text
//!    oldest segment   …   current segment                      spare (ready, empty)
//!   [ records       ] … [ state · records ▸ position  reserve ] [                  ]
//! ```
//!
//! Without a spare the last bytes of the current segment are kept for what is not an entry: votes must still be saved
//! when the disk is full.

use super::index::{Change, Group, Located, Place};
use super::record::{self, Header, Kind};
use super::segment::{FIRST_RECORD, Segment};
use super::{Done, Pin, Space};
use crate::{GroupId, LogPosition, Offset};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

/// A record takes at most this share of a segment.
const RECORD_SHARE: u64 = 4;
/// Bytes kept for what is not an entry while there is no spare segment: some 700 votes.
const RESERVE_BYTES: u64 = 64 << 10;

/// A record on its way to the disk.
pub(super) struct Queued {
    pub segment: Arc<Segment>,
    pub at: u64,
    pub header: Header,
    pub payload: Bytes,
    pub done: Option<Done>,
}

/// Something to do for the segment files, off the way of appends.
pub(super) enum Chore {
    /// No record in it matters any more. Recycle it as this generation, or remove it.
    Release(Arc<Segment>, Option<u64>),
    /// Make a new one of this generation.
    Prepare(u64),
}

/// See the module.
pub(super) struct State {
    pub groups: BTreeMap<GroupId, Group>,
    /// Segments that have begun, by generation; the last one is the current one.
    pub segments: BTreeMap<u64, Arc<Segment>>,
    /// Segments that have not, in order of generation.
    pub spares: VecDeque<Arc<Segment>>,
    /// Where the next record goes.
    pub position: u64,
    pub next_lsn: u64,
    pub synced_lsn: u64,
    pub queue: VecDeque<Queued>,
    pub queued_bytes: usize,
    /// Bytes of entries that were promised room.
    pub admitted_bytes: u64,
    /// Something in the queue is waited for.
    pub is_urgent: bool,
    /// The last record is no mark.
    pub is_unmarked: bool,
    /// The last attempt to make a segment found the disk full.
    pub is_disk_full: bool,
    pub is_closing: bool,
    pub failure: Option<String>,
    /// Once everything up to an LSN is synced, segments below a generation hold nothing that matters.
    releases: VecDeque<(u64, u64)>,
    released_below: u64,
    /// Records whose payload is cached, oldest first.
    cached: VecDeque<(GroupId, Offset, u64)>,
    cached_bytes: usize,
    bounds: Bounds,
}

/// The bounds of what is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub segment_bytes: u64,
    pub bytes_max: u64,
    pub spares_max: usize,
    pub cache_bytes_max: usize,
    pub queue_bytes_max: usize,
}

impl Bounds {
    /// The largest payload of one record.
    pub fn payload_bytes_max(&self) -> usize {
        (self.segment_bytes / RECORD_SHARE) as usize - record::HEADER_BYTES
    }
}

impl State {
    /// A log that goes on at `position` of the last segment.
    pub fn new(
        groups: BTreeMap<GroupId, Group>,
        segments: BTreeMap<u64, Arc<Segment>>,
        spares: VecDeque<Arc<Segment>>,
        (position, next_lsn): (u64, u64),
        bounds: Bounds,
    ) -> State {
        let oldest = *segments.keys().next().expect("a log has a segment");
        let mut state = State {
            groups,
            segments,
            spares,
            position,
            next_lsn,
            synced_lsn: next_lsn - 1,
            queue: VecDeque::new(),
            queued_bytes: 0,
            admitted_bytes: 0,
            is_urgent: false,
            is_unmarked: next_lsn > 1,
            is_disk_full: false,
            is_closing: false,
            failure: None,
            releases: VecDeque::new(),
            released_below: oldest,
            cached: VecDeque::new(),
            cached_bytes: 0,
            bounds,
        };
        state.note_release(state.synced_lsn);
        state.settle_releases();
        state
    }

    /// An error if the log takes no more calls.
    pub fn check_open(&self) -> io::Result<()> {
        match &self.failure {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None if self.is_closing => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")),
            None => Ok(()),
        }
    }

    /// Why a change does not fit a group, or `None` if it does.
    pub fn refusal(&self, group: GroupId, change: &Change) -> Option<String> {
        self.groups.get(&group).map_or_else(|| Group::default().refusal(change), |group| group.refusal(change))
    }

    /// Whether a change would leave a group as it is.
    pub fn is_noop(&self, group: GroupId, change: &Change) -> bool {
        self.groups.get(&group).map_or_else(|| Group::default().is_noop(change), |group| group.is_noop(change))
    }

    /// Whether a record with such a payload can be placed now; begins the next segment if it has to and can.
    pub fn has_room_for(&mut self, kind: Kind, payload_bytes: usize) -> bool {
        let bytes = record::record_bytes(payload_bytes);
        let is_entry = kind == Kind::Entry;
        let is_queue_full = self.queued_bytes > 0 && self.queued_bytes + payload_bytes > self.bounds.queue_bytes_max;
        if is_entry && is_queue_full {
            return false;
        }
        loop {
            let kept = if is_entry && self.spares.is_empty() { reserve(self.current().bytes) } else { 0 };
            if self.position + bytes + kept <= self.current().bytes {
                return true;
            }
            match self.spares.pop_front() {
                Some(spare) => self.begin(spare),
                None => return false,
            }
        }
    }

    /// Whether the disk has room for more.
    pub fn space(&self) -> Space {
        let largest = self.bounds.segment_bytes / RECORD_SHARE;
        let current = self.current();
        match () {
            () if !self.is_disk_full => Space::Ok,
            () if self.position + self.admitted_bytes + largest + reserve(current.bytes) <= current.bytes => Space::Low,
            () if self.spares.is_empty() => Space::Full,
            () => Space::Low,
        }
    }

    /// Places a change for which there is room and that fits, and makes it.
    pub fn place(&mut self, group: GroupId, change: Change, done: Option<Done>) {
        let (kind, label, position, payload) = parts(&change);
        let drops = matches!(kind, Kind::Truncate | Kind::Purge | Kind::Reset);
        let place = self.push(group, kind, label, position, payload.clone(), done);
        if kind == Kind::Entry {
            let offset = position.expect("an entry has a position").offset;
            self.cached.push_back((group, offset, place.lsn));
            self.cached_bytes += payload.len();
        }
        self.cached_bytes -= self.groups.entry(group).or_default().apply(change, place);
        if drops {
            self.note_release(place.lsn);
        }
    }

    /// Places a mark for which there is room.
    pub fn place_mark(&mut self) {
        self.push(GroupId::METADATA, Kind::Mark, 0, None, Bytes::new(), None);
    }

    /// Takes what waits for the disk.
    pub fn take(&mut self) -> Vec<Queued> {
        self.is_urgent = false;
        self.queue.drain(..).collect()
    }

    /// Notes that everything up to an LSN is synced. Says whether that freed a segment.
    pub fn note_synced(&mut self, lsn: u64, payload_bytes: usize) -> bool {
        assert!(lsn > self.synced_lsn, "synced through {} and then {lsn}", self.synced_lsn);
        self.synced_lsn = lsn;
        self.queued_bytes -= payload_bytes;
        self.evict();
        self.settle_releases()
    }

    /// What is to be done for the segment files, if anything.
    pub fn next_chore(&mut self) -> Option<Chore> {
        let next = self.spares.back().unwrap_or(self.current()).generation + 1;
        let oldest = *self.segments.keys().next().expect("a log has a segment");
        if oldest < self.released_below {
            let segment = self.segments.remove(&oldest).expect("it was just seen");
            let is_fit = self.spares.len() < self.bounds.spares_max && segment.bytes == self.bounds.segment_bytes;
            return Some(Chore::Release(segment, is_fit.then_some(next)));
        }
        self.spares.is_empty().then_some(Chore::Prepare(next))
    }

    /// Whether a spare of which so many bytes are filled may wait, because it will be whole when half of the current segment is in
    /// use. Before three quarters are, there is no record that does not fit.
    pub fn is_ahead(&self, filled: u64) -> bool {
        let is_further = u128::from(filled) * u128::from(self.current().bytes)
            > 2 * u128::from(self.position) * u128::from(self.bounds.segment_bytes);
        is_further && !self.is_disk_full
    }

    /// Bytes of all segment files, the spares included.
    pub fn bytes(&self) -> u64 {
        self.bytes_in_use() + self.spares.iter().map(|segment| segment.bytes).sum::<u64>()
    }

    /// See [`super::Log::pins`].
    pub fn pins(&self) -> Vec<Pin> {
        let kept = match self.bytes_in_use() {
            _ if self.is_disk_full => 0,
            bytes if bytes > self.bounds.bytes_max => self.bounds.bytes_max / 2,
            _ => return Vec::new(),
        };
        let mut rest = self.bytes_in_use();
        let older = self.segments.values().take(self.segments.len() - 1);
        let last = older.take_while(|segment| {
            let goes = rest > kept;
            rest -= segment.bytes;
            goes
        });
        let Some(generation) = last.last().map(|segment| segment.generation) else { return Vec::new() };
        let pins = self.groups.iter().filter_map(|(id, group)| {
            let last = group.last_in(generation)?;
            Some(Pin { group: *id, upto: last.position })
        });
        pins.collect()
    }

    /// See [`super::Log::must_shrink`].
    pub fn must_shrink(&self) -> bool {
        self.is_disk_full || self.bytes_in_use() > 2 * self.bounds.bytes_max
    }

    /// Bytes of the segments that have begun.
    fn bytes_in_use(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    fn current(&self) -> &Arc<Segment> {
        self.segments.last_key_value().expect("a log has a segment").1
    }

    /// Makes a spare the current segment and says in it how every group stands.
    fn begin(&mut self, spare: Arc<Segment>) {
        let bytes = spare.bytes;
        self.segments.insert(spare.generation, spare);
        self.position = FIRST_RECORD;
        let states = self.groups.iter().map(|(id, group)| (*id, record::encode_state(&group.log_state())));
        let mut states: VecDeque<(GroupId, Bytes)> = states.collect();
        while let Some((group, state)) = states.pop_front() {
            let end = self.position + record::record_bytes(state.len());
            let count = self.groups.len();
            assert!(end <= bytes / RECORD_SHARE, "a segment of {bytes} bytes is too small for {count} groups");
            let label = if states.is_empty() { 0 } else { record::MORE_STATES };
            self.push(group, Kind::State, label, None, state, None);
        }
        self.note_release(self.next_lsn - 1);
    }

    fn push(
        &mut self,
        group: GroupId,
        kind: Kind,
        label: u8,
        position: Option<LogPosition>,
        payload: Bytes,
        done: Option<Done>,
    ) -> Place {
        let segment = Arc::clone(self.current());
        let place = Place { generation: segment.generation, at: self.position, lsn: self.next_lsn };
        let length = u32::try_from(payload.len()).expect("payloads are bounded by the segment");
        let generation = segment.generation;
        let header = Header { length, generation, lsn: place.lsn, synced: 0, group, kind, label, position };
        self.position += record::record_bytes(payload.len());
        self.next_lsn += 1;
        self.queued_bytes += payload.len();
        self.is_unmarked = kind != Kind::Mark;
        self.queue.push_back(Queued { segment, at: place.at, header, payload, done });
        place
    }

    /// Notes that segments below the oldest entry matter no longer once `lsn` is synced.
    fn note_release(&mut self, lsn: u64) {
        let oldest_entry = self.groups.values().filter_map(Group::oldest_generation).min();
        let below = oldest_entry.unwrap_or(u64::MAX).min(self.current().generation);
        if self.releases.back().map_or(self.released_below, |(_, below)| *below) < below {
            self.releases.push_back((lsn, below));
        }
    }

    fn settle_releases(&mut self) -> bool {
        let before = self.released_below;
        while let Some((lsn, below)) = self.releases.front()
            && *lsn <= self.synced_lsn
        {
            self.released_below = *below;
            self.releases.pop_front();
        }
        self.released_below > before
    }

    /// Lets go of the oldest cached payloads, but never of one that is not on the disk yet.
    fn evict(&mut self) {
        while let Some((group, offset, lsn)) = self.cached.front().copied()
            && lsn <= self.synced_lsn
        {
            let is_gone = self.entry(group, offset).is_none_or(|entry| entry.place.lsn != lsn);
            if self.cached_bytes <= self.bounds.cache_bytes_max && !is_gone {
                break;
            }
            self.cached.pop_front();
            self.cached_bytes -= self.groups.get_mut(&group).map_or(0, |group| group.evict(offset, lsn));
        }
    }

    fn entry(&self, group: GroupId, offset: Offset) -> Option<&Located> {
        self.groups.get(&group)?.get(offset)
    }
}

/// Bytes of a segment that entries leave alone while there is no spare.
fn reserve(segment_bytes: u64) -> u64 {
    RESERVE_BYTES.min(segment_bytes / 8)
}

/// The fields of the record that says a change.
pub(super) fn parts(change: &Change) -> (Kind, u8, Option<LogPosition>, Bytes) {
    match change {
        Change::Entry { position, label, payload, .. } => {
            (Kind::Entry, *label, Some(*position), payload.clone().unwrap_or_default())
        }
        Change::Vote(vote) => (Kind::Vote, 0, None, vote.clone()),
        Change::Truncate(last) => (Kind::Truncate, 0, *last, Bytes::new()),
        Change::Purge(upto) => (Kind::Purge, 0, Some(*upto), Bytes::new()),
        Change::Committed(committed) => (Kind::Committed, 0, *committed, Bytes::new()),
        Change::Reset => (Kind::Reset, 0, None, Bytes::new()),
    }
}
