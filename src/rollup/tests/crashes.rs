//! Crashes at every operation of a write-out and of an installation leave the old state or the new one.

use super::disk::{Crash, MemoryDisk};
use super::world::{Given, Log, Replica, app, events, journal, open_state};
use crate::format::{codec, golden};
use crate::rollup::PartitionState;
use crate::rollup::identities::Limits;
use crate::rollup::install::Checker;
use crate::rollup::keys;
use crate::rollup::position::{Digest, Position, row_hash};
use crate::rollup::rows::{Row, RowBatch};
use bytes::Bytes;
use cluster::{Payload, StateMachine};
use std::collections::BTreeSet;

/// A log whose entries a replica has applied, with a checkpoint at its end.
fn feed(log: &mut Log, replica: &Replica, entries: u64) {
    for number in 0..entries {
        let sequence = log.entries.len() as u64;
        let event = |app, value| (app, (number % 3) as u8, value);
        let identified = (Some((1, sequence, 7)), vec![event(1, 5_000_000 + number), event(2, 1)]);
        log.push_events(&events(1, sequence, 1000 + number, &[identified, (None, vec![event(3, number)])]));
        log.feed(replica);
    }
    let base = replica.state.consumed().through.map(|consumed| consumed.0);
    let through = replica.state.applied().unwrap().0;
    let is_large =
        |offset: &u64| matches!(&log.entries[*offset as usize].payload, Payload::Data(data) if data.len() > 100_000);
    let poisoned = (0..=through).filter(|offset| *offset == through || is_large(offset)).collect();
    let checkpoint = log.fold(replica, base, through, &poisoned);
    log.push_checkpoint(&checkpoint);
    log.feed(replica);
}

/// The digest that a state shows after it was opened from what a crash left, all its rows read.
async fn reopened(disk: &MemoryDisk, crash: Crash) -> (PartitionState, Digest) {
    let survivor = disk.after(crash);
    let state = open_state(&survivor, journal(&survivor), &Limits::default());
    let digest = state.verify().await.unwrap();
    (state, digest)
}

/// Does `work` on copies of the replica's disk, cut at one operation after the other until it succeeds; after each cut the
/// state must be the one before or the one after. Returns the number of operations.
async fn cut_everywhere<F>(original: &MemoryDisk, before: Digest, after: Digest, work: F) -> u64
where
    F: AsyncFn(&PartitionState) -> bool,
{
    let mut seen = BTreeSet::new();
    for cut in 0.. {
        let disk = original.after(Crash::Kill);
        let state = open_state(&disk, journal(&disk), &Limits::default());
        disk.cut_at(disk.operations() + cut);
        let is_done = work(&state).await;
        for crash in [Crash::Kill, Crash::PowerCut] {
            let (state, digest) = reopened(&disk, crash).await;
            assert!(digest == before || digest == after, "cut {cut}, {crash:?}: {digest:?}");
            assert_eq!(state.durable().position.map(|at| at.offset), digest.consumed);
            if is_done {
                assert_eq!(digest, after, "it was durable");
            }
            seen.insert(digest == after);
        }
        if is_done {
            assert_eq!(seen.len(), 2, "the cuts reached both states");
            return cut;
        }
    }
    unreachable!("the work ends")
}

#[tokio::test]
async fn a_crash_at_any_operation_of_a_write_out_leaves_the_state_before_or_after() {
    let mut log = Log::default();
    let mut replica = Replica::new(&Limits::default());
    feed(&mut log, &replica, 20);
    replica.state.write_out().await.unwrap();
    let before = replica.state.digest();
    feed(&mut log, &replica, 30);
    let after = replica.state.digest();
    let disk = replica.disk.after(Crash::PowerCut);
    replica.restart(Crash::PowerCut);
    let log = std::cell::RefCell::new(log);
    cut_everywhere(&disk, before, after, async |state| {
        let replaying = Replica::of(MemoryDisk::default(), state.clone());
        log.borrow_mut().feed(&replaying);
        assert_eq!(state.digest(), after);
        state.write_out().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_crash_at_any_operation_of_an_installation_leaves_the_state_before_or_after() {
    let (mut log, mut others) = (Log::default(), Log::default());
    let (replica, source) = (Replica::new(&Limits::default()), Replica::new(&Limits::default()));
    feed(&mut others, &replica, 20);
    replica.state.write_out().await.unwrap();
    let large = (0..60_000).map(|number| (9, 1, number * number)).collect();
    log.push_events(&events(2, 0, 1, &[(None, large)]));
    feed(&mut log, &source, 70);
    let (before, after) = (replica.state.digest(), source.state.digest());
    let operations = cut_everywhere(&replica.disk.after(Crash::PowerCut), before, after, async |state| {
        let snapshot = source.state.snapshot().await.unwrap();
        state.install(snapshot.durable, snapshot.chunks).await.is_ok()
    })
    .await;
    assert!(operations >= 5, "chunks, flush, flip, flush: {operations}");
}

#[tokio::test]
async fn what_an_aborted_installation_left_is_not_in_the_next_one() {
    let mut log = Log::default();
    let (replica, source) = (Replica::new(&Limits::default()), Replica::new(&Limits::default()));
    feed(&mut log, &source, 40);
    let snapshot = source.state.snapshot().await.unwrap();
    replica.disk.cut_at(replica.disk.operations() + 1);
    assert!(replica.state.install(snapshot.durable, snapshot.chunks).await.is_err());

    let disk = replica.disk.after(Crash::Kill);
    let state = open_state(&disk, journal(&disk), &Limits::default());
    let (mut other_log, other) = (Log::default(), Replica::new(&Limits::default()));
    feed(&mut other_log, &other, 3);
    let snapshot = other.state.snapshot().await.unwrap();
    state.install(snapshot.durable, snapshot.chunks).await.unwrap();
    assert_eq!(state.verify().await.unwrap(), other.state.digest());
    let (_, digest) = reopened(&disk, Crash::PowerCut).await;
    assert_eq!(digest, other.state.digest());
}

#[tokio::test]
async fn rows_of_old_generations_are_removed() {
    let mut log = Log::default();
    let (replica, source) = (Replica::new(&Limits::default()), Replica::new(&Limits::default()));
    feed(&mut log, &source, 40);
    for _ in 0..3 {
        replica.install_from(&source).await;
        replica.state.remove_old_generations().await;
    }
    source.state.write_out().await.unwrap();
    let rows = |replica: &Replica| replica.state.shared.rows.scan(&[], &[0xff; 8], usize::MAX).unwrap();
    let tails = |replica: &Replica| -> Vec<_> {
        rows(replica).into_iter().map(|(key, value)| (key[6..].to_vec(), value)).collect()
    };
    assert_eq!(tails(&replica)[1..], tails(&source)[1..], "nothing but the installed state");
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_together_changes_nothing() {
    let mut log = Log::default();
    let (replica, source) = (Replica::new(&Limits::default()), Replica::new(&Limits::default()));
    feed(&mut log, &source, 40);
    let before = replica.state.digest();
    let mut chunks = Vec::new();
    let mut capture = source.state.capture().unwrap();
    while let Some(chunk) = capture.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    let durable = capture.position().durable();
    let announced = |offset| {
        let mut durable = durable.clone();
        durable.position = durable.position.map(|at| cluster::LogPosition { offset: cluster::Offset(offset), ..at });
        durable
    };
    let without = |index: usize| {
        let mut rest = chunks.clone();
        rest.remove(index);
        rest
    };
    let doubled = [&chunks[..2], &chunks[1..]].concat();
    let mut damaged = chunks.clone();
    damaged[1] = damaged[1].iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 99)).collect::<Vec<_>>().into();
    for (wrong, durable) in [
        (without(0), durable.clone()),
        (without(1), durable.clone()),
        (without(chunks.len() - 1), durable.clone()),
        (doubled, durable.clone()),
        (damaged, durable.clone()),
        (chunks.clone(), announced(7)),
    ] {
        let wrong = Box::new(Given(wrong.into_iter()));
        assert!(replica.state.install(durable, wrong).await.is_err());
        assert_eq!(replica.state.digest(), before);
    }
    replica.state.install(durable, Box::new(Given(chunks.into_iter()))).await.unwrap();
    assert_eq!(replica.state.verify().await.unwrap(), source.state.digest());
}

/// What a capture sends, with other rows (all in one chunk) under another header.
fn forged(header: &Position, rows: &[Row]) -> Given {
    let mut chunks = Vec::new();
    let mut chunk = |content: &[u8]| {
        let mut out = codec::begin(1);
        out.extend_from_slice(content);
        chunks.push(codec::seal(out));
    };
    let mut content = vec![0];
    codec::put_bytes(&mut content, &header.encode());
    chunk(&content);
    content = vec![1];
    codec::put_varint(&mut content, rows.len() as u128);
    for (tail, value) in rows {
        codec::put_bytes(&mut content, tail);
        codec::put_bytes(&mut content, value);
    }
    chunk(&content);
    content = vec![2];
    codec::put_varint(&mut content, rows.len() as u128);
    chunk(&content);
    Given(chunks.into_iter())
}

#[tokio::test]
async fn a_snapshot_with_a_row_thrice_or_one_behind_its_end_is_refused_though_its_digest_fits() {
    let mut log = Log::default();
    let (replica, source) = (Replica::new(&Limits::default()), Replica::new(&Limits::default()));
    feed(&mut log, &source, 40);
    let (mut capture, mut checker) = (source.state.capture().unwrap(), Checker::new(Limits::default()));
    let header = capture.position().clone();
    let mut rows = Vec::new();
    while let Some(chunk) = capture.next_chunk().unwrap() {
        rows.extend(checker.read(&chunk).unwrap());
    }

    let first = rows.iter().position(|(tail, _)| keys::split_rollup(tail).is_some()).unwrap();
    let mut thrice = rows.clone();
    thrice.splice(first..first, [rows[first].clone(), rows[first].clone()]);
    let with_thrice = Position { rollups: header.rollups + 2, ..header.clone() };

    let mut swapped = rows.clone();
    swapped.swap(first, first + 1);

    let behind = (keys::quarantined(header.offset().unwrap().0 + 1, 0), b"piece".to_vec());
    let with_behind = Position { rows_digest: header.rows_digest ^ row_hash(&behind.0, &behind.1), ..header.clone() };
    let and_behind = [&rows[..], &[behind]].concat();

    let before = replica.state.digest();
    for (position, rows, reason) in [
        (&with_thrice, &thrice, "out of order"),
        (&header, &swapped, "out of order"),
        (&with_behind, &and_behind, "quarantined behind its end"),
    ] {
        let refused = replica.state.install(header.durable(), Box::new(forged(position, rows))).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
        assert_eq!(replica.state.digest(), before);
    }
    replica.state.install(header.durable(), Box::new(forged(&header, &rows))).await.unwrap();
    assert_eq!(replica.state.verify().await.unwrap(), source.state.digest());
}

#[tokio::test]
async fn layout_of_snapshots_never_changes() {
    let (mut log, source) = (Log::default(), Replica::new(&Limits::default()));
    log.push(Payload::Membership("members".into()));
    feed(&mut log, &source, 5);
    let mut bytes = Vec::new();
    let mut capture = source.state.capture().unwrap();
    while let Some(chunk) = capture.next_chunk().unwrap() {
        bytes.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&chunk);
    }
    golden::check("snapshot-v2", &bytes);

    for name in ["snapshot-v1", "snapshot-v2"] {
        let golden = golden::read(name);
        let mut rest = &golden[..];
        let mut chunks = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (chunk, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            chunks.push(Bytes::copy_from_slice(chunk));
            rest = behind;
        }
        let replica = Replica::new(&Limits::default());
        replica.state.install(capture.position().durable(), Box::new(Given(chunks.into_iter()))).await.unwrap();
        assert_eq!(replica.state.verify().await.unwrap(), source.state.digest());
        log.compare(&replica);
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_the_next_write_out_has_it_all() {
    let mut log = Log::default();
    let mut replica = Replica::new(&Limits::default());
    feed(&mut log, &replica, 20);
    replica.state.write_out().await.unwrap();
    let durable = replica.state.durable();
    feed(&mut log, &replica, 20);
    replica.disk.set_full(true);
    replica.state.write_out().await.unwrap_err();
    assert_eq!(replica.state.durable(), durable);
    log.compare(&replica);
    feed(&mut log, &replica, 5);
    replica.disk.set_full(false);
    replica.state.write_out().await.unwrap();
    let digest = replica.state.digest();
    replica.restart(Crash::PowerCut);
    assert_eq!(replica.state.verify().await.unwrap(), digest);
}

#[tokio::test]
async fn a_checkpoint_that_loses_an_event_stops_the_replica() {
    let mut log = Log::default();
    let replica = Replica::new(&Limits::default());
    log.push_events(&events(1, 1, 1, &[(None, vec![(1, 1, 5), (1, 1, 6)])]));
    log.feed(&replica);
    let good = log.fold(&replica, None, 0, &BTreeSet::new());
    replica.state.check(&good).unwrap();
    let mut wrong = good.clone();
    wrong.tally.counted = 1;
    wrong.tally.duplicate = 1;
    let mut lost = good.clone();
    lost.deltas.clear();
    for bad in [wrong, lost] {
        assert!(replica.state.check(&bad).is_err());
        let payload = crate::format::Entry::Checkpoint(bad).encode();
        let position = cluster::LogPosition { offset: cluster::Offset(1), ..log.entries[0].position };
        let entry = cluster::Committed { position, payload: Payload::Data(payload) };
        assert!(replica.state.apply(entry).is_err());
        assert!(replica.state.snapshot().await.is_err(), "nobody is sent what contradicts itself");
    }
}

#[tokio::test]
async fn a_damaged_row_stops_the_node_and_leaves_a_marker() {
    let mut log = Log::default();
    let mut replica = Replica::new(&Limits::default());
    feed(&mut log, &replica, 20);
    replica.state.write_out().await.unwrap();
    replica.restart(Crash::PowerCut);
    let rows = &replica.state.shared.rows;
    let tail = crate::rollup::keys::rollup(&app("app 1"), crate::domain::Hour(490_001));
    let key = replica.state.shared.key(1, &tail);
    let mut value = rows.get(&key).unwrap().unwrap();
    value[9] ^= 4;
    let mut batch = crate::rollup::rows::RowBatch::default();
    batch.put(key, value);
    rows.apply(batch).unwrap();

    let reader = replica.state.reader();
    let read = reader.get(&app("app 1"), crate::domain::Hour(490_001));
    assert!(matches!(read, Err(crate::rollup::Error::Damaged { .. })), "{read:?}");
    assert!(replica.state.verify().await.is_err());
    let failed = replica.state.shared.environment.tasks.failed().await;
    assert!(failed.contains("damaged"), "{failed}");
    let names = cluster::environment::Disk::list(&replica.disk, std::path::Path::new("")).unwrap();
    assert_eq!(names, ["rollups.damaged"]);
}

#[tokio::test]
async fn a_state_that_hashed_rollups_otherwise_gets_its_digest_from_the_rows() {
    let (mut log, mut replica) = (Log::default(), Replica::new(&Limits::default()));
    feed(&mut log, &replica, 20);
    replica.state.write_out().await.unwrap();
    let digest = replica.state.digest();
    {
        let shared = &replica.state.shared;
        let (generation, position) = {
            let inner = shared.lock();
            (inner.generation, Position { rows_digest: 1, ..inner.position.clone() })
        };
        let mut old = codec::begin(1);
        old.extend_from_slice(&position.encode()[5..]);
        let mut batch = RowBatch::default();
        batch.put(shared.key(generation, &keys::state()), codec::seal(old).into());
        shared.rows.apply(batch).unwrap();
        shared.rows.flush().unwrap();
    }
    replica.restart(Crash::PowerCut);
    assert_eq!(replica.state.digest(), digest);
    assert_eq!(replica.state.verify().await.unwrap(), digest);
    assert!(replica.state.behind().since.is_some(), "the next write-out brings it up to date");
}
