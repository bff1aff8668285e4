//! The journal under crashes: cut anywhere, flipped anywhere, rewritten.

use super::*;
use crate::rollup::rows::conformance;
use crate::rollup::tests::disk::{Crash, MemoryDisk};
use cluster::environment::SystemDisk;

fn disk(directory: &tempfile::TempDir) -> Arc<dyn Disk> {
    Arc::new(SystemDisk::new(directory.path()).unwrap())
}

fn open(disk: &Arc<dyn Disk>) -> JournalRows {
    JournalRows::open(Arc::clone(disk), Path::new("rollups"), 1).unwrap()
}

fn put(key: u8, value: &[u8]) -> RowBatch {
    let mut batch = RowBatch::default();
    batch.put(vec![key], value.to_vec());
    batch.put(b"newest".to_vec(), vec![key]);
    batch
}

/// The number of whole batches in the store, which must be exactly the first ones.
fn batches(rows: &JournalRows) -> u8 {
    let newest = rows.get(b"newest").unwrap().map_or(0, |value| value[0]);
    let keys: Vec<_> = rows.scan(&[], b"n", 100).unwrap().into_iter().map(|(key, _)| key[0]).collect();
    assert_eq!(keys, (1..=newest).collect::<Vec<_>>());
    newest
}

fn written(disk: &Arc<dyn Disk>) -> Vec<u8> {
    let rows = open(disk);
    for key in 1..=4 {
        rows.apply(put(key, &[key; 20])).unwrap();
    }
    rows.close().unwrap();
    let file = disk.open(Path::new("rollups/rows.journal"), Access::Cached).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn replace(disk: &Arc<dyn Disk>, bytes: &[u8]) {
    let file = disk.open(Path::new("rollups/rows.journal"), Access::Cached).unwrap();
    file.set_len(0).unwrap();
    if bytes.is_empty() {
        return;
    }
    file.write_at(&mut [IoSlice::new(bytes)], 0).unwrap();
}

#[test]
fn the_journal_is_a_row_store() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    conformance::run(|| Box::new(open(&disk)));
}

#[test]
fn a_journal_cut_anywhere_opens_with_the_whole_batches_before_the_cut() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    let bytes = written(&disk);
    let mut before = 0;
    for length in 0..=bytes.len() {
        replace(&disk, &bytes[..length]);
        let rows = open(&disk);
        let now = batches(&rows);
        assert!(now >= before, "more bytes, fewer batches at {length}");
        before = now;
        rows.apply(put(now + 1, b"after the cut")).unwrap();
        rows.close().unwrap();
        assert_eq!(batches(&open(&disk)), now + 1);
    }
    assert_eq!(before, 4);
}

#[test]
fn a_flipped_bit_cuts_there_or_moves_the_file_aside() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    let bytes = written(&disk);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        replace(&disk, &flipped);
        assert!(batches(&open(&disk)) < 4, "bit {bit} went unnoticed");
    }
}

#[test]
fn a_file_of_another_version_is_moved_aside_and_old_ones_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    for now_ms in 1..=4 {
        drop(open(&disk));
        replace(&disk, b"hmrows\0\x02 something newer");
        JournalRows::open(Arc::clone(&disk), Path::new("rollups"), now_ms).unwrap();
    }
    let names = disk.list(Path::new("rollups")).unwrap();
    assert_eq!(
        names,
        ["rows.journal", "rows.journal.aside-0000000000003-unopenable", "rows.journal.aside-0000000000004-unopenable"]
    );
}

#[test]
fn overwritten_rows_do_not_grow_the_file_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    let rows = open(&disk);
    for round in 0..60u8 {
        rows.apply(put(1, &vec![round; 100_000])).unwrap();
        rows.flush().unwrap();
    }
    let bytes = disk.open(Path::new("rollups/rows.journal"), Access::Cached).unwrap().len().unwrap();
    assert!(bytes < REWRITE_FILE_BYTES_MIN + 200_000, "{bytes} bytes");
    rows.close().unwrap();
    assert_eq!(open(&disk).get(&[1]).unwrap().unwrap(), vec![59; 100_000]);
}

#[test]
fn golden_journal() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    let rows = open(&disk);
    let mut batch = RowBatch::default();
    batch.put(b"key".to_vec(), b"value".to_vec());
    batch.remove(b"gone".to_vec());
    rows.apply(batch).unwrap();
    rows.close().unwrap();
    let file = disk.open(Path::new("rollups/rows.journal"), Access::Cached).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    crate::format::golden::check("rows-journal-v1", &bytes);
}

#[test]
fn what_a_failed_sync_left_in_memory_is_not_believed_by_the_next_process() {
    let memory = MemoryDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let rows = open(&disk);
    rows.apply(put(1, b"synced")).unwrap();
    rows.flush().unwrap();
    rows.apply(put(2, b"lost to the disk")).unwrap();
    memory.fail_sync();
    assert!(rows.flush().is_err());
    assert!(rows.apply(put(3, b"too late")).is_err());
    assert!(rows.flush().is_err(), "a second sync would say that what is lost is durable");
    drop(rows);
    let told_durable = batches(&open(&disk));
    let survivor: Arc<dyn Disk> = Arc::new(memory.after(Crash::PowerCut));
    assert_eq!(batches(&open(&survivor)), told_durable, "what was opened survives a power cut");
    assert_eq!(told_durable, 1);
}
