//! Files of one node. Calls block: run them through [`super::Tasks::blocking`].
//!
//! The contract that recovery relies on, and that the simulated disk enforces:
//! - what was written to a file is durable only after [`File::sync`] returned `Ok`;
//! - a created, renamed or removed name is durable only after [`Disk::sync_directory`] of its directory;
//! - a failed `sync` may have lost the writes for good: it must never be retried, the process stops.

use super::direct::{DirectFile, Pool};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// What [`Access::Direct`] writes in.
pub const BLOCK_BYTES: usize = 4096;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Through the page cache of the operating system.
    Cached,
    /// Past it where the file system can: for files that are written from front to back and seldom read. What lies behind a
    /// write, up to the next multiple of [`BLOCK_BYTES`], may become zeros, also behind the end of a file that grows.
    /// Cheapest for single slices of whole blocks that begin at one in memory.
    Direct,
}

/// A directory tree of files. Paths are relative to the node's data directory.
pub trait Disk: Send + Sync + 'static {
    /// Creates a directory and its parents; no error if it exists.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing; it must exist.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;
    /// Creates a new empty file for reading and writing; it must not exist.
    fn create(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;
    /// Names of the files (not directories) in a directory, sorted. A directory that does not exist has none.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes created, renamed and removed names of a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Bytes that this node's files take, for status.
    fn usage(&self) -> io::Result<DiskUsage>;
    /// Takes the exclusive use of the directory for as long as the process lives; `WouldBlock` if another process has it.
    fn lock(&self) -> io::Result<()>;
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "asking for the length may fail")]
pub trait File: Send + Sync + 'static {
    /// Current length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads exactly `buffer.len()` bytes at `position`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
    /// Writes all slices one after the other from `position` on, which lies at most at the end of the file. One writer at
    /// a time per file.
    fn write_at(&self, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) to `length`.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Makes all that was written durable (data, and the length if it changed). After an error, what was written may be
    /// gone although it can still be read: never try again.
    fn sync(&self) -> io::Result<()>;
    /// Lets later reads see what is on the disk, and not what is left in memory of writes whose sync failed in an earlier
    /// process: such pages look clean, are never written, and are gone after a power cut. What can still be written is
    /// written first. For recovery, before anything that is read is believed.
    fn reread(&self) -> io::Result<()>;
}

/// How much of the disk a node takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes in this node's files.
    pub used_bytes: u64,
}

/// Files of the operating system under one directory.
#[derive(Debug)]
pub struct SystemDisk {
    root: PathBuf,
    lock: std::sync::Mutex<Option<std::fs::File>>,
    pool: Pool,
}

impl SystemDisk {
    /// The directory `root`, created if it is missing.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<SystemDisk> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        Ok(SystemDisk { root, lock: std::sync::Mutex::default(), pool: Pool::default() })
    }

    fn open_with(&self, path: &Path, access: Access, options: &mut std::fs::OpenOptions) -> io::Result<Box<dyn File>> {
        let path = self.root.join(path);
        let file = options.read(true).write(true).open(&path)?;
        match access {
            Access::Cached => Ok(Box::new(file)),
            Access::Direct => DirectFile::open(file, &path, &self.pool),
        }
    }
}

impl Disk for SystemDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(self.root.join(path))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.open_with(path, access, &mut std::fs::OpenOptions::new())
    }

    fn create(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.open_with(path, access, std::fs::OpenOptions::new().create_new(true))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.root.join(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(self.root.join(path))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        std::fs::File::open(self.root.join(directory))?.sync_all()
    }

    fn usage(&self) -> io::Result<DiskUsage> {
        Ok(DiskUsage { used_bytes: directory_bytes(&self.root)? })
    }

    fn lock(&self) -> io::Result<()> {
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.root.join("lock"))?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            std::fs::TryLockError::Error(error) => error,
        })?;
        *self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(file);
        Ok(())
    }
}

/// Lets this process have as many files open as the system allows it at most: a log has two descriptors for each of its
/// segments, and the usual limit is 1,024. Where that cannot be, the usual limit stays.
pub fn allow_many_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays what it is");
    }
}

/// Allocated bytes of all files under a directory; what vanishes meanwhile counts nothing.
fn directory_bytes(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(directory)?.flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => total += directory_bytes(&entry.path())?,
            Ok(metadata) => total += metadata.blocks() * 512,
            Err(_) => {}
        }
    }
    Ok(total)
}

impl File for std::fs::File {
    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, position)
    }

    fn write_at(&self, mut slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        use std::io::{Seek, Write};
        let mut file = self;
        file.seek(io::SeekFrom::Start(position))?;
        while !slices.is_empty() {
            let count = slices.len().min(1024);
            match file.write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        std::fs::File::set_len(self, length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn reread(&self) -> io::Result<()> {
        self.sync_data()?;
        rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn reread(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_open_what_the_system_allows() {
        allow_many_open_files();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert!(cfg!(not(target_os = "linux")) || limit.current == limit.maximum);
    }
}
