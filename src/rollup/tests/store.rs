//! The store of a node: opening, damage, write-outs by themselves, removal.

use super::disk::{Crash, MemoryDisk};
use super::world::{Log, Replica, SKETCH, environment, events, journal, open_state};
use crate::metrics::Metrics;
use crate::rollup::identities::Limits;
use crate::rollup::state::Damage;
use crate::rollup::{Engine, Error, Policy, Store};
use cluster::environment::{Disk, SystemDisk};
use cluster::{Pace, PartitionId, StateMachine};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

async fn open(disk: &MemoryDisk, policy: Policy) -> (Store, Metrics) {
    let (environment, metrics) = (environment(disk), Metrics::new());
    let store = Store::open(&environment, Engine::Journal, SKETCH.clone(), policy, metrics.store.clone());
    (store.await.unwrap(), metrics)
}

/// A checkpoint of one event.
fn count_one(log: &mut Log, replica: &Replica) {
    log.push_events(&events(
        1,
        log.entries.len() as u64,
        1,
        &[(Some((1, log.entries.len() as u64, 1)), vec![(1, 1, 5)])],
    ));
    log.feed(replica);
    let base = replica.state.consumed().through.map(|consumed| consumed.0);
    let checkpoint = log.fold(replica, base, replica.state.applied().unwrap().0, &BTreeSet::new());
    log.push_checkpoint(&checkpoint);
    log.feed(replica);
}

async fn replica_of(store: &Store, disk: &MemoryDisk, id: u16) -> Replica {
    Replica::of(disk.clone(), store.partition(PartitionId(id)).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn partitions_are_written_out_after_the_interval_and_can_be_purged_then() {
    let disk = MemoryDisk::default();
    let (store, metrics) = open(&disk, Policy::default()).await;
    let replica = replica_of(&store, &disk, 1).await;
    let (mut log, mut durable) = (Log::default(), replica.state.watch_durable());
    count_one(&mut log, &replica);
    let begin = tokio::time::Instant::now();
    durable.changed().await.unwrap();
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_secs(60) && waited <= Duration::from_secs(62), "{waited:?}");
    assert_eq!(replica.state.durable().position.map(|at| at.offset), replica.state.consumed().through);
    assert!(metrics.store.rows_written.get() >= 2);

    count_one(&mut log, &replica);
    store.request_write_out();
    let begin = tokio::time::Instant::now();
    durable.changed().await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(2), "the log asked for it");
}

#[tokio::test(start_paused = true)]
async fn many_dirty_rows_are_written_at_once_and_a_full_disk_is_waited_for() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, Policy { rows_max: 1, ..Policy::default() }).await;
    let replica = replica_of(&store, &disk, 1).await;
    let (mut log, mut durable) = (Log::default(), replica.state.watch_durable());
    disk.set_full(true);
    count_one(&mut log, &replica);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(replica.state.durable().position, None);
    log.compare(&replica);
    disk.set_full(false);
    durable.changed().await.unwrap();
    assert_eq!(replica.state.durable().position.map(|at| at.offset), replica.state.consumed().through);
}

#[tokio::test]
async fn one_flush_makes_all_partitions_durable_and_closing_writes_out() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, Policy::default()).await;
    let replicas = [replica_of(&store, &disk, 0).await, replica_of(&store, &disk, 5).await];
    let digests: Vec<_> = replicas
        .iter()
        .map(|replica| {
            count_one(&mut Log::default(), replica);
            replica.state.digest()
        })
        .collect();
    let operations = disk.operations();
    assert!(store.write_out().await.unwrap() > 4);
    assert_eq!(disk.operations() - operations, 3, "two batches, one sync");
    assert_eq!(store.write_out().await.unwrap(), 0);
    store.close().await.unwrap();
    let disk = disk.after(Crash::PowerCut);
    let (store, _) = open(&disk, Policy::default()).await;
    for (id, digest) in [0, 5].into_iter().zip(digests) {
        assert_eq!(store.partition(PartitionId(id)).await.unwrap().verify().await.unwrap(), digest);
    }
    assert_eq!(store.partitions().len(), 2);
}

#[tokio::test]
async fn a_failed_sync_of_a_removal_stops_the_node_and_nothing_is_durable_after_it() {
    let disk = MemoryDisk::default();
    let (environment, metrics) = (environment(&disk), Metrics::new());
    let store = Store::open(&environment, Engine::Journal, SKETCH.clone(), Policy::default(), metrics.store.clone());
    let store = store.await.unwrap();
    let [stays, goes] = [replica_of(&store, &disk, 1).await, replica_of(&store, &disk, 2).await];
    count_one(&mut Log::default(), &stays);
    count_one(&mut Log::default(), &goes);
    disk.fail_sync();
    assert!(store.remove(PartitionId(2)).await.is_err());
    assert!(environment.tasks.failed().await.contains("removing rollups failed"));
    assert!(store.write_out().await.is_err(), "what the removal could not sync may have been other partitions' rows");
    assert_eq!(stays.state.durable().position, None);
}

#[tokio::test]
async fn a_removed_partition_is_empty_when_it_comes_back() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, Policy::default()).await;
    for id in [1, 2] {
        count_one(&mut Log::default(), &replica_of(&store, &disk, id).await);
    }
    store.write_out().await.unwrap();
    store.remove(PartitionId(1)).await.unwrap();
    assert!(store.find(PartitionId(1)).is_none());
    assert_eq!(store.partition(PartitionId(1)).await.unwrap().durable().position, None);
    assert!(store.partition(PartitionId(2)).await.unwrap().verify().await.unwrap().consumed.is_some());
}

#[tokio::test]
async fn a_partition_that_is_opened_again_is_as_it_was_written_out_and_the_one_before_writes_no_more() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, Policy::default()).await;
    let (mut log, id) = (Log::default(), PartitionId(1));
    let before = replica_of(&store, &disk, 1).await;
    count_one(&mut log, &before);
    store.write_out().await.unwrap();
    let written = before.state.durable().position.map(|at| at.offset);
    count_one(&mut log, &before);

    let again = store.partition(id).await.unwrap();
    assert_eq!(again.applied(), written);
    before.state.write_out().await.unwrap();
    assert_eq!(store.partition(id).await.unwrap().applied(), written);

    let again = replica_of(&store, &disk, 1).await;
    log.feed(&again);
    assert_eq!(again.state.digest(), before.state.digest());
}

#[tokio::test]
async fn a_write_out_that_waits_brings_nothing_back_that_was_removed() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, Policy::default()).await;
    let replica = replica_of(&store, &disk, 1).await;
    let (mut log, id) = (Log::default(), PartitionId(1));
    count_one(&mut log, &replica);
    let exclusive = Arc::clone(&replica.state.shared.writing).lock_owned().await;
    let waiting = replica.state.write_out();
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(exclusive);
    let (removed, written) = tokio::join!(store.remove(id), waiting);
    removed.unwrap();
    written.unwrap();
    count_one(&mut log, &replica);
    replica.state.write_out().await.unwrap();
    assert!(replica.state.snapshot().await.is_err(), "nobody is sent what is removed");
    assert_eq!(store.partition(id).await.unwrap().durable().position, None);
}

#[tokio::test]
async fn a_partition_whose_rows_are_being_replaced_holds_up_no_other() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, Policy::default()).await;
    let replicas = [replica_of(&store, &disk, 1).await, replica_of(&store, &disk, 2).await];
    replicas.iter().for_each(|replica| count_one(&mut Log::default(), replica));
    let _installing = Arc::clone(&replicas[0].state.shared.writing).lock_owned().await;
    let mut durable = replicas[1].state.watch_durable();
    store.request_write_out();
    durable.changed().await.unwrap();
    assert_eq!(replicas[0].state.durable().position, None);
}

#[tokio::test]
async fn a_damaged_store_is_moved_aside_at_the_next_start() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk, Policy::default()).await;
    count_one(&mut Log::default(), &replica_of(&store, &disk, 1).await);
    store.close().await.unwrap();
    let damage = Damage { environment: environment(&disk), marker: "rollups.damaged".into() };
    damage.report(&Error::Damaged { partition: PartitionId(1), what: "a row".to_owned() });
    let disk = disk.after(Crash::PowerCut);
    for is_first in [true, false] {
        let (store, metrics) = open(&disk, Policy::default()).await;
        assert_eq!(metrics.store.rebuilds.get(), u64::from(is_first));
        assert_eq!(store.partition(PartitionId(1)).await.unwrap().durable().position, None);
        store.close().await.unwrap();
    }
    let names = disk.list(Path::new("rollups")).unwrap();
    assert_eq!(names, ["rows.journal", "rows.journal.aside-1795464903000-damaged"]);
}

#[tokio::test]
async fn sled_is_moved_aside_when_it_was_damaged_or_does_not_open() {
    let directory = tempfile::tempdir().unwrap();
    let mut environment = environment(&MemoryDisk::default());
    environment.disk = Arc::new(SystemDisk::new(directory.path()).unwrap());
    let open = async || {
        let (engine, metrics) = (Engine::Sled { data_directory: directory.path().to_owned() }, Metrics::new());
        let store =
            Store::open(&environment, engine, SKETCH.clone(), Policy::default(), metrics.store.clone()).await.unwrap();
        (store, metrics.store.rebuilds.get())
    };
    let (store, rebuilds) = open().await;
    assert_eq!(rebuilds, 0);
    let replica = Replica::of(MemoryDisk::default(), store.partition(PartitionId(1)).await.unwrap());
    count_one(&mut Log::default(), &replica);
    let digest = replica.state.digest();
    store.close().await.unwrap();
    let (store, _) = open().await;
    assert_eq!(store.partition(PartitionId(1)).await.unwrap().verify().await.unwrap(), digest);
    store.close().await.unwrap();
    std::fs::write(directory.path().join("rollups/snap.9999999999999999.generating"), b"half").unwrap();
    let (store, rebuilds) = open().await;
    assert_eq!(rebuilds, 1);
    assert_eq!(store.partition(PartitionId(1)).await.unwrap().durable().position, None);
    store.close().await.unwrap();
    std::fs::write(directory.path().join("rollups.damaged"), b"").unwrap();
    let (_, rebuilds) = open().await;
    assert_eq!(rebuilds, 1);
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["rollups", "rollups.aside-1795464903000-damaged", "rollups.aside-1795464903000-unopenable"]);
}

#[test]
fn only_large_checkpoints_are_applied_off_the_async_threads() {
    let disk = MemoryDisk::default();
    let state = open_state(&disk, journal(&disk), &Limits::default());
    let payload = |kind: u8, bytes: usize| [vec![kind], vec![0; bytes]].concat().into();
    assert_eq!(state.pace(&payload(2, 16 << 10)), Pace::Long);
    assert_eq!(state.pace(&payload(2, 100)), Pace::InTurn);
    assert_eq!(state.pace(&payload(1, 16 << 10)), Pace::Quick, "of events only the headers are read");
}
