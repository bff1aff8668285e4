//! Replaces a partition's state by a snapshot, so that a crash at any moment leaves the old one or the new one.
//!
//! The snapshot's rows go into a generation of their own. When all are there, checked and durable, one row makes that
//! generation the current one. What is left of other generations is removed afterwards, and when the partition is opened.

use super::error::Error;
use super::identities::{Identities, Limits};
use super::keys::{self, Kind};
use super::load::{encode_current, window_row};
use super::position::{Digest, Position, row_hash};
use super::recent_row::rollup_hash;
use super::rows::{Row, RowBatch, RowStore};
use super::snapshot::{TYPE_END, TYPE_HEADER, TYPE_ROWS, VERSION};
use super::state::{Condition, PartitionState, Shared};
use super::tail::Tail;
use crate::format::StoredRollup;
use crate::format::codec;
use cluster::{Durable, SnapshotChunks};
use std::sync::Arc;
use tokio::time::Instant;

/// Rows that are removed at a time.
const REMOVE_ROWS: usize = 1024;

/// Reads a snapshot chunk by chunk and checks it.
#[derive(Debug)]
pub struct Checker {
    /// With whether its digest of the rows is of the hashes of today.
    header: Option<(Position, bool)>,
    identities: Identities,
    rollups: u64,
    rows_digest: u64,
    /// Tail of the last rollup or piece of a quarantined entry.
    last: Vec<u8>,
    rows: u64,
    is_over: bool,
}

impl Checker {
    /// Nothing read yet.
    pub fn new(limits: Limits) -> Checker {
        let identities = Identities::new(limits);
        Checker { header: None, identities, rollups: 0, rows_digest: 0, last: Vec::new(), rows: 0, is_over: false }
    }

    /// Reads the next chunk and returns its rows: tails and values.
    pub fn read(&mut self, chunk: &[u8]) -> Result<Vec<Row>, Error> {
        self.read_chunk(chunk).map_err(Error::Snapshot)
    }

    fn read_chunk(&mut self, chunk: &[u8]) -> Result<Vec<Row>, String> {
        let text = |error: crate::format::Error| error.to_string();
        let mut reader = codec::open("snapshot chunk", VERSION, chunk).map_err(text)?;
        let mut rows = Vec::new();
        match (reader.byte().map_err(text)?, &self.header) {
            _ if self.is_over => return Err("there is a chunk behind the end".to_owned()),
            (TYPE_HEADER, None) => {
                self.header = Some(Position::decode_any(reader.bytes().map_err(text)?).map_err(text)?);
            }
            (TYPE_ROWS, Some(_)) => {
                for _ in 0..reader.length().map_err(text)? {
                    let (tail, value) = (reader.bytes().map_err(text)?, reader.bytes().map_err(text)?);
                    self.read_row(tail, value)?;
                    rows.push((tail.to_vec(), value.to_vec()));
                }
            }
            (TYPE_END, Some(_)) => {
                self.is_over = true;
                let said = reader.varint().map_err(text)?;
                if said != self.rows {
                    return Err(format!("it has {} rows of {said}", self.rows));
                }
            }
            (other, _) => return Err(format!("a chunk of type {other} is out of place")),
        }
        reader.end().map_err(text)?;
        Ok(rows)
    }

    fn read_row(&mut self, tail: &[u8], value: &[u8]) -> Result<(), String> {
        self.rows += 1;
        match keys::kind(tail) {
            Some(Kind::Rollup) => {
                keys::split_rollup(tail).ok_or("the key of a rollup is malformed")?;
                self.follows(tail)?;
                let stored = StoredRollup::decode(value).map_err(|error| error.to_string())?;
                self.rollups += 1;
                self.rows_digest ^= rollup_hash(tail, &stored);
                Ok(())
            }
            Some(Kind::Quarantined) => {
                let (offset, _) = keys::split_quarantined(tail).ok_or("the key of a quarantined entry is malformed")?;
                self.follows(tail)?;
                let consumed = self.header.as_ref().and_then(|(position, _)| position.offset());
                if Some(offset) > consumed.map(|consumed| consumed.0) {
                    return Err(format!("entry {offset} is quarantined behind its end"));
                }
                self.rows_digest ^= row_hash(tail, value);
                Ok(())
            }
            _ => window_row(&mut self.identities, tail, value),
        }
    }

    /// Refuses a row that is there already, or out of order: it would be counted twice and stored once.
    fn follows(&mut self, tail: &[u8]) -> Result<(), String> {
        if tail <= &self.last[..] {
            return Err("its rows are out of order".to_owned());
        }
        self.last.clear();
        self.last.extend_from_slice(tail);
        Ok(())
    }

    /// The state without its rollups, once every chunk has been read and everything fits together.
    pub fn finish(mut self) -> Result<(Position, Identities), Error> {
        let position = self.header.take().filter(|_| self.is_over);
        let (mut position, has_digest) = position.ok_or_else(|| Error::Snapshot("it ends too early".to_owned()))?;
        if !has_digest {
            position.rows_digest = self.rows_digest;
        }
        let found = Position {
            rollups: self.rollups,
            rows_digest: self.rows_digest,
            identities_digest: self.identities.digest(),
            ..position.clone()
        };
        if found != position {
            let (found, said) = (found.digest(), position.digest());
            return Err(Error::Snapshot(format!("its rows give {found:?} where it says {said:?}")));
        }
        self.identities.clock_ms = position.clock_ms;
        self.identities.producers.take_dirty();
        self.identities.edges.take_dirty();
        Ok((position, self.identities))
    }
}

impl PartitionState {
    pub(super) async fn install_snapshot(
        &self,
        durable: Durable,
        mut chunks: Box<dyn SnapshotChunks>,
    ) -> Result<(), Error> {
        let shared = &self.shared;
        let exclusive = Arc::clone(&shared.writing).lock_owned().await;
        let (old, limits) = {
            let inner = shared.lock();
            (inner.generation, inner.base.limits().clone())
        };
        let generation = old + 1;
        let clearing = Arc::clone(shared);
        shared.environment.tasks.blocking(move || clearing.clear(generation..generation + 1)).await?;
        let mut checker = Checker::new(limits);
        while let Some(chunk) = chunks.next().await? {
            let rows = checker.read(&chunk)?;
            let writer = Arc::clone(shared);
            shared.environment.tasks.blocking(move || writer.put_rows(generation, rows)).await?;
        }
        let (position, base) = checker.finish()?;
        if position.consumed != durable.position {
            let what = format!("it is at {:?}, announced at {:?}", position.consumed, durable.position);
            return Err(Error::Snapshot(what));
        }
        let position = Position { membership: durable.membership, ..position };
        let (writer, state) = (Arc::clone(shared), position.encode());
        shared.environment.tasks.blocking(move || writer.make_current(generation, state)).await?;
        shared.replace(generation, position, base);
        drop(exclusive);
        let cleaner = self.clone();
        shared.environment.tasks.spawn("old rollups", async move { cleaner.remove_old_generations().await });
        Ok(())
    }

    /// Removes rows that no longer count, a few at a time so that write-outs are not held up.
    pub(super) async fn remove_old_generations(&self) {
        loop {
            let exclusive = Arc::clone(&self.shared.writing).lock_owned().await;
            let shared = Arc::clone(&self.shared);
            let removed = self.shared.environment.tasks.blocking(move || shared.remove_some_old()).await;
            drop(exclusive);
            match removed {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    // They are in nobody's way: the next start tries again.
                    tracing::warn!(partition = %self.shared.id, %error, "old rollups were not removed");
                    return;
                }
            }
        }
    }

    /// Reads the whole state and compares it with the digest that was kept along the way. A difference is damage: the
    /// node stops.
    pub async fn verify(&self) -> Result<Digest, Error> {
        let limits = self.shared.lock().base.limits().clone();
        let state = self.clone();
        let read = self.shared.environment.tasks.blocking(move || {
            let mut capture = state.capture()?;
            let said = capture.position().digest();
            let mut checker = Checker::new(limits);
            while let Some(chunk) = capture.next_chunk()? {
                checker.read(&chunk)?;
            }
            checker.finish().map(|_| said)
        });
        match read.await {
            Ok(said) => Ok(said),
            Err(Error::Snapshot(what)) => Err(self.shared.damaged(&[], what)),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    /// Removes all rows of some generations.
    fn clear(&self, generations: std::ops::Range<u32>) -> Result<(), Error> {
        let from = keys::prefix(self.id, generations.start).to_vec();
        let to = keys::prefix(self.id, generations.end).to_vec();
        while remove_some(&*self.rows, &from, &to)? > 0 {}
        Ok(())
    }

    fn put_rows(&self, generation: keys::Generation, rows: Vec<Row>) -> Result<(), Error> {
        let mut batch = RowBatch::default();
        for (tail, value) in rows {
            batch.put(self.key(generation, &tail), value);
        }
        if !batch.is_empty() {
            // Nobody needs to take it again after a crash: the generation does not count yet.
            batch.make_indivisible();
            self.rows.apply(batch)?;
        }
        Ok(())
    }

    /// Makes a generation, whose rows are all there, the one that counts; durable on return.
    fn make_current(&self, generation: keys::Generation, state: Vec<u8>) -> Result<(), Error> {
        self.rows.flush()?;
        let mut batch = RowBatch::default();
        batch.put(self.key(generation, &keys::state()), state);
        batch.put(keys::current(self.id), encode_current(generation));
        self.rows.apply(batch)?;
        Ok(self.rows.flush()?)
    }

    /// Takes the installed state into memory.
    fn replace(&self, generation: keys::Generation, position: Position, base: Identities) {
        let mut recent = self.lock_recent();
        let mut inner = self.lock();
        inner.generation = generation;
        inner.current = base.untracked();
        inner.base = base;
        inner.durable = position.durable();
        inner.position = position;
        inner.tail = Tail::default();
        recent.clear();
        inner.recent_dirty = 0;
        inner.epoch += 1;
        inner.snapshots.clear();
        inner.complete_at = Instant::now();
        inner.behind_since = None;
        inner.consumed_bytes = inner.applied_bytes;
        inner.durable_bytes = inner.applied_bytes;
        let (consumed, durable) = (inner.position.reached(), inner.durable.position);
        drop(inner);
        drop(recent);
        let offset = durable.map(|position| position.offset.0);
        tracing::info!(partition = self.id.0, offset, "snapshot installed");
        self.consumed.send_replace(consumed);
        self.durable.send_replace(durable);
    }

    fn remove_some_old(&self) -> Result<usize, Error> {
        let current = {
            let inner = self.lock();
            if inner.condition == Condition::LetGo {
                return Ok(0);
            }
            inner.generation
        };
        let below = (keys::prefix(self.id, 1).to_vec(), keys::prefix(self.id, current).to_vec());
        let above = (keys::generation_end(self.id, current), keys::partition_end(self.id));
        for (from, to) in [below, above] {
            let removed = remove_some(&*self.rows, &from, &to)?;
            if removed > 0 {
                return Ok(removed);
            }
        }
        Ok(0)
    }
}

/// Removes the first rows of a range; returns how many.
pub(super) fn remove_some(rows: &dyn RowStore, from: &[u8], to: &[u8]) -> Result<usize, Error> {
    let found = rows.scan(from, to, REMOVE_ROWS)?;
    let mut batch = RowBatch::default();
    for (key, _) in found {
        batch.remove(key);
    }
    let removed = batch.len();
    if removed > 0 {
        rows.apply(batch)?;
    }
    Ok(removed)
}
