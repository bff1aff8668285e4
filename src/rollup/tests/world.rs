//! A log, replicas that apply it, and a plain model of what must come out.

use super::disk::{Crash, MemoryDisk};
use crate::domain::{
    AppId, EventTime, Hour, Identity, ProducerId, ResponseTime, Rollup, Sequence, SketchConfig, TimeLimits, Verdicts,
};
use crate::format::{Batch, BatchBuilder, Checkpoint, Entry, EventsEntry, Part, Quarantined, Tally};
use crate::rollup::CheckpointAnswer;
use crate::rollup::identities::Limits;
use crate::rollup::journal_rows::JournalRows;
use crate::rollup::rows::RowStore;
use crate::rollup::state::{Damage, PartitionState};
use bytes::Bytes;
use cluster::environment::{Clock, Environment, SystemEntropy, TaskRunner, Tasks, TcpNetwork};
use cluster::{Committed, LogPosition, NodeId, Offset, PartitionId, Payload, SnapshotChunks, StateMachine, Term};
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

pub const PARTITION: PartitionId = PartitionId(3);

/// Building one takes milliseconds.
pub static SKETCH: LazyLock<SketchConfig> = LazyLock::new(SketchConfig::default);

/// Runs blocking work where it is asked for.
struct Inline;

impl TaskRunner for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(std::future::ready(()))
    }
}

/// A clock that stands still.
struct Still;

impl Clock for Still {
    fn since_epoch(&self) -> Duration {
        Duration::from_secs(1_795_464_903)
    }
}

pub fn environment(disk: &MemoryDisk) -> Environment {
    Environment {
        network: Arc::new(TcpNetwork),
        disk: Arc::new(disk.clone()),
        clock: Arc::new(Still),
        entropy: Arc::new(SystemEntropy),
        tasks: Tasks::new(Arc::new(Inline)),
    }
}

pub fn app(name: &str) -> AppId {
    AppId::new(name).unwrap()
}

pub fn journal(disk: &MemoryDisk) -> Arc<dyn RowStore> {
    Arc::new(JournalRows::open(Arc::new(disk.clone()), Path::new("rollups"), 1).unwrap())
}

pub fn open_state(disk: &MemoryDisk, rows: Arc<dyn RowStore>, limits: &Limits) -> PartitionState {
    let environment = environment(disk);
    let damage = Damage { environment: environment.clone(), marker: "rollups.damaged".into() };
    PartitionState::open(PARTITION, rows, environment, SKETCH.clone(), damage, limits.clone()).unwrap()
}

/// An event: app, hour and value by small numbers.
pub type Event = (u8, u8, u64);

/// A part: who sent it, and its events.
pub type PlainPart = (Option<(u8, u64, u64)>, Vec<Event>);

/// An entry of events.
pub fn events(edge: u128, edge_sequence: u64, stamp_ms: u64, parts: &[PlainPart]) -> EventsEntry {
    let parts = parts.iter().map(|(identity, events)| {
        let mut batch = BatchBuilder::default();
        for (app, hour, value) in events {
            let time = EventTime(Hour(u32::from(*hour) + 490_000).start().0 + value % 3_600_000);
            batch.add(&format!("app {app}"), time, ResponseTime(*value));
        }
        let identity = identity.map(|(producer, sequence, body_hash)| Identity {
            producer: ProducerId::new(&format!("producer {producer}")).unwrap(),
            sequence: Sequence(sequence),
            body_hash,
            limits: TimeLimits::NONE,
        });
        let count = u32::try_from(events.len()).unwrap();
        Part { identity, events: count, batch: if count == 0 { Bytes::new() } else { batch.finish() } }
    });
    EventsEntry { edge, edge_sequence, stamp_ms, parts: parts.collect() }
}

/// The chunks of a snapshot as given.
pub struct Given(pub std::vec::IntoIter<Bytes>);

#[async_trait::async_trait]
impl SnapshotChunks for Given {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        Ok(self.0.next())
    }
}

/// One replica: its state over its rows on its disk.
pub struct Replica {
    pub disk: MemoryDisk,
    pub state: PartitionState,
    limits: Limits,
}

impl Replica {
    pub fn new(limits: &Limits) -> Replica {
        let disk = MemoryDisk::default();
        Replica { state: open_state(&disk, journal(&disk), limits), disk, limits: limits.clone() }
    }

    /// A replica with a state that is open already.
    pub fn of(disk: MemoryDisk, state: PartitionState) -> Replica {
        Replica { disk, state, limits: Limits::default() }
    }

    /// Crashes and comes back with what survived.
    pub fn restart(&mut self, crash: Crash) {
        self.disk = self.disk.after(crash);
        self.state = open_state(&self.disk, journal(&self.disk), &self.limits);
    }

    /// The first offset that it has not applied.
    pub fn next(&self) -> Offset {
        self.state.applied().map_or(Offset(0), Offset::next)
    }

    /// Takes over the state of another replica.
    pub async fn install_from(&self, other: &Replica) {
        let snapshot = other.state.snapshot().await.unwrap();
        self.state.install(snapshot.durable, snapshot.chunks).await.unwrap();
    }
}

/// The log, the answers that its entries got, and the model.
#[derive(Default)]
pub struct Log {
    pub entries: Vec<Committed>,
    answers: Vec<Option<Bytes>>,
    pub model: Model,
}

/// What must come out, computed the plain way.
#[derive(Default)]
pub struct Model {
    pub rollups: BTreeMap<(AppId, Hour), (u64, Rollup)>,
    pub quarantined: Vec<Quarantined>,
    pub consumed: Option<u64>,
    pub tally: Tally,
}

impl Log {
    pub fn push(&mut self, payload: Payload) -> Offset {
        let offset = Offset(self.entries.len() as u64);
        let position = LogPosition { term: Term(1 + offset.0 / 10), leader: NodeId(1), offset };
        self.entries.push(Committed { position, payload });
        self.answers.push(None);
        offset
    }

    pub fn push_events(&mut self, entry: &EventsEntry) -> Offset {
        self.push(Payload::Data(entry.encode()))
    }

    /// A replica applies all that it has not; its answers must be the ones that others gave, and that it gave before.
    pub fn feed(&mut self, replica: &Replica) {
        let from = usize::try_from(replica.next().0).unwrap();
        for (entry, known) in self.entries.iter().zip(&mut self.answers).skip(from) {
            let answer = replica.state.apply(entry.clone()).unwrap();
            let known = known.get_or_insert_with(|| answer.clone());
            let again = CheckpointAnswer::decode(&answer);
            if CheckpointAnswer::decode(known) == Ok(CheckpointAnswer::Applied) && again.is_ok() {
                // To a replica that begins from a state that has it, it is nothing new.
                continue;
            }
            assert_eq!(*known, answer, "entry {} is answered differently", entry.position);
        }
    }

    pub fn verdicts(&self, offset: Offset) -> Verdicts {
        let answer = self.answers[usize::try_from(offset.0).unwrap()].as_ref().unwrap();
        postcard::from_bytes(answer).unwrap()
    }

    pub fn checkpoint_answer(&self, offset: Offset) -> CheckpointAnswer {
        CheckpointAnswer::decode(self.answers[usize::try_from(offset.0).unwrap()].as_ref().unwrap()).unwrap()
    }

    /// What an aggregator that folds from behind `base` up to `through` proposes, by a replica that has applied so far.
    pub fn fold(&self, replica: &Replica, base: Option<u64>, through: u64, poisoned: &BTreeSet<u64>) -> Checkpoint {
        let mut checkpoint = Checkpoint { base, through, ..Checkpoint::default() };
        let mut deltas: BTreeMap<(AppId, Hour), Rollup> = BTreeMap::new();
        for offset in base.map_or(0, |base| base + 1)..=through {
            let Payload::Data(payload) = &self.entries[usize::try_from(offset).unwrap()].payload else { continue };
            let Ok(Entry::Events(entry)) = Entry::decode(payload) else { continue };
            checkpoint.watermark_ms = checkpoint.watermark_ms.max(entry.stamp_ms);
            if poisoned.contains(&offset) {
                let events = entry.events();
                checkpoint.tally.quarantined += events;
                let reason = "poisoned".to_owned();
                checkpoint.quarantined.push(Quarantined { offset, events, reason, payload: payload.clone() });
                continue;
            }
            let acceptance = replica.state.acceptance(Offset(offset)).unwrap();
            for (index, part) in entry.parts.iter().enumerate() {
                if !acceptance.counts(index) {
                    checkpoint.tally.duplicate += u64::from(part.events);
                    continue;
                }
                checkpoint.tally.counted += u64::from(part.events);
                fold_batch(&part.batch, &mut deltas);
            }
        }
        checkpoint.deltas = deltas.into_iter().map(|((app, hour), delta)| (app, hour, delta)).collect();
        checkpoint
    }

    /// Appends a checkpoint, and tells the model if it will be applied.
    pub fn push_checkpoint(&mut self, checkpoint: &Checkpoint) -> Offset {
        if checkpoint.base == self.model.consumed {
            self.model.consumed = Some(checkpoint.through);
            self.model.tally.counted += checkpoint.tally.counted;
            self.model.quarantined.extend(checkpoint.quarantined.iter().cloned());
            for (app, hour, delta) in &checkpoint.deltas {
                let (revision, rollup) = self.model.rollups.entry((app.clone(), *hour)).or_default();
                *revision += 1;
                rollup.merge(delta, &SKETCH);
            }
        }
        self.push(Payload::Data(Entry::Checkpoint(checkpoint.clone()).encode()))
    }

    /// The replica's rollups are the model's, exactly.
    pub fn compare(&self, replica: &Replica) {
        let reader = replica.state.reader();
        let mut found = BTreeMap::new();
        for hours in reader.apps("", None, 1000).unwrap().apps {
            let page = reader.range(&hours.app, Hour(0)..Hour(u32::MAX), 1000).unwrap();
            assert_eq!(hours.first_hour, page.rows.first().unwrap().0);
            assert_eq!(hours.last_hour, page.rows.last().unwrap().0);
            assert_eq!(page.as_of.consumed.map(|consumed| consumed.0), self.model.consumed);
            let summary = reader.summary(&hours.app, Hour(0)..Hour(u32::MAX), 1000).unwrap();
            let mut merged = Rollup::default();
            page.rows.iter().for_each(|(_, stored)| merged.merge(&stored.rollup, &SKETCH));
            assert_eq!((summary.hours.len(), summary.rollup), (page.rows.len(), merged));
            for (hour, stored) in page.rows {
                found.insert((hours.app.clone(), hour), (stored.revision, stored.rollup.clone()));
            }
        }
        assert_eq!(found, self.model.rollups);
        assert_eq!(reader.quarantined(Offset(0), 1000).unwrap(), self.model.quarantined);
    }
}

fn fold_batch(batch: &Bytes, deltas: &mut BTreeMap<(AppId, Hour), Rollup>) {
    if batch.is_empty() {
        return;
    }
    Batch::decode(batch).unwrap().for_each_app(|name, events| {
        for (time, value) in events {
            let delta = deltas.entry((app(name), time.hour())).or_default();
            delta.record(*value, false, &SKETCH);
        }
    });
}
