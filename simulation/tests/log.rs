//! What the log promises its callers, on a simulated disk: order, group commit, bounds, a full disk, a failing one.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

mod support;

use bytes::Bytes;
use cluster::GroupId;
use cluster::Offset;
use cluster::environment::{Disk, Environment, TaskRunner, Tasks};
use cluster::log::{Error, GroupLog, Log, LogConfig, Pin, Record, Space};
use futures::future::BoxFuture;
use simulation::environment::{DiskFault, Operation, SimulatedDisk, Tear};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{SEGMENT_BYTES, config, content, environment, open, position};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep};

/// Seeds of a disk without direct writes, and of one that has them.
const SEEDS: [u64; 2] = [1, 2];

/// Blocking work waits until it is let through.
struct Gate(Arc<Semaphore>);

impl TaskRunner for Gate {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let gate = Arc::clone(&self.0);
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            work();
        })
    }
}

fn records(from: u64, count: u64, payload_bytes: usize) -> Vec<Record> {
    let record = |offset| Record {
        position: position(1, offset),
        kind: 1,
        payload: Bytes::from(vec![offset as u8; payload_bytes]),
    };
    (from..from + count).map(record).collect()
}

/// Appends behind the last entry and waits until it is durable.
async fn append(group: &GroupLog, count: u64, payload_bytes: usize) -> io::Result<()> {
    let from = group.state().last.map_or(0, |last| last.offset.0 + 1);
    let (sender, done) = oneshot::channel();
    let report = move |result| sender.send(result).unwrap();
    group.append(records(from, count, payload_bytes), Box::new(report)).await?;
    done.await.unwrap()
}

/// Lets every other task do what it can do without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn syncs(disk: &SimulatedDisk) -> usize {
    disk.recorded().iter().filter(|operation| matches!(operation, Operation::Sync(_))).count()
}

#[tokio::test(start_paused = true)]
async fn one_sync_commits_what_all_groups_have_waiting_in_order() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (_environment, log) = open(&disk).await.unwrap();
        settle().await;
        disk.record();
        let order = Arc::new(Mutex::new(Vec::new()));
        for id in [2, 0, 1, 2] {
            let group = log.group(GroupId(id));
            let from = group.state().last.map_or(0, |last| last.offset.0 + 1);
            let order = Arc::clone(&order);
            let done = move |result: io::Result<()>| {
                result.unwrap();
                order.lock().unwrap().push((id, from));
            };
            group.append(records(from, 2, 10), Box::new(done)).await.unwrap();
        }
        log.group(GroupId(5)).save_vote(Bytes::from_static(b"vote")).await.unwrap();
        assert_eq!(*order.lock().unwrap(), [(2, 0), (0, 0), (1, 0), (2, 2)]);
        assert_eq!(syncs(&disk), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_that_leaves_a_hole_or_is_too_large_is_refused() {
    for seed in SEEDS {
        let (_environment, log) = open(&SimulatedDisk::new(seed)).await.unwrap();
        let group = log.group(GroupId(1));
        append(&group, 2, 10).await.unwrap();
        for entries in [records(3, 1, 1), records(1, 1, 1), records(2, 1, log.payload_bytes_max() + 1)] {
            let refused = group.append(entries, Box::new(|_| panic!("nothing was appended"))).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
        append(&group, 1, log.payload_bytes_max()).await.unwrap();
        assert!(group.truncate_after(Some(position(2, 0))).await.is_err(), "an entry of another term");
        assert!(group.save_vote(Bytes::from(vec![0; 257])).await.is_err());
        assert_eq!(group.state().last, Some(position(1, 2)));
    }
}

#[tokio::test(start_paused = true)]
async fn reading_returns_what_exists_within_the_bound_and_at_least_one() {
    for seed in SEEDS {
        let (_environment, log) = open(&SimulatedDisk::new(seed)).await.unwrap();
        let group = log.group(GroupId(1));
        append(&group, 9, 500).await.unwrap();
        let read = async |from, to, bytes_max| {
            let read = group.read(Offset(from)..Offset(to), bytes_max).await.unwrap();
            read.iter().map(|record| record.position.offset.0).collect::<Vec<_>>()
        };
        assert_eq!(read(0, 100, usize::MAX).await, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(read(2, 5, 1100).await, [2, 3]);
        assert_eq!(read(2, 5, 0).await, [2]);
        assert!(read(9, 100, usize::MAX).await.is_empty());
        assert_eq!(log.group(GroupId(2)).read(Offset(0)..Offset(9), 1).await.unwrap(), []);
        group.purge(position(1, 3)).await.unwrap();
        assert_eq!(read(0, 6, usize::MAX).await, [4, 5]);
        assert_eq!(group.position(Offset(3)), Some(position(1, 3)));
        assert_eq!(group.position(Offset(2)), None);
        assert_eq!(group.bytes(), 5 * 500);
    }
}

#[tokio::test(start_paused = true)]
async fn appends_wait_while_too_much_waits_for_the_disk() {
    for seed in SEEDS {
        let gate = Arc::new(Semaphore::new(3));
        let disk = SimulatedDisk::new(seed);
        let environment = Environment { tasks: Tasks::new(Arc::new(Gate(Arc::clone(&gate)))), ..environment(&disk) };
        let config = LogConfig { queue_bytes_max: 1000, segment_bytes: 1 << 20, bytes_max: 4 << 20, ..config() };
        let log = Log::open(&environment, config).await.unwrap();
        settle().await;
        let group = log.group(GroupId(1));
        gate.acquire_many(1).await.unwrap().forget();
        group.append(records(0, 1, 900), Box::new(|result| result.unwrap())).await.unwrap();
        let mut waiting = Box::pin(append(&group, 1, 200));
        settle().await;
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(group.state().last, Some(position(1, 0)), "nothing is appended while it waits");
        log.group(GroupId(2)).truncate_after(None).await.unwrap();
        gate.add_permits(10);
        waiting.await.unwrap();
        assert_eq!(group.state().last, Some(position(1, 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_segment_is_filled_at_the_pace_of_the_current_one() {
    for seed in SEEDS {
        const LARGE: u64 = 4 << 20;
        let disk = SimulatedDisk::new(seed);
        let config = LogConfig { segment_bytes: LARGE, bytes_max: 4 * LARGE, ..config() };
        let log = Log::open(&environment(&disk), config).await.unwrap();
        settle().await;
        assert_eq!(log.bytes(), LARGE, "a log at rest is in no hurry");
        let (group, begun) = (log.group(GroupId(1)), Instant::now());
        for _ in 0..5 {
            append(&group, 1, 1_000_000).await.unwrap();
        }
        assert!(begun.elapsed() <= Duration::from_millis(50), "a log that is written to is: {:?}", begun.elapsed());
        sleep(Duration::from_secs(1)).await;
        assert_eq!(log.bytes(), 3 * LARGE, "the one after that is there in time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_not_tried_again_and_stops_the_node() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (environment, log) = open(&disk).await.unwrap();
        let group = log.group(GroupId(1));
        append(&group, 1, 10).await.unwrap();
        disk.fail(DiskFault::Syncs(1));
        let outcome = append(&group, 1, 10).await;
        assert!(outcome.is_err());
        assert!(environment.tasks.failed().await.contains("could not be written"));
        assert!(append(&group, 1, 10).await.is_err());
        assert!(group.save_vote(Bytes::new()).await.is_err());
        log.close().await;
        let (_environment, log) = open(&disk.crash_with(Tear::Nothing)).await.unwrap();
        assert_eq!(log.group(GroupId(1)).state().last, Some(position(1, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_early_and_passes_when_there_is_space() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (environment, log) = open(&disk).await.unwrap();
        settle().await;
        disk.set_capacity(Some(disk.usage().unwrap().used_bytes));
        let group = log.group(GroupId(1));
        let segments = |log: &Log| log.bytes() / SEGMENT_BYTES;
        assert_eq!((log.space(), segments(&log)), (Space::Ok, 2));
        while log.accepts_appends() {
            append(&group, 1, 500).await.unwrap();
            settle().await;
        }
        // The last segment has just begun: what other leaders replicate still fits.
        let mut replicated = 0;
        while log.space() == Space::Low {
            append(&group, 1, 500).await.unwrap();
            replicated += 1;
        }
        assert!(replicated >= 4, "{replicated} more entries fitted");
        let mut entries = Box::pin(async {
            for _ in 0..20 {
                append(&group, 1, 500).await.unwrap();
            }
        });
        tokio::select! {
            () = &mut entries => panic!("20 entries fit into half a segment"),
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
        for vote in 0..3 {
            group.save_vote(Bytes::from(vec![vote; 16])).await.unwrap();
        }
        assert_eq!(group.read(Offset(0)..Offset(1), 1).await.unwrap().len(), 1);

        disk.set_capacity(None);
        entries.await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(log.space(), Space::Ok);
        append(&group, 9, 500).await.unwrap();
        let expected = content(&log).await.unwrap();
        environment.tasks.shutdown();
        let (_environment, log) = open(&disk.crash_with(Tear::Nothing)).await.unwrap();
        assert_eq!(content(&log).await.unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn purging_ends_a_full_disk_without_any_space() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (_environment, log) = open(&disk).await.unwrap();
        settle().await;
        disk.set_capacity(Some(disk.usage().unwrap().used_bytes));
        let group = log.group(GroupId(1));
        while log.accepts_appends() {
            append(&group, 1, 500).await.unwrap();
            settle().await;
        }
        let pin = log.pins()[0];
        assert_eq!(pin.group, GroupId(1));
        group.purge(pin.upto).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(log.space(), Space::Ok);
        assert_eq!(disk.usage().unwrap().used_bytes, 2 * SEGMENT_BYTES);
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_waits_for_space_when_even_the_reserve_is_used_up() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (_environment, log) = open(&disk).await.unwrap();
        settle().await;
        disk.set_capacity(Some(0));
        let group = log.group(GroupId(1));
        append(&group, 1, 10).await.unwrap();
        let mut votes = Box::pin(async {
            for vote in 0..200_u8 {
                group.save_vote(Bytes::from(vec![vote; 16])).await.unwrap();
            }
        });
        tokio::select! {
            () = &mut votes => panic!("200 votes fit into two segments"),
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
        assert_eq!(log.space(), Space::Full);
        disk.set_capacity(None);
        votes.await;
        assert_eq!(group.state().vote, Some(Bytes::from(vec![199; 16])));
    }
}

#[tokio::test(start_paused = true)]
async fn the_group_in_the_way_is_named_and_purging_it_recycles_segments() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (_environment, log) = open(&disk).await.unwrap();
        let (busy, idle) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&idle, 3, 10).await.unwrap();
        for _ in 0..40 {
            append(&busy, 1, 900).await.unwrap();
            settle().await;
        }
        busy.purge(busy.state().last.unwrap()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(log.bytes() > 10 * SEGMENT_BYTES && log.must_shrink());
        let pins = log.pins();
        assert_eq!(pins, [Pin { group: GroupId(2), upto: position(1, 2) }]);
        idle.purge(pins[0].upto).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(log.bytes(), 3 * SEGMENT_BYTES, "the current segment and two spares");
        assert!(log.pins().is_empty() && !log.must_shrink());
        disk.record();
        for _ in 0..40 {
            append(&busy, 1, 900).await.unwrap();
            busy.purge(busy.state().last.unwrap()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let trace = disk.recorded();
        assert!(!trace.iter().any(|operation| matches!(operation, Operation::Create(..))), "segments are recycled");
        assert!(trace.iter().any(|operation| matches!(operation, Operation::Rename(..))));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_log_marks_its_last_write_once_and_then_rests() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (_environment, log) = open(&disk).await.unwrap();
        append(&log.group(GroupId(1)), 1, 10).await.unwrap();
        settle().await;
        disk.record();
        log.group(GroupId(1)).save_committed(Some(position(1, 0))).await.unwrap();
        settle().await;
        assert_eq!(disk.unsynced_count(), 0, "what is committed is not worth a write of its own");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(syncs(&disk), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_log_opens_as_it_was_and_takes_no_more() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (_environment, log) = open(&disk).await.unwrap();
        assert!(log.is_fresh());
        let group = log.group(GroupId(1));
        append(&group, 5, 300).await.unwrap();
        group.save_committed(Some(position(1, 3))).await.unwrap();
        log.close().await;
        assert!(append(&group, 1, 10).await.is_err());
        assert_eq!(group.read(Offset(0)..Offset(9), 1 << 20).await.unwrap().len(), 5);
        let expected = content(&log).await.unwrap();
        let (_environment, log) = open(&disk.crash_with(Tear::Nothing)).await.unwrap();
        assert!(!log.is_fresh());
        assert_eq!(content(&log).await.unwrap(), expected);
    }
}

/// Appends two entries that begin the second segment, and cuts the power after `bytes` of that write.
async fn cut_while_a_segment_begins(disk: &SimulatedDisk, term: u64, bytes: u64) -> SimulatedDisk {
    let before = disk.fork();
    disk.record();
    let (environment, log) = open(disk).await.unwrap();
    let group = log.group(GroupId(1));
    let payload = Bytes::from(vec![term as u8; 900]);
    let record = |offset| Record { position: position(term, offset), kind: 1, payload: payload.clone() };
    group.append(vec![record(4), record(5)], Box::new(|done| done.unwrap())).await.unwrap();
    settle().await;
    environment.tasks.shutdown();
    let trace = disk.recorded();
    let is_append = |operation: &Operation| matches!(operation, Operation::Write(_, 64, bytes) if bytes.len() > 1800);
    let end = trace.iter().position(is_append).unwrap();
    trace[..=end].iter().for_each(|operation| before.apply(operation));
    before.crash_with(Tear::Prefix(bytes))
}

#[tokio::test(start_paused = true)]
async fn remains_of_a_segment_that_never_began_are_not_taken_for_records_later() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (environment, log) = open(&disk).await.unwrap();
        append(&log.group(GroupId(1)), 4, 900).await.unwrap();
        settle().await;
        environment.tasks.shutdown();
        // The second segment: a state of 152 bytes, then two entries of 968. Of the state, a bit is lost.
        let disk = cut_while_a_segment_begins(&disk.kill(), 2, u64::MAX).await;
        disk.flip_bit(Path::new("log/000000000002.log"), (64 + 70) * 8);
        // The same again with other bytes; of the second entry, nothing is written.
        let disk = cut_while_a_segment_begins(&disk, 3, 152 + 968).await;
        let (_environment, log) = open(&disk).await.unwrap();
        assert_eq!(log.group(GroupId(1)).state().last, Some(position(3, 4)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_segment_is_refused() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (environment, log) = open(&disk).await.unwrap();
        for _ in 0..12 {
            append(&log.group(GroupId(1)), 1, 900).await.unwrap();
            settle().await;
        }
        log.close().await;
        environment.tasks.shutdown();
        let disk = disk.crash_with(Tear::Nothing);
        for name in ["log/000000000001.log", "log/000000000002.log"] {
            let disk = disk.fork();
            disk.remove(Path::new(name)).unwrap();
            let refused = open(&disk).await.map(|_| ()).unwrap_err();
            assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_size_may_change_between_runs() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (environment, log) = open(&disk).await.unwrap();
        append(&log.group(GroupId(1)), 3, 500).await.unwrap();
        log.close().await;
        let expected = content(&log).await.unwrap();
        environment.tasks.shutdown();
        let larger = LogConfig { segment_bytes: 4 * SEGMENT_BYTES, bytes_max: 16 * SEGMENT_BYTES, ..config() };
        let log = Log::open(&environment, larger).await.unwrap();
        assert_eq!(content(&log).await.unwrap(), expected);
        append(&log.group(GroupId(1)), 3, log.payload_bytes_max()).await.unwrap();
        for bad in [100, 4097, 1 << 40] {
            let bad = Log::open(&environment, LogConfig { segment_bytes: bad, ..config() }).await;
            assert!(matches!(bad.map(|_| ()), Err(Error::Setting { name: "segment_bytes", .. })));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_is_whole_blocks_whatever_its_setting() {
    for seed in SEEDS {
        let disk = SimulatedDisk::new(seed);
        let (environment, log) = open(&disk).await.unwrap();
        log.close().await;
        environment.tasks.shutdown();
        let odd = LogConfig { segment_bytes: 2 * SEGMENT_BYTES + 4088, bytes_max: 16 * SEGMENT_BYTES, ..config() };
        let log = Log::open(&environment, odd).await.unwrap();
        for _ in 0..8 {
            append(&log.group(GroupId(1)), 1, log.payload_bytes_max()).await.unwrap();
        }
        log.close().await;
        assert!(disk.files().iter().any(|(_, bytes)| bytes.len() as u64 == 2 * SEGMENT_BYTES));
        assert!(disk.files().iter().all(|(_, bytes)| bytes.len() % 4096 == 0));
    }
}
