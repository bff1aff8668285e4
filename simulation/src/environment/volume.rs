//! What a disk holds, and what a power cut leaves of it.
//!
//! Every operation changes what the running system sees at once, and what survives a power cut only when it is synced:
//! a file's bytes by syncing the file, a name by syncing its directory. Between the two lie the unsynced operations, in
//! order. [`Volume::crash`] decides which of them, or which parts of them, had reached the disk.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The unit that a real disk writes at once, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Something that was done to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A directory was created; its parents exist.
    CreateDirectory(PathBuf),
    /// An empty file got its first name.
    Create(PathBuf, FileId),
    /// A file got another name (the second); a file that had it lost it.
    Rename(PathBuf, PathBuf, FileId),
    /// A file lost its name.
    Remove(PathBuf),
    /// The names in a directory became durable.
    SyncDirectory(PathBuf),
    /// Bytes were written at a position.
    Write(FileId, u64, Arc<[u8]>),
    /// A file was cut, or extended with zeros.
    SetLength(FileId, u64),
    /// A file's bytes became durable.
    Sync(FileId),
    /// Nothing; whoever recorded the trace wanted to remember something here.
    Note(u64),
}

/// A file, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// What a crash leaves of the operations that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// Nothing.
    Nothing,
    /// All of them.
    Everything,
    /// In order, until so many bytes were written; the last write is cut.
    Prefix(u64),
    /// The `i`-th of them if bit `i` is set; those beyond 64 are lost.
    Subset(u64),
    /// Every piece of `grain` bytes of every write, and every name, at the toss of a coin. With `garbage`, a lost piece may
    /// hold anything.
    Shred {
        /// Decides every toss.
        seed: u64,
        /// Size of the pieces, counted from the beginning of the file: at least 1; a real disk has [`SECTOR_BYTES`].
        grain: u64,
        /// Whether lost pieces may hold garbage instead of what was there before.
        garbage: bool,
    },
}

impl Tear {
    /// Draws what a power cut leaves when so many bytes are unsynced.
    pub(super) fn draw(random: &mut StdRng, unsynced_bytes: u64) -> Tear {
        let seed = random.next_u64();
        match random.random_range(0..8) {
            0 | 1 => Tear::Nothing,
            2 => Tear::Everything,
            3 => Tear::Prefix(random.random_range(0..=unsynced_bytes)),
            4 | 5 => Tear::Shred { seed, grain: SECTOR_BYTES, garbage: false },
            6 => Tear::Shred { seed, grain: SECTOR_BYTES, garbage: true },
            _ => Tear::Shred { seed, grain: 8, garbage: true },
        }
    }
}

/// The content of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Volume {
    seen: Names,
    durable: Names,
    files: BTreeMap<FileId, Content>,
    /// Unsynced operations in order; a sync removes those that it covers.
    unsynced: Vec<Operation>,
    next_file: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, FileId>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
}

impl Volume {
    /// The id that the next file gets.
    pub fn next_file(&self) -> FileId {
        FileId(self.next_file)
    }

    /// The file of a name.
    pub fn file(&self, path: &Path) -> Option<FileId> {
        self.seen.files.get(path).copied()
    }

    /// The bytes of a file, as the running system sees them.
    pub fn bytes(&self, file: FileId) -> Option<&[u8]> {
        self.files.get(&file).map(|content| &content.seen[..])
    }

    /// Whether a directory exists. The root does.
    pub fn has_directory(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.seen.directories.contains(path)
    }

    /// All names and their files.
    pub fn names(&self) -> impl Iterator<Item = (&Path, FileId)> {
        self.seen.files.iter().map(|(path, file)| (path.as_path(), *file))
    }

    /// Bytes of all files that have a name.
    pub fn used_bytes(&self) -> u64 {
        self.seen.files.values().filter_map(|file| self.bytes(*file)).map(|bytes| bytes.len() as u64).sum()
    }

    /// The operations that are not synced, in order.
    pub fn unsynced(&self) -> &[Operation] {
        &self.unsynced
    }

    /// Does what was done.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Note(_) => return,
            Operation::Sync(file) => return self.sync(*file),
            Operation::SyncDirectory(directory) => return self.sync_directory(directory),
            Operation::Create(_, file) => {
                self.next_file = self.next_file.max(file.0 + 1);
                self.files.entry(*file).or_default();
            }
            Operation::Write(file, position, bytes) => {
                write(&mut self.files.entry(*file).or_default().seen, *position, bytes);
            }
            Operation::SetLength(file, length) => {
                self.files.entry(*file).or_default().seen.resize(to_usize(*length), 0);
            }
            Operation::CreateDirectory(_) | Operation::Rename(..) | Operation::Remove(_) => {}
        }
        self.seen.apply(operation);
        self.unsynced.push(operation.clone());
    }

    /// A sync that failed: what was written stays visible, and will never be on the disk.
    pub fn lose_unsynced(&mut self, file: FileId) {
        self.unsynced.retain(|operation| file_of(operation) != Some(file));
    }

    /// What was lost by a failed sync is no longer seen either. Everything else of the file must be synced.
    pub fn forget_lost(&mut self, file: FileId) {
        let content = self.files.entry(file).or_default();
        content.seen.clone_from(&content.durable);
    }

    /// Inverts a bit of a file, on the disk and in memory.
    pub fn flip(&mut self, file: FileId, bit: u64) {
        let content = self.files.entry(file).or_default();
        for bytes in [&mut content.seen, &mut content.durable] {
            if let Some(byte) = bytes.get_mut(to_usize(bit / 8)) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Forgets a file if it has no name any more, not even one that a crash would bring back.
    pub fn forget_if_nameless(&mut self, file: FileId) {
        let is_named = |names: &Names| names.files.values().any(|named| *named == file);
        if !is_named(&self.seen) && !is_named(&self.durable) {
            self.files.remove(&file);
            self.lose_unsynced(file);
        }
    }

    /// Cuts the power: what survives is what was synced and what `tear` leaves of the rest.
    pub fn crash(&mut self, tear: Tear) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let mut survivors = Survivors::new(tear);
        for (number, operation) in unsynced.iter().enumerate() {
            match operation {
                Operation::Write(file, position, bytes) => {
                    let content = &mut self.files.entry(*file).or_default().durable;
                    survivors.write(number, content, *position, bytes);
                }
                Operation::SetLength(file, length) if survivors.takes(number) => {
                    self.files.entry(*file).or_default().durable.resize(to_usize(*length), 0);
                }
                other if survivors.takes(number) => self.durable.apply(other),
                _ => {}
            }
        }
        self.durable.drop_orphans();
        self.seen = self.durable.clone();
        let named: BTreeSet<FileId> = self.seen.files.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
        for content in self.files.values_mut() {
            content.seen.clone_from(&content.durable);
        }
    }

    fn sync(&mut self, file: FileId) {
        let content = self.files.entry(file).or_default();
        self.unsynced.retain(|operation| {
            let is_synced = file_of(operation) == Some(file);
            match operation {
                Operation::Write(_, position, bytes) if is_synced => write(&mut content.durable, *position, bytes),
                Operation::SetLength(_, length) if is_synced => content.durable.resize(to_usize(*length), 0),
                _ => {}
            }
            !is_synced
        });
    }

    fn sync_directory(&mut self, directory: &Path) {
        let durable = &mut self.durable;
        self.unsynced.retain(|operation| {
            let is_synced = directory_of(operation) == Some(directory);
            if is_synced {
                durable.apply(operation);
            }
            !is_synced
        });
    }
}

impl Names {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateDirectory(path) => {
                self.directories.insert(path.clone());
            }
            Operation::Create(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            Operation::Rename(from, to, file) => {
                // What the old name means on the disk may be older, if what gave it to this file is lost.
                if self.files.get(from) == Some(file) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *file);
            }
            Operation::Remove(path) => {
                self.files.remove(path);
            }
            _ => {}
        }
    }

    /// Names in a directory that is not there are not there either.
    fn drop_orphans(&mut self) {
        let exists = |directories: &BTreeSet<PathBuf>, path: &Path| {
            let mut parents = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
            parents.all(|parent| directories.contains(parent))
        };
        let directories = self.directories.clone();
        self.directories.retain(|path| exists(&directories, path));
        self.files.retain(|path, _| exists(&directories, path));
    }
}

/// Decides what survives.
struct Survivors {
    tear: Tear,
    bytes_left: u64,
    random: StdRng,
}

impl Survivors {
    fn new(tear: Tear) -> Survivors {
        let (bytes_left, seed) = match tear {
            Tear::Prefix(bytes) => (bytes, 0),
            Tear::Shred { seed, .. } => (0, seed),
            _ => (0, 0),
        };
        Survivors { tear, bytes_left, random: StdRng::seed_from_u64(seed) }
    }

    /// Whether an operation that is no write survives.
    fn takes(&mut self, number: usize) -> bool {
        match self.tear {
            Tear::Nothing => false,
            Tear::Everything => true,
            Tear::Prefix(_) => self.bytes_left > 0,
            Tear::Subset(mask) => number < 64 && mask & (1 << number) != 0,
            Tear::Shred { .. } => self.random.random(),
        }
    }

    fn write(&mut self, number: usize, content: &mut Vec<u8>, position: u64, bytes: &[u8]) {
        match self.tear {
            Tear::Prefix(_) => {
                let kept = to_usize(self.bytes_left.min(bytes.len() as u64));
                self.bytes_left -= kept as u64;
                write(content, position, &bytes[..kept]);
            }
            Tear::Shred { grain, garbage, .. } => self.shred(content, position, bytes, grain, garbage),
            _ => {
                if self.takes(number) {
                    write(content, position, bytes);
                }
            }
        }
    }

    fn shred(&mut self, content: &mut Vec<u8>, position: u64, bytes: &[u8], grain: u64, garbage: bool) {
        let mut at = 0;
        while at < bytes.len() {
            let start = position + at as u64;
            let until = (at + to_usize(grain - start % grain)).min(bytes.len());
            let piece = &bytes[at..until];
            match self.random.random_range(0..4) {
                0 | 1 => write(content, start, piece),
                2 if garbage => {
                    let mut noise = vec![0; piece.len()];
                    self.random.fill_bytes(&mut noise);
                    write(content, start, &noise);
                }
                _ => {}
            }
            at = until;
        }
    }
}

fn write(content: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return; // Writing nothing behind a file's end does not extend it.
    }
    let position = to_usize(position);
    let end = position + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[position..end].copy_from_slice(bytes);
}

fn file_of(operation: &Operation) -> Option<FileId> {
    match operation {
        Operation::Write(file, ..) | Operation::SetLength(file, _) => Some(*file),
        _ => None,
    }
}

fn directory_of(operation: &Operation) -> Option<&Path> {
    match operation {
        Operation::CreateDirectory(path) | Operation::Create(path, _) | Operation::Remove(path) => path.parent(),
        Operation::Rename(_, to, _) => to.parent(),
        _ => None,
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a simulated file fits into memory")
}
