//! What the nodes of a group say to each other: envelopes in postcard, entries' payloads beside them as plain bytes.
//!
//! Every envelope starts with a version byte. The transport checks lengths and checksums; what fails to decode here is a
//! peer of another version, and is refused, never guessed.

use super::types::{Ballot, Data, Entry, Members, TypeConfig, Vote, log_id, position};
use crate::LogPosition;
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;

/// Version of all envelopes of this file.
const VERSION: u8 = 1;

/// A record of the log, or an entry on the wire, without payload: a leader's first entry.
pub const KIND_BLANK: u8 = 0;
/// Bytes that were appended.
pub const KIND_DATA: u8 = 1;
/// A change of members ([`Members`]).
pub const KIND_MEMBERS: u8 = 2;

/// Encodes an envelope.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_extend(value, vec![VERSION]).expect("plain data encodes into memory").into()
}

/// Decodes an envelope; `InvalidData` if it is of another version or malformed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(invalid),
        Some((version, _)) => Err(invalid(format!("envelope of version {version}"))),
        None => Err(invalid("empty envelope")),
    }
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Envelope of an append: everything but the payloads, whose lengths it states in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    pub vote: Ballot,
    pub previous: Option<LogPosition>,
    pub commit: Option<LogPosition>,
    pub entries: Vec<EntryHead>,
}

/// An entry's place, kind and payload length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryHead {
    pub position: LogPosition,
    pub kind: u8,
    pub bytes: u32,
}

/// What a follower answers to an append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Appended {
    /// The log matches the leader's up to and including this entry, durably.
    Matches(Option<LogPosition>),
    /// It does not hold the entry that the new ones should follow.
    Conflict(LogPosition),
    /// It knows of a later leadership.
    HigherVote(Ballot),
    /// Not processed: the stream broke before it; send again.
    Aborted,
    /// Not processed: the follower's disk is full; send again later.
    NoSpace,
}

/// A candidate's request, for votes and for the question whether one would be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRequest {
    pub vote: Ballot,
    pub last: Option<LogPosition>,
    pub is_transfer: bool,
}

/// The answer to a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteAnswer {
    pub vote: Ballot,
    pub is_granted: bool,
    pub last: Option<LogPosition>,
}

/// A leader hands over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    pub from: Ballot,
    pub to: u64,
    pub last: Option<LogPosition>,
}

/// Steps of sending a snapshot; the chunk's bytes are the message's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotStep {
    /// Opens a transfer, and drops an older one of the same sender and group.
    Begin { transfer: u64, vote: Ballot, last: LogPosition, members: Members },
    /// The `sequence`-th chunk, from 0.
    Chunk { transfer: u64, sequence: u64 },
    /// All chunks were sent: install. Asked again until it is done.
    End { transfer: u64, chunks: u64 },
}

/// The answer to a step of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotAnswer {
    /// Taken; or, at the end, being installed.
    Received,
    /// Installed, or not wanted; the vote of the receiver.
    Installed(Ballot),
    /// The receiver does not know the transfer, or could not keep it: begin again.
    Lost,
}

/// A record's or wire entry's kind and payload.
pub fn pack(entry: &Entry) -> (u8, Bytes) {
    match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(Data(bytes)) => (KIND_DATA, bytes.clone()),
        EntryPayload::Membership(membership) => {
            (KIND_MEMBERS, Members::new(Some(position(&entry.log_id)), membership).encode())
        }
    }
}

/// The entry of a kind and payload.
pub fn unpack(at: LogPosition, kind: u8, payload: Bytes) -> io::Result<Entry> {
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_DATA => EntryPayload::Normal(Data(payload)),
        KIND_MEMBERS => EntryPayload::Membership(Members::decode(&payload)?.membership()?),
        kind => return Err(invalid(format!("log entry {at} of unknown kind {kind}"))),
    };
    Ok(Entry { log_id: log_id(at), payload })
}

/// Splits an append into envelope and payloads.
pub fn split_append(request: &AppendEntriesRequest<TypeConfig>) -> (Append, Vec<Bytes>) {
    let mut body = Vec::with_capacity(request.entries.len());
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let (kind, payload) = pack(entry);
        let bytes = u32::try_from(payload.len()).expect("a payload is far below 4 GiB");
        entries.push(EntryHead { position: position(&entry.log_id), kind, bytes });
        body.push(payload);
    }
    let append = Append {
        vote: Ballot::from(&request.vote),
        previous: request.prev_log_id.as_ref().map(position),
        commit: request.leader_commit.as_ref().map(position),
        entries,
    };
    (append, body)
}

/// Joins an envelope with the payloads, which stay slices of `body`.
pub fn join_append(append: Append, mut body: Bytes) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let mut entries = Vec::with_capacity(append.entries.len());
    for head in append.entries {
        let bytes = head.bytes as usize;
        if bytes > body.len() {
            return Err(invalid(format!("append ends inside entry {}", head.position)));
        }
        entries.push(unpack(head.position, head.kind, body.split_to(bytes))?);
    }
    if !body.is_empty() {
        return Err(invalid(format!("append has {} bytes behind its last entry", body.len())));
    }
    Ok(AppendEntriesRequest {
        vote: append.vote.into(),
        prev_log_id: append.previous.map(log_id),
        entries,
        leader_commit: append.commit.map(log_id),
    })
}

impl From<StreamAppendResult<TypeConfig>> for Appended {
    fn from(result: StreamAppendResult<TypeConfig>) -> Appended {
        match result {
            Ok(matching) => Appended::Matches(matching.as_ref().map(position)),
            Err(StreamAppendError::Conflict(at)) => Appended::Conflict(position(&at)),
            Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(Ballot::from(&vote)),
        }
    }
}

impl From<&openraft::raft::VoteRequest<TypeConfig>> for VoteRequest {
    fn from(request: &openraft::raft::VoteRequest<TypeConfig>) -> VoteRequest {
        VoteRequest {
            vote: Ballot::from(&request.vote),
            last: request.last_log_id.as_ref().map(position),
            is_transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteRequest> for openraft::raft::VoteRequest<TypeConfig> {
    fn from(request: VoteRequest) -> Self {
        let mut vote_request = openraft::raft::VoteRequest::new(request.vote.into(), request.last.map(log_id));
        vote_request.leadership_transfer = request.is_transfer;
        vote_request
    }
}

impl From<openraft::raft::VoteResponse<TypeConfig>> for VoteAnswer {
    fn from(response: openraft::raft::VoteResponse<TypeConfig>) -> VoteAnswer {
        VoteAnswer {
            vote: Ballot::from(&response.vote),
            is_granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(position),
        }
    }
}

impl From<VoteAnswer> for openraft::raft::VoteResponse<TypeConfig> {
    fn from(answer: VoteAnswer) -> Self {
        let vote: Vote = answer.vote.into();
        openraft::raft::VoteResponse::new(vote, answer.last.map(log_id), answer.is_granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeId, Offset, Term};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn at(offset: u64) -> LogPosition {
        LogPosition { term: Term(7), leader: NodeId(2), offset: Offset(offset) }
    }

    fn ballot() -> Ballot {
        Ballot { term: Term(7), node: NodeId(2), committed: true }
    }

    fn members() -> Members {
        let set = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        Members { position: Some(at(4)), voters: vec![set(&[1, 2]), set(&[1, 2, 3])], nodes: set(&[1, 2, 3, 4]) }
    }

    fn append() -> Append {
        let head = |offset, kind, bytes| EntryHead { position: at(offset), kind, bytes };
        let entries = vec![head(300, KIND_DATA, 70_000), head(301, KIND_BLANK, 0)];
        Append { vote: ballot(), previous: Some(at(299)), commit: None, entries }
    }

    /// Bytes that outlive a process, or cross to one of another version.
    fn golden() -> Vec<(&'static str, Bytes)> {
        vec![
            ("ballot", encode(&ballot())),
            ("members", encode(&members())),
            ("append", encode(&append())),
            ("appended", encode(&Appended::Conflict(at(299)))),
            ("vote", encode(&VoteRequest { vote: ballot(), last: Some(at(300)), is_transfer: true })),
            (
                "snapshot-begin",
                encode(&SnapshotStep::Begin { transfer: 9, vote: ballot(), last: at(300), members: members() }),
            ),
        ]
    }

    #[test]
    fn bytes_are_the_golden_ones() {
        let lines: Vec<String> = golden()
            .iter()
            .map(|(name, bytes)| {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{name} {hex}\n")
            })
            .collect();
        assert_eq!(lines.concat(), include_str!("../../tests/golden/raft.v1"));
        assert_eq!(decode::<Append>(&golden()[2].1).unwrap(), append());
        assert_eq!(decode::<Members>(&golden()[1].1).unwrap(), members());
    }

    #[test]
    fn members_survive_the_way_through_openraft() {
        let stored = members().stored().unwrap();
        assert_eq!(Members::of_stored(&stored), members());
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = encode(&ballot()).to_vec();
        bytes[0] = 2;
        assert!(decode::<Ballot>(&bytes).is_err());
        assert!(decode::<Ballot>(&[]).is_err());
    }

    #[test]
    fn a_body_that_does_not_fit_its_envelope_is_refused() {
        for bytes in [0, 69_999, 70_001] {
            assert!(join_append(append(), Bytes::from(vec![0; bytes])).is_err());
        }
    }

    proptest! {
        #[test]
        fn an_append_arrives_as_it_was_sent(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
            previous: Option<u8>,
        ) {
            let entries = payloads.iter().enumerate().map(|(index, payload)| {
                let (kind, payload) = match payload.len() {
                    0 => (KIND_BLANK, Bytes::new()),
                    1 => (KIND_MEMBERS, Members { position: Some(at(index as u64)), ..members() }.encode()),
                    _ => (KIND_DATA, Bytes::from(payload.clone())),
                };
                unpack(at(index as u64), kind, payload).unwrap()
            });
            let request = AppendEntriesRequest::<TypeConfig> {
                vote: ballot().into(),
                prev_log_id: previous.map(|previous| log_id(at(previous.into()))),
                entries: entries.collect(),
                leader_commit: None,
            };
            let (append, body) = split_append(&request);
            let append = decode(&encode(&append)).unwrap();
            let joined = join_append(append, body.concat().into()).unwrap();
            prop_assert_eq!(format!("{joined:?}"), format!("{request:?}"));
        }

        #[test]
        fn hostile_bytes_are_refused_without_a_panic(header: Vec<u8>, body: Vec<u8>) {
            if let Ok(append) = decode::<Append>(&header) {
                let _ = join_append(append, body.into());
            }
            let _ = decode::<SnapshotStep>(&header);
            let _ = decode::<Members>(&header).map(|members| members.membership());
        }
    }
}
