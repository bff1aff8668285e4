//! Rows in memory, journaled to one checksummed file through the environment's disk.
//!
//! For the simulator, whose disk loses what was not synced, tears writes and flips bits, and for any other disk that is
//! not a directory of the operating system. All rows are in memory: not meant for millions of them.
//!
//! ```text
//!   file:    magic and version (8)  record*
//!   record:  body length u32 LE | crc32c u32 LE of (record's position u64 LE, body) | body
//!   body:    change*      as `rows` encodes them
//! ```
//!
//! A record is one batch. Opening keeps the records before the first one that does not check out and cuts the rest: the map
//! is then as of an earlier batch, which is a state the replica once had, and the log replays from there. When the file
//! outgrows its rows they are written to a new file, which then takes the old one's name.

use super::rows::{CHANGE_HEADER_BYTES, Row, RowBatch, RowStore, Syncs, Visit, decode, encode, is_full};
use cluster::environment::{Access, Disk, File};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Marks the file and its version.
const MAGIC: &[u8; 8] = b"hmrows\0\x01";
const NAME: &str = "rows.journal";
const NAME_NEW: &str = "rows.journal.new";

/// Length and checksum before each body.
const RECORD_HEADER_BYTES: u64 = 8;
/// Bytes of one record: more than any write-out holds (100,000 rows of 2 KB); a length beyond it is damage.
const RECORD_BYTES_MAX: u64 = 1 << 30;
/// Bytes of one record of a rewritten file.
const REWRITE_RECORD_BYTES: usize = 256 * 1024;
/// A file is rewritten when it is larger than this and twice its rows.
const REWRITE_FILE_BYTES_MIN: u64 = 1024 * 1024;

/// How many journals that were moved aside are kept: the newest.
pub const ASIDE_MAX: usize = 2;

/// An ordered map with a journal.
pub struct JournalRows {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    journal: Mutex<Option<Journal>>,
    syncs: Syncs,
    was_moved_aside: bool,
}

struct Journal {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    file: Box<dyn File>,
    /// Where the next record goes.
    end: u64,
    /// What the rows alone would take.
    row_bytes: u64,
}

impl JournalRows {
    /// Opens the journal in `directory` of `disk`, or creates it. A file of another version is moved aside, named after
    /// `now_ms` (wall clock). What it holds is durable on return.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, now_ms: u64) -> io::Result<JournalRows> {
        disk.create_directory(directory)?;
        let names = disk.list(directory)?;
        if names.iter().any(|name| name == NAME_NEW) {
            disk.remove(&directory.join(NAME_NEW))?;
        }
        let path = directory.join(NAME);
        let mut file = if names.iter().any(|name| name == NAME) {
            disk.open(&path, Access::Cached)?
        } else {
            create(&*disk, directory)?
        };
        let was_moved_aside = !is_ours(&*file)?;
        if was_moved_aside {
            tracing::error!(file = %path.display(), "the row journal is not readable and was moved aside; its rows are rebuilt");
            drop(file);
            move_aside(&*disk, directory, now_ms, "unopenable")?;
            file = create(&*disk, directory)?;
        }
        // What an earlier process could not sync may be left in memory, and would be gone after the next power cut.
        file.reread()?;
        let journal = Journal::load(file)?;
        journal.file.sync()?;
        disk.sync_directory(directory)?;
        Ok(JournalRows {
            disk,
            directory: directory.to_path_buf(),
            journal: Mutex::new(Some(journal)),
            syncs: Syncs::default(),
            was_moved_aside,
        })
    }

    /// Whether the rows of an earlier life could not be read and were moved aside.
    pub fn was_moved_aside(&self) -> bool {
        self.was_moved_aside
    }

    fn lock(&self) -> MutexGuard<'_, Option<Journal>> {
        self.journal.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Journal) -> io::Result<T>) -> io::Result<T> {
        work(self.lock().as_mut().ok_or_else(|| io::Error::other("the row store is closed"))?)
    }
}

impl RowStore for JournalRows {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.with(|journal| Ok(journal.rows.get(key).cloned()))
    }

    fn visit(&self, from: &[u8], to: &[u8], each: &mut Visit<'_>) -> io::Result<()> {
        if from >= to {
            return Ok(());
        }
        self.with(|journal| {
            // Where it breaks is where the caller wanted it to.
            let _ = journal.range(from, to).try_for_each(|(key, value)| each(key, value));
            Ok(())
        })
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        if from >= to {
            return Ok(None);
        }
        self.with(|journal| Ok(journal.range(from, to).next_back().map(owned)))
    }

    fn apply(&self, batch: RowBatch) -> io::Result<()> {
        self.syncs.check()?;
        self.with(|journal| journal.apply(batch))
    }

    fn flush(&self) -> io::Result<()> {
        self.syncs.check()?;
        self.with(|journal| {
            if journal.end > REWRITE_FILE_BYTES_MIN && journal.end / 2 > journal.row_bytes {
                match journal.rewrite(&*self.disk, &self.directory) {
                    Err(error) if is_full(&error) => self.disk.remove(&self.directory.join(NAME_NEW))?,
                    outcome => return self.syncs.note(outcome),
                }
            }
            self.syncs.note(journal.file.sync())
        })
    }

    fn close(&self) -> io::Result<()> {
        self.flush()?;
        self.lock().take();
        Ok(())
    }
}

impl Journal {
    fn load(file: Box<dyn File>) -> io::Result<Journal> {
        let length = file.len()?;
        let mut journal = Journal { rows: BTreeMap::new(), file, end: MAGIC.len() as u64, row_bytes: 0 };
        while let Some(body) = read_record(&*journal.file, journal.end, length)? {
            let Some(changes) = decode(&body) else { break };
            for (key, value) in changes {
                journal.change(key, value);
            }
            journal.end += RECORD_HEADER_BYTES + body.len() as u64;
        }
        if journal.end < length {
            tracing::warn!(
                bytes = length - journal.end,
                position = journal.end,
                "cut the unreadable end of the row journal"
            );
            journal.file.set_len(journal.end)?;
        }
        Ok(journal)
    }

    fn range(&self, from: &[u8], to: &[u8]) -> std::collections::btree_map::Range<'_, Vec<u8>, Vec<u8>> {
        self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
    }

    fn apply(&mut self, batch: RowBatch) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let body = encode(batch.changes().iter().map(|(key, value)| (&key[..], value.as_deref())));
        match write_record(&*self.file, self.end, &body) {
            Ok(end) => self.end = end,
            Err(error) => {
                // The next record is written over what this one left; without a rest behind it if the disk lets us.
                let _ = self.file.set_len(self.end);
                return Err(error);
            }
        }
        for (key, value) in batch {
            self.change(key, value);
        }
        Ok(())
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let key_bytes = key.len();
        let added = value.as_ref().map_or(0, |value| change_bytes(key_bytes, value));
        let old = match value {
            Some(value) => self.rows.insert(key, value),
            None => self.rows.remove(&key),
        };
        self.row_bytes = self.row_bytes + added - old.map_or(0, |old| change_bytes(key_bytes, &old));
    }

    /// Writes all rows to a new file and lets it take the old one's place; durable on return.
    fn rewrite(&mut self, disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        let path = directory.join(NAME_NEW);
        let file = disk.create(&path, Access::Cached)?;
        file.write_at(&mut [IoSlice::new(MAGIC)], 0)?;
        let mut end = MAGIC.len() as u64;
        let mut rows = self.rows.iter().peekable();
        while rows.peek().is_some() {
            let mut bytes = 0;
            let mut changes = Vec::new();
            while bytes < REWRITE_RECORD_BYTES
                && let Some((key, value)) = rows.next()
            {
                bytes += key.len() + value.len();
                changes.push((&key[..], Some(&value[..])));
            }
            end = write_record(&*file, end, &encode(changes.into_iter()))?;
        }
        file.sync()?;
        disk.rename(&path, &directory.join(NAME))?;
        disk.sync_directory(directory)?;
        self.file = file;
        self.end = end;
        Ok(())
    }
}

/// Moves the journal out of the way and removes the oldest ones beyond [`ASIDE_MAX`]. Durable on return.
pub fn move_aside(disk: &dyn Disk, directory: &Path, now_ms: u64, reason: &str) -> io::Result<()> {
    if disk.list(directory)?.iter().any(|name| name == NAME) {
        disk.rename(&directory.join(NAME), &directory.join(format!("{NAME}.aside-{now_ms:013}-{reason}")))?;
    }
    let mut old = disk.list(directory)?;
    old.retain(|name| name.starts_with(NAME) && name.contains(".aside-"));
    while old.len() > ASIDE_MAX {
        disk.remove(&directory.join(old.remove(0)))?;
    }
    disk.sync_directory(directory)
}

fn create(disk: &dyn Disk, directory: &Path) -> io::Result<Box<dyn File>> {
    let file = disk.create(&directory.join(NAME), Access::Cached)?;
    write_magic(&*file)?;
    file.sync()?;
    disk.sync_directory(directory)?;
    Ok(file)
}

fn write_magic(file: &dyn File) -> io::Result<()> {
    file.write_at(&mut [IoSlice::new(MAGIC)], 0)
}

/// Whether the file is a journal of this version; one that was cut while it was created is made one.
fn is_ours(file: &dyn File) -> io::Result<bool> {
    if file.len()? < MAGIC.len() as u64 {
        write_magic(file)?;
        return Ok(true);
    }
    let mut magic = [0; MAGIC.len()];
    file.read_at(&mut magic, 0)?;
    if magic == [0; MAGIC.len()] {
        // The length was durable, the bytes were not: nothing was ever promised about this file.
        file.set_len(0)?;
        write_magic(file)?;
        return Ok(true);
    }
    Ok(magic == *MAGIC)
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> Row {
    (key.clone(), value.clone())
}

fn change_bytes(key_bytes: usize, value: &[u8]) -> u64 {
    (CHANGE_HEADER_BYTES + key_bytes + value.len()) as u64
}

fn checksum(position: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&position.to_le_bytes()), body)
}

/// Writes one record and returns the position behind it.
fn write_record(file: &dyn File, position: u64, body: &[u8]) -> io::Result<u64> {
    let length = body.len() as u64;
    if length > RECORD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a batch of {length} bytes is too large")));
    }
    let mut header = [0; RECORD_HEADER_BYTES as usize];
    header[..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4..].copy_from_slice(&checksum(position, body).to_le_bytes());
    file.write_at(&mut [IoSlice::new(&header), IoSlice::new(body)], position)?;
    Ok(position + RECORD_HEADER_BYTES + length)
}

/// The body of the record at `position`, or `None` where there is no whole one.
fn read_record(file: &dyn File, position: u64, file_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    if position + RECORD_HEADER_BYTES > file_bytes {
        return Ok(None);
    }
    let mut header = [0; RECORD_HEADER_BYTES as usize];
    file.read_at(&mut header, position)?;
    let [a, b, c, d, e, f, g, h] = header;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if length == 0 || length > RECORD_BYTES_MAX || position + RECORD_HEADER_BYTES + length > file_bytes {
        return Ok(None);
    }
    let mut body = vec![0; length as usize];
    file.read_at(&mut body, position + RECORD_HEADER_BYTES)?;
    Ok((checksum(position, &body) == u32::from_le_bytes([e, f, g, h])).then_some(body))
}

#[cfg(test)]
#[path = "journal_rows_tests.rs"]
mod tests;
