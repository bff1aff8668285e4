//! The keys of all rows of a node.
//!
//! | field | size | meaning |
//! |---|---|---|
//! | partition | 2 | big endian |
//! | generation | 4 | big endian; 0 holds only the row that names the current one |
//! | kind | 1 | see below |
//! | rest | | by kind |
//!
//! | kind | rest of the key | value |
//! |---|---|---|
//! | 0 (generation 0) | nothing | number of the current generation |
//! | 1 | nothing | the state: `consumed`, membership, counters, digests |
//! | 2 | app id, 0x00, hour (4, big endian) | rollup; an app's hours are one range, apps are in the order of their names |
//! | 3 | producer | head of its window |
//! | 4 | length of the producer (2, big endian), producer, chunk (8, big endian) | chunk of its window |
//! | 5 | edge (16, big endian) | head of its window |
//! | 6 | length of the edge (2, big endian), edge, chunk (8, big endian) | chunk of its window |
//! | 7 | offset (8, big endian), piece (2, big endian) | piece of a quarantined entry |
//!
//! A snapshot is installed into a generation of its own; the row that names the current generation then makes it the one
//! that counts, at once. Within a generation, keys without partition and generation (*tails*) are the same on every replica.

use crate::domain::{AppId, Hour};
use cluster::PartitionId;

/// What a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The state as of `consumed`.
    State = 1,
    /// A rollup.
    Rollup = 2,
    /// Head of a producer's window.
    ProducerHead = 3,
    /// Chunk of a producer's window.
    ProducerChunk = 4,
    /// Head of an edge's window.
    EdgeHead = 5,
    /// Chunk of an edge's window.
    EdgeChunk = 6,
    /// Piece of a quarantined entry.
    Quarantined = 7,
}

/// A generation of a partition's rows; the first is 1.
pub type Generation = u32;

/// Bytes before the kind.
const PREFIX_BYTES: usize = 6;

/// The key of the row that names the current generation.
pub fn current(partition: PartitionId) -> Vec<u8> {
    [&prefix(partition, 0)[..], &[0]].concat()
}

/// What all keys of a generation begin with.
pub fn prefix(partition: PartitionId, generation: Generation) -> [u8; PREFIX_BYTES] {
    let ([a, b], [c, d, e, f]) = (partition.0.to_be_bytes(), generation.to_be_bytes());
    [a, b, c, d, e, f]
}

/// The first key behind all keys of a generation.
pub fn generation_end(partition: PartitionId, generation: Generation) -> Vec<u8> {
    // Generations count installed snapshots, and no row is of the last one.
    prefix(partition, generation.saturating_add(1)).to_vec()
}

/// The first key behind all keys of a partition.
pub fn partition_end(partition: PartitionId) -> Vec<u8> {
    match partition.0.checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        None => vec![u8::MAX; PREFIX_BYTES + 1],
    }
}

/// A whole key.
pub fn key(partition: PartitionId, generation: Generation, tail: &[u8]) -> Vec<u8> {
    [&prefix(partition, generation)[..], tail].concat()
}

/// The partition's generation and the tail of a whole key.
pub fn split(key: &[u8]) -> Option<(Generation, &[u8])> {
    let (prefix, tail) = key.split_at_checked(PREFIX_BYTES)?;
    Some((Generation::from_be_bytes(prefix[2..].try_into().ok()?), tail))
}

/// The tail of the state's row.
pub fn state() -> Vec<u8> {
    vec![Kind::State as u8]
}

/// The tail of a rollup's row: [`app_prefix`] and the hour, in memory that is taken once.
pub fn rollup(app: &AppId, hour: Hour) -> Vec<u8> {
    [&[Kind::Rollup as u8], app.as_str().as_bytes(), &[0], &hour.0.to_be_bytes()].concat()
}

/// What the tails of an app's rollups begin with.
pub fn app_prefix(app: &str) -> Vec<u8> {
    [&[Kind::Rollup as u8], app.as_bytes(), &[0]].concat()
}

/// The first tail of an app whose name is `name` or comes behind it.
pub fn app_from(name: &str) -> Vec<u8> {
    [&[Kind::Rollup as u8], name.as_bytes()].concat()
}

/// The first tail behind all rollups of an app.
pub fn app_end(app: &str) -> Vec<u8> {
    [&[Kind::Rollup as u8], app.as_bytes(), &[1]].concat()
}

/// App and hour of a rollup's tail.
pub fn split_rollup(tail: &[u8]) -> Option<(&str, Hour)> {
    let rest = tail.strip_prefix(&[Kind::Rollup as u8])?;
    let (app, hour) = rest.split_last_chunk::<4>().map(|(app, hour)| (app, Hour(u32::from_be_bytes(*hour))))?;
    let app = std::str::from_utf8(app.strip_suffix(&[0])?).ok()?;
    AppId::check(app).ok()?;
    Some((app, hour))
}

/// The tail of a window's head.
pub fn head(kind: Kind, owner: &[u8]) -> Vec<u8> {
    [&[kind as u8], owner].concat()
}

/// The tail of a window's chunk.
pub fn chunk(kind: Kind, owner: &[u8], number: u64) -> Vec<u8> {
    let length = u16::try_from(owner.len()).expect("names of producers and edges are short");
    [&[kind as u8][..], &length.to_be_bytes(), owner, &number.to_be_bytes()].concat()
}

/// Owner and number of a chunk's tail.
pub fn split_chunk(tail: &[u8]) -> Option<(&[u8], u64)> {
    let (length, rest) = tail.get(1..)?.split_first_chunk::<2>()?;
    let (owner, number) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((owner, u64::from_be_bytes(number.try_into().ok()?)))
}

/// The tail of a piece of a quarantined entry.
pub fn quarantined(offset: u64, piece: u16) -> Vec<u8> {
    [&[Kind::Quarantined as u8][..], &offset.to_be_bytes(), &piece.to_be_bytes()].concat()
}

/// Offset and piece of a quarantined entry's tail.
pub fn split_quarantined(tail: &[u8]) -> Option<(u64, u16)> {
    let rest = tail.strip_prefix(&[Kind::Quarantined as u8])?;
    let (offset, piece) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*offset), u16::from_be_bytes(piece.try_into().ok()?)))
}

/// The kind of a tail.
pub fn kind(tail: &[u8]) -> Option<Kind> {
    let kinds = [
        Kind::State,
        Kind::Rollup,
        Kind::ProducerHead,
        Kind::ProducerChunk,
        Kind::EdgeHead,
        Kind::EdgeChunk,
        Kind::Quarantined,
    ];
    kinds.into_iter().find(|kind| tail.first() == Some(&(*kind as u8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_apps_hours_are_one_range_and_names_are_in_order() {
        let app = |name| AppId::new(name).unwrap();
        let mut tails = vec![];
        for name in ["a", "a ", "a/b", "ab", "é"] {
            for hour in [0, 255, 256, u32::MAX] {
                let tail = rollup(&app(name), Hour(hour));
                assert!(tail >= app_prefix(name) && tail < app_end(name), "{name} {hour}");
                assert!(tail >= app_from(name));
                assert_eq!(split_rollup(&tail), Some((name, Hour(hour))));
                tails.push(tail);
            }
        }
        assert!(tails.is_sorted());
    }

    #[test]
    fn a_tail_of_a_rollup_names_an_app() {
        // It lies within the hours of "a".
        let two_hours = [&app_prefix("a")[..], &[0, 7, 122, 0], &[0, 7, 122, 16]].concat();
        for tail in
            [&two_hours[..], &app_prefix("a"), &rollup(&AppId::new("a").unwrap(), Hour(1))[1..], &[2, 0, 0, 0, 0, 1]]
        {
            assert_eq!(split_rollup(tail), None, "{tail:?}");
        }
    }

    #[test]
    fn generations_and_partitions_follow_each_other() {
        let partition = PartitionId(u16::MAX);
        let last = key(partition, 7, &[0xff; 40]);
        assert!(last < generation_end(partition, 7) && generation_end(partition, 7) < partition_end(partition));
        assert!(key(PartitionId(3), u32::MAX - 1, &[0xff; 40]) < partition_end(PartitionId(3)));
        assert!(current(partition) < prefix(partition, 1).to_vec());
        assert_eq!(split(&last), Some((7, &[0xff; 40][..])));
    }

    proptest! {
        #[test]
        fn tails_split_into_what_they_were_made_of(owner: [u8; 5], number: u64, piece: u16) {
            let tail = chunk(Kind::ProducerChunk, &owner, number);
            prop_assert_eq!(split_chunk(&tail), Some((&owner[..], number)));
            prop_assert_eq!(kind(&tail), Some(Kind::ProducerChunk));
            prop_assert_eq!(split_quarantined(&quarantined(number, piece)), Some((number, piece)));
        }

        #[test]
        fn any_bytes_are_split_without_panic(bytes: Vec<u8>) {
            let _ = (split(&bytes), split_rollup(&bytes), split_chunk(&bytes), split_quarantined(&bytes), kind(&bytes));
        }
    }
}
