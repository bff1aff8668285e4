//! Writing out: what changed in memory goes to rows, in one batch per partition, then one flush for all (sled makes very large
//! ones durable one by one).
//!
//! What is written is captured under the locks (pointers, no bytes) and stays readable in memory until it is durable.
//! Applying goes on meanwhile; what it changes is written next time.

use super::error::Error;
use super::identities::{Answer, First};
use super::keys::{self, Generation, Kind};
use super::load::encode_current;
use super::position::Position;
use super::quarantine;
use super::recent::{Recent, Taken};
use super::rows::RowBatch;
use super::snapshot::Overlay;
use super::state::{Condition, Inner, PartitionState, Shared};
use super::windows::{Chunk, Piece, Slot, Windows};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// Rows of a node of up to three partitions that may have changed, and as many that stay in memory because they were written
/// last and are likely to change again: 100,000 apps with some to spare; both together some 200 MB with sketches of 300
/// bins, and three times that where counts of bins are above 65,535.
const ROWS_MAX: usize = 122_880;

/// So many partitions divide [`Policy::rows_max`] among them; where there are more, each has as much as each of these.
const SHARES_MAX: usize = 3;

/// When a partition is written out.
#[derive(Debug, Clone)]
pub struct Policy {
    /// So long after `consumed` moved. Rows of running hours change at each checkpoint; writing them once a minute costs
    /// a thirtieth of writing them each time.
    pub interval: Duration,
    /// As soon as the partition's share of so many rows changed: writing a third of them takes sled almost two seconds. Fewer, and
    /// a running hour of 100,000 apps would be written at each checkpoint. As many stay in memory once they are written.
    pub rows_max: usize,
    /// As soon as so many bytes of the log cannot be purged.
    pub log_bytes_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { interval: Duration::from_secs(60), rows_max: ROWS_MAX, log_bytes_max: 256 << 20 }
    }
}

/// How far a partition's rows lag behind its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// When the state first moved on; `None` if it has not.
    pub since: Option<Instant>,
    /// Rows that changed.
    pub dirty_rows: usize,
    /// Bytes of the log between what is durable and `consumed`.
    pub log_bytes: u64,
}

impl Policy {
    /// The share of each of a node's so many partitions in [`Policy::rows_max`].
    pub fn rows_share(&self, partitions: usize) -> usize {
        (self.rows_max / partitions.clamp(1, SHARES_MAX)).max(1)
    }

    /// Whether a write-out is due of one of so many partitions.
    pub fn is_due(&self, behind: &Behind, partitions: usize, now: Instant) -> bool {
        let Some(since) = behind.since else { return false };
        now.saturating_duration_since(since) >= self.interval
            || behind.dirty_rows >= self.rows_share(partitions)
            || behind.log_bytes >= self.log_bytes_max
    }
}

/// What is being written out of one partition. Dropped before its end, it gives back what it took.
struct WriteOut {
    shared: Arc<Shared>,
    captured: Option<Captured>,
    /// Rows that stay in memory once they are written.
    kept_max: usize,
    _exclusive: OwnedMutexGuard<()>,
}

impl WriteOut {
    fn write(&self) -> Result<usize, Error> {
        self.captured.as_ref().map_or(Ok(0), |captured| self.shared.write(captured))
    }

    fn written(mut self) {
        if let Some(captured) = self.captured.take() {
            self.shared.written(captured, self.kept_max);
        }
    }
}

impl Drop for WriteOut {
    fn drop(&mut self) {
        if let Some(captured) = self.captured.take() {
            let mut recent = self.shared.lock_recent();
            self.shared.lock().not_written(captured, &mut recent);
        }
    }
}

/// A partition's changes as of one `consumed`.
struct Captured {
    generation: Generation,
    position: Position,
    taken: Taken,
    producers: Vec<(Piece, PieceValue<First>)>,
    edges: Vec<(Piece, PieceValue<Answer>)>,
    overlays: Vec<Arc<Mutex<Overlay>>>,
    consumed_bytes: u64,
    behind_since: Option<Instant>,
}

/// A row of a window.
enum PieceValue<T> {
    Gone,
    Head(Vec<u8>),
    Chunk(Arc<Chunk<T>>),
}

/// A partition whose rows nobody else writes meanwhile.
pub(super) type Exclusive = (PartitionState, OwnedMutexGuard<()>);

/// Waits until nobody else writes rows of these partitions.
///
/// `states` in ascending order of partition, so that two of these never wait for each other.
pub(super) async fn exclusive(states: Vec<PartitionState>) -> Vec<Exclusive> {
    let mut exclusive = Vec::with_capacity(states.len());
    for state in states {
        let guard = Arc::clone(&state.shared.writing).lock_owned().await;
        exclusive.push((state, guard));
    }
    exclusive
}

/// Those of these partitions whose rows nobody else writes now: one that installs a snapshot holds up no other.
pub(super) fn free(states: impl IntoIterator<Item = PartitionState>) -> Vec<Exclusive> {
    let locked = states.into_iter().filter_map(|state| {
        let guard = Arc::clone(&state.shared.writing).try_lock_owned().ok()?;
        Some((state, guard))
    });
    locked.collect()
}

/// Writes out the partitions that have something to write, and makes it durable; of each, `kept_max` rows at most stay in
/// memory. Returns how many rows were written.
pub(super) async fn write_out(states: Vec<Exclusive>, kept_max: usize) -> Result<usize, Error> {
    let Some((first, _)) = states.first() else { return Ok(0) };
    let (tasks, rows) = (first.shared.environment.tasks.clone(), Arc::clone(&first.shared.rows));
    // Not in the background: there it could be interrupted while it holds the locks.
    let outs = tasks
        .blocking(move || states.into_iter().filter_map(|state| capture(state, kept_max)).collect::<Vec<_>>())
        .await;
    if outs.is_empty() {
        return Ok(0);
    }
    let (outs, outcome) = tasks
        .background(move || {
            let written: Result<usize, Error> = outs.iter().map(WriteOut::write).sum();
            let outcome = written.and_then(|written| rows.flush().map(|()| written).map_err(Error::from));
            (outs, outcome)
        })
        .await;
    if outcome.is_ok() {
        tasks.blocking(move || outs.into_iter().for_each(WriteOut::written)).await;
    }
    outcome
}

/// What a partition has to write, if it has anything.
fn capture((state, exclusive): Exclusive, kept_max: usize) -> Option<WriteOut> {
    let shared = Arc::clone(&state.shared);
    let captured = {
        let _long_holder = shared.holds_long();
        let mut recent = shared.lock_recent();
        let captured = shared.lock().capture()?;
        // `consumed` stands still without the other lock, and entries are applied meanwhile.
        let taken = recent.take();
        shared.lock().recent_dirty = recent.dirty();
        Captured { taken, ..captured }
    };
    Some(WriteOut { shared, captured: Some(captured), kept_max, _exclusive: exclusive })
}

impl PartitionState {
    /// How far the rows lag behind the state.
    pub fn behind(&self) -> Behind {
        let inner = self.shared.lock();
        Behind {
            since: inner.behind_since,
            dirty_rows: inner.dirty_rows(),
            log_bytes: inner.consumed_bytes - inner.durable_bytes,
        }
    }

    /// Writes out this partition alone; see [`super::Store::write_out`].
    pub async fn write_out(&self) -> Result<(), Error> {
        write_out(exclusive(vec![self.clone()]).await, ROWS_MAX).await.map(|_| ())
    }
}

impl Inner {
    /// Takes what changed since the last write-out, all but rollups; `None` if `consumed` has not moved, or nothing may be written.
    fn capture(&mut self) -> Option<Captured> {
        self.behind_since.filter(|_| self.condition == Condition::Sound)?;
        self.epoch += 1;
        let producers = take_pieces(&mut self.base.producers, &self.current.producers);
        let edges = take_pieces(&mut self.base.edges, &self.current.edges);
        self.snapshots.retain(|overlay| overlay.strong_count() > 0);
        Some(Captured {
            generation: self.generation,
            position: self.position.clone(),
            taken: Taken::default(),
            producers,
            edges,
            overlays: self.snapshots.iter().filter_map(std::sync::Weak::upgrade).collect(),
            consumed_bytes: self.consumed_bytes,
            behind_since: self.behind_since.take(),
        })
    }

    /// Nothing of it is sure to be in rows: all of it is to be written again.
    fn not_written(&mut self, captured: Captured, recent: &mut Recent) {
        recent.not_written();
        self.recent_dirty = recent.dirty();
        self.base.producers.return_dirty(pieces(captured.producers));
        self.base.edges.return_dirty(pieces(captured.edges));
        self.behind_since = captured.behind_since;
    }
}

impl Shared {
    /// Writes one partition's batch, and keeps for the snapshots under way what it writes over. Blocks.
    fn write(&self, captured: &Captured) -> Result<usize, Error> {
        for overlay in &captured.overlays {
            for (tail, _) in &captured.taken.rows {
                if lock(overlay).needs(tail) {
                    let old = self.rows.get(&self.key(captured.generation, tail))?;
                    lock(overlay).keep(tail, old);
                }
            }
        }
        let mut batch = RowBatch::default();
        let generation = captured.generation;
        for (tail, row) in &captured.taken.rows {
            batch.put(self.key(generation, tail), row.stored().encode().into());
        }
        if !captured.taken.quarantined.is_empty() {
            // An entry is many rows, of which readers must find all.
            batch.make_indivisible();
        }
        for (tail, value) in captured.taken.quarantined.iter().flat_map(quarantine::rows) {
            batch.put(self.key(generation, &tail), value);
        }
        self.put_pieces(&mut batch, generation, &captured.producers, [Kind::ProducerHead, Kind::ProducerChunk]);
        self.put_pieces(&mut batch, generation, &captured.edges, [Kind::EdgeHead, Kind::EdgeChunk]);
        batch.put(self.key(generation, &keys::state()), captured.position.encode());
        batch.put(keys::current(self.id), encode_current(generation));
        let rows = batch.len();
        self.rows.apply(batch)?;
        Ok(rows)
    }

    fn put_pieces<T: Slot>(
        &self,
        batch: &mut RowBatch,
        generation: Generation,
        pieces: &[(Piece, PieceValue<T>)],
        [head, chunk]: [Kind; 2],
    ) {
        for (piece, value) in pieces {
            let tail = match piece.chunk {
                None => keys::head(head, &piece.owner),
                Some(number) => keys::chunk(chunk, &piece.owner, number),
            };
            let key = self.key(generation, &tail);
            match value {
                PieceValue::Gone => batch.remove(key),
                PieceValue::Head(bytes) => batch.put(key, bytes.clone()),
                PieceValue::Chunk(chunk) => batch.put(key, chunk.encode()),
            }
        }
    }

    /// What was captured is durable.
    fn written(&self, captured: Captured, kept_max: usize) {
        let _long_holder = self.holds_long();
        let mut recent = self.lock_recent();
        recent.written(&captured.taken, kept_max);
        let mut inner = self.lock();
        inner.recent_dirty = recent.dirty();
        inner.durable = captured.position.durable();
        inner.durable_bytes = captured.consumed_bytes;
        let position = inner.durable.position;
        drop(inner);
        drop(recent);
        tracing::debug!(
            partition = self.id.0,
            offset = position.map(|position| position.offset.0),
            rows = captured.taken.rows.len(),
            "rollups written out"
        );
        self.durable.send_if_modified(|durable| std::mem::replace(durable, position) != position);
    }
}

/// The changed pieces of a table with their values as they are now.
fn take_pieces<T: Slot>(base: &mut Windows<T>, current: &Windows<T>) -> Vec<(Piece, PieceValue<T>)> {
    let dirty = base.take_dirty();
    let mut pieces = Vec::with_capacity(dirty.len());
    for piece in dirty {
        base.share(current, &piece);
        let window = base.window(&piece.owner);
        let value = match (window, piece.chunk) {
            (None, _) => PieceValue::Gone,
            (Some(window), None) => PieceValue::Head(window.encode_head()),
            (Some(window), Some(number)) => match window.chunk(number) {
                Some(chunk) => PieceValue::Chunk(Arc::clone(chunk)),
                None => PieceValue::Gone,
            },
        };
        pieces.push((piece, value));
    }
    pieces
}

fn pieces<T>(values: Vec<(Piece, PieceValue<T>)>) -> BTreeSet<Piece> {
    values.into_iter().map(|(piece, _)| piece).collect()
}

fn lock(overlay: &Mutex<Overlay>) -> std::sync::MutexGuard<'_, Overlay> {
    overlay.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_out_is_due_by_age_rows_or_log() {
        let policy = Policy { interval: Duration::from_secs(60), rows_max: 10, log_bytes_max: 1000 };
        let now = Instant::now();
        let behind = Behind { since: Some(now), dirty_rows: 9, log_bytes: 999 };
        assert!(!policy.is_due(&behind, 1, now + Duration::from_secs(59)));
        assert!(policy.is_due(&behind, 1, now + Duration::from_secs(60)));
        assert!(policy.is_due(&Behind { dirty_rows: 10, ..behind }, 1, now));
        assert!(policy.is_due(&Behind { log_bytes: 1000, ..behind }, 1, now));
        assert!(policy.is_due(&Behind { dirty_rows: 5, ..behind }, 2, now), "its share of them");
        assert!(!policy.is_due(&Behind { dirty_rows: 2, ..behind }, 99, now), "a third of them at least");
        assert!(policy.is_due(&Behind { dirty_rows: 3, ..behind }, 99, now));
        let nothing = Behind { since: None, dirty_rows: 10, log_bytes: 1000 };
        assert!(!policy.is_due(&nothing, 1, now + Duration::from_secs(3600)), "nothing would become durable");
    }
}
