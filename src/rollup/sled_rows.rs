//! Rows in sled, the only file that names it.
//!
//! sled 0.34.7 is used as an index that can be rebuilt, never as the source of truth:
//! - its `flush` does not fsync (22 of 22 power cuts lost flushed data); flush, then fsync of every file and directory of
//!   the store, survived 45 of 45. [`SledRows::flush`] does that.
//! - it may fail or panic while it opens what a crash left behind. Then the directory is moved aside and a fresh one is
//!   opened; the replica's state is rebuilt from the log and its peers.
//! - when the disk is full it refuses every later write, also when there is room again, until it is opened anew. Reads go
//!   on meanwhile.
//! - no `transaction` (a known panic), no flusher thread.
//! - while it applies a batch it keeps each page that the batch has replaced, 4 KB or so for each row, and lets nobody else
//!   read. So a large batch, unless it is indivisible, is applied in steps, and [`Redo`] holds it until all of them are durable.

use super::redo::Redo;
use super::rows::{Row, RowBatch, RowStore, Syncs, Visit, is_full};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::Duration;

/// How many directories that were moved aside are kept for a look at them: the newest.
pub const ASIDE_MAX: usize = 2;

/// Bytes of memory that sled may use for its page cache: holds the upper levels of the tree and the hours being read;
/// rows that change are cached decoded, above sled.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Rows that are applied at once, more only if they are indivisible: they leave some 64 MiB of pages behind.
const ROWS_AT_ONCE_MAX: usize = 16 * STEP_ROWS;
/// Rows of each step of a larger batch: some 40 ms.
const STEP_ROWS: usize = 1024;

/// Room there must be before a database is opened again that found the disk full.
const ROOM_BYTES: usize = 4 * 1024 * 1024;

/// How often, and how far apart, a locked store is tried again: five seconds in all.
const LOCK_ATTEMPTS_MAX: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Linux's ENFILE and EMFILE, which std's error kinds do not name.
const OPEN_FILES_OF_SYSTEM: i32 = 23;
const OPEN_FILES_OF_PROCESS: i32 = 24;

/// A sled database in a directory of its own.
pub struct SledRows {
    directory: PathBuf,
    /// `None` after [`RowStore::close`].
    db: RwLock<Option<sled::Db>>,
    was_moved_aside: bool,
    /// Whether the disk was full: sled then refuses every write until it is opened again.
    has_failed: AtomicBool,
    syncs: Syncs,
    redo: Redo,
    /// Held by whoever writes.
    unfinished: Mutex<Unfinished>,
}

/// What has become of the batch that [`Redo`] holds. Nothing else is applied before it is durable: what is applied again after
/// a crash must not be older than what it is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfinished {
    /// It holds none.
    Nothing,
    /// Steps of it are to be applied, or applied again.
    Partly,
    /// All of it is applied, and not flushed.
    Applied,
}

impl SledRows {
    /// Opens the store in `directory`, which is created if it is missing. One that does not open is moved aside, named
    /// after `now_ms` (wall clock) and the reason. What it holds is durable on return.
    ///
    /// Fails, leaving the directory alone, where the fault is not in its content: no permission, a full disk, too many
    /// open files, another process that holds it.
    pub fn open(directory: &Path, now_ms: u64) -> io::Result<SledRows> {
        let (redo, syncs) = (Redo::beside(directory), Syncs::default());
        redo.reopen(&syncs)?;
        if directory.exists() {
            reread_tree(directory)?;
        } else {
            // It was of a store that is not here any more.
            redo.remove(&syncs)?;
        }
        let unfinished = match redo.read() {
            Err(error) if is_surroundings(&error) => return Err(error),
            read => read.map_err(|error| Refusal::Content(error.to_string())),
        };
        let opened = unfinished.and_then(|unfinished| Ok((open_unlocked(directory)?, unfinished)));
        let mut was_moved_aside = false;
        let (db, unfinished) = match opened {
            Ok(opened) => opened,
            Err(Refusal::Surroundings(error)) => return Err(error),
            Err(Refusal::Content(reason)) => {
                let aside = move_aside(directory, now_ms, "unopenable")?;
                redo.remove(&syncs)?;
                was_moved_aside = true;
                tracing::error!(
                    directory = %directory.display(), aside = ?aside, reason,
                    "the row store did not open and was moved aside; its rows are rebuilt from the log and from peers"
                );
                let db = open_unlocked(directory).map_err(|refusal| match refusal {
                    Refusal::Surroundings(error) => error,
                    Refusal::Content(reason) => io::Error::other(reason),
                })?;
                (db, None)
            }
        };
        let rows = SledRows {
            directory: directory.to_path_buf(),
            db: RwLock::new(Some(db)),
            was_moved_aside,
            has_failed: AtomicBool::new(false),
            syncs,
            redo,
            unfinished: Mutex::new(Unfinished::Nothing),
        };
        if let Some(batch) = unfinished {
            tracing::info!(rows = batch.len(), "rows that an earlier process was writing are written again");
            rows.apply_steps(batch, &mut rows.lock_unfinished())?;
        }
        // A process that was killed may have left writes that only the page cache holds.
        rows.flush()?;
        Ok(rows)
    }

    /// Whether the rows of an earlier life did not open and were moved aside.
    pub fn was_moved_aside(&self) -> bool {
        self.was_moved_aside
    }

    fn with_db<T>(&self, work: impl FnOnce(&sled::Db) -> sled::Result<T>) -> io::Result<T> {
        let db = self.db.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let db = db.as_ref().ok_or_else(|| io::Error::other("the row store is closed"))?;
        work(db).map_err(io_error)
    }

    /// Makes a batch that was written down durable, and all that was applied before; whether there was one.
    fn finish(&self, unfinished: &mut Unfinished) -> io::Result<bool> {
        if *unfinished == Unfinished::Partly {
            let gone = || io::Error::other("what was being written is gone");
            self.apply_steps(self.redo.read()?.ok_or_else(gone)?, unfinished)?;
        }
        let is_applied = *unfinished == Unfinished::Applied;
        if is_applied {
            self.flush_with(unfinished)?;
        }
        Ok(is_applied)
    }

    /// Applies a batch that is written down.
    fn apply_steps(&self, batch: RowBatch, unfinished: &mut Unfinished) -> io::Result<()> {
        *unfinished = Unfinished::Partly;
        let mut changes = batch.into_iter().peekable();
        while changes.peek().is_some() {
            self.apply_step(changes.by_ref().take(STEP_ROWS))?;
        }
        *unfinished = Unfinished::Applied;
        Ok(())
    }

    fn apply_step(&self, step: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> io::Result<()> {
        let mut changes = sled::Batch::default();
        for (key, value) in step {
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        self.change(|db| db.apply_batch(changes))
    }

    fn flush_with(&self, unfinished: &mut Unfinished) -> io::Result<()> {
        self.syncs.check()?;
        match self.change(|db| db.flush()) {
            Err(error) if is_full(&error) => return Err(error),
            flushed => self.syncs.note(flushed.map(drop))?,
        }
        let synced = sync_tree(&self.directory).and_then(|()| self.directory.parent().map_or(Ok(()), sync_path));
        self.syncs.note(synced)?;
        if *unfinished == Unfinished::Applied {
            self.redo.remove(&self.syncs)?;
            *unfinished = Unfinished::Nothing;
        }
        Ok(())
    }

    /// Writes; a full disk is remembered.
    fn change<T>(&self, work: impl FnOnce(&sled::Db) -> sled::Result<T>) -> io::Result<T> {
        self.with_db(work).inspect_err(|error| {
            self.has_failed.fetch_or(is_full(error), Relaxed);
        })
    }

    fn lock_unfinished(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Opens the database again after the disk was full, if there is room now. It then holds at least what was flushed.
    fn recover(&self, unfinished: &mut Unfinished) -> io::Result<()> {
        if !self.has_failed.load(Relaxed) {
            return Ok(());
        }
        let probe = self.directory.with_extension("room");
        let has_room = fs::write(&probe, vec![0xaa; ROOM_BYTES]).and_then(|()| sync_path(&probe));
        fs::remove_file(&probe)?;
        has_room?;
        let mut db = self.db.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(db.take());
        if *unfinished == Unfinished::Applied {
            *unfinished = Unfinished::Partly;
        }
        *db = Some(open_unlocked(&self.directory).map_err(|refusal| match refusal {
            Refusal::Surroundings(error) => io::Error::other(error),
            Refusal::Content(reason) => io::Error::other(reason),
        })?);
        self.has_failed.store(false, Relaxed);
        tracing::info!(directory = %self.directory.display(), "the row store is open again: there is room on the disk");
        Ok(())
    }
}

impl RowStore for SledRows {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.with_db(|db| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    fn visit(&self, from: &[u8], to: &[u8], each: &mut Visit<'_>) -> io::Result<()> {
        if from >= to {
            return Ok(());
        }
        self.with_db(|db| {
            for row in db.range(from..to) {
                let (key, value) = row?;
                if each(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        if from >= to {
            return Ok(None);
        }
        self.with_db(|db| db.range(from..to).next_back().map(|row| row.map(owned)).transpose())
    }

    fn apply(&self, batch: RowBatch) -> io::Result<()> {
        self.syncs.check()?;
        let mut unfinished = self.lock_unfinished();
        self.recover(&mut unfinished)?;
        let is_flushed = self.finish(&mut unfinished)?;
        if batch.len() <= ROWS_AT_ONCE_MAX || batch.is_indivisible() {
            return self.apply_step(batch);
        }
        if !is_flushed {
            // Or it might survive a crash, and an earlier one might not.
            self.flush_with(&mut unfinished)?;
        }
        self.redo.write(&batch, &self.syncs)?;
        self.apply_steps(batch, &mut unfinished)
    }

    fn settle(&self) -> io::Result<()> {
        self.syncs.check()?;
        let mut unfinished = self.lock_unfinished();
        // What is not flushed would be lost with the next opening, and whoever reads now must not have seen it.
        self.recover(&mut unfinished)?;
        self.finish(&mut unfinished).map(drop)
    }

    fn flush(&self) -> io::Result<()> {
        self.flush_with(&mut self.lock_unfinished())
    }

    fn close(&self) -> io::Result<()> {
        self.flush()?;
        let db = self.db.write().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        drop(db);
        Ok(())
    }
}

/// Moves a store's directory out of the way and removes the oldest ones beyond [`ASIDE_MAX`]. Durable on return; `None` if
/// there is nothing to move.
pub fn move_aside(directory: &Path, now_ms: u64, reason: &str) -> io::Result<Option<PathBuf>> {
    if !directory.exists() {
        return Ok(None);
    }
    let parent = directory.parent().ok_or_else(|| io::Error::other("a row store needs a parent directory"))?;
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let aside = parent.join(format!("{name}.aside-{now_ms:013}-{reason}"));
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    fs::rename(directory, &aside)?;
    let mut old = asides(parent, &name)?;
    while old.len() > ASIDE_MAX {
        fs::remove_dir_all(old.remove(0))?;
    }
    sync_path(parent)?;
    Ok(Some(aside))
}

/// The directories moved aside under `parent`, oldest first.
fn asides(parent: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{name}.aside-");
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Why a store did not open.
enum Refusal {
    /// What is in the directory cannot be read: a fresh one will do.
    Content(String),
    /// The directory may be fine.
    Surroundings(io::Error),
}

/// Opens; waits a little for the lock, since the threads of a database that was just closed let go of it late.
fn open_unlocked(directory: &Path) -> Result<sled::Db, Refusal> {
    let mut attempt = 0;
    loop {
        match open_caught(directory) {
            Err(Refusal::Surroundings(error)) if is_locked(&error) && attempt < LOCK_ATTEMPTS_MAX => {
                attempt += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn open_caught(directory: &Path) -> Result<sled::Db, Refusal> {
    let config = sled::Config::new().path(directory).flush_every_ms(None).cache_capacity(CACHE_BYTES);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if is_surroundings(&error) => Err(Refusal::Surroundings(error)),
        Ok(Err(error)) => Err(Refusal::Content(error.to_string())),
        Err(panic) => Err(Refusal::Content(panic_text(&*panic).to_owned())),
    }
}

fn is_surroundings(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let is_kind = matches!(error.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull);
    is_kind || is_locked(error) || matches!(error.raw_os_error(), Some(OPEN_FILES_OF_SYSTEM | OPEN_FILES_OF_PROCESS))
}

/// sled gives a lock held by someone else no kind of its own.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// The message of a panic, where it has one.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked")
}

fn owned((key, value): (sled::IVec, sled::IVec)) -> Row {
    (key.to_vec(), value.to_vec())
}

fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        sled::Error::Corruption { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
        error => io::Error::other(error),
    }
}

/// Fsyncs every file and directory below `directory`, and itself.
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => sync_tree(&entry.path())?,
            Ok(_) => sync_path(&entry.path())?,
            // sled removes old snapshots and blobs while it works.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    sync_path(directory)
}

/// Has every file read from the disk again: what an earlier process could not sync may be left in memory, and would be gone
/// after the next power cut.
fn reread_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => reread_tree(&entry.path())?,
            false => cluster::environment::File::reread(&fs::File::open(entry.path())?)?,
        }
    }
    Ok(())
}

fn sync_path(path: &Path) -> io::Result<()> {
    match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file?.sync_all(),
    }
}

#[cfg(test)]
#[path = "sled_rows_tests.rs"]
mod tests;
