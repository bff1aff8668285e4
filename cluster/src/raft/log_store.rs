//! openraft's log storage over the node's write-ahead log.
//!
//! A payload is stored as it is, without a copy through serde; a membership as [`Members`]. Order and durability are the
//! log's promise (`crate::log`); nothing is kept here.

use super::types::{Ballot, Entry, LogId, TypeConfig, Vote, log_id, position};
use super::wire;
use crate::Offset;
use crate::log::{GroupLog, Record};
use futures::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

/// Most bytes of entries that one read gives to replication or to the state machine: large enough for full speed, small
/// enough that a window of eight requests stays below the transport's limits.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// One group's log as openraft wants it.
#[derive(Clone)]
pub struct LogStore {
    log: GroupLog,
}

impl LogStore {
    pub fn new(log: GroupLog) -> LogStore {
        LogStore { log }
    }

    /// The entries of a range, all of them.
    async fn read_all(&self, mut offsets: Range<Offset>) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        while offsets.start < offsets.end {
            let records = self.log.read(offsets.clone(), READ_BYTES_MAX).await?;
            let Some(last) = records.last() else { break };
            offsets.start = last.position.offset.next();
            append_entries(&mut entries, records)?;
        }
        Ok(entries)
    }
}

fn append_entries(entries: &mut Vec<Entry>, records: Vec<Record>) -> io::Result<()> {
    for record in records {
        entries.push(wire::unpack(record.position, record.kind, record.payload)?);
    }
    Ok(())
}

/// The half-open range of offsets that `range` means.
fn offsets(range: impl RangeBounds<u64>) -> Range<Offset> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    Offset(start)..Offset(end.max(start))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Read as the state machine goes, so that a long replay needs little memory.
        let state = (self.clone(), offsets(range), Vec::new().into_iter());
        stream::try_unfold(state, |(store, mut offsets, mut ready)| async move {
            if let Some(entry) = ready.next() {
                return Ok(Some((entry, (store, offsets, ready))));
            }
            if offsets.start >= offsets.end {
                return Ok(None);
            }
            let records = store.log.read(offsets.clone(), READ_BYTES_MAX).await?;
            let Some(last) = records.last() else { return Ok(None) };
            offsets.start = last.position.offset.next();
            let mut entries: Vec<Entry> = Vec::with_capacity(records.len());
            append_entries(&mut entries, records)?;
            ready = entries.into_iter();
            Ok(ready.next().map(|entry| (entry, (store, offsets, ready))))
        })
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read_all(offsets(range)).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let vote = self.log.state().vote;
        vote.map(|bytes| wire::decode::<Ballot>(&bytes).map(Vote::from)).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let records = self.log.read(Offset(start)..Offset(end), READ_BYTES_MAX).await?;
        let mut entries = Vec::with_capacity(records.len());
        append_entries(&mut entries, records)?;
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState { last_purged_log_id: state.purged.map(log_id), last_log_id: state.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.save_vote(wire::encode(&Ballot::from(vote))).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(position)).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.state().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(|entry| {
            let (kind, payload) = wire::pack(&entry);
            Record { position: position(&entry.log_id), kind, payload }
        });
        self.log.append(records.collect(), Box::new(move |result| callback.io_completed(result))).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let end = self.log.state().last.map(|last| last.offset);
        match last.as_ref().map(position) {
            // Nothing lies behind it.
            Some(last) if end <= Some(last.offset) => Ok(()),
            last => self.log.truncate_after(last).await,
        }
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(position(&upto)).await
    }
}
