//! The files of a log, damaged: opening refuses, or finds entries without a hole, and the same ones when it opens again.
//! (That what it finds was written is tested bit by bit in `simulation`; here even checksums may be forged.)

#![no_main]

use bytes::Bytes;
use cluster::environment::{Access, Disk};
use cluster::log::{GroupState, Log, LogConfig, Record};
use cluster::{GroupId, LogPosition, NodeId, Offset, Term};
use fuzz::{block_on, environment, piece};
use libfuzzer_sys::fuzz_target;
use simulation::environment::SimulatedDisk;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::LazyLock;
use tokio::sync::oneshot;

const GROUPS: u16 = 3;
const ENTRIES: u64 = 24;

fn config() -> LogConfig {
    LogConfig { segment_bytes: 4096, bytes_max: 4 * 4096, spares_max: 1, cache_bytes_max: 1024, ..LogConfig::default() }
}

/// The files of a whole log, as the disk of a seed has them.
fn files(seed: u64) -> Vec<(PathBuf, Vec<u8>)> {
    block_on(async {
        let disk = SimulatedDisk::new(seed);
        let log = Log::open(&environment(&disk), config()).await.expect("an empty disk is a fresh log");
        for offset in 0..ENTRIES {
            for group in (0..GROUPS).map(|number| log.group(GroupId(number))) {
                let (done, is_done) = oneshot::channel();
                let report = move |result| drop(done.send(result));
                group.append(vec![record(offset)], Box::new(report)).await.expect("there is room");
                is_done.await.expect("it is told").expect("the disk takes it");
                group.save_vote(Bytes::from(vec![offset as u8; 20])).await.expect("the disk takes it");
            }
        }
        log.close().await;
        disk.files()
    })
}

fn record(offset: u64) -> Record {
    let position = LogPosition { term: Term(1 + offset / 8), leader: NodeId(1), offset: Offset(offset) };
    Record { position, kind: 1, payload: Bytes::from(vec![offset as u8; 40 + offset as usize]) }
}

/// The files with pieces of the input written over them: file (1 byte), position (2 bytes), content. An input of an odd length
/// is for a disk without direct writes, one of an even length for one that has them.
fn damaged(mut input: &[u8]) -> SimulatedDisk {
    static FILES: LazyLock<[Vec<(PathBuf, Vec<u8>)>; 2]> = LazyLock::new(|| [0, 1].map(files));
    let seed = input.len() % 2;
    let mut files = FILES[seed].clone();
    while let Some(damage) = piece(&mut input) {
        let [number, low, high, content @ ..] = damage else { continue };
        let which = usize::from(*number) % files.len();
        let bytes = &mut files[which].1;
        let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len().max(1);
        let end = (at + content.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&content[..end - at]);
    }
    let disk = SimulatedDisk::new(seed as u64);
    for (path, bytes) in files {
        if let Some(directory) = path.parent() {
            disk.create_directory(directory).expect("a disk with room");
        }
        let file = disk.create(&path, Access::Direct).expect("a disk with room");
        file.write_at(&mut [IoSlice::new(&bytes)], 0).expect("a disk with room");
        file.sync().expect("a disk that works");
    }
    disk
}

async fn open(disk: &SimulatedDisk) -> Option<Vec<(GroupState, Vec<Record>)>> {
    let log = Log::open(&environment(disk), config()).await.ok()?;
    let mut groups = Vec::new();
    for group in (0..GROUPS).map(|number| log.group(GroupId(number))) {
        let state = group.state();
        let records = match state.last {
            Some(last) => group.read(Offset(0)..Offset(last.offset.0 + 1), usize::MAX).await.ok()?,
            None => Vec::new(),
        };
        assert!(records.iter().map(|found| found.position.offset.0).eq(0..records.len() as u64), "a hole");
        groups.push((state, records));
    }
    log.close().await;
    Some(groups)
}

fuzz_target!(|input: &[u8]| {
    let disk = damaged(input);
    block_on(async {
        if let Some(found) = open(&disk).await {
            assert_eq!(open(&disk).await.as_ref(), Some(&found), "opened twice");
        }
    });
});
