//! Reads and snapshots while write-outs move rows from memory to the store under them.

use super::disk::{Crash, MemoryDisk};
use super::world::{Log, Replica, SKETCH, app, environment, events, journal, open_state};
use crate::domain::{Hour, Rollup};
use crate::format::{Entry, codec};
use crate::rollup::identities::Limits;
use crate::rollup::install::Checker;
use crate::rollup::rows::{Row, RowBatch, RowStore, Visit};
use crate::rollup::sled_rows::SledRows;
use crate::rollup::state::Damage;
use crate::rollup::{AsOf, PartitionState, SEQUENCES_MIN, SummaryPage};
use cluster::{Begun, Committed, LogPosition, Offset, Payload, StateMachine};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

const HOUR: u32 = 490_000;

/// One event each for some apps and hours, checkpointed.
fn store(log: &mut Log, replica: &Replica, rows: &[(u8, u8)]) {
    let events_of = rows.iter().map(|(app, hour)| (*app, *hour, 1_000_000)).collect();
    log.push_events(&events(1, log.entries.len() as u64, 1, &[(None, events_of)]));
    log.feed(replica);
    let base = replica.state.consumed().through.map(|consumed| consumed.0);
    let checkpoint = log.fold(replica, base, replica.state.applied().unwrap().0, &BTreeSet::new());
    log.push_checkpoint(&checkpoint);
    log.feed(replica);
}

#[tokio::test]
async fn pages_merge_memory_over_rows() {
    let mut log = Log::default();
    let replica = Replica::new(&Limits::default());
    store(&mut log, &replica, &[(1, 1), (1, 3), (1, 5), (2, 9)]);
    replica.state.write_out().await.unwrap();
    store(&mut log, &replica, &[(7, 7)]);
    replica.state.write_out().await.unwrap();
    store(&mut log, &replica, &[(1, 0), (1, 3), (1, 4), (3, 2)]);
    let reader = replica.state.reader();
    let hours = |from: u32, to: u32, limit| {
        let page = reader.range(&app("app 1"), Hour(HOUR + from)..Hour(HOUR + to), limit).unwrap();
        let rows: Vec<_> = page.rows.iter().map(|(hour, row)| (hour.0 - HOUR, row.revision)).collect();
        let summary = reader.summary(&app("app 1"), Hour(HOUR + from)..Hour(HOUR + to), limit).unwrap();
        let (mut merged, hours) = (Rollup::default(), page.rows.iter().map(|(hour, _)| *hour).collect());
        page.rows.iter().for_each(|(_, row)| merged.merge(&row.rollup, &SKETCH));
        let (as_of, has_more, is_known) = (page.as_of, page.has_more, page.is_known);
        let age = std::time::Duration::ZERO;
        let expected = SummaryPage { as_of: AsOf { age, ..as_of }, hours, rollup: merged, has_more, is_known };
        assert_eq!(SummaryPage { as_of: AsOf { age, ..summary.as_of }, ..summary }, expected);
        (rows, has_more, is_known)
    };
    assert_eq!(hours(0, 9, 9), (vec![(0, 1), (1, 1), (3, 2), (4, 1), (5, 1)], false, true));
    assert_eq!(hours(0, 9, 2), (vec![(0, 1), (1, 1)], true, true));
    assert_eq!(hours(1, 5, 3), (vec![(1, 1), (3, 2), (4, 1)], false, true));
    assert_eq!(hours(6, 9, 3), (vec![], false, true), "known by rows outside of the range");
    assert_eq!(hours(5, 5, 3), (vec![], false, true));
    assert_eq!(hours(5, 2, 3), (vec![], false, true), "an empty range");
    assert!(!reader.range(&app("app"), Hour(0)..Hour(u32::MAX), 3).unwrap().is_known, "a prefix is not the app");

    let apps = |prefix, after, limit| {
        let page = reader.apps(prefix, after, limit).unwrap();
        let apps = page
            .apps
            .iter()
            .map(|app| (app.app.as_str()[4..].to_owned(), app.first_hour.0 - HOUR, app.last_hour.0 - HOUR));
        (apps.collect::<Vec<_>>(), page.has_more)
    };
    let of =
        |apps: &[(&str, u32, u32)]| apps.iter().map(|(app, first, last)| ((*app).to_owned(), *first, *last)).collect();
    assert_eq!(apps("", None, 9), (of(&[("1", 0, 5), ("2", 9, 9), ("3", 2, 2), ("7", 7, 7)]), false));
    assert_eq!(apps("app", Some("app 1"), 2), (of(&[("2", 9, 9), ("3", 2, 2)]), true));
    assert_eq!(apps("app 3", Some("app 1"), 2), (of(&[("3", 2, 2)]), false));
    assert_eq!(apps("app 1", Some("app 1"), 2), (of(&[]), false));
    assert_eq!(apps("b", None, 2), (of(&[]), false));

    let (as_of, row) = reader.get(&app("app 7"), Hour(HOUR + 7)).unwrap();
    assert_eq!((as_of.consumed, row.unwrap().rollup.count()), (replica.state.consumed().through, 1));
    assert_eq!(reader.get(&app("app 7"), Hour(HOUR)).unwrap().1, None);
}

/// Rows that write out the state after each scan of another thread's read would come too late: does something between the
/// read of memory and the read of rows.
struct Meddled {
    rows: Arc<dyn RowStore>,
    meddler: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meddled {
    fn meddle(&self) {
        let meddler = self.meddler.lock().unwrap().take();
        if let Some(meddle) = meddler {
            meddle();
        }
    }
}

impl RowStore for Meddled {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.meddle();
        self.rows.get(key)
    }
    fn visit(&self, from: &[u8], to: &[u8], each: &mut Visit<'_>) -> io::Result<()> {
        self.meddle();
        self.rows.visit(from, to, each)
    }
    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        self.rows.last(from, to)
    }
    fn apply(&self, batch: RowBatch) -> io::Result<()> {
        self.rows.apply(batch)
    }
    fn flush(&self) -> io::Result<()> {
        self.rows.flush()
    }
    fn close(&self) -> io::Result<()> {
        self.rows.close()
    }
}

#[tokio::test]
async fn a_read_never_shows_rows_of_a_later_checkpoint() {
    let (disk, mut log) = (MemoryDisk::default(), Log::default());
    let meddled = Arc::new(Meddled { rows: journal(&disk), meddler: Mutex::default() });
    let state = open_state(&disk, meddled.clone(), &Limits::default());
    let replica = Replica::of(disk, state);
    store(&mut log, &replica, &[(1, 1), (1, 2)]);
    replica.state.write_out().await.unwrap();
    store(&mut log, &replica, &[(2, 2)]);
    replica.state.write_out().await.unwrap();

    // Between memory and rows of a read a checkpoint changes both rows and is written out.
    let (log, replica) = (Arc::new(Mutex::new(log)), Arc::new(replica));
    let (their_log, their_replica) = (Arc::clone(&log), Arc::clone(&replica));
    *meddled.meddler.lock().unwrap() = Some(Box::new(move || {
        store(&mut their_log.lock().unwrap(), &their_replica, &[(1, 1), (1, 2)]);
        futures::executor::block_on(their_replica.state.write_out()).unwrap();
    }));
    let before = replica.state.consumed().through;
    let page = replica.state.reader().range(&app("app 1"), Hour(HOUR)..Hour(HOUR + 9), 9).unwrap();
    let revisions: Vec<_> = page.rows.iter().map(|(_, row)| row.revision).collect();
    assert_eq!((page.as_of.consumed, &revisions[..]), (replica.state.consumed().through, &[2, 2][..]));
    assert_ne!(page.as_of.consumed, before, "the read began again");
}

#[tokio::test]
async fn a_snapshot_shows_the_state_it_was_captured_at_while_write_outs_go_on() {
    let (mut log, replica) = (Log::default(), Replica::new(&Limits::default()));
    let all: Vec<(u8, u8)> = (0..100).flat_map(|app| (0..12).map(move |hour| (app, hour))).collect();
    store(&mut log, &replica, &all[..800]);
    replica.state.write_out().await.unwrap();
    store(&mut log, &replica, &all[300..500]);
    let mut capture = replica.state.capture().unwrap();
    let (position, digest) = (capture.position().clone(), replica.state.digest());
    let mut checker = Checker::new(Limits::default());
    let mut chunks = 0;
    while let Some(chunk) = capture.next_chunk().unwrap() {
        checker.read(&chunk).unwrap();
        chunks += 1;
        // Changed, and new, before and behind what was sent; written over.
        store(&mut log, &replica, &all[100 * chunks..100 * chunks + 400]);
        replica.state.write_out().await.unwrap();
    }
    assert!(chunks >= 3, "{chunks}");
    assert_eq!(checker.finish().unwrap().0, position);
    assert_eq!(position.digest(), digest);
    log.compare(&replica);
}

#[tokio::test]
async fn until_the_last_step_of_a_checkpoint_the_state_is_as_it_was() {
    let (mut log, replica) = (Log::default(), Replica::new(&Limits::default()));
    let all: Vec<(u8, u8)> = (0..100).flat_map(|app| (0..8).map(move |hour| (app, hour))).collect();
    store(&mut log, &replica, &all[..500]);
    let events_of = all[200..].iter().map(|(app, hour)| (*app, *hour, 2_000_000)).collect();
    log.push_events(&events(1, log.entries.len() as u64, 1, &[(None, events_of)]));
    log.feed(&replica);
    let base = replica.state.consumed().through.map(|consumed| consumed.0);
    let checkpoint = log.fold(&replica, base, replica.state.applied().unwrap().0, &BTreeSet::new());

    let payload = Payload::Data(Entry::Checkpoint(checkpoint.clone()).encode());
    let position = LogPosition { offset: replica.next(), ..log.entries[0].position };
    let Begun::Rest(mut rest) = replica.state.begin(Committed { position, payload }).unwrap() else {
        panic!("it is taken")
    };
    let (mut steps, mut sizes) = (0, vec![rest.remaining()]);
    let before = replica.state.digest();
    while rest.step().unwrap().is_none() {
        steps += 1;
        sizes.push(rest.remaining());
        assert_eq!(replica.state.digest(), before);
        log.compare(&replica);
        // What is written out meanwhile, or begins now, has nothing of it.
        replica.state.write_out().await.unwrap();
        assert_eq!(replica.state.verify().await.unwrap(), before);
        assert_eq!(replica.state.capture().unwrap().position().digest(), before);
    }
    assert_eq!(steps, 2, "600 rows");
    assert!(sizes.is_sorted_by(|before, after| before > after), "{sizes:?}");
    log.push_checkpoint(&checkpoint);
    log.compare(&replica);
    assert_eq!(replica.state.verify().await.unwrap(), replica.state.digest());
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_to_its_end_changes_nothing() {
    let (mut log, replica) = (Log::default(), Replica::new(&Limits::default()));
    let all: Vec<(u8, u8)> = (0..100).flat_map(|app| (0..8).map(move |hour| (app, hour))).collect();
    store(&mut log, &replica, &all[..300]);
    let before = replica.state.digest();
    let events_of = all.iter().map(|(app, hour)| (*app, *hour, 2_000_000)).collect();
    log.push_events(&events(1, log.entries.len() as u64, 1, &[(None, events_of)]));
    log.feed(&replica);
    let base = replica.state.consumed().through.map(|consumed| consumed.0);
    let checkpoint = log.fold(&replica, base, replica.state.applied().unwrap().0, &BTreeSet::new());

    let good = Entry::Checkpoint(checkpoint.clone()).encode();
    let (kind, head) = (1, codec::begin(1).len());
    let behind_its_end = codec::seal([&codec::begin(1), &good[kind + head..], b"?"].concat());
    let offset = log.push(Payload::Data([&good[..kind], &behind_its_end].concat().into()));
    log.feed(&replica);
    assert_eq!(replica.state.applied(), Some(offset));
    assert_eq!(replica.state.digest(), before);
    log.compare(&replica);

    log.push_checkpoint(&checkpoint);
    log.feed(&replica);
    log.compare(&replica);
    assert_ne!(replica.state.digest(), before);
}

#[tokio::test]
async fn a_snapshot_fails_when_its_state_is_replaced() {
    let (mut log, mut other_log) = (Log::default(), Log::default());
    let (replica, other) = (Replica::new(&Limits::default()), Replica::new(&Limits::default()));
    store(&mut log, &replica, &[(1, 1)]);
    store(&mut other_log, &other, &[(1, 1), (2, 2)]);
    let mut capture = replica.state.capture().unwrap();
    capture.next_chunk().unwrap();
    replica.install_from(&other).await;
    assert!(matches!(capture.next_chunk(), Err(crate::rollup::Error::Replaced)));
}

#[tokio::test]
async fn acceptance_and_figures_are_of_the_tail() {
    let (mut log, mut replica) = (Log::default(), Replica::new(&Limits::default()));
    let part = |producer, count: u64| (Some((producer, 1, 1)), (0..count).map(|value| (1, 1, value)).collect());
    log.push_events(&events(1, 0, 1, &[part(1, 3), part(2, 4)]));
    log.push_events(&events(1, 1, 1, &[part(1, 3), part(3, 2)]));
    log.push_events(&events(1, 1, 1, &[part(1, 3), part(3, 2)]));
    log.feed(&replica);
    let counts = |offset| {
        let acceptance = replica.state.acceptance(Offset(offset)).unwrap();
        [acceptance.counts(0), acceptance.counts(1), acceptance.counts(2)]
    };
    assert_eq!(counts(1), [false, true, false]);
    assert_eq!(counts(2), [false; 3]);
    assert_eq!(replica.state.acceptance(Offset(3)), None);
    let figures = replica.state.figures();
    assert_eq!((figures.lag_events, figures.dirty_rows, figures.consumed), (17, 0, None));
    let account = replica.state.account();
    assert_eq!((account.events, account.pending, account.tally.total()), (17, 17, 0));

    let checkpoint = log.fold(&replica, None, 1, &BTreeSet::new());
    log.push_checkpoint(&checkpoint);
    log.feed(&replica);
    assert_eq!(replica.state.acceptance(Offset(1)), None, "it is in the rollups");
    let figures = replica.state.figures();
    assert_eq!((figures.lag_events, figures.consumed, figures.rollups), (5, Some(Offset(1)), 1));
    let account = replica.state.account();
    assert_eq!((account.events, account.pending, account.tally.total()), (17, 5, 12));
    assert!(replica.state.behind().since.is_some() && figures.dirty_rows > 0);
    replica.state.write_out().await.unwrap();
    let figures = replica.state.figures();
    assert_eq!((figures.dirty_rows, figures.durable), (0, Some(Offset(1))));
    assert_eq!(*replica.state.watch_durable().borrow(), replica.state.durable().position);
    replica.restart(Crash::PowerCut);
    assert_eq!(replica.state.figures().lag_events, 0);
    log.feed(&replica);
    assert_eq!(replica.state.figures().lag_events, 5);
}

#[tokio::test]
async fn chunks_are_shared_between_the_tables_of_applied_and_consumed() {
    let (mut log, replica) = (Log::default(), Replica::new(&Limits::default()));
    let parts: Vec<_> = (0..1000).map(|sequence| (Some((1, sequence, 1)), vec![])).collect();
    log.push_events(&events(1, 0, 1, &parts));
    log.feed(&replica);
    let checkpoint = log.fold(&replica, None, 0, &BTreeSet::new());
    log.push_checkpoint(&checkpoint);
    log.feed(&replica);
    replica.state.write_out().await.unwrap();
    let inner = replica.state.shared.lock();
    let chunks = |table: &crate::rollup::identities::Identities| -> Vec<_> {
        table.producers.window(b"producer 1").unwrap().chunks().map(|(_, chunk)| Arc::as_ptr(chunk)).collect()
    };
    assert_eq!(chunks(&inner.base), chunks(&inner.current));
    assert_eq!(inner.base.producers.remembered(), 1000.min(SEQUENCES_MIN));
}

/// sled with real threads: reads, snapshots and write-outs at once, then a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_serves_reads_and_snapshots_while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rollups");
    let disk = MemoryDisk::default();
    let open = || {
        let mut environment = environment(&disk);
        environment.tasks = cluster::environment::Tasks::new(Arc::new(cluster::environment::ThreadPool::default()));
        let damage = Damage { environment: environment.clone(), marker: "rollups.damaged".into() };
        let rows: Arc<dyn RowStore> = Arc::new(SledRows::open(&path, 1).unwrap());
        let (limits, sketch) = (Limits::default(), SKETCH.clone());
        let state = PartitionState::open(super::world::PARTITION, rows.clone(), environment, sketch, damage, limits);
        (state.unwrap(), rows)
    };
    let (state, rows) = open();
    let replica = Replica::of(disk.clone(), state.clone());
    let mut log = Log::default();
    let reading = state.clone();
    #[allow(clippy::disallowed_methods, reason = "the test wants reads on a thread of their own")]
    let reads = tokio::task::spawn_blocking(move || {
        let reader = reading.reader();
        let mut last = 0;
        // Each checkpoint adds one event to each of ten hours: a page must never mix two of them.
        while last < 40 {
            let page = reader.range(&app("app 1"), Hour(HOUR)..Hour(HOUR + 10), 10).unwrap();
            let counts: BTreeSet<u64> = page.rows.iter().map(|(_, row)| row.rollup.count()).collect();
            assert!(counts.len() <= 1, "a page mixes checkpoints: {counts:?}");
            last = last.max(counts.first().copied().unwrap_or(0));
        }
    });
    let rows_of_app: Vec<(u8, u8)> = (0..10).map(|hour| (1, hour)).collect();
    for round in 0..40 {
        store(&mut log, &replica, &rows_of_app);
        if round % 2 == 0 {
            state.write_out().await.unwrap();
        }
        if round % 5 == 0 {
            assert_eq!(state.verify().await.unwrap(), state.digest());
        }
    }
    reads.await.unwrap();
    state.write_out().await.unwrap();
    let digest = state.digest();
    drop((state, replica));
    rows.close().unwrap();
    drop(rows);
    let (state, _rows) = open();
    assert_eq!(state.durable().position.map(|at| at.offset), digest.consumed);
    assert_eq!(state.verify().await.unwrap(), digest);
}

#[test]
fn an_entry_from_a_clock_far_ahead_is_not_admitted() {
    let replica = Replica::new(&Limits::default());
    let now_ms = replica.state.shared.environment.clock.now_ms();
    let admits = |stamp_ms| replica.state.admits(&events(1, 1, stamp_ms, &[]).encode());
    assert!(admits(0) && admits(now_ms + 600_000));
    assert!(!admits(now_ms + 600_001) && !admits(u64::MAX));
}
