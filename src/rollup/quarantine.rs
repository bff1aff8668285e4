//! Rows of quarantined entries: entries that could not be folded, kept whole for a look at them.
//!
//! A sealed layout (version 1, CRC32C) of events (varint), reason and payload (length, bytes); cut into pieces of at most
//! [`PIECE_BYTES`], each a row of its own, because the row store dislikes large values.

use super::keys;
use super::rows::Row;
use crate::format::codec::{self, put_bytes, put_varint};
use crate::format::{Error, Quarantined};
use bytes::Bytes;

const LAYOUT: &str = "quarantined entry";
const VERSION: u8 = 1;

/// Bytes of a piece.
pub const PIECE_BYTES: usize = 8 * 1024;

/// The rows of an entry: tails and values.
pub fn rows(entry: &Quarantined) -> Vec<Row> {
    let mut out = codec::begin(VERSION);
    put_varint(&mut out, u128::from(entry.events));
    put_bytes(&mut out, entry.reason.as_bytes());
    put_bytes(&mut out, &entry.payload);
    let sealed = codec::seal(out);
    let pieces = sealed.chunks(PIECE_BYTES).zip(0..);
    pieces.map(|(piece, number)| (keys::quarantined(entry.offset, number), piece.to_vec())).collect()
}

/// The entry at `offset`, from the values of all its rows in order.
pub fn entry(offset: u64, pieces: &[Vec<u8>]) -> Result<Quarantined, Error> {
    let bytes = pieces.concat();
    let mut reader = codec::open(LAYOUT, VERSION, &bytes)?;
    let (events, reason) = (reader.varint()?, reader.text()?.to_owned());
    let payload = Bytes::copy_from_slice(reader.bytes()?);
    reader.end()?;
    Ok(Quarantined { offset, events, reason, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::golden;

    fn values(entry: &Quarantined) -> Vec<Vec<u8>> {
        rows(entry).into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn layout_never_changes() {
        let payload = Bytes::from_static(b"\x01what it carried");
        let quarantined = Quarantined { offset: 77, events: 3, reason: "batch: checksum".to_owned(), payload };
        let values = values(&quarantined);
        golden::check("quarantined-entry-v1", &values[0]);
        assert_eq!(entry(77, &[golden::read("quarantined-entry-v1")]), Ok(quarantined));
    }

    #[test]
    fn a_large_entry_is_cut_into_pieces_in_order() {
        let payload = Bytes::from((0..30_000u32).map(|number| number as u8).collect::<Vec<_>>());
        let quarantined = Quarantined { offset: 5, events: 1, reason: String::new(), payload };
        let rows = rows(&quarantined);
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|(_, value)| value.len() <= PIECE_BYTES));
        assert!(rows.is_sorted());
        assert_eq!(entry(5, &values(&quarantined)), Ok(quarantined.clone()));
        assert!(entry(5, &values(&quarantined)[..3]).is_err());
    }

    #[test]
    fn pieces_of_the_largest_entry_can_be_numbered() {
        assert!(crate::format::ENTRY_BYTES_MAX / PIECE_BYTES < usize::from(u16::MAX));
    }
}
