//! A small file that is replaced as a whole: after a power cut it holds the old content or the new one.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, which says what file it is |
//! | 4 | 4 | version, little-endian |
//! | 8 | 8 | length of the content in bytes, little-endian |
//! | 16 | 4 | CRC-32C of version, length and content, little-endian |
//! | 20 | length | content, postcard |

use crate::environment::{Access, Disk, Environment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// What a file is called and how it begins.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Relative to the data directory; its directory is created.
    pub path: &'static str,
    /// Its first bytes.
    pub magic: [u8; 4],
    /// The version that is written, and the only one that is read.
    pub version: u32,
}

const HEADER_BYTES: usize = 20;

/// Largest content in bytes: far above what any of these files needs, so that a damaged length is refused.
const CONTENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The file's bytes.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let content = postcard::to_allocvec(value).expect("plain data encodes into memory");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[4..16]), &content);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&content);
    bytes
}

/// Reads what [`encode`] wrote; `InvalidData` for anything else.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> io::Result<T> {
    let invalid = |what: &str| {
        let reason = format!("file {}: {what}", kind.path);
        io::Error::new(io::ErrorKind::InvalidData, reason)
    };
    let (header, content) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| invalid("too short"))?;
    let number = |range: std::ops::Range<usize>| u32::from_le_bytes(header[range].try_into().expect("four bytes"));
    if header[..4] != kind.magic {
        return Err(invalid("not such a file"));
    }
    if number(4..8) != kind.version {
        return Err(invalid(&format!("version {} is not known", number(4..8))));
    }
    let length = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[4..16]), content);
    if length != content.len() as u64 || checksum != number(16..20) {
        return Err(invalid("damaged"));
    }
    postcard::from_bytes(content).map_err(|error| invalid(&error.to_string()))
}

/// Reads the file; `None` if there is none.
pub async fn read<T>(environment: &Environment, kind: Kind) -> io::Result<Option<T>>
where
    T: DeserializeOwned + Send + 'static,
{
    let disk = environment.disk.clone();
    environment.tasks.blocking(move || read_blocking(&*disk, kind)).await
}

fn read_blocking<T: DeserializeOwned>(disk: &dyn Disk, kind: Kind) -> io::Result<Option<T>> {
    let file = match disk.open(Path::new(kind.path), Access::Cached) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let length = file.len()?;
    if length > CONTENT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("file {} is too long", kind.path)));
    }
    let mut bytes = vec![0; usize::try_from(length).expect("checked against the limit")];
    file.read_at(&mut bytes, 0)?;
    decode(kind, &bytes).map(Some)
}

/// Replaces the file durably.
pub async fn write<T: Serialize>(environment: &Environment, kind: Kind, value: &T) -> io::Result<()> {
    let (disk, bytes) = (environment.disk.clone(), encode(kind, value));
    environment.tasks.blocking(move || write_blocking(&*disk, kind, &bytes)).await
}

fn write_blocking(disk: &dyn Disk, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let path = PathBuf::from(kind.path);
    let directory = path.parent().expect("a file has a directory");
    if !directory.as_os_str().is_empty() {
        disk.create_directory(directory)?;
        disk.sync_directory(Path::new(""))?;
    }
    let temporary = path.with_extension("new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary, Access::Cached)?;
    file.write_at(&mut [IoSlice::new(bytes)], 0)?;
    file.sync()?;
    drop(file);
    disk.rename(&temporary, &path)?;
    disk.sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: Kind = Kind { path: "test", magic: *b"HMTT", version: 3 };

    #[test]
    fn layout_is_as_documented() {
        let bytes = encode(KIND, &7u8);
        assert_eq!(&bytes[..16], b"HMTT\x03\0\0\0\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[20..], [7]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in ".*", number: u64) {
            let value = (text, number);
            prop_assert_eq!(decode::<(String, u64)>(KIND, &encode(KIND, &value)).unwrap(), value);
        }

        #[test]
        fn no_flipped_bit_goes_unnoticed(number: u64, bit: prop::sample::Index) {
            let mut bytes = encode(KIND, &number);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode::<u64>(KIND, &bytes).is_err());
        }

        #[test]
        fn hostile_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(decode::<(u64, String)>(KIND, &bytes).is_err());
        }
    }
}
