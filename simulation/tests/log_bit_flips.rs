//! Every single bit of a synced log, inverted: noticed, or without effect.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

mod support;

use bytes::Bytes;
use cluster::log::{Error, Record};
use cluster::{GroupId, Offset};
use simulation::environment::{SimulatedDisk, Tear};
use std::path::{Path, PathBuf};
use support::{Models, content, open, position};

/// Seeds of a disk without direct writes, and of one that has them.
const SEEDS: [u64; 2] = [1, 2];

/// A closed log of two segments and a spare with a record of every kind in it.
async fn closed_log(seed: u64) -> (SimulatedDisk, Models) {
    let disk = SimulatedDisk::new(seed);
    let (environment, log) = open(&disk).await.unwrap();
    for round in 0..3_u64 {
        for id in 0..2_u16 {
            let group = log.group(GroupId(id));
            let record = |offset| {
                let payload = Bytes::from(vec![offset as u8 + 1; 190 + id as usize]);
                Record { position: position(round + 1, offset), kind: 3, payload }
            };
            let from = group.state().last.map_or(0, |last| last.offset.0 + 1);
            group.append((from..from + 4).map(record).collect(), Box::new(|done| done.unwrap())).await.unwrap();
            group.save_vote(Bytes::from(vec![round as u8; 16])).await.unwrap();
            if round == 1 {
                group.purge(group.position(Offset(0)).unwrap()).await.unwrap();
                group.truncate_after(group.position(Offset(6))).await.unwrap();
                group.save_committed(group.position(Offset(3))).await.unwrap();
            }
            log.group(GroupId(9)).reset().await.unwrap();
        }
    }
    log.close().await;
    let content = content(&log).await.unwrap();
    environment.tasks.shutdown();
    (disk.crash(), content)
}

#[tokio::test(start_paused = true)]
async fn every_flipped_bit_is_noticed_or_harmless() {
    for seed in SEEDS {
        flip_every_bit(seed).await;
    }
}

async fn flip_every_bit(seed: u64) {
    let (disk, expected) = closed_log(seed).await;
    let files: Vec<(PathBuf, usize)> = disk.files().into_iter().map(|(path, bytes)| (path, bytes.len())).collect();
    assert_eq!(files.len(), 3, "two segments and a spare: {files:?}");
    let (mut noticed, mut harmless) = (0, 0);
    for (path, bytes) in files {
        for bit in 0..bytes as u64 * 8 {
            let flipped = disk.fork();
            flipped.flip_bit(&path, bit);
            match open(&flipped).await {
                Ok((environment, log)) => {
                    let found = content(&log).await;
                    environment.tasks.shutdown();
                    assert_eq!(found.unwrap(), expected, "bit {bit} of {}", path.display());
                    harmless += 1;
                }
                Err(Error::Damaged { .. }) => noticed += 1,
                Err(error) => panic!("bit {bit} of {}: {error}", path.display()),
            }
        }
    }
    println!("{noticed} flips noticed, {harmless} harmless");
    assert!(noticed > 8 * 4096, "{noticed} flips noticed");
}

#[tokio::test(start_paused = true)]
async fn damage_to_the_last_write_is_noticed_once_the_log_was_idle_for_a_moment() {
    for seed in SEEDS {
        damage_the_last_write(seed).await;
    }
}

async fn damage_the_last_write(seed: u64) {
    let disk = SimulatedDisk::new(seed);
    let (_environment, log) = open(&disk).await.unwrap();
    let record = Record { position: position(1, 0), kind: 1, payload: Bytes::from_static(b"the last write") };
    log.group(GroupId(1)).append(vec![record], Box::new(|done| done.unwrap())).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let disk = disk.crash_with(Tear::Nothing);
    disk.flip_bit(Path::new("log/000000000001.log"), (64 + 64 + 3) * 8);
    let refused = open(&disk).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Damaged { position: 64, .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn damage_under_a_running_log_stops_the_node_instead_of_being_read() {
    for seed in SEEDS {
        damage_under_a_running_log(seed).await;
    }
}

async fn damage_under_a_running_log(seed: u64) {
    let (disk, expected) = closed_log(seed).await;
    let (environment, log) = open(&disk).await.unwrap();
    let damaged = expected[&GroupId(1)].entries[2].position.offset;
    let (path, at) = disk
        .files()
        .into_iter()
        .find_map(|(path, bytes)| {
            let payload = vec![damaged.0 as u8 + 1; 191];
            Some((path, bytes.windows(191).position(|window| window == payload)?))
        })
        .unwrap();
    disk.flip_bit(&path, at as u64 * 8);
    let group = log.group(GroupId(1));
    assert_eq!(group.read(Offset(1)..damaged, 1 << 20).await.unwrap().len(), 2);
    let error = group.read(Offset(1)..damaged.next(), 1 << 20).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(environment.tasks.failed().await.contains("damaged"));
    assert!(group.save_vote(Bytes::new()).await.is_err());
}
