//! A disk in memory that can be cut off at any operation, and then shows what survived.

use cluster::environment::{Access, Disk, DiskUsage, File};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a crash leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process ended: all that was written is there.
    Kill,
    /// The power went: only what was synced is there.
    PowerCut,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// What was there when a sync failed: it is not written again by itself, as if it were on the disk.
    believed: Option<Vec<u8>>,
}

impl Content {
    fn of(bytes: Vec<u8>) -> Content {
        Content { now: bytes.clone(), synced: bytes, believed: None }
    }

    /// Writes what has changed since a sync failed; everything, if none has.
    fn sync(&mut self) {
        let believed = self.believed.as_deref().unwrap_or_default();
        let kept = |index: usize| self.synced.get(index).copied().unwrap_or_default();
        let written = |(index, byte): (usize, &u8)| match believed.get(index) {
            Some(old) if old == byte => kept(index),
            _ => *byte,
        };
        self.synced = self.now.iter().enumerate().map(written).collect();
    }
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    synced_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    operations: u64,
    cut_at: Option<u64>,
    is_full: bool,
    fails_sync: bool,
}

/// Cheap to clone; all clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

struct MemoryFile {
    disk: MemoryDisk,
    content: Arc<Mutex<Content>>,
}

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Counts an operation that changes something; an error from the cut on.
    fn operation(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.cut_at.is_some_and(|cut_at| state.operations >= cut_at) {
            return Err(io::Error::other("cut"));
        }
        state.operations += 1;
        Ok(state)
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The operation with this number and all behind it fail.
    pub fn cut_at(&self, operation: u64) {
        self.state().cut_at = Some(operation);
    }

    /// Whether writes find no room.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// The next sync of a file fails: what it should have written is lost to the disk, and stays in memory.
    pub fn fail_sync(&self) {
        self.state().fails_sync = true;
    }

    /// The disk after a crash.
    pub fn after(&self, crash: Crash) -> MemoryDisk {
        let state = self.state();
        let names = if crash == Crash::Kill { &state.names } else { &state.synced_names };
        let survivor = |content: &Arc<Mutex<Content>>| {
            let content = content.lock().unwrap();
            let bytes = if crash == Crash::Kill { content.now.clone() } else { content.synced.clone() };
            Arc::new(Mutex::new(Content::of(bytes)))
        };
        let names: BTreeMap<_, _> = names.iter().map(|(name, content)| (name.clone(), survivor(content))).collect();
        MemoryDisk(Arc::new(Mutex::new(State { synced_names: names.clone(), names, ..State::default() })))
    }
}

impl Disk for MemoryDisk {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<Box<dyn File>> {
        let content = self.state().names.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile { disk: self.clone(), content }))
    }

    fn create(&self, path: &Path, _: Access) -> io::Result<Box<dyn File>> {
        let mut state = self.operation()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content: Arc<Mutex<Content>> = Arc::default();
        state.names.insert(path.to_path_buf(), Arc::clone(&content));
        Ok(Box::new(MemoryFile { disk: self.clone(), content }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let paths = state.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(paths.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation()?.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        let State { names, synced_names, .. } = &mut *state;
        synced_names.retain(|path, _| path.parent() != Some(directory));
        let here = names.iter().filter(|(path, _)| path.parent() == Some(directory));
        synced_names.extend(here.map(|(path, content)| (path.clone(), Arc::clone(content))));
        Ok(())
    }

    fn usage(&self) -> io::Result<DiskUsage> {
        Ok(DiskUsage::default())
    }

    fn lock(&self) -> io::Result<()> {
        Ok(())
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let content = self.content.lock().unwrap();
        let from = usize::try_from(position).unwrap();
        let bytes = content.now.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        if self.disk.operation()?.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut content = self.content.lock().unwrap();
        let from = usize::try_from(position).unwrap();
        let length = content.now.len().max(from + bytes.len());
        content.now.resize(length, 0);
        content.now[from..from + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        drop(self.disk.operation()?);
        self.content.lock().unwrap().now.resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let has_failed = std::mem::take(&mut self.disk.operation()?.fails_sync);
        let mut content = self.content.lock().unwrap();
        if has_failed {
            content.believed = Some(content.now.clone());
            return Err(io::Error::other("not synced"));
        }
        content.sync();
        Ok(())
    }

    fn reread(&self) -> io::Result<()> {
        self.sync()?;
        let mut content = self.content.lock().unwrap();
        *content = Content::of(content.synced.clone());
        Ok(())
    }
}
