//! Where events come from: a file or stdin, as they are or compressed, told apart by their first bytes.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// First bytes of a gzip stream (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// First bytes of a zstd frame (RFC 8878).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A stream of NDJSON.
pub struct Source {
    /// Decompressed.
    pub reader: Box<dyn Read + Send>,
    /// Bytes read so far, before decompression.
    pub position: Arc<AtomicU64>,
    /// All bytes there are, before decompression, where that is known.
    pub length: Option<u64>,
}

impl Source {
    /// Opens a file, or stdin for `None` and `-`.
    pub fn open(path: Option<&Path>) -> io::Result<Source> {
        match path {
            Some(path) if path != Path::new("-") => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                Source::new(file, metadata.is_file().then_some(metadata.len()))
            }
            _ => Source::new(io::stdin(), None),
        }
    }

    fn new(raw: impl Read + Send + 'static, length: Option<u64>) -> io::Result<Source> {
        let position = Arc::new(AtomicU64::new(0));
        let mut raw = Counted { raw, position: position.clone() };
        let mut start = Vec::new();
        (&mut raw).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
        let is_gzip = start.starts_with(&GZIP_MAGIC);
        let is_zstd = start.starts_with(&ZSTD_MAGIC);
        let whole = Cursor::new(start).chain(raw);
        let reader: Box<dyn Read + Send> = match (is_gzip, is_zstd) {
            (true, _) => Box::new(flate2::read::MultiGzDecoder::new(whole)),
            (_, true) => Box::new(zstd::stream::read::Decoder::new(whole)?),
            _ => Box::new(whole),
        };
        Ok(Source { reader, position, length })
    }
}

/// Counts what is read.
struct Counted<R> {
    raw: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.raw.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let length = bytes.len() as u64;
        let mut source = Source::new(Cursor::new(bytes), None)?;
        let mut read = Vec::new();
        source.reader.read_to_end(&mut read)?;
        assert_eq!(source.position.load(Ordering::Relaxed), length);
        Ok(read)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_gzip_and_zstd_are_told_apart_by_content() {
        for plain in [b"".as_slice(), b"x", b"{\"a\":1}\n{\"a\":2}\n"] {
            assert_eq!(read(plain.to_vec()).unwrap(), plain);
            assert_eq!(read(gzip(plain)).unwrap(), plain);
            assert_eq!(read(zstd::encode_all(plain, 1).unwrap()).unwrap(), plain);
        }
    }

    #[test]
    fn concatenated_streams_are_one() {
        assert_eq!(read([gzip(b"a\n"), gzip(b"b\n")].concat()).unwrap(), b"a\nb\n");
        let frames = [zstd::encode_all(&b"a\n"[..], 1).unwrap(), zstd::encode_all(&b"b\n"[..], 1).unwrap()].concat();
        assert_eq!(read(frames).unwrap(), b"a\nb\n");
    }

    #[test]
    fn a_stream_that_is_cut_short_is_an_error() {
        let whole = gzip(&b"some text that is long enough\n".repeat(100));
        assert!(read(whole[..whole.len() - 9].to_vec()).is_err());
    }
}
