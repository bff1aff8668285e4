//! The actors against a scripted log: what is folded, when it dies, who takes over.

use super::*;
use crate::domain::{AppId, EventTime, Hour, ResponseTime, Rollup};
use crate::format::{BatchBuilder, Checkpoint, ENTRY_BYTES_MAX, Entry, EventsEntry, Part, Tally};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::{SystemClock, SystemDisk, SystemEntropy, TaskRunner, Tasks, TcpNetwork, ThreadPool, Work};
use cluster::{Committed, LogPosition, NodeId, Payload};
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// A partition's log and state in memory, with the rules that the replicated one has.
struct Script {
    state: Mutex<State>,
    applied: watch::Sender<Option<Offset>>,
    /// Asking for this entry's acceptance panics so many times.
    deadly: Mutex<Option<(Offset, u32)>>,
    proposals_lost: AtomicU32,
    proposals_refused: AtomicU32,
    checks_refused: AtomicU32,
    entry_bytes_max: AtomicUsize,
}

#[derive(Default)]
struct State {
    log: Vec<Bytes>,
    consumed: Option<Offset>,
    rollups: BTreeMap<(AppId, Hour), Rollup>,
    tally: Tally,
    quarantined: Vec<u64>,
}

impl Script {
    fn new() -> Arc<Script> {
        let applied = watch::channel(None).0;
        Arc::new(Script {
            state: Mutex::default(),
            applied,
            deadly: Mutex::default(),
            proposals_lost: AtomicU32::new(0),
            proposals_refused: AtomicU32::new(0),
            checks_refused: AtomicU32::new(0),
            entry_bytes_max: AtomicUsize::new(ENTRY_BYTES_MAX),
        })
    }

    fn append(&self, entry: Bytes) -> Offset {
        let mut state = self.state.lock().unwrap();
        state.log.push(entry);
        let offset = Offset(state.log.len() as u64 - 1);
        drop(state);
        self.applied.send_replace(Some(offset));
        offset
    }

    fn append_events(&self, app: &str, values: &[u64]) -> Offset {
        let mut batch = BatchBuilder::default();
        values.iter().for_each(|value| batch.add(app, EventTime(0), ResponseTime(*value)));
        let part = Part { identity: None, events: values.len() as u32, batch: batch.finish() };
        let entry = EventsEntry { edge: 1, edge_sequence: 0, stamp_ms: 0, parts: vec![part] };
        self.append(entry.encode())
    }

    fn apply_checkpoint(&self, entry: &Bytes) -> Checkpointed {
        let Ok(Entry::Checkpoint(Checkpoint { base, through, tally, deltas, quarantined, .. })) = Entry::decode(entry)
        else {
            panic!("not a checkpoint");
        };
        let mut state = self.state.lock().unwrap();
        if base != state.consumed.map(|consumed| consumed.0) {
            return Checkpointed::Skipped;
        }
        state.consumed = Some(Offset(through));
        for (app, hour, delta) in deltas {
            state.rollups.entry((app, hour)).or_default().merge(&delta, &SketchConfig::default());
        }
        state.tally.counted += tally.counted;
        state.tally.quarantined += tally.quarantined;
        state.quarantined.extend(quarantined.iter().map(|entry| entry.offset));
        Checkpointed::Applied
    }

    /// Waits until everything up to `offset` is in the stored rollups.
    async fn consumed_through(&self, offset: Offset) {
        while self.state.lock().unwrap().consumed < Some(offset) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn sum(&self, app: &str) -> u128 {
        let key = (AppId::new(app).unwrap(), Hour(0));
        self.state.lock().unwrap().rollups.get(&key).map_or(0, Rollup::sum_ns)
    }
}

#[async_trait]
impl Partition for Script {
    fn applied(&self) -> watch::Receiver<Option<Offset>> {
        self.applied.subscribe()
    }

    async fn tail(&self, from: Offset, _: usize) -> std::io::Result<Vec<Committed>> {
        let state = self.state.lock().unwrap();
        let entries = state.log.iter().enumerate().skip(from.0 as usize).take(3);
        let committed = entries.map(|(offset, entry)| Committed {
            position: LogPosition { term: Term(1), leader: NodeId(1), offset: Offset(offset as u64) },
            payload: Payload::Data(entry.clone()),
        });
        Ok(committed.collect())
    }

    fn entry_bytes_max(&self) -> usize {
        self.entry_bytes_max.load(Relaxed)
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let consumed = self.consumed().through.map(|consumed| consumed.0);
        let is_odd = self.checks_refused.load(Relaxed) > 0;
        if is_odd {
            self.checks_refused.fetch_sub(1, Relaxed);
        }
        (checkpoint.base == consumed && !is_odd).then_some(()).ok_or_else(|| "it does not fit".to_owned())
    }

    async fn propose(&self, _: Term, entry: Bytes, _: Instant) -> Result<Checkpointed, ProposeError> {
        if entry.len() > self.entry_bytes_max() {
            return Err(ProposeError::Unfit("it is too large".to_owned()));
        }
        if self.proposals_refused.load(Relaxed) > 0 {
            self.proposals_refused.fetch_sub(1, Relaxed);
            return Err(ProposeError::NotAppended("the disk is full".to_owned()));
        }
        if self.proposals_lost.load(Relaxed) > 0 {
            self.proposals_lost.fetch_sub(1, Relaxed);
            self.apply_checkpoint(&entry);
            self.append(entry);
            return Err(ProposeError::Unknown("the answer was lost".to_owned()));
        }
        let outcome = self.apply_checkpoint(&entry);
        self.append(entry);
        Ok(outcome)
    }

    fn consumed(&self) -> Consumed {
        Consumed { through: self.state.lock().unwrap().consumed, watermark_ms: 0 }
    }

    fn acceptance(&self, offset: Offset) -> Option<Acceptance> {
        let mut deadly = self.deadly.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((entry, times)) = deadly.as_mut()
            && *entry == offset
            && *times > 0
        {
            *times -= 1;
            panic!("scripted death at {offset}");
        }
        Some(Acceptance::All)
    }
}

struct World {
    script: Arc<Script>,
    /// What the node finds when it looks for the partition.
    found: Arc<Mutex<Option<Arc<Script>>>>,
    leaderships: watch::Sender<BTreeMap<PartitionId, Term>>,
    aggregation: Aggregation,
    metrics: AggregateMetrics,
    _directory: tempfile::TempDir,
}

const P: PartitionId = PartitionId(0);

/// Does background work on tokio's blocking threads: a paused clock waits for them, but not for threads of our own.
struct Prompt(ThreadPool);

impl TaskRunner for Prompt {
    fn run(&self, work: Work) -> BoxFuture<'static, ()> {
        self.0.run(work)
    }
}

async fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let environment = Environment {
        network: Arc::new(TcpNetwork),
        disk: Arc::new(SystemDisk::new(directory.path()).unwrap()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        tasks: Tasks::new(Arc::new(Prompt(ThreadPool::default()))),
    };
    let script = Script::new();
    let (leaderships, led) = watch::channel(BTreeMap::from([(P, Term(1))]));
    let settings = Settings::new(SketchConfig::default(), Duration::from_secs(3600), Duration::from_secs(1));
    let found = Arc::new(Mutex::new(Some(script.clone())));
    let finder = found.clone();
    let find: FindPartition =
        Arc::new(move |_| finder.lock().unwrap().clone().map(|script| script as Arc<dyn Partition>));
    let metrics = crate::metrics::Metrics::new().aggregate;
    let aggregation = Aggregation::start(environment, settings, metrics.clone(), find, led).await.unwrap();
    World { script, found, leaderships, aggregation, metrics, _directory: directory }
}

impl World {
    async fn open_sum(&self, app: &str, after: Offset) -> Result<u128, ReadError> {
        let selection = Selection::Hours(AppId::new(app).unwrap(), Hour(0)..Hour(1));
        let deadline = Instant::now() + Duration::from_secs(5);
        let windows = self.aggregation.open_windows(P, Some(after), selection, deadline).await?;
        let consumed = self.script.consumed().through;
        let behind = windows.generations.iter().filter(|generation| generation.base >= consumed);
        Ok(behind.flat_map(|generation| &generation.deltas).map(|(_, delta)| delta.sum_ns()).sum())
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_checkpointed_once() {
    let world = world().await;
    for value in 1..=10 {
        world.script.append_events("a", &[value, 100 * value]);
    }
    world.script.consumed_through(Offset(9)).await;
    assert_eq!(world.script.sum("a"), 55 * 101);
    let last = world.script.append_events("a", &[7]);
    world.script.consumed_through(last).await;
    assert_eq!(world.script.sum("a"), 55 * 101 + 7);
    assert_eq!(world.script.state.lock().unwrap().tally.counted, 21);
}

#[tokio::test(start_paused = true)]
async fn read_waits_until_the_entry_is_folded() {
    let world = world().await;
    let last = world.script.append_events("a", &[5]);
    while world.open_sum("a", last).await == Err(ReadError::NotAggregating) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.script.sum("a") + world.open_sum("a", last).await.unwrap(), 5);
    assert_eq!(world.open_sum("a", Offset(last.0 + 100)).await, Err(ReadError::NoAnswer), "nothing is there yet");
}

#[tokio::test(start_paused = true)]
async fn idle_partition_makes_no_checkpoints() {
    let world = world().await;
    let last = world.script.append_events("a", &[5]);
    world.script.consumed_through(last).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.metrics.checkpoints.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn entries_without_events_are_checkpointed_too() {
    let world = world().await;
    let last = world.script.append_events("a", &[]);
    world.script.consumed_through(last).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.metrics.checkpoints.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn checkpoint_that_is_asked_for_passes_what_is_no_event() {
    let world = world().await;
    let last = world.script.append_events("a", &[5]);
    world.script.consumed_through(last).await;
    world.aggregation.request_checkpoint(P);
    world.script.consumed_through(last.next()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.metrics.checkpoints.get(), 2, "one for each time it was asked for");
    assert_eq!(world.script.sum("a"), 5);
}

#[tokio::test(start_paused = true)]
async fn aggregator_that_dies_is_replaced_and_nothing_is_counted_twice() {
    let world = world().await;
    let deadly = world.script.append_events("a", &[1]);
    *world.script.deadly.lock().unwrap() = Some((deadly, DEATHS_MAX - 1));
    let last = world.script.append_events("a", &[10]);
    world.script.consumed_through(last).await;
    assert_eq!(world.script.sum("a"), 11);
    assert_eq!(world.metrics.restarts.get(), u64::from(DEATHS_MAX - 1));
}

#[tokio::test(start_paused = true)]
async fn entry_that_kills_again_and_again_is_quarantined() {
    let world = world().await;
    world.script.append_events("a", &[1]);
    let deadly = world.script.append_events("a", &[10, 10]);
    *world.script.deadly.lock().unwrap() = Some((deadly, u32::MAX));
    let last = world.script.append_events("a", &[100]);
    world.script.consumed_through(last).await;
    assert_eq!(world.script.sum("a"), 101);
    let state = world.script.state.lock().unwrap();
    assert_eq!((state.tally.quarantined, state.quarantined.as_slice()), (2, &[deadly.0][..]));
}

#[tokio::test(start_paused = true)]
async fn entry_that_cannot_be_decoded_is_quarantined_at_once() {
    let world = world().await;
    let damaged = world.script.append(Bytes::from_static(b"\x01damaged"));
    let delta = |app| (AppId::new(app).unwrap(), Hour(1), Rollup::of_exact(0, vec![1]).unwrap());
    let unordered = Checkpoint { deltas: vec![delta("b"), delta("a")], ..Checkpoint::default() };
    let unsound = world.script.append(Entry::Checkpoint(unordered).encode());
    let last = world.script.append_events("a", &[100]);
    world.script.consumed_through(last).await;
    assert_eq!(world.script.sum("a"), 100);
    assert_eq!(world.script.state.lock().unwrap().quarantined, [damaged.0, unsound.0]);
    assert_eq!(world.metrics.restarts.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn checkpoint_of_unknown_outcome_counts_once() {
    let world = world().await;
    world.script.proposals_lost.store(3, Relaxed);
    for value in 1..=20 {
        let last = world.script.append_events("a", &[value]);
        world.script.consumed_through(last).await;
    }
    assert_eq!(world.script.sum("a"), 210);
}

#[tokio::test(start_paused = true)]
async fn checkpoint_that_the_log_refuses_is_proposed_again_by_the_same_aggregator() {
    let world = world().await;
    world.script.proposals_refused.store(30, Relaxed);
    for value in 1..=20 {
        world.script.append_events("a", &[value]);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    world.script.consumed_through(Offset(19)).await;
    assert_eq!(world.script.sum("a"), 210);
    assert_eq!((world.metrics.checkpoints_failed.get(), world.metrics.restarts.get()), (30, 0));
}

#[tokio::test(start_paused = true)]
async fn checkpoint_that_does_not_fit_is_not_proposed_but_made_anew() {
    let world = world().await;
    world.script.checks_refused.store(2, Relaxed);
    let last = world.script.append_events("a", &[7]);
    world.script.consumed_through(last).await;
    assert_eq!((world.script.sum("a"), world.metrics.restarts.get()), (7, 2));
    assert_eq!(world.metrics.checkpoints_failed.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waited_is_checkpointed_in_entries_that_the_log_takes() {
    let world = world().await;
    world.script.entry_bytes_max.store(2000, Relaxed);
    world.leaderships.send_replace(BTreeMap::new());
    let mut expected = 0;
    let mut last = world.script.append(Bytes::from_static(b"\x01damaged"));
    for turn in 0..100 {
        let values: Vec<u64> = (0..40).map(|i| 1_000_000_007 * (turn * 40 + i)).collect();
        expected += values.iter().map(|value| u128::from(*value)).sum::<u128>();
        last = world.script.append_events("a", &values);
    }
    world.leaderships.send_replace(BTreeMap::from([(P, Term(2))]));
    world.script.consumed_through(last).await;
    assert_eq!(world.script.sum("a"), expected);
    assert_eq!(world.script.state.lock().unwrap().quarantined, [0]);
    assert_eq!(world.metrics.restarts.get(), 0);
    assert!(world.metrics.checkpoints.get() > 10);
}

#[tokio::test(start_paused = true)]
async fn leadership_comes_and_goes_and_nothing_is_lost_or_doubled() {
    let world = world().await;
    for round in 0..20u64 {
        let last = world.script.append_events("a", &[1 << round]);
        if round % 3 == 0 {
            world.leaderships.send_replace(BTreeMap::new());
            while world.open_sum("a", last).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(world.open_sum("a", last).await, Err(ReadError::NotAggregating));
        }
        world.leaderships.send_replace(BTreeMap::from([(P, Term(round + 2))]));
        tokio::time::sleep(Duration::from_millis(round * 90)).await;
    }
    world.script.consumed_through(Offset(0)).await;
    let last = world.script.append_events("a", &[0]);
    world.script.consumed_through(last).await;
    assert_eq!(world.script.sum("a"), (1 << 20) - 1);
}

#[tokio::test(start_paused = true)]
async fn replica_that_comes_back_is_led_with_its_new_log_and_state() {
    let world = world().await;
    let last = world.script.append_events("a", &[1]);
    world.script.consumed_through(last).await;
    world.leaderships.send_replace(BTreeMap::new());
    let again = Script::new();
    *world.found.lock().unwrap() = Some(again.clone());
    world.leaderships.send_replace(BTreeMap::from([(P, Term(7))]));
    let last = again.append_events("a", &[5]);
    again.consumed_through(last).await;
    assert_eq!((world.script.sum("a"), again.sum("a")), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn partition_that_is_not_found_yet_is_looked_for_again() {
    let world = world().await;
    world.leaderships.send_replace(BTreeMap::new());
    let script = world.found.lock().unwrap().take();
    world.leaderships.send_replace(BTreeMap::from([(P, Term(7))]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last = world.script.append_events("a", &[5]);
    *world.found.lock().unwrap() = script;
    world.script.consumed_through(last).await;
    assert_eq!(world.script.sum("a"), 5);
}
