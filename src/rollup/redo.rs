//! A batch that a row store takes in steps: written down whole before the first step, so that whoever finds it after a crash
//! takes all the steps again, and the store never stays between two of them.
//!
//! ```text
//!   file:    magic and version (8) | crc32c u32 LE of the body | body, as `rows` encodes changes
//! ```
//!
//! The file has its name once all of it is durable, and loses it when the store's rows are: a file by that name that does not
//! check out is damaged.

use super::rows::{RowBatch, Syncs, decode, encode};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Marks the file and its version.
const MAGIC: &[u8; 8] = b"hmredo\0\x01";
const HEADER_BYTES: usize = MAGIC.len() + size_of::<u32>();

/// The place beside a store where such a batch is written down.
pub struct Redo {
    path: PathBuf,
}

impl Redo {
    /// The one of the store in `directory`.
    pub fn beside(directory: &Path) -> Redo {
        Redo { path: directory.with_extension("redo") }
    }

    /// Writes a batch down; durable on return. `StorageFull`: nothing is written down.
    pub fn write(&self, batch: &RowBatch, syncs: &Syncs) -> io::Result<()> {
        let body = encode(batch.changes().iter().map(|(key, value)| (key.as_slice(), value.as_deref())));
        let unnamed = self.unnamed();
        let written = fs::File::create(&unnamed).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
            file.write_all(&body)?;
            Ok(file)
        });
        let file = written.inspect_err(|_| {
            // What is left of it is written over the next time.
            let _ = fs::remove_file(&unnamed);
        })?;
        syncs.note(file.sync_all())?;
        fs::rename(&unnamed, &self.path)?;
        syncs.note(self.sync_directory())
    }

    /// Makes sure that what is found here is also found after a power cut, whatever an earlier process came to; forgets what
    /// that had only begun to write down.
    pub fn reopen(&self, syncs: &Syncs) -> io::Result<()> {
        match fs::remove_file(self.unnamed()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => syncs.note(self.sync_directory()),
        }
    }

    /// The batch that is written down, if there is one. `InvalidData`: it is damaged.
    pub fn read(&self) -> io::Result<Option<RowBatch>> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let sound = || {
            let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
            let checksum = header.strip_prefix(MAGIC)?;
            (crc32c::crc32c(body).to_le_bytes() == *checksum).then(|| decode(body)).flatten()
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.path.display()));
        sound().map(Some).ok_or_else(damaged)
    }

    /// Forgets the batch, if there is one; durable on return.
    pub fn remove(&self, syncs: &Syncs) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| syncs.note(self.sync_directory())),
        }
    }

    /// The file before all of it is durable.
    fn unnamed(&self) -> PathBuf {
        self.path.with_extension("redo.new")
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().ok_or_else(|| io::Error::other("a row store needs a parent directory"))?;
        fs::File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::golden;

    fn batch() -> RowBatch {
        let mut batch = RowBatch::default();
        batch.put(b"one".to_vec(), b"value".to_vec());
        batch.remove(b"two".to_vec());
        batch.put(b"three".to_vec(), Vec::new());
        batch
    }

    #[test]
    fn what_is_written_down_is_read_until_it_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let (redo, syncs) = (Redo::beside(&parent.path().join("rollups")), Syncs::default());
        assert_eq!(redo.read().unwrap(), None);
        redo.write(&batch(), &syncs).unwrap();
        assert_eq!(redo.read().unwrap(), Some(batch()));
        redo.remove(&syncs).unwrap();
        assert_eq!(redo.read().unwrap(), None);
        redo.remove(&syncs).unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn layout_never_changes() {
        let parent = tempfile::tempdir().unwrap();
        let redo = Redo::beside(&parent.path().join("rollups"));
        redo.write(&batch(), &Syncs::default()).unwrap();
        golden::check("rows-redo-v1", &fs::read(&redo.path).unwrap());
    }

    #[test]
    fn what_was_only_begun_to_be_written_down_is_forgotten() {
        let parent = tempfile::tempdir().unwrap();
        let redo = Redo::beside(&parent.path().join("rollups"));
        fs::write(redo.unnamed(), b"half").unwrap();
        redo.reopen(&Syncs::default()).unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let redo = Redo::beside(&parent.path().join("rollups"));
        redo.write(&batch(), &Syncs::default()).unwrap();
        let good = fs::read(&redo.path).unwrap();
        let is_noticed = |bytes: &[u8]| {
            fs::write(&redo.path, bytes).unwrap();
            redo.read().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
        };
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(is_noticed(&bytes), "bit {bit}");
        }
        assert!((0..good.len()).all(|length| is_noticed(&good[..length])));
    }
}
