//! Where a partition's state stands, as stored and as sent: everything but the rows.
//!
//! A sealed layout (version 2, CRC32C) of:
//!
//! | field | size | meaning |
//! |---|---|---|
//! | consumed | 1, then varints | 0 = nothing; 1 = term, leader, offset follow |
//! | checkpoint | varint | 0 = none; else the offset of the checkpoint that reached `consumed`, plus one |
//! | membership | 1, then length and bytes | 0 = none; 1 = the newest at or before `consumed` |
//! | watermark | varint | event time reached, ms since the epoch |
//! | events | varint | in the log's entries up to `consumed` |
//! | counted, duplicate, quarantined | varints | what became of them; their sum is `events` |
//! | quarantined entries | varint | how many |
//! | clock | varint | largest stamp of any entry up to `consumed`, ms since the epoch |
//! | rollups | varint | how many rows |
//! | digest of the rows | 8 | XOR of the hashes of all rollups and of the rows of quarantined entries |
//! | digest of the identities | 8 | XOR of the hashes of all that is remembered of producers and edges |
//!
//! Version 1 is the same, but for how rollups were hashed.

use crate::format::codec::{self, Reader, put_bytes, put_varint};
use crate::format::{Error, Tally};
use bytes::Bytes;
use cluster::{Durable, LogPosition, NodeId, Offset, Term};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

const LAYOUT: &str = "partition state";
const VERSION: u8 = 2;
/// The version with another hash of rollups.
const VERSION_OTHER_HASH: u8 = 1;

/// Where a partition's state stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// Everything up to and including this entry is in the state.
    pub consumed: Option<LogPosition>,
    /// Offset of the checkpoint that reached it.
    pub checkpoint: Option<u64>,
    /// The newest membership at or before it.
    pub membership: Option<Bytes>,
    /// Event time reached, ms since the epoch.
    pub watermark_ms: u64,
    /// Events in the log up to `consumed`.
    pub events: u64,
    /// What became of them.
    pub tally: Tally,
    /// Entries that were set aside.
    pub quarantined_entries: u64,
    /// The log's clock.
    pub clock_ms: u64,
    /// Rows of rollups.
    pub rollups: u64,
    /// XOR of the hashes of all rollups and of the rows of quarantined entries.
    pub rows_digest: u64,
    /// XOR of the hashes of all that is remembered of producers and edges.
    pub identities_digest: u64,
}

/// How far checkpoints have folded the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Consumed {
    /// Everything up to and including this offset is in the stored rollups; `None` before the first checkpoint.
    pub through: Option<Offset>,
    /// Event time reached, ms since the epoch.
    pub watermark_ms: u64,
}

/// A fingerprint of a partition's state: equal on all replicas at an equal `consumed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The offset it is of.
    pub consumed: Option<Offset>,
    /// Of all rollups and quarantined entries.
    pub rollups: u64,
    /// Of all that is remembered of producers and edges.
    pub identities: u64,
    /// Of counters, watermark and `consumed` itself.
    pub counters: u64,
}

/// What a row of a quarantined entry adds to the digest.
pub fn row_hash(tail: &[u8], value: &[u8]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(&(tail.len() as u64).to_le_bytes());
    hasher.update(tail);
    hasher.update(value);
    hasher.digest()
}

impl Position {
    /// The offset of `consumed`.
    pub fn offset(&self) -> Option<Offset> {
        self.consumed.map(|consumed| consumed.offset)
    }

    /// How far checkpoints have folded the log.
    pub fn reached(&self) -> Consumed {
        Consumed { through: self.offset(), watermark_ms: self.watermark_ms }
    }

    /// What the log is told of it.
    pub fn durable(&self) -> Durable {
        Durable { position: self.consumed, membership: self.membership.clone() }
    }

    /// Its fingerprint.
    pub fn digest(&self) -> Digest {
        let rest = Position { membership: None, rows_digest: 0, identities_digest: 0, ..self.clone() };
        Digest {
            consumed: self.offset(),
            rollups: self.rows_digest,
            identities: self.identities_digest,
            counters: xxh3_64(&rest.encode()),
        }
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = codec::begin(VERSION);
        out.push(u8::from(self.consumed.is_some()));
        if let Some(consumed) = self.consumed {
            for number in [consumed.term.0, consumed.leader.0, consumed.offset.0] {
                put_varint(&mut out, u128::from(number));
            }
        }
        put_varint(&mut out, self.checkpoint.map_or(0, |offset| u128::from(offset) + 1));
        out.push(u8::from(self.membership.is_some()));
        if let Some(membership) = &self.membership {
            put_bytes(&mut out, membership);
        }
        let Tally { counted, duplicate, quarantined } = self.tally;
        for number in [
            self.watermark_ms,
            self.events,
            counted,
            duplicate,
            quarantined,
            self.quarantined_entries,
            self.clock_ms,
            self.rollups,
        ] {
            put_varint(&mut out, u128::from(number));
        }
        out.extend_from_slice(&self.rows_digest.to_le_bytes());
        out.extend_from_slice(&self.identities_digest.to_le_bytes());
        codec::seal(out).into()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Position, Error> {
        Position::take(codec::open(LAYOUT, VERSION, bytes)?)
    }

    /// Reads it, also of version 1; with whether its digest of the rows is of the hashes of today.
    pub fn decode_any(bytes: &[u8]) -> Result<(Position, bool), Error> {
        match codec::open(LAYOUT, VERSION_OTHER_HASH, bytes) {
            Ok(reader) => Ok((Position::take(reader)?, false)),
            Err(Error::Version(..)) => Ok((Position::decode(bytes)?, true)),
            Err(error) => Err(error),
        }
    }

    fn take(mut reader: Reader<'_>) -> Result<Position, Error> {
        let consumed = match flag(&mut reader)? {
            true => Some(take_consumed(&mut reader)?),
            false => None,
        };
        let checkpoint = reader.varint()?.checked_sub(1);
        let membership = match flag(&mut reader)? {
            true => Some(Bytes::copy_from_slice(reader.bytes()?)),
            false => None,
        };
        let position = Position {
            consumed,
            checkpoint,
            membership,
            watermark_ms: reader.varint()?,
            events: reader.varint()?,
            tally: Tally { counted: reader.varint()?, duplicate: reader.varint()?, quarantined: reader.varint()? },
            quarantined_entries: reader.varint()?,
            clock_ms: reader.varint()?,
            rollups: reader.varint()?,
            rows_digest: reader.u64()?,
            identities_digest: reader.u64()?,
        };
        reader.end()?;
        Ok(position)
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Error> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.invalid("flag")),
    }
}

fn take_consumed(reader: &mut Reader<'_>) -> Result<LogPosition, Error> {
    let (term, leader) = (Term(reader.varint()?), NodeId(reader.varint()?));
    Ok(LogPosition { term, leader, offset: Offset(reader.varint()?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::golden;
    use proptest::prelude::*;

    fn position() -> Position {
        Position {
            consumed: Some(LogPosition { term: Term(3), leader: NodeId(2), offset: Offset(900) }),
            checkpoint: Some(907),
            membership: Some(Bytes::from_static(b"members")),
            watermark_ms: 1_795_464_903_123,
            events: 1000,
            tally: Tally { counted: 900, duplicate: 70, quarantined: 30 },
            quarantined_entries: 1,
            clock_ms: 1_795_464_905_000,
            rollups: 12,
            rows_digest: 0x0123_4567_89ab_cdef,
            identities_digest: 7,
        }
    }

    #[test]
    fn layout_never_changes() {
        golden::check("partition-state-v2", &position().encode());
        assert_eq!(Position::decode(&golden::read("partition-state-v2")), Ok(position()));
        assert_eq!(Position::decode_any(&golden::read("partition-state-v2")), Ok((position(), true)));
        assert_eq!(Position::decode_any(&golden::read("partition-state-v1")), Ok((position(), false)));
        assert!(Position::decode(&golden::read("partition-state-v1")).is_err());
        assert_eq!(Position::decode(&Position::default().encode()), Ok(Position::default()));
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let good = position().encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Position::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_behind_a_good_checksum_are_read_without_panic(bytes: Vec<u8>) {
            let mut sealed = codec::begin(VERSION);
            sealed.extend_from_slice(&bytes);
            let _ = Position::decode(&codec::seal(sealed));
        }
    }
}
