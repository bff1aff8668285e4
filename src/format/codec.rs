//! Small pieces that the layouts share: varints, checked reading, the checksum.

use crate::domain::{EventTime, TimeLimits};
use bytes::Bytes;

/// Why bytes could not be read as a layout. The bytes are damaged or of a newer version; nothing of them is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They end too early.
    #[error("the {0} ends too early")]
    Truncated(&'static str),
    /// Their checksum does not fit.
    #[error("the checksum of the {0} does not fit")]
    Checksum(&'static str),
    /// They are of a version this build does not know.
    #[error("version {1} of the {0} is not known to this build")]
    Version(&'static str, u8),
    /// A field has a value that no writer gives it.
    #[error("the {0} has an impossible {1}")]
    Invalid(&'static str, &'static str),
    /// It would be larger than allowed.
    #[error("the {0} is larger than {1} bytes")]
    TooLarge(&'static str, usize),
}

/// Most bytes of a varint below 2^64.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` in LEB128: seven bits a byte, low bits first.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u128) {
    // Two registers are only needed where there is something in the upper one: sums of long hours.
    while value > u128::from(u64::MAX) {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    let mut value = value as u64;
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes `value` as [`put_varint`] does to the start of `out`, which has [`VARINT_BYTES_MAX`] bytes or more; returns how
/// many bytes it took. For columns: one check of the room for many values.
#[inline]
pub fn write_varint(out: &mut [u8], mut value: u64) -> usize {
    if value < 0x80 {
        out[0] = value as u8;
        return 1;
    }
    let mut length = 0;
    while value >= 0x80 {
        out[length] = (value as u8) | 0x80;
        value >>= 7;
        length += 1;
    }
    out[length] = value as u8;
    length + 1
}

/// Appends a text or bytes with their length before them.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u128);
    out.extend_from_slice(bytes);
}

/// Appends limits of event time: earliest, latest, varints of ms since the epoch.
pub fn put_limits(out: &mut Vec<u8>, limits: TimeLimits) {
    put_varint(out, u128::from(limits.earliest.0));
    put_varint(out, u128::from(limits.latest.0));
}

/// Takes what [`put_limits`] appended.
pub fn take_limits(reader: &mut Reader<'_>) -> Result<TimeLimits, Error> {
    Ok(TimeLimits { earliest: EventTime(reader.varint()?), latest: EventTime(reader.varint()?) })
}

/// Maps small negative and positive numbers to small unsigned ones.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Reads a layout front to back; every read is checked.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    layout: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` as `layout` (its name, for errors).
    pub fn new(layout: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { layout, rest: bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Error::Truncated(self.layout))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, Error> {
        let (byte, rest) = self.rest.split_first().ok_or(Error::Truncated(self.layout))?;
        self.rest = rest;
        Ok(*byte)
    }

    /// The next varint, below 2^64.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Error> {
        // Nearly all have one to three bytes.
        match *self.rest {
            [a @ ..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(a))
            }
            [a, b @ 1..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            [a, b @ 0x80..=0xff, c @ 1..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(a & 0x7f) | u64::from(b & 0x7f) << 7 | u64::from(c) << 14)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(self.invalid("padded varint")) } else { Ok(value) };
            }
        }
        Err(self.invalid("varint"))
    }

    /// The next varint, below 2^128.
    pub fn varint_128(&mut self) -> Result<u128, Error> {
        let mut value = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if shift == 126 && bits > 3 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(self.invalid("padded varint")) } else { Ok(value) };
            }
        }
        Err(self.invalid("varint"))
    }

    /// The next varint as a size or count.
    pub fn length(&mut self) -> Result<usize, Error> {
        usize::try_from(self.varint()?).map_err(|_| self.invalid("length"))
    }

    /// The next bytes with their length before them.
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let length = self.length()?;
        self.take(length)
    }

    /// The next text with its length before it.
    pub fn text(&mut self) -> Result<&'a str, Error> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.invalid("text"))
    }

    /// The next fixed-width number, little endian.
    pub fn u32(&mut self) -> Result<u32, Error> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    /// The next fixed-width number, little endian.
    pub fn u64(&mut self) -> Result<u64, Error> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    /// The next fixed-width number, little endian.
    pub fn u128(&mut self) -> Result<u128, Error> {
        let bytes = self.take(16)?;
        Ok(u128::from_le_bytes(bytes.try_into().expect("sixteen bytes were taken")))
    }

    /// Says that everything has been read.
    pub fn end(&self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.invalid("tail")) }
    }

    /// An error about a field of this layout.
    pub fn invalid(&self, field: &'static str) -> Error {
        Error::Invalid(self.layout, field)
    }
}

/// Begins a sealed layout: version byte, room for the checksum.
pub fn begin(version: u8) -> Vec<u8> {
    vec![version, 0, 0, 0, 0]
}

/// Ends a sealed layout: puts in the CRC32C of the version and of everything behind the checksum.
pub fn seal(mut bytes: Vec<u8>) -> Bytes {
    let checksum = checksum_of(&bytes);
    bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
    bytes.into()
}

/// Checks a sealed layout and returns what is inside.
pub fn open<'a>(layout: &'static str, version: u8, bytes: &'a [u8]) -> Result<Reader<'a>, Error> {
    let (Some(found), Some(checksum)) = (bytes.first(), bytes.get(1..5)) else { return Err(Error::Truncated(layout)) };
    if *found != version {
        return Err(Error::Version(layout, *found));
    }
    if checksum != checksum_of(bytes).to_le_bytes() {
        return Err(Error::Checksum(layout));
    }
    Ok(Reader::new(layout, &bytes[5..]))
}

fn checksum_of(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..1]), &bytes[5..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, wide: u128, signed: i64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, u128::from(value));
            put_varint(&mut bytes, wide);
            let mut reader = Reader::new("test", &bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.varint_128(), Ok(wide));
            prop_assert_eq!(reader.end(), Ok(()));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
            for shift in [0, 7, 14, 21, 28, 56, 57, 63] {
                let value = value >> shift;
                let (mut pushed, mut written) = (Vec::new(), [0; VARINT_BYTES_MAX]);
                put_varint(&mut pushed, u128::from(value));
                let length = write_varint(&mut written, value);
                prop_assert_eq!(&pushed[..], &written[..length]);
                prop_assert_eq!(Reader::new("test", &pushed).varint(), Ok(value));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new("test", &bytes);
            while reader.varint().is_ok() {}
            let mut reader = Reader::new("test", &bytes);
            while reader.varint_128().is_ok() {}
        }
    }

    #[test]
    fn overlong_varints_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]] {
            assert!(Reader::new("test", bytes).varint().is_err(), "{bytes:?}");
        }
    }
}
