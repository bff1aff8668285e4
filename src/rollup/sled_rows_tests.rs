//! The row store of sled: what a crash, a full disk or damage leaves of it.

use super::*;
use crate::rollup::rows::conformance;

#[test]
fn sled_is_a_row_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rollups");
    conformance::run(|| Box::new(SledRows::open(&path, 0).unwrap()));
}

fn one(key: &[u8]) -> RowBatch {
    let mut batch = RowBatch::default();
    batch.put(key.to_vec(), b"v".to_vec());
    batch
}

#[cfg(target_os = "linux")]
const UNKNOWN_BYTES: usize = 1 << 20;

/// Bytes that this thread has had read from disks, as the kernel counts them; `None` where it does not.
#[cfg(target_os = "linux")]
fn bytes_from_disks() -> Option<u64> {
    let counters = fs::read_to_string("/proc/thread-self/io").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("read_bytes: ")).and_then(|count| count.parse().ok())
}

/// Whether reading a file of [`UNKNOWN_BYTES`] takes all of it from the disk. (A read that must not wait tells less:
/// the kernel starts to read ahead for it, and may be done before it looks.)
#[cfg(target_os = "linux")]
fn is_read_from_disk(path: &Path) -> bool {
    let before = bytes_from_disks();
    assert_eq!(fs::read(path).unwrap(), vec![7; UNKNOWN_BYTES]);
    before.zip(bytes_from_disks()).is_some_and(|(before, after)| after - before >= UNKNOWN_BYTES as u64)
}

#[cfg(target_os = "linux")]
#[test]
fn what_an_earlier_process_left_in_memory_is_read_from_the_disk_again() {
    let parent = tempfile::tempdir().unwrap();
    let written = |path: PathBuf| {
        fs::write(&path, vec![7; UNKNOWN_BYTES]).unwrap();
        path
    };
    let probe = written(parent.path().join("probe"));
    let file = fs::File::open(&probe).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    if !is_read_from_disk(&probe) {
        return; // A file system that is nothing but memory, or a kernel that counts nothing.
    }
    let path = parent.path().join("rollups");
    SledRows::open(&path, 0).unwrap().close().unwrap();
    // sled reads its own files while it opens; one that it does not know, in a directory below, shows what was let go.
    fs::create_dir_all(path.join("below")).unwrap();
    let unknown = written(path.join("below/unknown"));
    assert!(!is_read_from_disk(&unknown));
    SledRows::open(&path, 0).unwrap().close().unwrap();
    assert!(is_read_from_disk(&unknown));
}

#[test]
fn a_store_that_does_not_open_is_moved_aside_and_only_the_newest_are_kept() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("rollups");
    for now_ms in 1..=5 {
        let rows = SledRows::open(&path, 0).unwrap();
        assert_eq!(rows.get(b"k").unwrap(), None, "opened fresh");
        rows.apply(one(b"k")).unwrap();
        rows.close().unwrap();
        // A snapshot that was being written when the power went: sled takes it for the newest and refuses to open.
        fs::write(path.join("snap.9999999999999999.generating"), b"half").unwrap();
        SledRows::open(&path, now_ms).unwrap().close().unwrap();
    }
    let kept: Vec<_> = asides(parent.path(), "rollups").unwrap();
    let names: Vec<_> = kept.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["rollups.aside-0000000000004-unopenable", "rollups.aside-0000000000005-unopenable"]);
}

const MANY: usize = ROWS_AT_ONCE_MAX + 7;

fn key(number: usize) -> Vec<u8> {
    (number as u32).to_be_bytes().to_vec()
}

/// So many rows with this value; the first one's is `first`.
fn many(first: &[u8], value: &[u8]) -> RowBatch {
    let mut batch = RowBatch::default();
    (0..MANY).for_each(|number| batch.put(key(number), if number == 0 { first } else { value }.to_vec()));
    batch
}

fn values(rows: &SledRows) -> Vec<Vec<u8>> {
    rows.scan(&key(0), &key(MANY), MANY + 1).unwrap().into_iter().map(|(_, value)| value).collect()
}

fn is_whole(rows: &SledRows, first: &[u8], value: &[u8]) -> bool {
    let values = values(rows);
    values.len() == MANY && values[0] == first && values[1..].iter().all(|found| found == value)
}

#[test]
fn a_large_batch_is_written_down_until_it_is_flushed_and_not_taken_again_over_a_later_one() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("rollups");
    let rows = SledRows::open(&path, 0).unwrap();
    rows.apply(many(b"old", b"old")).unwrap();
    assert!(is_whole(&rows, b"old", b"old") && rows.redo.read().unwrap().is_some());
    let mut small = RowBatch::default();
    small.put(key(0), b"new".to_vec());
    rows.apply(small).unwrap();
    assert_eq!(rows.redo.read().unwrap(), None, "flushed before anything else was applied");
    rows.close().unwrap();
    let rows = SledRows::open(&path, 0).unwrap();
    assert!(is_whole(&rows, b"new", b"old"));
    rows.apply(many(b"newer", b"newer")).unwrap();
    rows.flush().unwrap();
    assert_eq!(rows.redo.read().unwrap(), None);
    assert!(is_whole(&rows, b"newer", b"newer"));
}

#[test]
fn a_large_batch_of_which_a_crash_left_a_part_is_whole_after_the_next_start() {
    for steps in [0, 1, 16, 17] {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("rollups");
        let rows = SledRows::open(&path, 0).unwrap();
        rows.apply(many(b"old", b"old")).unwrap();
        rows.flush().unwrap();
        let batch = many(b"new", b"new");
        rows.redo.write(&batch, &rows.syncs).unwrap();
        for step in batch.changes().chunks(STEP_ROWS).take(steps) {
            rows.apply_step(step.to_vec()).unwrap();
        }
        drop(rows);
        let rows = SledRows::open(&path, 0).unwrap();
        assert!(is_whole(&rows, b"new", b"new"), "{steps} steps");
        assert!(!rows.was_moved_aside() && rows.redo.read().unwrap().is_none());
    }
}

#[test]
fn a_large_batch_that_found_the_disk_full_is_whole_before_the_next_is_applied() {
    for unfinished in [Unfinished::Partly, Unfinished::Applied] {
        let parent = tempfile::tempdir().unwrap();
        let rows = SledRows::open(&parent.path().join("rollups"), 0).unwrap();
        rows.redo.write(&many(b"old", b"old"), &rows.syncs).unwrap();
        *rows.lock_unfinished() = unfinished;
        // The database that is opened again may lack all that was not flushed.
        rows.has_failed.store(true, Relaxed);
        let mut small = RowBatch::default();
        small.put(key(0), b"new".to_vec());
        rows.apply(small).unwrap();
        assert!(is_whole(&rows, b"new", b"old"), "{unfinished:?}");
        assert_eq!(rows.redo.read().unwrap(), None);
    }
}

#[test]
fn a_large_batch_that_found_the_disk_full_is_whole_once_it_is_settled() {
    for unfinished in [Unfinished::Partly, Unfinished::Applied] {
        let parent = tempfile::tempdir().unwrap();
        let rows = SledRows::open(&parent.path().join("rollups"), 0).unwrap();
        rows.redo.write(&many(b"old", b"old"), &rows.syncs).unwrap();
        *rows.lock_unfinished() = unfinished;
        rows.has_failed.store(true, Relaxed);
        rows.settle().unwrap();
        assert!(is_whole(&rows, b"old", b"old") && rows.redo.read().unwrap().is_none(), "{unfinished:?}");
    }
}

#[test]
fn an_indivisible_batch_is_applied_at_once() {
    let parent = tempfile::tempdir().unwrap();
    let rows = SledRows::open(&parent.path().join("rollups"), 0).unwrap();
    let mut batch = many(b"old", b"old");
    batch.make_indivisible();
    rows.apply(batch).unwrap();
    assert!(is_whole(&rows, b"old", b"old") && rows.redo.read().unwrap().is_none());
}

#[test]
fn a_flush_does_not_forget_a_large_batch_that_is_not_whole() {
    let parent = tempfile::tempdir().unwrap();
    let rows = SledRows::open(&parent.path().join("rollups"), 0).unwrap();
    rows.redo.write(&many(b"old", b"old"), &rows.syncs).unwrap();
    *rows.lock_unfinished() = Unfinished::Partly;
    rows.flush().unwrap();
    assert!(rows.redo.read().unwrap().is_some());
}

#[test]
fn a_batch_that_is_written_down_belongs_to_its_store() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("rollups");
    let redo = Redo::beside(&path);
    redo.write(&many(b"old", b"old"), &Syncs::default()).unwrap();
    let rows = SledRows::open(&path, 0).unwrap();
    assert!(values(&rows).is_empty() && !rows.was_moved_aside(), "the store was gone, so its batch is, too");
    rows.apply(many(b"old", b"old")).unwrap();
    drop(rows);
    fs::write(parent.path().join("rollups.redo"), b"damaged").unwrap();
    let rows = SledRows::open(&path, 7).unwrap();
    assert!(values(&rows).is_empty() && rows.was_moved_aside(), "a part of the batch may be in the store");
    assert_eq!(redo.read().unwrap(), None);
}

#[test]
fn a_store_in_use_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("rollups");
    let rows = SledRows::open(&path, 0).unwrap();
    assert!(matches!(open_caught(&path), Err(Refusal::Surroundings(error)) if is_locked(&error)));
    rows.apply(one(b"k")).unwrap();
    assert!(asides(parent.path(), "rollups").unwrap().is_empty());
}

#[test]
fn a_closed_store_answers_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let rows = SledRows::open(&parent.path().join("rollups"), 0).unwrap();
    rows.close().unwrap();
    assert!(rows.get(b"k").is_err() && rows.flush().is_err());
}
