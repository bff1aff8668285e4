//! A received snapshot, kept in a temporary file until all of it is there.
//!
//! A state machine replaces its state only by a snapshot that has arrived completely: a transfer that breaks half-way
//! costs nothing but its time. The file needs no sync (a crash ends the transfer), but every chunk's checksum is held in
//! memory and checked when it is read back.

use crate::environment::{Access, Environment, File};
use crate::{GroupId, SnapshotChunks};
use async_trait::async_trait;
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

/// Directory of the temporary files.
const DIRECTORY: &str = "incoming";

/// Takes chunks in, then gives them back in the same order, once.
pub struct Spool {
    environment: Environment,
    path: PathBuf,
    file: Option<Arc<dyn File>>,
    chunks: Vec<Chunk>,
    bytes: u64,
    read: usize,
}

#[derive(Clone, Copy)]
struct Chunk {
    position: u64,
    bytes: usize,
    checksum: u32,
}

/// Removes what transfers left behind when the process ended.
pub async fn remove_leftovers(environment: &Environment) -> io::Result<()> {
    let disk = environment.disk.clone();
    let remove = move || -> io::Result<()> {
        disk.create_directory(DIRECTORY.as_ref())?;
        for name in disk.list(DIRECTORY.as_ref())? {
            disk.remove(&PathBuf::from(DIRECTORY).join(name))?;
        }
        Ok(())
    };
    environment.tasks.blocking(remove).await
}

impl Spool {
    /// An empty spool for a group; `transfer` tells transfers apart.
    pub async fn create(environment: &Environment, group: GroupId, transfer: u64) -> io::Result<Spool> {
        let path = PathBuf::from(DIRECTORY).join(format!("{group}-{transfer:016x}"));
        let (disk, name) = (environment.disk.clone(), path.clone());
        let file = environment.tasks.blocking(move || disk.create(&name, Access::Cached)).await?;
        let file = Some(Arc::from(file));
        Ok(Spool { environment: environment.clone(), path, file, chunks: Vec::new(), bytes: 0, read: 0 })
    }

    /// How many chunks are in.
    pub fn len(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Takes the next chunk.
    pub async fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Err(io::Error::other("spool is closed")) };
        let position = self.bytes;
        let entry = Chunk { position, bytes: chunk.len(), checksum: crc32c::crc32c(&chunk) };
        let write = move || file.write_at(&mut [IoSlice::new(&chunk)], position);
        self.environment.tasks.blocking(write).await?;
        self.bytes += entry.bytes as u64;
        self.chunks.push(entry);
        Ok(())
    }
}

#[async_trait]
impl SnapshotChunks for Spool {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(chunk) = self.chunks.get(self.read).copied() else { return Ok(None) };
        let Some(file) = self.file.clone() else { return Err(io::Error::other("spool is closed")) };
        let read = move || -> io::Result<Bytes> {
            let mut buffer = vec![0; chunk.bytes];
            file.read_at(&mut buffer, chunk.position)?;
            Ok(buffer.into())
        };
        let bytes = self.environment.tasks.blocking(read).await?;
        if crc32c::crc32c(&bytes) != chunk.checksum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a received snapshot changed on the disk"));
        }
        self.read += 1;
        Ok(Some(bytes))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.file = None;
        let (disk, path) = (self.environment.disk.clone(), self.path.clone());
        // Unlinking is quick and its failure harmless: leftovers go at the next start.
        if let Err(error) = disk.remove(&path) {
            tracing::debug!(%error, path = %path.display(), "a received snapshot's file stays until the next start");
        }
    }
}
