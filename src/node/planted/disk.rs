//! Bugs at the doors to the outside world.

use super::has;
use cluster::environment::{Access, Disk, DiskUsage, Entropy, Environment, File, SystemEntropy};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The doors of this process, with its bug.
pub fn environment(environment: Environment) -> Environment {
    let real = || -> Arc<dyn Entropy> { Arc::new(SystemEntropy) };
    let entropy = if has("real-entropy") { real() } else { environment.entropy };
    let is_careless =
        ["no-sync", "late-sync", "ignored-sync-error", "no-directory-sync", "fatal-full-disk"].into_iter().any(has);
    let disk = environment.disk;
    let disk = if is_careless { Arc::new(CarelessDisk(disk)) } else { disk };
    Environment { entropy, disk, ..environment }
}

/// Does not do all that it is told.
struct CarelessDisk(Arc<dyn Disk>);

impl Disk for CarelessDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.create_directory(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        Ok(CarelessFile::of(self.0.open(path, access)?, path))
    }

    fn create(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        Ok(CarelessFile::of(self.0.create(path, access).map_err(fatal)?, path))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.list(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        if has("no-directory-sync") { Ok(()) } else { self.0.sync_directory(directory) }
    }

    fn usage(&self) -> io::Result<DiskUsage> {
        self.0.usage()
    }

    fn lock(&self) -> io::Result<()> {
        self.0.lock()
    }
}

struct CarelessFile {
    file: Box<dyn File>,
    /// Bug `late-sync`: every other sync of the log says `Ok` and leaves its work to the next.
    is_late: bool,
    syncs: AtomicU64,
}

impl CarelessFile {
    fn of(file: Box<dyn File>, path: &Path) -> Box<dyn File> {
        let is_late = has("late-sync") && path.extension().is_some_and(|kind| kind == "log");
        Box::new(CarelessFile { file, is_late, syncs: AtomicU64::new(0) })
    }
}

impl File for CarelessFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        self.file.write_at(slices, position).map_err(fatal)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length).map_err(fatal)
    }

    fn sync(&self) -> io::Result<()> {
        let is_left = self.is_late && self.syncs.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        if has("no-sync") || is_left {
            return Ok(());
        }
        let synced = self.file.sync();
        if has("ignored-sync-error") { Ok(()) } else { synced }
    }

    fn reread(&self) -> io::Result<()> {
        if has("ignored-sync-error") { Ok(()) } else { self.file.reread() }
    }
}

/// Bug `fatal-full-disk`: a full disk is taken for a broken one.
fn fatal(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::StorageFull if has("fatal-full-disk") => io::Error::other("the disk is broken"),
        _ => error,
    }
}
