//! The bytes of a record. Integers are little-endian; a record begins at a multiple of 8 and is padded with zeros to one.
//!
//! ```text
//!   at  size  field
//!    0     4  length of the payload in bytes
//!    4     4  crc32c over the segment's salt, bytes 0..4, bytes 8..64 and the payload
//!    8     8  generation of the segment it was written for
//!   16     8  LSN: 1 for the first record of the log, then one more for each
//!   24     8  synced: every record up to this LSN had been fsynced when this one was written
//!   32     2  group
//!   34     1  kind (see Kind)
//!   35     1  flags: 1 = there is a position
//!   36     1  label: what the caller calls an entry; 1 for a state that more states follow; else 0
//!   37     3  zero
//!   40     8  position: term       (zero where there is none)
//!   48     8  position: leader
//!   56     8  position: offset
//!   64   ...  payload
//! ```
//!
//! | kind | position | payload |
//! |---|---|---|
//! | 1 entry | its own | the caller's |
//! | 2 vote | none | the caller's |
//! | 3 truncate | the last entry that stays, or none | none |
//! | 4 purge | the last entry that goes | none |
//! | 5 committed | what is committed, or none | none |
//! | 6 state | none | the group's state when the segment began, see [`encode_state`] |
//! | 7 mark | none | none: it exists for its `synced` |
//! | 8 reset | none | none: all entries went, and what was purged and committed is forgotten; what was the last one is not |
//!
//! The generation keeps stale bytes of a recycled file from being taken for records; the salt, drawn at random for every
//! segment, keeps bytes inside a payload from being taken for one.

use super::GroupState;
use super::index::LogState;
use crate::{GroupId, LogPosition, NodeId, Offset, Term};
use bytes::Bytes;

/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 64;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
/// The label of a state record behind which there is another: a segment has begun only with the last of them.
pub(super) const MORE_STATES: u8 = 1;
/// Bytes of a state record's payload before what not every state has.
const STATE_BYTES: usize = 88;
/// Bytes of a position.
const POSITION_BYTES: usize = 24;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Entry = 1,
    Vote = 2,
    Truncate = 3,
    Purge = 4,
    Committed = 5,
    State = 6,
    Mark = 7,
    Reset = 8,
}

/// A record's fields besides checksum and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub length: u32,
    pub generation: u64,
    pub lsn: u64,
    pub synced: u64,
    pub group: GroupId,
    pub kind: Kind,
    pub label: u8,
    pub position: Option<LogPosition>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The record would end behind the segment.
    Length,
    /// Of another generation: never written for this segment.
    Generation,
    /// Not as written.
    Checksum,
    /// As written, but by a version that knows more than this one.
    Unknown,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Entry, Kind::Vote, Kind::Truncate, Kind::Purge, Kind::Committed, Kind::State, Kind::Mark, Kind::Reset]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Bytes that a record takes in its segment.
pub(super) fn record_bytes(payload_bytes: usize) -> u64 {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT) as u64
}

/// Zeros that follow a payload.
pub(super) fn padding(payload_bytes: usize) -> &'static [u8] {
    &[0; ALIGNMENT][..payload_bytes.next_multiple_of(ALIGNMENT) - payload_bytes]
}

/// The first [`HEADER_BYTES`] of a record in a segment with this salt.
pub(super) fn encode(header: &Header, salt: u64, payload: &[u8]) -> [u8; HEADER_BYTES] {
    assert_eq!(header.length as usize, payload.len(), "a record's length is that of its payload");
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..4].copy_from_slice(&header.length.to_le_bytes());
    bytes[8..16].copy_from_slice(&header.generation.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.lsn.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.synced.to_le_bytes());
    bytes[32..34].copy_from_slice(&header.group.0.to_le_bytes());
    bytes[34] = header.kind as u8;
    bytes[35] = u8::from(header.position.is_some());
    bytes[36] = header.label;
    put_position(&mut bytes[40..64], header.position);
    let checksum = checksum(&bytes, salt, payload);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The record that `bytes` begin with, and its payload. `bytes` may go on behind it.
pub(super) fn decode(bytes: &[u8], salt: u64, generation: u64) -> Result<(Header, &[u8]), Flaw> {
    let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Flaw::Length)?;
    if u64_at(head, 8) != generation {
        return Err(Flaw::Generation);
    }
    let length = u32_at(head, 0);
    let payload = rest.get(..length as usize).ok_or(Flaw::Length)?;
    if u32_at(head, 4) != checksum(head, salt, payload) {
        return Err(Flaw::Checksum);
    }
    let kind = Kind::from_byte(head[34]).ok_or(Flaw::Unknown)?;
    if head[35] > 1 || head[37..40] != [0; 3] {
        return Err(Flaw::Unknown);
    }
    let header = Header {
        length,
        generation,
        lsn: u64_at(head, 16),
        synced: u64_at(head, 24),
        group: GroupId(u16::from_le_bytes([head[32], head[33]])),
        kind,
        label: head[36],
        position: (head[35] == 1).then(|| position_at(head, 40)),
    };
    Ok((header, payload))
}

/// The LSN of what could be a record of this generation, whole or torn: for finding what an unsynced write left behind.
pub(super) fn trace_of_record(bytes: &[u8], generation: u64) -> Option<u64> {
    let head = bytes.get(..24)?;
    (u64_at(head, 8) == generation).then(|| u64_at(head, 16))
}

/// The payload of a state record:
///
/// ```text
///   at  size  field
///    0     1  flags: 1 = purged, 2 = last, 4 = committed, 8 = vote, 16 = dropped
///    1     7  zero
///    8     8  offset of the first entry, or of the one after the last where there is none
///   16    24  purged     (term, leader, offset; zeros where there is none)
///   40    24  last
///   64    24  committed
///   88    24  dropped, only where there is one
///        ...  vote
/// ```
pub(super) fn encode_state(log: &LogState) -> Bytes {
    let state = &log.state;
    let vote = state.vote.as_deref().unwrap_or_default();
    let mut bytes = vec![0; STATE_BYTES];
    bytes[0] = u8::from(state.purged.is_some())
        | u8::from(state.last.is_some()) << 1
        | u8::from(state.committed.is_some()) << 2
        | u8::from(state.vote.is_some()) << 3
        | u8::from(state.dropped.is_some()) << 4;
    bytes[8..16].copy_from_slice(&log.first.0.to_le_bytes());
    put_position(&mut bytes[16..40], state.purged);
    put_position(&mut bytes[40..64], state.last);
    put_position(&mut bytes[64..88], state.committed);
    if state.dropped.is_some() {
        bytes.resize(STATE_BYTES + POSITION_BYTES, 0);
        put_position(&mut bytes[STATE_BYTES..], state.dropped);
    }
    bytes.extend_from_slice(vote);
    bytes.into()
}

/// The state in a state record's payload, or `None` if it is none.
pub(super) fn decode_state(bytes: &[u8]) -> Option<LogState> {
    let (head, rest) = bytes.split_first_chunk::<STATE_BYTES>()?;
    let has = |bit: u8| head[0] & bit != 0;
    let (dropped, vote) = match has(16) {
        true => {
            rest.split_first_chunk::<POSITION_BYTES>().map(|(dropped, vote)| (Some(position_at(dropped, 0)), vote))?
        }
        false => (None, rest),
    };
    if head[0] > 31 || head[1..8] != [0; 7] || (!has(8) && !vote.is_empty()) {
        return None;
    }
    let state = GroupState {
        vote: has(8).then(|| Bytes::copy_from_slice(vote)),
        purged: has(1).then(|| position_at(head, 16)),
        last: has(2).then(|| position_at(head, 40)),
        committed: has(4).then(|| position_at(head, 64)),
        dropped,
    };
    Some(LogState { first: Offset(u64_at(head, 8)), state })
}

fn checksum(head: &[u8; HEADER_BYTES], salt: u64, payload: &[u8]) -> u32 {
    let checksum = crc32c::crc32c(&salt.to_le_bytes());
    let checksum = crc32c::crc32c_append(checksum, &head[0..4]);
    let checksum = crc32c::crc32c_append(checksum, &head[8..]);
    crc32c::crc32c_append(checksum, payload)
}

fn put_position(bytes: &mut [u8], position: Option<LogPosition>) {
    if let Some(position) = position {
        bytes[0..8].copy_from_slice(&position.term.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&position.leader.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&position.offset.0.to_le_bytes());
    }
}

fn position_at(bytes: &[u8], at: usize) -> LogPosition {
    LogPosition {
        term: Term(u64_at(bytes, at)),
        leader: NodeId(u64_at(bytes, at + 8)),
        offset: Offset(u64_at(bytes, at + 16)),
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn position(term: u64, leader: u64, offset: u64) -> LogPosition {
        LogPosition { term: Term(term), leader: NodeId(leader), offset: Offset(offset) }
    }

    fn positions() -> impl Strategy<Value = Option<LogPosition>> {
        proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(a, b, c)| position(a, b, c)))
    }

    fn headers() -> impl Strategy<Value = Header> {
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u16>(), 1_u8..=8, any::<u8>(), positions()).prop_map(
            |(generation, lsn, synced, group, kind, label, position)| Header {
                length: 0,
                generation,
                lsn,
                synced,
                group: GroupId(group),
                kind: Kind::from_byte(kind).unwrap(),
                label,
                position,
            },
        )
    }

    fn whole(header: &Header, salt: u64, payload: &[u8]) -> Vec<u8> {
        [&encode(header, salt, payload)[..], payload, padding(payload.len())].concat()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            mut header in headers(), salt: u64, payload in proptest::collection::vec(any::<u8>(), 0..200),
            behind in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            header.length = payload.len() as u32;
            let mut bytes = whole(&header, salt, &payload);
            prop_assert_eq!(bytes.len() as u64, record_bytes(payload.len()));
            bytes.extend(behind);
            prop_assert_eq!(decode(&bytes, salt, header.generation), Ok((header, &payload[..])));
        }

        #[test]
        fn a_changed_bit_is_noticed(
            mut header in headers(), salt: u64, payload in proptest::collection::vec(any::<u8>(), 0..100), bit: usize,
        ) {
            header.length = payload.len() as u32;
            let mut bytes = whole(&header, salt, &payload);
            let bit = bit % ((HEADER_BYTES + payload.len()) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, salt, header.generation).is_err());
        }

        #[test]
        fn another_segments_record_is_refused(mut header in headers(), salt: u64, other: u64) {
            prop_assume!(salt != other);
            header.length = 3;
            let bytes = whole(&header, salt, b"abc");
            prop_assert_eq!(decode(&bytes, other, header.generation), Err(Flaw::Checksum));
            prop_assert_eq!(decode(&bytes, salt, header.generation ^ 1), Err(Flaw::Generation));
        }

        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let generation = bytes.get(8..16).map_or(0, |bytes| u64_at(bytes, 0));
            let _ = decode(&bytes, 0, generation);
            let _ = decode_state(&bytes);
        }

        #[test]
        fn a_state_is_decoded_as_it_was(
            first: u64, purged in positions(), last in positions(), committed in positions(), dropped in positions(),
            vote in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        ) {
            let state = GroupState { vote: vote.map(Bytes::from), purged, last, committed, dropped };
            let log = LogState { first: Offset(first), state };
            prop_assert_eq!(decode_state(&encode_state(&log)), Some(log));
        }
    }

    #[test]
    fn golden_records_decode_as_ever() {
        let salt = 0x1122_3344_5566_7788;
        let header = |lsn, kind, label, position, length| Header {
            length,
            generation: 7,
            lsn,
            synced: lsn - 1,
            group: GroupId(3),
            kind,
            label,
            position,
        };
        let state = encode_state(&LogState {
            first: Offset(11),
            state: GroupState {
                vote: Some(Bytes::from_static(b"vote")),
                purged: Some(position(1, 2, 10)),
                last: Some(position(2, 3, 12)),
                committed: None,
                dropped: None,
            },
        });
        let returned = encode_state(&LogState {
            first: Offset(0),
            state: GroupState {
                vote: Some(Bytes::from_static(b"vote")),
                dropped: Some(position(4, 1, 14)),
                ..GroupState::default()
            },
        });
        let records = [
            (header(100, Kind::State, MORE_STATES, None, state.len() as u32), state),
            (header(101, Kind::Vote, 0, None, 5), Bytes::from_static(b"vote2")),
            (header(102, Kind::Entry, 9, Some(position(3, 1, 13)), 7), Bytes::from_static(b"payload")),
            (header(103, Kind::Truncate, 0, Some(position(2, 3, 12)), 0), Bytes::new()),
            (header(104, Kind::Purge, 0, Some(position(2, 3, 11)), 0), Bytes::new()),
            (header(105, Kind::Committed, 0, None, 0), Bytes::new()),
            (header(106, Kind::Mark, 0, None, 0), Bytes::new()),
            (header(107, Kind::Reset, 0, None, 0), Bytes::new()),
            (header(108, Kind::State, 0, None, returned.len() as u32), returned),
        ];
        let bytes: Vec<u8> = records.iter().flat_map(|(header, payload)| whole(header, salt, payload)).collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/log-records-1.bin");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &bytes).unwrap();
        }
        let golden = std::fs::read(path).unwrap();
        assert_eq!(golden, bytes, "the layout of records has changed");
        let mut rest = &golden[..];
        for (header, payload) in &records {
            assert_eq!(decode(rest, salt, 7), Ok((*header, &payload[..])));
            rest = &rest[record_bytes(payload.len()) as usize..];
        }
        assert!(rest.is_empty());
    }
}
