//! The partition as the log's state machine: verdicts for events, merging for checkpoints.
//!
//! Applying is a pure function of state and entry. Large checkpoints are merged while entries of events are applied, so that
//! whoever waits for an ack does not wait for them; and their rows are read and merged first, so that reads wait only for the new
//! rows to be put in place.

use super::error::Error;
use super::identities::Header;
use super::keys;
use super::position::row_hash;
use super::quarantine;
use super::recent::Recent;
use super::recent_row::RecentRow;
use super::state::{Condition, DeltaCounts, Inner, PartitionState, Shared};
use super::tail::{Acceptance, Events, Kind, TailEntry};
use crate::domain::Rollup;
use crate::format::{Checkpoint, CheckpointReader, Entry, EventsEntry, StoredRollup};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{
    Begun, Committed, Durable, HISTORY, LogPosition, Offset, Pace, Payload, Rest, Snapshot, SnapshotChunks,
    StateMachine,
};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use tokio::time::Instant;

/// What became of a checkpoint: the answer to whoever proposed it, as [`CheckpointAnswer::encode`] writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckpointAnswer {
    /// Its deltas are in the stored rollups.
    Applied,
    /// It does not build on `consumed`, or reaches no further: nothing changed. A replica that begins from a state at or
    /// behind its end also says so when the log gives it the entry again.
    Skipped,
}

impl CheckpointAnswer {
    /// Writes it.
    pub fn encode(&self) -> Bytes {
        postcard::to_allocvec(self).expect("memory is there").into()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<CheckpointAnswer, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}

/// How far ahead of the leader's clock an entry's stamp may be, in ms: as far as an event may be by default.
const STAMP_AHEAD_MAX_MS: u64 = 600_000;

/// A checkpoint of so many bytes has some hundred rows.
const LONG_BYTES: usize = 16 << 10;

#[async_trait]
impl StateMachine for PartitionState {
    fn durable(&self) -> Durable {
        self.shared.lock().durable.clone()
    }

    /// Events are answered with [`crate::domain::Verdicts`] in postcard, checkpoints with [`CheckpointAnswer`], anything
    /// else with nothing. An entry that cannot be read is the same on every replica: it counts nothing, and whoever folds it sets it
    /// aside.
    fn apply(&self, entry: Committed) -> io::Result<Bytes> {
        match self.shared.begin(entry)? {
            Begun::Done(answer) => Ok(answer),
            Begun::Rest(mut rest) => loop {
                if let Some(answer) = rest.step()? {
                    return Ok(answer);
                }
            },
        }
    }

    /// Of events only the headers are read; a checkpoint's rows are added, half a microsecond or so each.
    fn pace(&self, payload: &Bytes) -> Pace {
        match Entry::checkpoint(payload) {
            None => Pace::Quick,
            Some(checkpoint) if checkpoint.len() < LONG_BYTES => Pace::InTurn,
            Some(_) => Pace::Long,
        }
    }

    /// Whether a checkpoint is taken is decided at once. Its rows are merged, and `consumed` moves, in the rest: what events are
    /// answered does not depend on it.
    fn begin(&self, entry: Committed) -> io::Result<Begun> {
        Ok(self.shared.begin(entry)?)
    }

    /// Entries stamped by a clock that is far ahead are not admitted: their stamp would make the log's clock forget
    /// producers and let future events seal hours, on every replica and for good.
    fn admits(&self, payload: &Bytes) -> bool {
        let latest = self.shared.environment.clock.now_ms().saturating_add(STAMP_AHEAD_MAX_MS);
        let stamp = EventsEntry::stamp_of(payload).filter(|stamp| *stamp > latest);
        if let Some(stamp_ms) = stamp {
            tracing::warn!(partition = %self.shared.id, stamp_ms, "refused an entry of a node whose clock is far ahead");
        }
        stamp.is_none()
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        let (state, tasks) = (self.clone(), self.shared.environment.tasks.clone());
        Ok(tasks.blocking(move || state.capture()).await?.into_snapshot())
    }

    async fn install(&self, durable: Durable, chunks: Box<dyn SnapshotChunks>) -> io::Result<()> {
        Ok(self.install_snapshot(durable, chunks).await?)
    }
}

impl Shared {
    fn begin(self: &Arc<Self>, entry: Committed) -> Result<Begun, Error> {
        let begun = self.try_begin(entry);
        if begun.is_err() {
            self.lock().condition = Condition::Broken;
        }
        begun
    }

    fn try_begin(self: &Arc<Self>, entry: Committed) -> Result<Begun, Error> {
        let position = entry.position;
        self.check_order(position)?;
        let Payload::Data(payload) = entry.payload else {
            let kind = match entry.payload {
                Payload::Membership(membership) => Kind::Membership(membership),
                _ => Kind::Other,
            };
            self.lock().push(TailEntry { position, bytes: 0, kind });
            return Ok(Begun::Done(Bytes::new()));
        };
        let bytes = payload.len() as u64;
        let read = match Entry::checkpoint(&payload) {
            Some(checkpoint) => CheckpointReader::new(payload.slice_ref(checkpoint))
                .map(|reader| self.begin_checkpoint(position, bytes, reader)),
            None => EventsEntry::decode(&payload).map(|entry| self.apply_events(position, bytes, &entry)),
        };
        Ok(read.unwrap_or_else(|error| {
            self.lock().push(TailEntry { position, bytes, kind: Kind::Other });
            Begun::Done(self.unreadable(position, &error))
        }))
    }

    /// The answer to an entry that cannot be read: the same on every replica.
    fn unreadable(&self, position: LogPosition, error: &crate::format::Error) -> Bytes {
        tracing::error!(partition = %self.id, %position, %error, "an entry of the log cannot be read");
        Bytes::new()
    }

    fn check_order(&self, position: LogPosition) -> Result<(), Error> {
        let expected = self.lock().applied().map_or(Offset(0), Offset::next);
        if position.offset == expected {
            return Ok(());
        }
        Err(self.broken(format!("entry {position} was applied where {expected} comes next")))
    }

    fn apply_events(&self, position: LogPosition, bytes: u64, entry: &EventsEntry) -> Begun {
        let header = Header::of(entry);
        let mut inner = self.lock();
        let decision = inner.current.decide(position.offset.0, &header);
        let events = Events::of(entry, header, &decision);
        inner.push(TailEntry { position, bytes, kind: Kind::Events(events) });
        drop(inner);
        Begun::Done(postcard::to_allocvec(decision.verdicts()).expect("memory is there").into())
    }

    fn begin_checkpoint(
        self: &Arc<Self>,
        position: LogPosition,
        bytes: u64,
        checkpoint: CheckpointReader<Bytes>,
    ) -> Begun {
        let mut inner = self.lock();
        let takes = inner.takes(position.offset, checkpoint.head());
        inner.push(TailEntry { position, bytes, kind: Kind::Other });
        let generation = inner.generation;
        drop(inner);
        if !takes {
            return Begun::Done(CheckpointAnswer::Skipped.encode());
        }
        Begun::Rest(Box::new(Merging {
            shared: Arc::clone(self),
            position,
            generation,
            checkpoint,
            counts: DeltaCounts::default(),
            merged: Vec::new(),
        }))
    }

    /// Makes a checkpoint's rows part of the state, and moves `consumed`.
    fn finish_checkpoint(
        &self,
        position: LogPosition,
        checkpoint: &Checkpoint,
        counts: &DeltaCounts,
        merged: Vec<Merged>,
    ) -> Result<Bytes, Error> {
        let mut recent = self.lock_recent();
        let checked = self.lock().check_tally(checkpoint, counts);
        let (digest, rollups) = if checked.is_ok() { put(&mut recent, merged) } else { (0, 0) };
        let mut inner = self.lock();
        let consumed = checked.and_then(|()| {
            inner.position.rows_digest ^= digest;
            inner.position.rollups += rollups;
            inner.quarantine(checkpoint, &mut recent);
            inner.recent_dirty = recent.dirty();
            inner.consume(checkpoint)
        });
        if let Err(what) = consumed {
            // Before the locks are let go of: what stands there now must not be captured.
            inner.condition = Condition::Broken;
            return Err(self.broken(what));
        }
        inner.position.checkpoint = Some(position.offset.0);
        let consumed = inner.position.reached();
        drop(inner);
        drop(recent);
        tracing::debug!(
            target: HISTORY,
            partition = self.id.0,
            offset = position.offset.0,
            through = checkpoint.through,
            "checkpoint applied"
        );
        self.consumed.send_replace(consumed);
        Ok(CheckpointAnswer::Applied.encode())
    }

    /// A row, `None` where it is not in memory, with a delta.
    fn merge(
        &self,
        generation: keys::Generation,
        tail: Vec<u8>,
        row: Option<RecentRow>,
        delta: Rollup,
    ) -> Result<Merged, Error> {
        let row = match row {
            Some(row) => Some(row),
            None => self.read_row(generation, &tail)?,
        };
        let (old_hash, row) = match row {
            Some(row) => (Some(row.hash()), row.with(&tail, delta, &self.sketch)),
            None => (None, RecentRow::new(&tail, StoredRollup { revision: 1, rollup: delta })),
        };
        Ok(Merged { tail, old_hash, row })
    }

    /// A rollup from its row in the store.
    pub(super) fn read_row(&self, generation: keys::Generation, tail: &[u8]) -> Result<Option<RecentRow>, Error> {
        let Some(value) = self.rows.get(&self.key(generation, tail))? else { return Ok(None) };
        let stored = StoredRollup::decode(&value).map_err(|error| self.damaged(tail, error))?;
        Ok(Some(RecentRow::new(tail, stored)))
    }
}

/// Deltas that are looked up and merged together: few enough that they stay in the processor's cache.
const MERGED_TOGETHER: usize = 64;

/// As many times are they merged in a step.
const MERGES_A_STEP: usize = 4;

/// Merges a checkpoint that was taken. No other is applied and no snapshot installed meanwhile, entries of events are. The
/// state stays as it was until the last step.
struct Merging {
    shared: Arc<Shared>,
    position: LogPosition,
    generation: keys::Generation,
    checkpoint: CheckpointReader<Bytes>,
    /// What the deltas count.
    counts: DeltaCounts,
    /// The rows as they will be.
    merged: Vec<Merged>,
}

impl Rest for Merging {
    fn remaining(&self) -> usize {
        self.checkpoint.remaining()
    }

    fn step(&mut self) -> io::Result<Option<Bytes>> {
        let shared = Arc::clone(&self.shared);
        let _long_holder = shared.holds_long();
        let stepped = self.try_step();
        if stepped.is_err() {
            shared.lock().condition = Condition::Broken;
        }
        Ok(stepped?)
    }
}

impl Merging {
    fn try_step(&mut self) -> Result<Option<Bytes>, Error> {
        for _ in 0..MERGES_A_STEP {
            let deltas = match self.next_deltas() {
                Ok(deltas) => deltas,
                Err(error) => return Ok(Some(self.shared.unreadable(self.position, &error))),
            };
            let is_last = deltas.len() < MERGED_TOGETHER;
            self.merge(deltas)?;
            if is_last {
                return self.finish().map(Some);
            }
        }
        Ok(None)
    }

    /// The next [`MERGED_TOGETHER`] deltas, or as many as are left.
    fn next_deltas(&mut self) -> Result<Vec<(Vec<u8>, Rollup)>, crate::format::Error> {
        let mut deltas = Vec::with_capacity(MERGED_TOGETHER);
        while deltas.len() < MERGED_TOGETHER
            && let Some((app, hour, delta)) = self.checkpoint.next_delta()?
        {
            self.counts.add(app, hour, &delta);
            deltas.push((keys::rollup(app, hour), delta));
        }
        Ok(deltas)
    }

    fn merge(&mut self, deltas: Vec<(Vec<u8>, Rollup)>) -> Result<(), Error> {
        let rows: Vec<_> = {
            let recent = self.shared.lock_recent();
            deltas.iter().map(|(tail, _)| recent.get(tail).cloned()).collect()
        };
        for ((tail, delta), row) in deltas.into_iter().zip(rows) {
            self.merged.push(self.shared.merge(self.generation, tail, row, delta)?);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Bytes, Error> {
        match self.checkpoint.finish() {
            Ok(checkpoint) => {
                let merged = std::mem::take(&mut self.merged);
                self.shared.finish_checkpoint(self.position, &checkpoint, &self.counts, merged)
            }
            Err(error) => Ok(self.shared.unreadable(self.position, &error)),
        }
    }
}

/// A row that a checkpoint has changed.
struct Merged {
    tail: Vec<u8>,
    /// What the old row, if there was one, added to the digest.
    old_hash: Option<u64>,
    row: RecentRow,
}

/// Puts changed rows in place. Returns what that changes in the digest, and how many rows are new.
fn put(recent: &mut Recent, merged: Vec<Merged>) -> (u64, u64) {
    let (mut digest, mut rollups) = (0, 0);
    for Merged { tail, old_hash, row } in merged {
        digest ^= old_hash.unwrap_or(0) ^ row.hash();
        rollups += u64::from(old_hash.is_none());
        recent.put(tail, row);
    }
    (digest, rollups)
}

impl Inner {
    /// Adds the entry behind the last one applied.
    fn push(&mut self, entry: TailEntry) {
        self.applied_bytes += entry.bytes;
        self.tail.push(entry);
        if self.tail.events() == 0 {
            self.complete_at = Instant::now();
        }
    }

    /// Whether a checkpoint at `offset` of the log changes the state.
    ///
    /// It has to build on `consumed` and to reach further, because there are no two states with one `consumed`. And it has
    /// to stand behind the checkpoint that brought `consumed` here: one before that was skipped when it was applied first,
    /// and must be skipped again by a replica that begins from this state and is given the entries behind it.
    fn takes(&self, offset: Offset, checkpoint: &Checkpoint) -> bool {
        let consumed = self.position.offset().map(|consumed| consumed.0);
        checkpoint.base == consumed
            && consumed.is_none_or(|consumed| checkpoint.through > consumed)
            && checkpoint.through < offset.0
            && self.position.checkpoint < Some(offset.0)
    }

    fn quarantine(&mut self, checkpoint: &Checkpoint, recent: &mut Recent) {
        for entry in &checkpoint.quarantined {
            for (tail, value) in quarantine::rows(entry) {
                self.position.rows_digest ^= row_hash(&tail, &value);
            }
            self.position.quarantined_entries += 1;
            recent.quarantine(entry.clone());
        }
    }

    /// Moves `consumed` to the checkpoint's end: what the tail knows about the stretch becomes part of the base.
    fn consume(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        for entry in self.tail.take_through(Offset(checkpoint.through)) {
            self.consumed_bytes += entry.bytes;
            self.position.consumed = Some(entry.position);
            match entry.kind {
                Kind::Events(events) => {
                    let decision = self.base.decide(entry.position.offset.0, &events.header);
                    if Acceptance::of(&decision) != events.acceptance {
                        return Err(format!("entry {} would be decided otherwise now", entry.position));
                    }
                    self.position.events += events.events;
                }
                Kind::Membership(membership) => self.position.membership = Some(membership),
                Kind::Other => {}
            }
        }
        let position = &mut self.position;
        position.watermark_ms = position.watermark_ms.max(checkpoint.watermark_ms);
        position.tally.counted += checkpoint.tally.counted;
        position.tally.duplicate += checkpoint.tally.duplicate;
        position.tally.quarantined += checkpoint.tally.quarantined;
        position.clock_ms = self.base.clock_ms;
        position.identities_digest = self.base.digest();
        if position.events != position.tally.total() {
            return Err(format!("{} events in the log, {:?} accounted for", position.events, position.tally));
        }
        let now = Instant::now();
        self.complete_at = now;
        self.behind_since.get_or_insert(now);
        Ok(())
    }
}
