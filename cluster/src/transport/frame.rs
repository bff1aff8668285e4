//! The bytes of a frame: what two nodes say to each other, one after the other, on a connection.
//!
//! A frame is a prelude of 32 bytes, then the header, then the body. Numbers are little-endian.
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 1 | version | 1; the first byte in every version |
//! | 1 | 1 | type | 1 hello, 2 welcome, 3 request, 4 response, 5 failure |
//! | 2 | 1 | kind | request: its kind; failure: its reason; otherwise 0 |
//! | 3 | 1 | flags | 0 |
//! | 4 | 2 | group | request: the Raft group; otherwise 0 |
//! | 6 | 2 | reserved | 0 |
//! | 8 | 8 | request id | request: drawn by the caller, ascending on a connection; response, failure: the one answered; otherwise 0 |
//! | 16 | 4 | header length | bytes, at most 1 MiB |
//! | 20 | 4 | body length | bytes, at most 16 MiB |
//! | 24 | 4 | payload checksum | crc32c of header and body |
//! | 28 | 4 | prelude checksum | crc32c of bytes 0..28 |
//! | 32 | … | header | |
//! | … | … | body | |
//!
//! The prelude has its own checksum because its lengths decide how much memory is taken before the rest has arrived.

use crate::GroupId;
use bytes::Bytes;

/// The version of this layout.
pub const VERSION: u8 = 1;
/// Bytes of a prelude.
pub(super) const PRELUDE_BYTES: usize = 32;
/// Largest header of a frame in bytes: envelopes are a few hundred bytes, memberships and slot tables some thousand.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// Largest body of a frame in bytes: replication sends about 1 MiB at a time, one entry has at most some MiB.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

const CHECKED_BYTES: usize = PRELUDE_BYTES - 4;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameType {
    /// Who connects. The first frame on a connection.
    Hello,
    /// Who answers, and whether it talks to whom it heard. The second frame on a connection.
    Welcome,
    /// A question of this kind.
    Request(u8),
    /// The answer to a request.
    Response,
    /// There will be no answer.
    Failure(FailureReason),
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureReason {
    /// Whoever had to answer gave up.
    Unanswered,
    /// Only nodes of the cluster may ask this.
    NotForStrangers,
}

/// How large a frame may be where it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameLimits {
    pub header_bytes_max: usize,
    pub body_bytes_max: usize,
}

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prelude {
    pub frame: FrameType,
    pub group: GroupId,
    pub id: u64,
    pub header_bytes: usize,
    pub body_bytes: usize,
    pub payload_checksum: u32,
}

/// What a frame carries behind its prelude.
#[derive(Debug, Clone, Default)]
pub(super) struct Payload {
    header: Bytes,
    body: Vec<Bytes>,
    body_bytes: usize,
    checksum: u32,
}

/// A frame ready to be written.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub prelude: [u8; PRELUDE_BYTES],
    payload: Payload,
}

/// What is wrong with received bytes. The connection they came on cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("frame of version {0}, this node speaks version {VERSION}")]
    Version(u8),
    #[error(
        "HTTP is spoken there: this is the address for clients, the one for nodes is wanted (--cluster-addr, port 3601 by \
         default)"
    )]
    Http,
    #[error("checksum of a frame's prelude is wrong")]
    PreludeChecksum,
    #[error("checksum of a frame's header and body is wrong")]
    PayloadChecksum,
    #[error("frame of unknown type {0} and kind {1}")]
    Type(u8, u8),
    #[error("reserved bytes of a frame are not zero")]
    Reserved,
    #[error("frame of {header_bytes} + {body_bytes} bytes exceeds the limits")]
    TooLarge { header_bytes: usize, body_bytes: usize },
    #[error("a {0:?} frame has no place here")]
    Unexpected(FrameType),
    #[error("answer to request {0}, which was never sent")]
    NeverAsked(u64),
    #[error("hello or welcome does not follow its layout")]
    Handshake,
}

impl FrameType {
    fn encode(self) -> (u8, u8) {
        match self {
            FrameType::Hello => (1, 0),
            FrameType::Welcome => (2, 0),
            FrameType::Request(kind) => (3, kind),
            FrameType::Response => (4, 0),
            FrameType::Failure(FailureReason::Unanswered) => (5, 0),
            FrameType::Failure(FailureReason::NotForStrangers) => (5, 1),
        }
    }

    fn decode(code: u8, kind: u8) -> Result<FrameType, FrameError> {
        Ok(match (code, kind) {
            (1, 0) => FrameType::Hello,
            (2, 0) => FrameType::Welcome,
            (3, kind) => FrameType::Request(kind),
            (4, 0) => FrameType::Response,
            (5, 0) => FrameType::Failure(FailureReason::Unanswered),
            (5, 1) => FrameType::Failure(FailureReason::NotForStrangers),
            _ => return Err(FrameError::Type(code, kind)),
        })
    }
}

impl Prelude {
    /// Bytes of header and body.
    pub(super) fn payload_bytes(&self) -> usize {
        self.header_bytes + self.body_bytes
    }

    pub(super) fn encode(&self) -> [u8; PRELUDE_BYTES] {
        let (code, kind) = self.frame.encode();
        let mut bytes = [0; PRELUDE_BYTES];
        bytes[0] = VERSION;
        bytes[1] = code;
        bytes[2] = kind;
        bytes[4..6].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&length(self.header_bytes).to_le_bytes());
        bytes[20..24].copy_from_slice(&length(self.body_bytes).to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a prelude; what it announces is within `limits`.
    pub(super) fn decode(bytes: &[u8; PRELUDE_BYTES], limits: FrameLimits) -> Result<Prelude, FrameError> {
        if bytes.starts_with(b"HTTP/") {
            return Err(FrameError::Http);
        }
        // The version comes first: another version may keep its checksum elsewhere.
        if bytes[0] != VERSION {
            return Err(FrameError::Version(bytes[0]));
        }
        if crc32c::crc32c(&bytes[..CHECKED_BYTES]) != u32_at(bytes, CHECKED_BYTES) {
            return Err(FrameError::PreludeChecksum);
        }
        if bytes[3] != 0 || bytes[6..8] != [0, 0] {
            return Err(FrameError::Reserved);
        }
        let (header_bytes, body_bytes) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize);
        if header_bytes > limits.header_bytes_max || body_bytes > limits.body_bytes_max {
            return Err(FrameError::TooLarge { header_bytes, body_bytes });
        }
        Ok(Prelude {
            frame: FrameType::decode(bytes[1], bytes[2])?,
            group: GroupId(u16::from_le_bytes([bytes[4], bytes[5]])),
            id: u64::from(u32_at(bytes, 8)) | u64::from(u32_at(bytes, 12)) << 32,
            header_bytes,
            body_bytes,
            payload_checksum: u32_at(bytes, 24),
        })
    }

    /// Checks a received payload (header and body in one piece) and cuts it in two.
    pub(super) fn split(&self, mut payload: Bytes) -> Result<(Bytes, Bytes), FrameError> {
        assert_eq!(payload.len(), self.payload_bytes(), "the reader takes in exactly what the prelude announces");
        if crc32c::crc32c(&payload) != self.payload_checksum {
            return Err(FrameError::PayloadChecksum);
        }
        let header = payload.split_to(self.header_bytes);
        Ok((header, payload))
    }
}

impl Payload {
    /// Header and body of a frame to be, checksum taken. Both are within the format's limits: callers check what they
    /// take in.
    pub(super) fn new(header: Bytes, body: Vec<Bytes>) -> Payload {
        let checksum = body.iter().fold(crc32c::crc32c(&header), |sum, part| crc32c::crc32c_append(sum, part));
        let body_bytes = bytes_of(&body);
        Payload { header, body, body_bytes, checksum }
    }
}

impl Frame {
    pub(super) fn new(frame: FrameType, group: GroupId, id: u64, payload: Payload) -> Frame {
        let prelude = Prelude {
            frame,
            group,
            id,
            header_bytes: payload.header.len(),
            body_bytes: payload.body_bytes,
            payload_checksum: payload.checksum,
        };
        Frame { prelude: prelude.encode(), payload }
    }

    /// All its bytes, prelude included.
    pub(super) fn len(&self) -> usize {
        PRELUDE_BYTES + self.payload.header.len() + self.payload.body_bytes
    }

    /// The pieces of its payload in the order they are written.
    pub(super) fn parts(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.payload.header).chain(self.payload.body)
    }
}

/// Bytes of a body in slices.
pub(super) fn bytes_of(body: &[Bytes]) -> usize {
    body.iter().map(Bytes::len).sum()
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("the limits of a frame fit 32 bits")
}

fn u32_at(bytes: &[u8; PRELUDE_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::limits::Limits;
    use proptest::prelude::*;

    fn limits() -> FrameLimits {
        Limits::default().of_nodes()
    }

    fn bytes(frame: Frame) -> Vec<u8> {
        let mut bytes = frame.prelude.to_vec();
        frame.parts().for_each(|part| bytes.extend_from_slice(&part));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<(Prelude, Bytes, Bytes), FrameError> {
        let prelude = Prelude::decode(bytes.first_chunk().unwrap(), limits())?;
        let payload = Bytes::copy_from_slice(&bytes[PRELUDE_BYTES..]);
        let (header, body) = prelude.split(payload)?;
        Ok((prelude, header, body))
    }

    fn frame_types() -> impl Strategy<Value = FrameType> {
        prop_oneof![
            Just(FrameType::Hello),
            Just(FrameType::Welcome),
            any::<u8>().prop_map(FrameType::Request),
            Just(FrameType::Response),
            Just(FrameType::Failure(FailureReason::Unanswered)),
            Just(FrameType::Failure(FailureReason::NotForStrangers)),
        ]
    }

    fn pieces() -> impl Strategy<Value = Vec<Bytes>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from), 0..5)
    }

    proptest! {
        #[test]
        fn frame_survives_the_wire(
            frame in frame_types(), group: u16, id: u64, header in prop::collection::vec(any::<u8>(), 0..200), body in pieces(),
        ) {
            let payload = Payload::new(Bytes::from(header.clone()), body.clone());
            let encoded = Frame::new(frame, GroupId(group), id, payload);
            let length = encoded.len();
            let bytes = bytes(encoded);
            prop_assert_eq!(bytes.len(), length);
            let (prelude, received_header, received_body) = decode(&bytes).unwrap();
            prop_assert_eq!((prelude.frame, prelude.group, prelude.id), (frame, GroupId(group), id));
            prop_assert_eq!(&received_header[..], &header[..]);
            prop_assert_eq!(&received_body[..], &body.concat()[..]);
        }

        #[test]
        fn changed_bits_are_found(
            header in prop::collection::vec(any::<u8>(), 0..60), body in pieces(), place: prop::sample::Index, bit in 0..8,
        ) {
            let payload = Payload::new(Bytes::from(header), body);
            let mut bytes = bytes(Frame::new(FrameType::Request(7), GroupId(1), 99, payload));
            let place = place.index(bytes.len());
            bytes[place] ^= 1_u8 << bit;
            prop_assert!(decode(&bytes).is_err(), "bit {} of byte {}", bit, place);
        }

        #[test]
        fn any_prelude_is_refused_or_within_the_limits(mut bytes: [u8; PRELUDE_BYTES], is_sealed: bool) {
            if is_sealed {
                bytes[0] = VERSION;
                bytes[3] = 0;
                bytes[6..8].fill(0);
                bytes[19] = 0;
                let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
                bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
            }
            if let Ok(prelude) = Prelude::decode(&bytes, limits()) {
                prop_assert!(prelude.header_bytes <= HEADER_BYTES_MAX && prelude.body_bytes <= BODY_BYTES_MAX);
                prop_assert_eq!(prelude.encode(), bytes, "one layout for one meaning");
            }
        }
    }

    #[test]
    fn limits_are_reached_and_not_crossed() {
        let prelude = |header_bytes, body_bytes| {
            let (frame, group) = (FrameType::Response, GroupId::METADATA);
            Prelude { frame, group, id: 1, header_bytes, body_bytes, payload_checksum: 0 }.encode()
        };
        let limits = FrameLimits { header_bytes_max: 10, body_bytes_max: 20 };
        assert!(Prelude::decode(&prelude(10, 20), limits).is_ok());
        for (header_bytes, body_bytes) in [(11, 20), (10, 21)] {
            let refused = Prelude::decode(&prelude(header_bytes, body_bytes), limits);
            assert_eq!(refused, Err(FrameError::TooLarge { header_bytes, body_bytes }));
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = bytes(Frame::new(FrameType::Response, GroupId::METADATA, 1, Payload::default()));
        bytes[0] = 9;
        assert_eq!(decode(&bytes), Err(FrameError::Version(9)));
    }

    #[test]
    fn an_http_server_is_recognised() {
        let error = decode(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap_err();
        assert_eq!(error, FrameError::Http);
        assert!(error.to_string().contains("--cluster-addr"), "{error}");
    }
}
