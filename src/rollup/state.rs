//! One partition's state on one replica: what is in memory, what is in rows, and the locks between them.
//!
//! ```text
//!   log:   0 ─────────── durable ─────── consumed ──────────── applied
//!                           │  rows, synced │  position, recent,  │
//!                           │               │  base identities    │  tail, current identities
//! ```
//!
//! Invariants:
//! - `position`, `recent` over the rows of `generation`, and `base` are all as of `consumed`;
//! - `current` is `base` after the tail's entries; the tail is without holes from `consumed` to `applied`;
//! - what is written out is as of one `consumed`, in one batch;
//! - only [`super::apply`] and [`super::install`] change the state, one at a time (the log's contract); write-outs,
//!   snapshots and reads go on meanwhile;
//! - whoever changes `consumed` or `generation` holds both locks, so one who holds the lock of `recent` sees one `consumed`.
//!
//! The locks are plain mutexes, never held over an `.await` or while rows are written; that of `recent` is taken first. Merging a
//! checkpoint holds it for milliseconds, on a thread that may have to wait for the processor meanwhile: so entries of events
//! never need it, and a read of an hour that may have to wait for it ([`Shared::is_held_long`]) does so on a thread of its own.

use super::error::Error;
use super::identities::{Identities, Limits};
use super::keys::{self, Generation};
use super::load;
use super::position::{Consumed, Digest, Position};
use super::recent::Recent;
use super::rows::RowStore;
use super::snapshot::Overlay;
use super::tail::{Acceptance, Kind, Tail};
use crate::domain::{AppId, Hour, Rollup, SketchConfig};
use crate::format::{Checkpoint, Tally};
use cluster::environment::{Access, Environment};
use cluster::{Durable, LogPosition, Offset, PartitionId};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A partition's state machine on this node. Cheap to clone.
#[derive(Clone)]
pub struct PartitionState {
    pub(super) shared: Arc<Shared>,
}

/// What all clones share.
pub(super) struct Shared {
    pub id: PartitionId,
    pub rows: Arc<dyn RowStore>,
    pub environment: Environment,
    pub sketch: SketchConfig,
    pub damage: Damage,
    /// Rollups in memory, as of `consumed`.
    pub recent: Mutex<Recent>,
    pub inner: Mutex<Inner>,
    /// How many now do what may hold the lock of `recent` for long.
    long_holders: AtomicUsize,
    /// Held by a write-out, an installation and the clearing of old generations: one at a time.
    pub writing: Arc<tokio::sync::Mutex<()>>,
    pub consumed: watch::Sender<Consumed>,
    pub durable: watch::Sender<Option<LogPosition>>,
}

/// Whether what is in memory may leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It may.
    Sound,
    /// Applying an entry failed half-way: nobody must see what is there. The node stops.
    Broken,
    /// The rows are not this state's any more.
    LetGo,
}

/// Somebody who may hold the lock of `recent` for long.
pub(super) struct LongHolder<'a>(&'a AtomicUsize);

impl Drop for LongHolder<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the lock of `inner` guards: everything but the rollups in memory.
pub(super) struct Inner {
    pub generation: Generation,
    pub position: Position,
    pub base: Identities,
    pub current: Identities,
    pub tail: Tail,
    /// Rows of `recent` that changed since they were last taken.
    pub recent_dirty: usize,
    pub durable: Durable,
    /// Counts captures for write-outs and installations: as long as it stands still, rows that are read are not newer
    /// than what was read from memory before.
    pub epoch: u64,
    pub snapshots: Vec<Weak<Mutex<Overlay>>>,
    pub condition: Condition,
    /// When the replica last knew that nothing was behind `consumed`, or `consumed` moved.
    pub complete_at: Instant,
    /// When `consumed` first moved away from `durable`.
    pub behind_since: Option<Instant>,
    /// Bytes of the entries that were ever applied here, consumed, and made durable.
    pub applied_bytes: u64,
    pub consumed_bytes: u64,
    pub durable_bytes: u64,
}

/// What a replica holds, and what became of the events of its log:
/// `events` = `tally.counted` + `tally.duplicate` + `tally.quarantined` + `pending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The fingerprint of what is consumed.
    pub digest: Digest,
    /// Events of the log, as far as it is applied.
    pub events: u64,
    /// What became of those up to `consumed`.
    pub tally: Tally,
    /// Events behind `consumed`.
    pub pending: u64,
}

/// Figures of a replica, for status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// The newest offset in the stored rollups.
    pub consumed: Option<Offset>,
    /// The newest offset that survives a power cut.
    pub durable: Option<Offset>,
    /// The newest offset applied.
    pub applied: Option<Offset>,
    /// Events applied and not in the stored rollups yet.
    pub lag_events: u64,
    /// How long the oldest of them has been waiting.
    pub lag: Duration,
    /// Rows that changed since the last write-out.
    pub dirty_rows: usize,
    /// Bytes of log that cannot be purged before the next write-out.
    pub log_bytes: u64,
    /// Rows of rollups.
    pub rollups: u64,
    /// Entries set aside.
    pub quarantined_entries: u64,
}

/// Remembers, across a restart, that the store is damaged.
#[derive(Clone)]
pub(super) struct Damage {
    pub environment: Environment,
    pub marker: PathBuf,
}

impl Damage {
    /// Leaves the marker for the next start and stops the node.
    pub fn report(&self, error: &Error) {
        if !matches!(error, Error::Damaged { .. }) {
            return;
        }
        let disk = &self.environment.disk;
        // A marker that exists, or cannot be written, changes nothing: the damage is found again.
        let _ = disk
            .create(&self.marker, Access::Cached)
            .and_then(|file| file.sync())
            .and_then(|()| disk.sync_directory("".as_ref()));
        self.environment.tasks.fail(error.to_string());
    }
}

impl PartitionState {
    /// Opens the state as of the last durable write-out. Blocks.
    pub(super) fn open(
        id: PartitionId,
        rows: Arc<dyn RowStore>,
        environment: Environment,
        sketch: SketchConfig,
        damage: Damage,
        limits: Limits,
    ) -> Result<PartitionState, Error> {
        let loaded = load::partition(id, &*rows, limits).inspect_err(|error| damage.report(error))?;
        let durable = loaded.position.durable();
        let (consumed, durable_position) = (loaded.position.reached(), durable.position);
        let inner = Inner {
            generation: loaded.generation,
            current: loaded.base.untracked(),
            base: loaded.base,
            position: loaded.position,
            tail: Tail::default(),
            recent_dirty: 0,
            durable,
            epoch: 0,
            snapshots: Vec::new(),
            condition: Condition::Sound,
            complete_at: Instant::now(),
            behind_since: loaded.is_outdated.then(Instant::now),
            applied_bytes: 0,
            consumed_bytes: 0,
            durable_bytes: 0,
        };
        let shared = Shared {
            id,
            rows,
            environment,
            sketch,
            damage,
            recent: Mutex::default(),
            inner: Mutex::new(inner),
            long_holders: AtomicUsize::new(0),
            writing: Arc::default(),
            consumed: watch::channel(consumed).0,
            durable: watch::channel(durable_position).0,
        };
        Ok(PartitionState { shared: Arc::new(shared) })
    }

    /// Which partition it is.
    pub fn id(&self) -> PartitionId {
        self.shared.id
    }

    /// How far checkpoints have folded the log.
    pub fn consumed(&self) -> Consumed {
        self.shared.lock().position.reached()
    }

    /// [`PartitionState::consumed`], as it moves.
    pub fn watch_consumed(&self) -> watch::Receiver<Consumed> {
        self.shared.consumed.subscribe()
    }

    /// How far the state survives a power cut, as it moves: whenever it does, the log may be purged up to there.
    pub fn watch_durable(&self) -> watch::Receiver<Option<LogPosition>> {
        self.shared.durable.subscribe()
    }

    /// The newest entry applied.
    pub fn applied(&self) -> Option<Offset> {
        self.shared.lock().applied()
    }

    /// Which parts of the entry at `offset` count; `None` if it is not between `consumed` and `applied`.
    pub fn acceptance(&self, offset: Offset) -> Option<Acceptance> {
        let inner = self.shared.lock();
        Some(match &inner.tail.get(offset)?.kind {
            Kind::Events(events) => events.acceptance.clone(),
            Kind::Membership(_) | Kind::Other => Acceptance::Nothing,
        })
    }

    /// Whether a checkpoint, if it were applied now, would be taken: builds on `consumed`, reaches further but not
    /// beyond what is applied, and accounts for each event of its stretch. A committed checkpoint that builds on `consumed` and does not
    /// account for all events stops every replica; whoever proposes one asks here first.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut counts = DeltaCounts::default();
        checkpoint.deltas.iter().for_each(|(app, hour, delta)| counts.add(app, *hour, delta));
        let inner = self.shared.lock();
        let consumed = inner.position.offset().map(|offset| offset.0);
        let is_next = checkpoint.base == consumed && consumed.is_none_or(|consumed| checkpoint.through > consumed);
        let is_applied = inner.applied().is_some_and(|applied| checkpoint.through <= applied.0);
        if !is_next || !is_applied {
            let what = format!("no checkpoint from {:?} to {} fits", checkpoint.base, checkpoint.through);
            return Err(self.shared.broken(what));
        }
        inner.check_tally(checkpoint, &counts).map_err(|what| self.shared.broken(what))
    }

    /// The fingerprint of the state: equal on all replicas at an equal `consumed`.
    pub fn digest(&self) -> Digest {
        self.shared.lock().position.digest()
    }

    /// The fingerprint, and what became of the events of the log, all at one moment.
    pub fn account(&self) -> Account {
        let inner = self.shared.lock();
        let pending = inner.tail.events();
        let events = inner.position.events + pending;
        Account { digest: inner.position.digest(), events, tally: inner.position.tally, pending }
    }

    /// Figures for status and metrics.
    pub fn figures(&self) -> Figures {
        let inner = self.shared.lock();
        let oldest = inner.tail.oldest_events();
        Figures {
            consumed: inner.position.offset(),
            durable: inner.durable.position.map(|position| position.offset),
            applied: inner.applied(),
            lag_events: inner.tail.events(),
            lag: oldest.map_or(Duration::ZERO, |events| events.applied_at.elapsed()),
            dirty_rows: inner.dirty_rows(),
            log_bytes: inner.applied_bytes - inner.durable_bytes,
            rollups: inner.position.rollups,
            quarantined_entries: inner.position.quarantined_entries,
        }
    }
}

impl Shared {
    pub fn lock_recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether the lock of `recent` may be held for long now.
    pub fn is_held_long(&self) -> bool {
        self.long_holders.load(Ordering::Relaxed) > 0
    }

    /// Says, until it is dropped, that the lock of `recent` may be held for long.
    pub fn holds_long(&self) -> LongHolder<'_> {
        self.long_holders.fetch_add(1, Ordering::Relaxed);
        LongHolder(&self.long_holders)
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The whole key of a row of a generation.
    pub fn key(&self, generation: Generation, tail: &[u8]) -> Vec<u8> {
        keys::key(self.id, generation, tail)
    }

    pub fn broken(&self, what: String) -> Error {
        Error::Broken { partition: self.id, what }
    }

    /// A damaged row was found: the node stops.
    pub fn damaged(&self, tail: &[u8], source: impl std::fmt::Display) -> Error {
        let error = load::damaged(self.id, tail, source);
        self.damage.report(&error);
        error
    }
}

impl Inner {
    /// The newest entry applied.
    pub fn applied(&self) -> Option<Offset> {
        self.tail.last().map(|last| last.position.offset).or(self.position.offset())
    }

    /// Rows that changed since the last write-out.
    pub fn dirty_rows(&self) -> usize {
        self.recent_dirty + self.base.producers.dirty() + self.base.edges.dirty()
    }

    /// Whether a checkpoint with these deltas accounts for each event of its stretch, or what is wrong.
    pub fn check_tally(&self, checkpoint: &Checkpoint, deltas: &DeltaCounts) -> Result<(), String> {
        let tally = self.tail.tally(checkpoint)?;
        if tally != checkpoint.tally {
            return Err(format!("a checkpoint says {:?} where the log holds {tally:?}", checkpoint.tally));
        }
        if let Some((app, hour)) = &deltas.empty {
            return Err(format!("a checkpoint has an empty delta of {app} in {hour}"));
        }
        if deltas.events != tally.counted {
            return Err(format!("a checkpoint's deltas count {} events of {}", deltas.events, tally.counted));
        }
        Ok(())
    }
}

/// What a checkpoint's deltas count.
#[derive(Debug, Default)]
pub(super) struct DeltaCounts {
    /// Events of all.
    events: u64,
    /// One that has none, if there is such a one.
    empty: Option<(AppId, Hour)>,
}

impl DeltaCounts {
    /// Adds a delta.
    pub fn add(&mut self, app: &AppId, hour: Hour, delta: &Rollup) {
        self.events += delta.count();
        if delta.count() == 0 {
            self.empty = Some((app.clone(), hour));
        }
    }
}
