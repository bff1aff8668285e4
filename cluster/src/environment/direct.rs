//! Files that are written past the page cache.
//!
//! A log is written once and seldom read. Through the page cache, each of its pages has to be found, filled and looked for
//! again by the sync, and stays in memory until something else needs that. A direct write hands memory to the disk as it
//! is, but only whole blocks from memory that begins at a block. So what is to be written is gathered in such memory,
//! behind what its first block already holds, and filled with zeros to the end of its last block.
//!
//! Reads go through the page cache, for the sake of reading ahead; a direct write drops the pages that it overwrites.

use super::File;
use super::disk::BLOCK_BYTES;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The most that one direct write holds. More than this in one piece is hardly cheaper.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Memory for direct writes that no file uses just now. Files of one disk share it, because few are written at a time.
pub(super) type Spares = Arc<Mutex<Vec<Memory>>>;

/// [`WRITE_BYTES_MAX`] bytes that begin at a block.
#[derive(Debug)]
pub(super) struct Memory {
    bytes: Vec<u8>,
    /// Where the first block begins.
    begin: usize,
}

/// See the module.
pub(super) struct DirectFile {
    /// Through the page cache.
    cached: fs::File,
    /// The same file, past it.
    direct: fs::File,
    /// The system took the file, but not the write: this file system wants larger blocks, say. Cached writes are right
    /// everywhere.
    is_refused: AtomicBool,
    tail: Mutex<Tail>,
    spares: Spares,
}

/// What the block in which the last write ended holds up to there.
#[derive(Default)]
struct Tail {
    /// Where the block begins.
    position: u64,
    /// Empty if the last write ended with a block.
    bytes: Vec<u8>,
}

impl Memory {
    fn new() -> Memory {
        let bytes = vec![0; WRITE_BYTES_MAX + BLOCK_BYTES];
        let begin = bytes.as_ptr().align_offset(BLOCK_BYTES);
        Memory { bytes, begin }
    }

    fn blocks(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..][..WRITE_BYTES_MAX]
    }
}

impl DirectFile {
    /// Opens a file, which is open through the page cache, for direct writes, too; gives it back where that cannot be.
    pub fn open(cached: fs::File, path: &Path, spares: &Spares) -> io::Result<Box<dyn File>> {
        if !cached.metadata()?.len().is_multiple_of(BLOCK_BYTES as u64) {
            return Ok(Box::new(cached));
        }
        let Some(direct) = open_direct(path)? else { return Ok(Box::new(cached)) };
        let (is_refused, tail, spares) = (AtomicBool::new(false), Mutex::default(), Arc::clone(spares));
        Ok(Box::new(DirectFile { cached, direct, is_refused, tail, spares }))
    }

    /// Gathers slices block by block and writes them; says in `tail` how far the last block is filled.
    fn gather(&self, memory: &mut Memory, tail: &mut Tail, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let blocks = memory.blocks();
        let mut filled = (position % BLOCK_BYTES as u64) as usize;
        let mut at = position - filled as u64;
        match tail.bytes.get(..filled) {
            Some(known) if tail.position == at => blocks[..filled].copy_from_slice(known),
            _ => self.cached.read_exact_at(&mut blocks[..filled], at)?,
        }
        // Until all is written, what the block holds is not known.
        tail.bytes.clear();
        for mut slice in slices.iter().map(|slice| &slice[..]) {
            while !slice.is_empty() {
                let (now, later) = slice.split_at(slice.len().min(blocks.len() - filled));
                blocks[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                slice = later;
                if filled == blocks.len() {
                    self.write_blocks(blocks, at)?;
                    at += filled as u64;
                    filled = 0;
                }
            }
        }
        let end = filled.next_multiple_of(BLOCK_BYTES);
        if end > 0 {
            blocks[filled..end].fill(0);
            self.write_blocks(&blocks[..end], at)?;
        }
        let last = filled - filled % BLOCK_BYTES;
        tail.position = at + last as u64;
        tail.bytes.extend_from_slice(&blocks[last..filled]);
        Ok(())
    }

    fn write_blocks(&self, blocks: &[u8], position: u64) -> io::Result<()> {
        if !self.is_refused.load(Ordering::Relaxed) {
            match self.direct.write_all_at(blocks, position) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    tracing::info!(
                        "this file system takes no direct writes of {BLOCK_BYTES} bytes; the page cache is used"
                    );
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                written => return written,
            }
        }
        self.cached.write_all_at(blocks, position)
    }
}

impl File for DirectFile {
    fn len(&self) -> io::Result<u64> {
        File::len(&self.cached)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.cached.read_exact_at(buffer, position)
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if let [slice] = slices
            && is_whole_blocks(slice, position)
        {
            tail.bytes.clear();
            return self.write_blocks(slice, position);
        }
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = spare.unwrap_or_else(Memory::new);
        let written = self.gather(&mut memory, &mut tail, slices, position);
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        written
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).bytes.clear();
        self.cached.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.cached.sync_data()
    }

    fn reread(&self) -> io::Result<()> {
        File::reread(&self.cached)
    }
}

/// Whether a direct write may take a slice as it is.
fn is_whole_blocks(slice: &[u8], position: u64) -> bool {
    slice.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
        && slice.len().is_multiple_of(BLOCK_BYTES)
        && position.is_multiple_of(BLOCK_BYTES as u64)
}

/// `None` where the file system has no direct writes.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<Option<fs::File>> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    match fs::OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<Option<fs::File>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::{Access, Disk, SystemDisk};
    use super::*;

    #[repr(align(4096))]
    struct Blocks([u8; 4 * BLOCK_BYTES]);

    /// A disk with a file of whole blocks of ones, and the file.
    fn disk(blocks: usize) -> (tempfile::TempDir, SystemDisk, Box<dyn File>) {
        let root = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(root.path()).unwrap();
        let file = disk.create(Path::new("a"), Access::Direct).unwrap();
        file.write_at(&mut [IoSlice::new(&vec![1; blocks * BLOCK_BYTES])], 0).unwrap();
        (root, disk, file)
    }

    fn content(file: &dyn File, end: usize) -> Vec<u8> {
        let mut content = vec![0; end];
        file.read_at(&mut content, 0).unwrap();
        content
    }

    #[test]
    fn writes_that_follow_each_other_keep_what_lies_before_them() {
        let (_root, disk, file) = disk(800);
        let mut expected = Vec::new();
        let sizes = [64, 1, 4031, 4096, 5000, 100, 3000, 2_100_000, 7, 1_040_000, 8];
        for (number, size) in sizes.into_iter().enumerate() {
            let bytes = vec![number as u8 + 2; size];
            let (one, two) = bytes.split_at(size / 3);
            file.write_at(&mut [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(two)], expected.len() as u64)
                .unwrap();
            expected.extend(bytes);
            assert!(content(&*file, expected.len()) == expected, "after write {number}");
        }
        file.sync().unwrap();
        let again = disk.open(Path::new("a"), Access::Direct).unwrap();
        again.write_at(&mut [IoSlice::new(b"more")], expected.len() as u64).unwrap();
        expected.extend(b"more");
        assert!(content(&*again, expected.len()) == expected, "after opening it again");
        assert_eq!(again.len().unwrap(), 800 * BLOCK_BYTES as u64);
    }

    #[test]
    fn a_write_before_the_last_one_finds_what_the_file_holds() {
        let (_root, _disk, file) = disk(4);
        file.write_at(&mut [IoSlice::new(&[2; 5000])], 0).unwrap();
        file.write_at(&mut [IoSlice::new(&[3; 10])], 100).unwrap();
        file.write_at(&mut [IoSlice::new(&[4; 10])], 5000).unwrap();
        let expected = [vec![2; 100], vec![3; 10], vec![0; 4096 - 110], vec![2; 904], vec![4; 10]].concat();
        assert!(content(&*file, 5010) == expected);
    }

    #[test]
    fn whole_blocks_are_written_as_they_are() {
        let (_root, _disk, file) = disk(4);
        file.write_at(&mut [IoSlice::new(&[2; 100])], 0).unwrap();
        file.write_at(&mut [IoSlice::new(&Blocks([3; 4 * BLOCK_BYTES]).0[..2 * BLOCK_BYTES])], 0).unwrap();
        file.write_at(&mut [IoSlice::new(&[4; 1])], 100).unwrap();
        assert!(content(&*file, 101) == [vec![3; 100], vec![4]].concat());
        assert!(content(&*file, 4 * BLOCK_BYTES)[2 * BLOCK_BYTES..].iter().all(|byte| *byte == 1));
    }

    #[test]
    fn a_file_system_that_refuses_direct_writes_takes_cached_ones() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let cached = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let (tail, spares) = (Mutex::default(), Spares::default());
        let direct = cached.try_clone().unwrap();
        let file = DirectFile { cached, direct, is_refused: AtomicBool::new(true), tail, spares };
        file.write_at(&mut [IoSlice::new(&[2; 10])], 0).unwrap();
        file.write_at(&mut [IoSlice::new(&[3; 10])], 10).unwrap();
        assert_eq!(content(&file, 20), [[2; 10], [3; 10]].concat());
    }
}
