//! One segment file: made ahead of need, filled from front to back, recycled.
//!
//! The file is zero-filled to its full size before its first record, so appending changes no metadata and an fsync is one
//! write to the disk. It goes past the page cache (docs/decisions/0007). The header is synced before the name appears, so a
//! named segment always has one:
//!
//! ```text
//!   at  size  field
//!    0     8  "HMLOGSEG"
//!    8     4  version: 1
//!   12     4  crc32c over bytes 0..12 and 16..64
//!   16     8  generation: 1 for the first segment, then one more for each; also the file's name, "000000000001.log"
//!   24     8  salt, drawn at random, part of every record's checksum
//!   32     8  size of the file in bytes
//!   40    24  zero
//!   64   ...  records (record.rs), back to back; behind them zeros or what a recycled file held before
//! ```
//!
//! A file is built or rebuilt under the name `next.tmp`; what a crash leaves of that name is removed when the log opens.

use super::Error;
use super::record::{self, Flaw, HEADER_BYTES, Header, u32_at, u64_at};
use super::state::Queued;
use crate::environment::{Access, Disk, File};
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// The first record of a segment begins here.
pub(super) const FIRST_RECORD: u64 = 64;
const MAGIC: &[u8; 8] = b"HMLOGSEG";
const VERSION: u32 = 1;
const TEMPORARY: &str = "next.tmp";
/// Zeros are written in pieces of this size, each synced before the next, so that what the log syncs meanwhile waits for
/// one piece and not for a whole segment.
const FILL_BYTES: u64 = 1 << 20;
static ZEROS: Zeros = Zeros([0; FILL_BYTES as usize]);

/// Begins at a block, so that direct writes take it as it is.
#[repr(align(4096))]
struct Zeros([u8; FILL_BYTES as usize]);

/// A segment file that has its name and its header.
pub(super) struct Segment {
    pub generation: u64,
    pub salt: u64,
    /// Size of the file.
    pub bytes: u64,
    pub path: PathBuf,
    file: Box<dyn File>,
}

/// A segment that is not filled with zeros yet: a file that any start removes.
pub(super) struct Draft {
    file: Box<dyn File>,
    filled: u64,
    bytes: u64,
}

/// The generation in a segment's file name.
pub(super) fn generation_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 12)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Removes what an interrupted preparation left behind.
pub(super) fn remove_temporary(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    if disk.list(directory)?.iter().any(|name| name == TEMPORARY) {
        disk.remove(&directory.join(TEMPORARY))?;
    }
    Ok(())
}

impl Segment {
    /// Makes a zero-filled segment; durable on return. A full disk leaves nothing behind.
    pub fn create(disk: &dyn Disk, directory: &Path, generation: u64, bytes: u64, salt: u64) -> io::Result<Segment> {
        let created = Draft::begin(disk, directory, bytes).and_then(|mut draft| {
            while !draft.is_filled() {
                draft.fill_some()?;
            }
            draft.finish(disk, directory, generation, salt)
        });
        if created.is_err() {
            remove_temporary(disk, directory)?;
        }
        created
    }

    /// Makes a segment that nobody needs into one of another generation; durable on return. Its old records stay in the
    /// file and mean nothing there.
    pub fn recycle(self, disk: &dyn Disk, directory: &Path, generation: u64, salt: u64) -> io::Result<Segment> {
        remove_temporary(disk, directory)?;
        disk.rename(&self.path, &directory.join(TEMPORARY))?;
        // Before the header changes: otherwise a crash could bring the old name back with the new header.
        disk.sync_directory(directory)?;
        Self::finish(disk, directory, self.file, generation, self.bytes, salt)
    }

    fn finish(
        disk: &dyn Disk,
        directory: &Path,
        file: Box<dyn File>,
        generation: u64,
        bytes: u64,
        salt: u64,
    ) -> io::Result<Segment> {
        file.write_at(&mut [IoSlice::new(&encode_header(generation, salt, bytes))], 0)?;
        file.sync()?;
        let path = directory.join(format!("{generation:012}.log"));
        disk.rename(&directory.join(TEMPORARY), &path)?;
        disk.sync_directory(directory)?;
        Ok(Segment { generation, salt, bytes, path, file })
    }

    /// Opens a segment and checks its header.
    pub fn open(disk: &dyn Disk, directory: &Path, generation: u64) -> Result<Segment, Error> {
        let path = directory.join(format!("{generation:012}.log"));
        let failed = |action| {
            let path = path.clone();
            move |source| Error::Io { action, path, source }
        };
        let file = disk.open(&path, Access::Direct).map_err(failed("open log segment"))?;
        file.reread().map_err(failed("read again log segment"))?;
        let length = file.len().map_err(failed("read the size of log segment"))?;
        let mut header = [0; FIRST_RECORD as usize];
        let read = file.read_at(&mut header, 0);
        let reason = match read {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(failed("read log segment")(error));
            }
            Err(_) => Some("the file is shorter than its header".into()),
            Ok(()) => header_flaw(&header, generation, length),
        };
        match reason {
            Some(reason) => Err(Error::Damaged { path, position: 0, reason }),
            None => Ok(Segment { generation, salt: u64_at(&header, 24), bytes: length, path, file }),
        }
    }

    /// Removes the file; durable on return.
    pub fn remove(&self, disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        disk.remove(&self.path)?;
        disk.sync_directory(directory)
    }

    /// Writes records of this segment that follow each other, in one write, and syncs them. `synced`: every record up to
    /// this LSN is synced already.
    pub fn write(&self, records: &[Queued], synced: u64) -> io::Result<()> {
        let Some(first) = records.first() else { return Ok(()) };
        let mut end = first.at;
        let heads: Vec<[u8; HEADER_BYTES]> = records
            .iter()
            .map(|record| {
                assert_eq!((record.at, record.header.generation), (end, self.generation), "records follow each other");
                end += record::record_bytes(record.payload.len());
                record::encode(&Header { synced, ..record.header }, self.salt, &record.payload)
            })
            .collect();
        assert!(end <= self.bytes, "records end at {end} in a segment of {} bytes", self.bytes);
        let mut slices: Vec<IoSlice<'_>> = heads
            .iter()
            .zip(records)
            .flat_map(|(head, record)| [&head[..], &record.payload, record::padding(record.payload.len())])
            .filter(|slice| !slice.is_empty())
            .map(IoSlice::new)
            .collect();
        self.file.write_at(&mut slices, first.at)?;
        self.file.sync()
    }

    /// Overwrites a range with zeros; durable on return.
    pub fn clear(&self, range: std::ops::Range<u64>) -> io::Result<()> {
        fill(&*self.file, range)
    }

    /// Makes whatever was written to the file durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// The whole file.
    pub fn read_all(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize(usize::try_from(self.bytes).map_err(io::Error::other)?, 0);
        self.file.read_at(buffer, 0)
    }

    /// The record at `at`, whose payload has `length` bytes; checked.
    pub fn read(&self, at: u64, length: u32) -> io::Result<Result<(Header, Bytes), Flaw>> {
        let mut buffer = vec![0; HEADER_BYTES + length as usize];
        self.file.read_at(&mut buffer, at)?;
        let header = match record::decode(&buffer, self.salt, self.generation) {
            Ok((header, payload)) if payload.len() == length as usize => header,
            Ok(_) => return Ok(Err(Flaw::Length)),
            Err(flaw) => return Ok(Err(flaw)),
        };
        Ok(Ok((header, Bytes::from(buffer).slice(HEADER_BYTES..))))
    }
}

impl Draft {
    /// Begins one, in the place of any that was begun before.
    pub fn begin(disk: &dyn Disk, directory: &Path, bytes: u64) -> io::Result<Draft> {
        remove_temporary(disk, directory)?;
        Ok(Draft { file: disk.create(&directory.join(TEMPORARY), Access::Direct)?, filled: 0, bytes })
    }

    /// How much of it is filled with zeros, in bytes.
    pub fn filled(&self) -> u64 {
        self.filled
    }

    /// Whether all of it is.
    pub fn is_filled(&self) -> bool {
        self.filled == self.bytes
    }

    /// Fills the next piece.
    pub fn fill_some(&mut self) -> io::Result<()> {
        let end = self.bytes.min(self.filled + FILL_BYTES);
        fill(&*self.file, self.filled..end)?;
        self.filled = end;
        Ok(())
    }

    /// Makes it a segment; durable on return.
    pub fn finish(self, disk: &dyn Disk, directory: &Path, generation: u64, salt: u64) -> io::Result<Segment> {
        Segment::finish(disk, directory, self.file, generation, self.bytes, salt)
    }
}

/// Writes zeros and syncs them.
fn fill(file: &dyn File, range: std::ops::Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let piece = (range.end - at).min(FILL_BYTES);
        file.write_at(&mut [IoSlice::new(&ZEROS.0[..piece as usize])], at)?;
        file.sync()?;
        at += piece;
    }
    Ok(())
}

fn encode_header(generation: u64, salt: u64, bytes: u64) -> [u8; FIRST_RECORD as usize] {
    let mut header = [0; FIRST_RECORD as usize];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    header[24..32].copy_from_slice(&salt.to_le_bytes());
    header[32..40].copy_from_slice(&bytes.to_le_bytes());
    let checksum = header_checksum(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn header_checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[0..12]), &header[16..])
}

/// What is wrong with a segment's header.
fn header_flaw(header: &[u8], generation: u64, length: u64) -> Option<String> {
    if header[0..8] != MAGIC[..] || header_checksum(header) != u32_at(header, 12) {
        return Some("the header's checksum does not match".into());
    }
    if u32_at(header, 8) != VERSION {
        return Some(format!("version {} is newer than this program", u32_at(header, 8)));
    }
    if u64_at(header, 16) != generation {
        return Some(format!("the header says segment {}", u64_at(header, 16)));
    }
    (u64_at(header, 32) != length).then(|| format!("the file has {length} bytes of {}", u64_at(header, 32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::SystemDisk;

    #[test]
    fn golden_header_opens_as_ever() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/log-segment-header-1.bin");
        let header = encode_header(7, 0x1122_3344_5566_7788, 64 << 20);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, header).unwrap();
        }
        let golden = std::fs::read(path).unwrap();
        assert_eq!(golden, header, "the layout of the segment header has changed");
        assert_eq!(header_flaw(&golden, 7, 64 << 20), None);
        assert!(header_flaw(&golden, 8, 64 << 20).is_some());
        assert!(header_flaw(&golden, 7, 1 << 20).is_some());
    }

    #[test]
    fn a_recycled_segment_opens_under_its_new_generation_only() {
        let root = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(root.path()).unwrap();
        let directory = Path::new("");
        let segment = Segment::create(&disk, directory, 1, 4096, 11).unwrap();
        let segment = segment.recycle(&disk, directory, 2, 12).unwrap();
        assert_eq!((segment.generation, segment.salt, segment.bytes), (2, 12, 4096));
        assert_eq!(disk.list(directory).unwrap(), ["000000000002.log"]);
        assert_eq!(Segment::open(&disk, directory, 2).unwrap().salt, 12);
    }

    /// Sizes were any multiple of 8 once.
    #[test]
    fn a_segment_that_is_not_of_whole_blocks_keeps_its_size() {
        let root = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(root.path()).unwrap();
        let path = root.path().join("000000000003.log");
        std::fs::write(&path, encode_header(3, 7, 30_008)).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(30_008).unwrap();
        let segment = Segment::open(&disk, Path::new(""), 3).unwrap();
        segment.clear(20_000..30_008).unwrap();
        segment.clear(29_000..29_001).unwrap();
        assert_eq!(Segment::open(&disk, Path::new(""), 3).unwrap().bytes, 30_008);
    }

    #[test]
    fn names_are_strict() {
        assert_eq!(generation_of("000000000012.log"), Some(12));
        for other in ["12.log", "00000000001x.log", "next.tmp", "+00000000012.log", "000000000012"] {
            assert_eq!(generation_of(other), None, "{other}");
        }
    }
}
