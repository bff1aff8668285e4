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
use std::sync::{Arc, Mutex, PoisonError};

/// The most that one direct write holds: more than most syncs of a log have to write.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// Memory for direct writes that no file uses just now. Files of one disk share it, because few are written at a time; it
/// has a piece for each of those.
pub(super) type Pool = Arc<Mutex<Vec<Memory>>>;

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
    writer: Mutex<Writer>,
    pool: Pool,
}

/// How a file is written.
#[derive(Default)]
struct Writer {
    route: Route,
    /// Where the block begins in which the last write ended.
    tail_position: u64,
    /// What that block holds up to there; empty if the write ended with a block, and before the first one.
    tail: Vec<u8>,
}

/// Which way writes go.
#[derive(Default, PartialEq, Eq)]
enum Route {
    /// Nothing was written yet.
    #[default]
    Untried,
    /// Past the page cache.
    Direct,
    /// Through it: this file system takes the file, but no writes of a block. It may want larger ones.
    Cached,
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
    /// Opens a file, which is open through the page cache, a second time; gives it back as it is if it is not of whole
    /// blocks, or the file system has no direct writes.
    pub fn open(cached: fs::File, path: &Path, pool: &Pool) -> io::Result<Box<dyn File>> {
        if !cached.metadata()?.len().is_multiple_of(BLOCK_BYTES as u64) {
            return Ok(Box::new(cached));
        }
        match open_direct(path) {
            Ok(direct) => Ok(Box::new(DirectFile { cached, direct, writer: Mutex::default(), pool: Arc::clone(pool) })),
            Err(error) if is_refusal(&error) => Ok(Box::new(cached)),
            Err(error) => Err(error),
        }
    }

    /// Gathers slices block by block and writes them; the writer then knows how far the last block is filled.
    fn gather(
        &self,
        memory: &mut Memory,
        writer: &mut Writer,
        slices: &[IoSlice<'_>],
        position: u64,
    ) -> io::Result<()> {
        let blocks = memory.blocks();
        let mut filled = (position % BLOCK_BYTES as u64) as usize;
        let mut at = position - filled as u64;
        match writer.tail.get(..filled) {
            Some(known) if writer.tail_position == at => blocks[..filled].copy_from_slice(known),
            _ => self.cached.read_exact_at(&mut blocks[..filled], at)?,
        }
        // Until all is written, what the block holds is not known.
        writer.tail.clear();
        for mut slice in slices.iter().map(|slice| &slice[..]) {
            while !slice.is_empty() {
                let (now, later) = slice.split_at(slice.len().min(blocks.len() - filled));
                blocks[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                slice = later;
                if filled == blocks.len() {
                    self.write_blocks(&mut writer.route, blocks, at)?;
                    at += filled as u64;
                    filled = 0;
                }
            }
        }
        let end = filled.next_multiple_of(BLOCK_BYTES);
        if end > 0 {
            blocks[filled..end].fill(0);
            self.write_blocks(&mut writer.route, &blocks[..end], at)?;
        }
        let last = filled - filled % BLOCK_BYTES;
        writer.tail_position = at + last as u64;
        writer.tail.extend_from_slice(&blocks[last..filled]);
        Ok(())
    }

    /// Writes whole blocks. The first block of a file decides which way all go: an error of a later one is an error.
    fn write_blocks(&self, route: &mut Route, blocks: &[u8], position: u64) -> io::Result<()> {
        if *route == Route::Untried {
            let first = &blocks[..blocks.len().min(BLOCK_BYTES)];
            *route = match self.direct.write_all_at(first, position) {
                Err(error) if is_refusal(&error) => Route::Cached,
                written => written.map(|()| Route::Direct)?,
            };
        }
        match route {
            Route::Cached => self.cached.write_all_at(blocks, position),
            _ => self.direct.write_all_at(blocks, position),
        }
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
        if slices.iter().all(|slice| slice.is_empty()) {
            return Ok(());
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let [slice] = slices
            && is_whole_blocks(slice, position)
        {
            writer.tail.clear();
            return self.write_blocks(&mut writer.route, slice, position);
        }
        let idle = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = idle.unwrap_or_else(Memory::new);
        let written = self.gather(&mut memory, &mut writer, slices, position);
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        written
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).tail.clear();
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

/// Whether an error says that there are no direct writes here.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    fs::OpenOptions::new().write(true).custom_flags(flags).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<fs::File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::super::{Access, Disk, SystemDisk};
    use super::*;
    use proptest::prelude::*;

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

    fn has_direct_writes(root: &Path) -> bool {
        open_direct(&root.join("a")).is_ok()
    }

    fn content(file: &dyn File, end: usize) -> Vec<u8> {
        let mut content = vec![0; end];
        file.read_at(&mut content, 0).unwrap();
        content
    }

    #[test]
    fn writes_that_follow_each_other_keep_what_lies_before_them() {
        let (_root, disk, file) = disk(5000);
        let mut expected = Vec::new();
        let whole = WRITE_BYTES_MAX;
        let sizes = [64, 1, 4031, 4096, 5000, 100, 3000, 2 * whole + 5, 7, whole - 8, 8, 1, whole + 4095];
        for (number, size) in sizes.into_iter().enumerate() {
            let bytes = vec![number as u8 + 2; size];
            let (one, two) = bytes.split_at(size / 3);
            let mut slices = [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(two)];
            file.write_at(&mut slices, expected.len() as u64).unwrap();
            expected.extend(bytes);
            assert!(content(&*file, expected.len()) == expected, "after write {number}");
        }
        file.sync().unwrap();
        let again = disk.open(Path::new("a"), Access::Direct).unwrap();
        again.write_at(&mut [IoSlice::new(b"more")], expected.len() as u64).unwrap();
        expected.extend(b"more");
        assert!(content(&*again, expected.len()) == expected, "after opening it again");
        assert_eq!(again.len().unwrap(), 5000 * BLOCK_BYTES as u64);
    }

    #[test]
    fn a_write_may_end_with_the_last_byte_of_its_memory() {
        let (_root, _disk, file) = disk(2 * WRITE_BYTES_MAX / BLOCK_BYTES);
        file.write_at(&mut [IoSlice::new(&[2; 10])], 0).unwrap();
        file.write_at(&mut [IoSlice::new(&vec![3; WRITE_BYTES_MAX - 10])], 10).unwrap();
        file.write_at(&mut [IoSlice::new(&[4; 10])], WRITE_BYTES_MAX as u64).unwrap();
        let expected = [vec![2; 10], vec![3; WRITE_BYTES_MAX - 10], vec![4; 10]].concat();
        assert!(content(&*file, WRITE_BYTES_MAX + 10) == expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_write_makes_zeros_of_the_rest_of_its_last_block_and_leaves_all_else(
            writes in prop::collection::vec((0u64..30_000, 0usize..9000, any::<bool>()), 1..12),
        ) {
            let (root, _disk, file) = disk(10);
            let mut expected = content(&*file, 10 * BLOCK_BYTES);
            let mut end = 0;
            for (number, (position, size, is_next)) in writes.into_iter().enumerate() {
                let start = if is_next { end } else { position as usize };
                let bytes = vec![number as u8 + 2; size.min(10 * BLOCK_BYTES - start)];
                let (one, two) = bytes.split_at(bytes.len() / 2);
                file.write_at(&mut [IoSlice::new(one), IoSlice::new(two)], start as u64).unwrap();
                end = start + bytes.len();
                expected[start..end].copy_from_slice(&bytes);
                if !bytes.is_empty() && has_direct_writes(root.path()) {
                    expected[end..end.next_multiple_of(BLOCK_BYTES)].fill(0);
                }
                prop_assert!(content(&*file, 10 * BLOCK_BYTES) == expected);
            }
        }
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

    /// A direct write of less than a sector is refused.
    #[test]
    fn only_the_first_write_may_turn_to_the_page_cache() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let cached = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let Ok(direct) = open_direct(&path) else { return };
        let file = DirectFile { cached, direct, writer: Mutex::default(), pool: Pool::default() };
        let mut route = Route::Untried;
        for position in [0, 100] {
            file.write_blocks(&mut route, &[2; 100], position).unwrap();
        }
        assert!(content(&file, 200).iter().all(|byte| *byte == 2));
        let takes_any = file.direct.write_all_at(&[2; 100], 0).is_ok();
        let tried = file.write_blocks(&mut Route::Direct, &[2; 100], 0);
        assert_eq!(tried.is_ok(), takes_any, "a later error is an error");
    }

    #[test]
    fn a_file_of_an_odd_length_keeps_it() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), [1; 5000]).unwrap();
        let file = SystemDisk::new(root.path()).unwrap().open(Path::new("a"), Access::Direct).unwrap();
        file.write_at(&mut [IoSlice::new(&[2; 8])], 4990).unwrap();
        let end = [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1];
        assert_eq!((file.len().unwrap(), &content(&*file, 5000)[4988..]), (5000, &end[..]));
    }
}
