//! Opening a log after a crash: what was synced is there, a torn tail is cut, damage is refused.
//!
//! The log is one chain of LSNs through all segments. Recovery follows it from the oldest segment on, until neither the
//! current segment nor the beginning of the next has the next LSN. What lies behind that point is one of two things:
//!
//! - a **torn tail**: the remains of a write that was never synced. It was never acknowledged, so it is cut (overwritten
//!   with zeros, so that it cannot be taken for a record later either).
//! - **damage**: bytes that had been synced are no longer there. Then nothing is touched, and the log will not open.
//!
//! The proof is in the records: each one says through which LSN everything had been synced when it was written. A valid
//! record behind the point that says "synced" about the LSN that is missing means damage. After a short idle time and at
//! closing, a mark says so about the last write; only what was synced in the moment before a crash is unproven.
//!
//! Each segment begins with the state of every group, so older segments matter only for their entries. Where those states
//! are torn, the segment has not begun: otherwise a group could be forgotten with the segment before. The states of every
//! segment but the oldest are checked against what was replayed; in the end, every entry that a state promises is there.

use super::Error;
use super::index::{Change, Group, Place};
use super::record::{self, Flaw, Header, Kind};
use super::segment::{self, FIRST_RECORD, Segment};
use crate::GroupId;
use crate::environment::Disk;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A log as it was found.
pub(super) struct Recovered {
    pub groups: BTreeMap<GroupId, Group>,
    /// Segments that have begun, by generation.
    pub segments: BTreeMap<u64, Arc<Segment>>,
    /// Segments behind them that have not.
    pub spares: VecDeque<Arc<Segment>>,
    /// Where the next record goes in the last segment.
    pub position: u64,
    /// The next record's LSN.
    pub next_lsn: u64,
}

/// Reads the log in a directory; `None` if there is none. Everything in it is durable on return.
pub(super) fn recover(disk: &dyn Disk, directory: &Path, segment_bytes: u64) -> Result<Option<Recovered>, Error> {
    let failed = |action| move |source| Error::Io { action, path: directory.to_owned(), source };
    create_directory(disk, directory).map_err(failed("create log directory"))?;
    segment::remove_temporary(disk, directory).map_err(failed("remove an unfinished segment in"))?;
    let names = disk.list(directory).map_err(failed("list log directory"))?;
    let generations: Vec<u64> = names.iter().filter_map(|name| segment::generation_of(name)).collect();
    if let Some(gap) = generations.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let path = directory.join(format!("{:012}.log", gap[0] + 1));
        return Err(Error::Damaged { path, position: 0, reason: "the file is missing".into() });
    }
    let segments = generations.iter().map(|generation| Segment::open(disk, directory, *generation));
    let segments = segments.collect::<Result<Vec<_>, _>>()?;
    if segments.is_empty() {
        return Ok(None);
    }
    let replay = Replay::run(&segments)?;
    replay.check_whole(&segments[0])?;
    settle(disk, directory, segments, replay, segment_bytes).map(Some)
}

/// Makes a directory and its parents, durably.
fn create_directory(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    disk.create_directory(directory)?;
    directory.ancestors().skip(1).try_for_each(|parent| disk.sync_directory(parent))
}

/// Removes the remains of what was never synced and syncs what was accepted.
fn settle(
    disk: &dyn Disk,
    directory: &Path,
    mut segments: Vec<Segment>,
    replay: Replay,
    segment_bytes: u64,
) -> Result<Recovered, Error> {
    let mut spares: Vec<Segment> = segments.split_off(replay.end.segment + 1);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let is_reusable = |spare: &Segment| spare.bytes == segment_bytes && !replay.dirty.contains_key(&spare.generation);
    let kept = spares.iter().take_while(|spare| is_reusable(spare)).count();
    // Newest first, each durably: the generations that stay have no gap at any moment.
    for spare in spares.drain(kept..).rev() {
        spare.remove(disk, directory).map_err(failed("remove log segment", &spare.path))?;
    }
    let current = segments.last().expect("the end lies in a segment");
    let cleaned = match replay.dirty.get(&current.generation) {
        Some(remains) => current.clear(remains.clone()),
        None => current.sync(),
    };
    cleaned.map_err(failed("sync log segment", &current.path))?;
    if !replay.dirty.is_empty() {
        tracing::info!(path = %current.path.display(), "the log ended in a torn write, which was never acknowledged: it is cut");
    }
    Ok(Recovered {
        groups: replay.groups,
        segments: segments.into_iter().map(|segment| (segment.generation, Arc::new(segment))).collect(),
        spares: spares.into_iter().map(Arc::new).collect(),
        position: replay.end.position,
        next_lsn: replay.end.lsn,
    })
}

/// Where the chain of records ends.
#[derive(Debug, Clone, Copy)]
struct End {
    /// Which segment, counted from the oldest.
    segment: usize,
    position: u64,
    /// The LSN that would come next.
    lsn: u64,
}

/// Whether a segment has all the states that it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Whole,
    Torn,
}

/// The chain of records, followed so far.
struct Replay {
    groups: BTreeMap<GroupId, Group>,
    end: End,
    /// Where remains of unsynced writes lie, by generation.
    dirty: BTreeMap<u64, Range<u64>>,
}

impl Replay {
    fn run(segments: &[Segment]) -> Result<Replay, Error> {
        let end = End { segment: 0, position: FIRST_RECORD, lsn: 0 };
        let mut replay = Replay { groups: BTreeMap::new(), end, dirty: BTreeMap::new() };
        let mut buffer = Vec::new();
        for (number, segment) in segments.iter().enumerate() {
            read(segment, &mut buffer)?;
            if number == 0 {
                replay.end.lsn = first_lsn(segment, &buffer)?;
            } else if !begins_with(segment, &buffer, replay.end.lsn) {
                break;
            }
            let before = replay.end;
            replay.end = End { segment: number, position: FIRST_RECORD, ..before };
            if replay.follow(segment, &buffer)? == Beginning::Torn {
                // Had the segment begun, the segments before it may be gone: so it was synced, so it is not torn.
                if number == 0 {
                    return Err(damaged(
                        segment,
                        replay.end.position,
                        "the states it begins with are not whole".into(),
                    ));
                }
                replay.end = before;
                break;
            }
        }
        for (number, segment) in segments.iter().enumerate().skip(replay.end.segment) {
            read(segment, &mut buffer)?;
            let from = if number == replay.end.segment { replay.end.position } else { FIRST_RECORD };
            if let Some(remains) = remains(segment, &buffer, from, replay.end, &segments[replay.end.segment])? {
                replay.dirty.insert(segment.generation, remains);
            }
        }
        Ok(replay)
    }

    /// Follows the chain through one segment.
    fn follow(&mut self, segment: &Segment, buffer: &[u8]) -> Result<Beginning, Error> {
        let mut has_only_states = true;
        let mut beginning = Beginning::Whole;
        loop {
            let at = self.end.position;
            let (header, payload) = match record::decode(&buffer[at as usize..], segment.salt, segment.generation) {
                Ok((header, payload)) if header.lsn == self.end.lsn => (header, payload),
                Err(Flaw::Unknown) => return Err(newer(segment, at)),
                _ => return Ok(beginning),
            };
            has_only_states &= header.kind == Kind::State;
            if header.kind == Kind::State && !has_only_states {
                return Err(damaged(segment, at, "a state record stands behind other records".into()));
            }
            if has_only_states {
                beginning = if header.label == record::MORE_STATES { Beginning::Torn } else { Beginning::Whole };
            }
            let place = Place { generation: segment.generation, at, lsn: header.lsn };
            let applied = self.apply(&header, payload, place);
            applied.map_err(|reason| damaged(segment, at, format!("group {}: {reason}", header.group.0)))?;
            self.end.position += record::record_bytes(payload.len());
            self.end.lsn += 1;
        }
    }

    fn apply(&mut self, header: &Header, payload: &[u8], place: Place) -> Result<(), String> {
        let change = match (header.kind, header.position) {
            (Kind::Mark, _) => return Ok(()),
            (Kind::State, _) => return self.apply_state(header.group, payload),
            (Kind::Entry, Some(position)) => {
                Change::Entry { position, label: header.label, length: header.length, payload: None }
            }
            (Kind::Vote, _) => Change::Vote(Bytes::copy_from_slice(payload)),
            (Kind::Truncate, last) => Change::Truncate(last),
            (Kind::Purge, Some(upto)) => Change::Purge(upto),
            (Kind::Committed, committed) => Change::Committed(committed),
            (Kind::Reset, _) => Change::Reset,
            (kind @ (Kind::Entry | Kind::Purge), None) => return Err(format!("{kind:?} without a position")),
        };
        let group = self.groups.entry(header.group).or_default();
        if let Some(refusal) = group.refusal(&change) {
            return Err(refusal);
        }
        group.apply(change, place);
        Ok(())
    }

    fn apply_state(&mut self, group: GroupId, payload: &[u8]) -> Result<(), String> {
        let state = record::decode_state(payload).ok_or("a state record that cannot be read")?;
        if self.end.segment == 0 {
            self.groups.insert(group, Group::restored(state));
            return Ok(());
        }
        let replayed = self.groups.get(&group).map(Group::log_state).unwrap_or_default();
        if replayed == state {
            return Ok(());
        }
        Err(format!("the segment began at {state:?}, but the segments before it lead to {replayed:?}"))
    }

    /// Checks that every entry that should be there was found.
    fn check_whole(&self, oldest: &Segment) -> Result<(), Error> {
        let missing = self.groups.iter().find_map(|(id, group)| Some((id, group.missing()?)));
        let Some((group, (from, to))) = missing else { return Ok(()) };
        let reason = format!("group {}: entries {from} to {to} lay in an older segment, which is gone", group.0);
        Err(damaged(oldest, FIRST_RECORD, reason))
    }
}

/// The LSN of the first record of the oldest segment.
fn first_lsn(segment: &Segment, buffer: &[u8]) -> Result<u64, Error> {
    match record::decode(&buffer[FIRST_RECORD as usize..], segment.salt, segment.generation) {
        Ok((header, _)) if segment.generation > 1 || header.lsn == 1 => Ok(header.lsn),
        Err(Flaw::Unknown) => Err(newer(segment, FIRST_RECORD)),
        _ if segment.generation == 1 => Ok(1),
        // The segment before it was removed, and only after this one's beginning had been synced.
        _ => Err(damaged(segment, FIRST_RECORD, "its first record, which had been synced, cannot be read".into())),
    }
}

fn begins_with(segment: &Segment, buffer: &[u8], lsn: u64) -> bool {
    match record::decode(&buffer[FIRST_RECORD as usize..], segment.salt, segment.generation) {
        Ok((header, _)) => header.lsn == lsn,
        Err(_) => false,
    }
}

/// Where remains of records that were never synced lie behind the end of the log, or the error if they prove damage.
fn remains(segment: &Segment, buffer: &[u8], from: u64, end: End, last: &Segment) -> Result<Option<Range<u64>>, Error> {
    let mut found: Option<Range<u64>> = None;
    for at in (from..segment.bytes).step_by(record::ALIGNMENT) {
        let bytes = &buffer[at as usize..];
        if record::trace_of_record(bytes, segment.generation).is_none_or(|lsn| lsn < end.lsn) {
            continue;
        }
        match record::decode(bytes, segment.salt, segment.generation) {
            Ok((header, _)) if header.synced >= end.lsn => {
                let reason = format!(
                    "record {} cannot be read, but record {} at byte {at} of segment {} says that it had been synced",
                    end.lsn, header.lsn, segment.generation
                );
                return Err(damaged(last, end.position, reason));
            }
            Err(Flaw::Unknown) => return Err(newer(segment, at)),
            _ => {}
        }
        let until = (at + record::HEADER_BYTES as u64).min(segment.bytes);
        found = Some(found.map_or(from, |range| range.start)..until);
    }
    Ok(found)
}

fn read(segment: &Segment, buffer: &mut Vec<u8>) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "read log segment", path: segment.path.clone(), source };
    segment.read_all(buffer).map_err(failed)
}

fn newer(segment: &Segment, position: u64) -> Error {
    damaged(segment, position, "the record was written by a newer version of this program".into())
}

fn damaged(segment: &Segment, position: u64, reason: String) -> Error {
    Error::Damaged { path: segment.path.clone(), position, reason }
}
