//! An entry of a partition's log: events, or a checkpoint.
//!
//! | field | size | meaning |
//! |---|---|---|
//! | kind | 1 | 1 = events, 2 = checkpoint |
//! | body | | an events entry (below) or a [checkpoint](super::checkpoint) |
//!
//! An events entry carries the parts of many requests. Every replica reads its header when it applies the entry, only an
//! aggregator reads the batches:
//!
//! | field | size | meaning |
//! |---|---|---|
//! | header length | 4 | bytes of the header, little endian |
//! | header | | a sealed layout (version 1, CRC32C): |
//! | – edge | 16 | the node (and start of it) that made the entry, random, little endian |
//! | – edge sequence | varint | its number there; edge and number together make a retried append known |
//! | – stamp | varint | wall clock of that node, ms since the epoch |
//! | – parts | varint | how many follow |
//! | – part | each | events (varint), bytes of its batch (varint), has an identity (0 or 1), and if so: producer (length, bytes), sequence (varint), body hash (8, little endian), earliest and latest event time its lines were read with (varints, ms since the epoch) |
//! | batches | | of the parts, one after the other; a part without events has none |

use super::batch::BATCH_BYTES_MAX;
use super::checkpoint::{Checkpoint, DELTA_RATIO};
use super::codec::{self, Error, Reader, put_bytes, put_limits, put_varint, take_limits};
use crate::domain::{Identity, ProducerId, Sequence};
use bytes::Bytes;

const LAYOUT: &str = "events entry";
const VERSION: u8 = 1;
const KIND_EVENTS: u8 = 1;
const KIND_CHECKPOINT: u8 = 2;

/// Largest entry in bytes: what the log takes. It is what the deltas of the largest entry of events take at most
/// ([`super::DELTA_RATIO`]), because one entry's events must fit into one checkpoint.
pub const ENTRY_BYTES_MAX: usize = 13 << 20;

/// Largest entry of events in bytes: one that was about to be closed when a part of the largest size came.
const EVENTS_BYTES_MAX: usize = ENTRY_BYTES_TARGET + BATCH_BYTES_MAX + 1024;

const _: () = assert!(DELTA_RATIO * EVENTS_BYTES_MAX <= ENTRY_BYTES_MAX);

/// An entry of events is closed when its batches have so many bytes: large enough that the cost of an entry is spread
/// over thousands of events, small enough that the next one follows within milliseconds.
pub const ENTRY_BYTES_TARGET: usize = 256 << 10;

/// Parts an entry holds at most.
pub const PARTS_MAX: usize = 8192;

/// A decoded entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Events of many requests.
    Events(EventsEntry),
    /// An aggregator's progress.
    Checkpoint(Checkpoint),
}

/// Events of many requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsEntry {
    /// Which node, in which of its lives, made it.
    pub edge: u128,
    /// Its number there.
    pub edge_sequence: u64,
    /// That node's wall clock, ms since the epoch.
    pub stamp_ms: u64,
    /// What it carries.
    pub parts: Vec<Part>,
}

/// The events of one request that go to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Who sent the request, if it said so.
    pub identity: Option<Identity>,
    /// How many events there are.
    pub events: u32,
    /// Their [batch](super::batch); empty if there are none.
    pub batch: Bytes,
}

impl Entry {
    /// Reads an entry; batches are slices of `bytes`, unread.
    pub fn decode(bytes: &Bytes) -> Result<Entry, Error> {
        match Entry::checkpoint(bytes) {
            Some(checkpoint) => Checkpoint::decode(checkpoint).map(Entry::Checkpoint),
            None => EventsEntry::decode(bytes).map(Entry::Events),
        }
    }

    /// The bytes of the [`Checkpoint`] in an encoded entry, if it says that it holds one.
    pub fn checkpoint(bytes: &[u8]) -> Option<&[u8]> {
        bytes.strip_prefix(&[KIND_CHECKPOINT])
    }

    /// Writes an entry.
    pub fn encode(&self) -> Bytes {
        match self {
            Entry::Events(events) => events.encode(),
            Entry::Checkpoint(checkpoint) => {
                let body = checkpoint.encode();
                let mut out = Vec::with_capacity(1 + body.len());
                out.push(KIND_CHECKPOINT);
                out.extend_from_slice(&body);
                out.into()
            }
        }
    }
}

impl EventsEntry {
    /// How many events all parts have.
    pub fn events(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.events)).sum()
    }

    /// Writes it as an [`Entry`].
    pub fn encode(&self) -> Bytes {
        let mut header = codec::begin(VERSION);
        header.extend_from_slice(&self.edge.to_le_bytes());
        put_varint(&mut header, u128::from(self.edge_sequence));
        put_varint(&mut header, u128::from(self.stamp_ms));
        put_varint(&mut header, self.parts.len() as u128);
        for part in &self.parts {
            put_varint(&mut header, u128::from(part.events));
            put_varint(&mut header, part.batch.len() as u128);
            header.push(u8::from(part.identity.is_some()));
            if let Some(identity) = &part.identity {
                put_bytes(&mut header, identity.producer.as_str().as_bytes());
                put_varint(&mut header, u128::from(identity.sequence.0));
                header.extend_from_slice(&identity.body_hash.to_le_bytes());
                put_limits(&mut header, identity.limits);
            }
        }
        let header = codec::seal(header);
        let batches: usize = self.parts.iter().map(|part| part.batch.len()).sum();
        let mut out = Vec::with_capacity(5 + header.len() + batches);
        out.push(KIND_EVENTS);
        out.extend_from_slice(&u32::try_from(header.len()).expect("PARTS_MAX bounds the header").to_le_bytes());
        out.extend_from_slice(&header);
        for part in &self.parts {
            out.extend_from_slice(&part.batch);
        }
        out.into()
    }

    /// The stamp of an encoded [`Entry`] of events, unchecked; `None` of anything else.
    pub fn stamp_of(entry: &[u8]) -> Option<u64> {
        let [KIND_EVENTS, rest @ ..] = entry else { return None };
        let mut reader = Reader::new(LAYOUT, rest);
        // The header's length, its version and checksum, the edge.
        reader.take(4 + 5 + 16).ok()?;
        reader.varint().ok()?;
        reader.varint().ok()
    }

    /// Reads an [`Entry`] of events; batches are slices of `bytes`, unread.
    pub fn decode(bytes: &Bytes) -> Result<EventsEntry, Error> {
        match bytes.first() {
            Some(&KIND_EVENTS) => EventsEntry::decode_body(&bytes.slice(1..)),
            Some(_) => Err(Error::Invalid("entry", "kind")),
            None => Err(Error::Truncated("entry")),
        }
    }

    fn decode_body(bytes: &Bytes) -> Result<EventsEntry, Error> {
        let mut outer = Reader::new(LAYOUT, bytes);
        let header_length = outer.u32()? as usize;
        let mut header = codec::open(LAYOUT, VERSION, outer.take(header_length)?)?;
        let edge = header.u128()?;
        let (edge_sequence, stamp_ms, count) = (header.varint()?, header.varint()?, header.length()?);
        if count > PARTS_MAX {
            return Err(header.invalid("number of parts"));
        }
        let mut parts = Vec::with_capacity(count);
        let mut place = 4 + header_length;
        for _ in 0..count {
            let events = u32::try_from(header.varint()?).map_err(|_| header.invalid("number of events"))?;
            let length = header.length()?;
            let end = place.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(Error::Truncated(LAYOUT))?;
            let identity = match header.byte()? {
                0 => None,
                1 => Some(decode_identity(&mut header)?),
                _ => return Err(header.invalid("identity flag")),
            };
            if (events == 0) != (length == 0) {
                return Err(header.invalid("number of events"));
            }
            parts.push(Part { identity, events, batch: bytes.slice(place..end) });
            place = end;
        }
        header.end()?;
        if place != bytes.len() {
            return Err(header.invalid("tail"));
        }
        Ok(EventsEntry { edge, edge_sequence, stamp_ms, parts })
    }
}

fn decode_identity(header: &mut Reader<'_>) -> Result<Identity, Error> {
    let producer = ProducerId::new(header.text()?).ok_or(header.invalid("producer"))?;
    let (sequence, body_hash) = (Sequence(header.varint()?), header.u64()?);
    Ok(Identity { producer, sequence, body_hash, limits: take_limits(header)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventTime, ResponseTime, TimeLimits};
    use crate::format::batch::BatchBuilder;
    use crate::format::golden;
    use proptest::prelude::*;

    fn part(producer: Option<&str>, events: u32) -> Part {
        let mut batch = BatchBuilder::default();
        (0..events).for_each(|event| batch.add("app", EventTime(u64::from(event)), ResponseTime(7)));
        let identity = producer.map(|producer| Identity {
            producer: ProducerId::new(producer).unwrap(),
            sequence: Sequence(9),
            body_hash: 77,
            limits: TimeLimits { earliest: EventTime(0), latest: EventTime(1_795_465_503_123) },
        });
        Part { identity, events, batch: if events == 0 { Bytes::new() } else { batch.finish() } }
    }

    fn entry() -> EventsEntry {
        let parts = vec![part(None, 2), part(Some("loader"), 0), part(Some("p"), 3)];
        EventsEntry { edge: 5 << 100, edge_sequence: 300, stamp_ms: 1_795_464_903_123, parts }
    }

    #[test]
    fn layout_never_changes() {
        golden::check("events-entry-v1", &entry().encode());
        assert_eq!(Entry::decode(&golden::read("events-entry-v1").into()), Ok(Entry::Events(entry())));
    }

    #[test]
    fn any_flipped_bit_of_the_header_is_refused() {
        let good = entry().encode();
        let batches: usize = entry().parts.iter().map(|part| part.batch.len()).sum();
        for place in 0..good.len() - batches {
            for bit in 0..8 {
                let mut bytes = good.to_vec();
                bytes[place] ^= 1 << bit;
                assert!(Entry::decode(&bytes.into()).is_err(), "byte {place}, bit {bit}");
            }
        }
    }

    #[test]
    fn the_stamp_is_read_without_the_rest() {
        assert_eq!(EventsEntry::stamp_of(&entry().encode()), Some(1_795_464_903_123));
        assert_eq!(EventsEntry::stamp_of(&entry().encode()[..20]), None);
        assert_eq!(EventsEntry::stamp_of(&[KIND_CHECKPOINT, 1, 2, 3]), None);
        assert_eq!(EventsEntry::stamp_of(&[]), None);
    }

    #[test]
    fn batches_are_slices_of_the_entry() {
        let bytes = entry().encode();
        let Ok(Entry::Events(decoded)) = Entry::decode(&bytes) else { panic!("the entry is good") };
        let inside = bytes.as_ptr_range();
        for part in decoded.parts.iter().filter(|part| part.events > 0) {
            assert!(inside.contains(&part.batch.as_ptr()), "copied");
        }
    }

    #[test]
    fn a_damaged_batch_is_left_to_those_who_read_it() {
        let good = entry();
        let mut bytes = good.encode().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let Ok(Entry::Events(decoded)) = Entry::decode(&bytes.into()) else { panic!("the header is good") };
        assert_eq!(decoded.parts[..2], good.parts[..2]);
        assert!(crate::format::Batch::decode(&decoded.parts[2].batch).is_err());
    }

    #[test]
    fn more_parts_than_allowed_are_refused() {
        let parts = |count| EventsEntry { edge: 1, edge_sequence: 1, stamp_ms: 1, parts: vec![part(None, 0); count] };
        assert_eq!(Entry::decode(&parts(PARTS_MAX).encode()), Ok(Entry::Events(parts(PARTS_MAX))));
        assert!(Entry::decode(&parts(PARTS_MAX + 1).encode()).is_err());
    }

    proptest! {
        #[test]
        fn entries_round_trip(
            edge: u128,
            edge_sequence: u64,
            stamp_ms: u64,
            parts in prop::collection::vec((prop::option::of(("[^\\p{Cc}]{1,20}", any::<[u64; 4]>())), 0u32..5), 0..6),
        ) {
            let part = |(identity, events): (Option<(String, [u64; 4])>, u32)| Part {
                identity: identity.map(|(producer, [sequence, body_hash, earliest, latest])| Identity {
                    producer: ProducerId::new(&producer).unwrap(),
                    sequence: Sequence(sequence),
                    body_hash,
                    limits: TimeLimits { earliest: EventTime(earliest), latest: EventTime(latest) },
                }),
                ..part(None, events)
            };
            let entry = EventsEntry { edge, edge_sequence, stamp_ms, parts: parts.into_iter().map(part).collect() };
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(Entry::Events(entry)));
        }

        #[test]
        fn any_bytes_are_read_without_panic(kind in 0u8..3, bytes: Vec<u8>) {
            let mut sealed = codec::begin(VERSION);
            sealed.extend_from_slice(&bytes);
            let header = codec::seal(sealed);
            let mut entry = vec![kind];
            entry.extend_from_slice(&(header.len() as u32).to_le_bytes());
            entry.extend_from_slice(&header);
            let _ = Entry::decode(&entry.into());
        }
    }
}
