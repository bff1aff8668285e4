//! Who talks to whom: the first two frames of a connection.
//!
//! The one who connects says hello: which cluster, which node it is, which node it means, which lane. The other answers
//! with its own identity and a verdict. Both sides check: a node of another cluster, or another node than the one meant
//! (a reused address, a copied data directory), would otherwise vote and acknowledge in the wrong name. The numbers are
//! claims, not proofs: whoever reaches the port can make them.
//!
//! Hello, the header of a frame of type 1 (its body is empty):
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 1 | version | newest frame version that the caller speaks |
//! | 1 | 1 | role | 0 node, 1 stranger |
//! | 2 | 1 | lane | 0 control, 1 bulk |
//! | 3 | 5 | reserved | 0 |
//! | 8 | 8 | from | the caller's node id; 0 from a stranger |
//! | 16 | 8 | to | the node that is meant; 0 from a stranger: whoever answers |
//! | 24 | 16 | cluster | the caller's cluster id; 0 from a stranger |
//!
//! Welcome, the header of a frame of type 2 (its body is empty):
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 1 | version | the frame version to be spoken from here on |
//! | 1 | 1 | verdict | 0 welcome, 1 other cluster, 2 other node, 3 same node, 4 too many connections |
//! | 2 | 6 | reserved | 0 |
//! | 8 | 8 | node | the answerer's node id |
//! | 16 | 16 | cluster | the answerer's cluster id |

use super::frame::{Frame, FrameError, FrameLimits, FrameType, Payload, VERSION};
use super::limits::Limits;
use super::message::{Identity, Lane, Peer};
use super::reader::{FrameReader, ReadError, Received};
use super::stats::Counters;
use super::writer::write_frames;
use crate::{ClusterId, GroupId, NodeId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

const HELLO_BYTES: usize = 40;
const WELCOME_BYTES: usize = 32;

/// Nothing larger is read before both sides have said who they are.
pub(super) const LIMITS: FrameLimits = FrameLimits { header_bytes_max: 64, body_bytes_max: 0 };

/// What the one who connects says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hello {
    Node { version: u8, identity: Identity, to: NodeId, lane: Lane },
    Stranger { version: u8 },
}

/// What the answerer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Welcome {
    pub version: u8,
    pub verdict: Verdict,
    pub identity: Identity,
}

/// Whether the answerer goes on with this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Welcome,
    OtherCluster,
    OtherNode,
    SameNode,
    TooManyConnections,
}

/// Says hello on a new connection and waits for the answer.
pub(super) async fn greet<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    writer: &mut W,
    hello: &Hello,
    limits: &Limits,
    counters: &Counters,
) -> Result<Welcome, ReadError> {
    let patience = limits.handshake_timeout;
    let greeting = async {
        write_frames(writer, vec![hello.frame()], patience, counters).await?;
        let received = reader.next(LIMITS, patience).await?;
        counters.bytes_in.add(received.len());
        Ok(Welcome::read(&received)?)
    };
    timeout(patience, greeting).await.unwrap_or(Err(ReadError::Idle(patience)))
}

/// Waits for the hello on a new connection.
pub(super) async fn expect_hello<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    limits: &Limits,
    counters: &Counters,
) -> Result<Hello, ReadError> {
    let patience = limits.handshake_timeout;
    let received = timeout(patience, reader.next(LIMITS, patience)).await;
    let received = received.unwrap_or(Err(ReadError::Idle(patience)))?;
    counters.bytes_in.add(received.len());
    Ok(Hello::read(&received)?)
}

impl Hello {
    pub(super) fn node(identity: Identity, to: NodeId, lane: Lane) -> Hello {
        Hello::Node { version: VERSION, identity, to, lane }
    }

    pub(super) fn stranger() -> Hello {
        Hello::Stranger { version: VERSION }
    }

    /// Who says it.
    pub(super) fn peer(&self) -> Peer {
        match self {
            Hello::Node { identity, .. } => Peer::Node(identity.node),
            Hello::Stranger { .. } => Peer::Stranger,
        }
    }

    /// Whether a node with this identity goes on with whoever said this.
    pub(super) fn verdict(&self, own: Identity) -> Verdict {
        match *self {
            Hello::Stranger { .. } => Verdict::Welcome,
            Hello::Node { identity, .. } if identity.cluster != own.cluster => Verdict::OtherCluster,
            Hello::Node { to, .. } if to != own.node => Verdict::OtherNode,
            Hello::Node { identity, .. } if identity.node == own.node => Verdict::SameNode,
            Hello::Node { .. } => Verdict::Welcome,
        }
    }

    pub(super) fn frame(&self) -> Frame {
        let mut header = BytesMut::with_capacity(HELLO_BYTES);
        let (version, role, lane, from, to, cluster) = match *self {
            Hello::Node { version, identity, to, lane } => {
                (version, 0, lane_code(lane), identity.node.0, to.0, identity.cluster.0)
            }
            Hello::Stranger { version } => (version, 1, 0, 0, 0, 0),
        };
        header.put_slice(&[version, role, lane, 0, 0, 0, 0, 0]);
        header.put_u64_le(from);
        header.put_u64_le(to);
        header.put_u128_le(cluster);
        control_frame(FrameType::Hello, header.freeze())
    }

    pub(super) fn read(received: &Received) -> Result<Hello, FrameError> {
        let mut header = control_header(received, FrameType::Hello, HELLO_BYTES)?;
        let (version, role, lane) = (header.get_u8(), header.get_u8(), header.get_u8());
        let reserved = header.get_uint_le(5);
        let (from, to, cluster) = (header.get_u64_le(), header.get_u64_le(), header.get_u128_le());
        if reserved != 0 || version < VERSION {
            return Err(FrameError::Handshake);
        }
        match (role, lane_of(lane)) {
            (0, Some(lane)) if from != 0 => {
                let identity = Identity { cluster: ClusterId(cluster), node: NodeId(from) };
                Ok(Hello::Node { version, identity, to: NodeId(to), lane })
            }
            (1, Some(Lane::Control)) if (from, to, cluster) == (0, 0, 0) => Ok(Hello::Stranger { version }),
            _ => Err(FrameError::Handshake),
        }
    }
}

impl Welcome {
    pub(super) fn new(verdict: Verdict, identity: Identity) -> Welcome {
        Welcome { version: VERSION, verdict, identity }
    }

    /// What keeps the caller that said `hello` from going on with this answerer, in words; `None` where nothing does.
    pub(super) fn refusal(&self, hello: &Hello) -> Option<String> {
        let Identity { cluster, node } = self.identity;
        let (meant, to) = match *hello {
            Hello::Node { identity, to, .. } => (identity, to),
            Hello::Stranger { .. } => (self.identity, node),
        };
        if cluster != meant.cluster {
            return Some(format!("it belongs to cluster {cluster}, this node to cluster {}", meant.cluster));
        }
        if node != to {
            return Some(format!("it is node {node}, meant was node {to}"));
        }
        match self.verdict {
            Verdict::Welcome => None,
            Verdict::OtherCluster => Some("it takes this node for one of another cluster".to_owned()),
            Verdict::OtherNode => Some(format!("it does not answer as node {to}")),
            Verdict::SameNode => Some(format!("it is node {node} itself, like this node")),
            Verdict::TooManyConnections => Some("it has too many connections".to_owned()),
        }
    }

    pub(super) fn frame(&self) -> Frame {
        let mut header = BytesMut::with_capacity(WELCOME_BYTES);
        header.put_slice(&[self.version, self.verdict.code(), 0, 0, 0, 0, 0, 0]);
        header.put_u64_le(self.identity.node.0);
        header.put_u128_le(self.identity.cluster.0);
        control_frame(FrameType::Welcome, header.freeze())
    }

    pub(super) fn read(received: &Received) -> Result<Welcome, FrameError> {
        let mut header = control_header(received, FrameType::Welcome, WELCOME_BYTES)?;
        let (version, verdict) = (header.get_u8(), Verdict::decode(header.get_u8()).ok_or(FrameError::Handshake)?);
        let reserved = header.get_uint_le(6);
        let identity = Identity { node: NodeId(header.get_u64_le()), cluster: ClusterId(header.get_u128_le()) };
        if reserved != 0 || version != VERSION {
            return Err(FrameError::Handshake);
        }
        Ok(Welcome { version, verdict, identity })
    }
}

impl Verdict {
    const ALL: [Verdict; 5] =
        [Verdict::Welcome, Verdict::OtherCluster, Verdict::OtherNode, Verdict::SameNode, Verdict::TooManyConnections];

    fn code(self) -> u8 {
        self as u8
    }

    fn decode(code: u8) -> Option<Verdict> {
        Verdict::ALL.into_iter().find(|verdict| verdict.code() == code)
    }
}

fn control_frame(frame: FrameType, header: Bytes) -> Frame {
    Frame::new(frame, GroupId::METADATA, 0, Payload::new(header, Vec::new()))
}

fn control_header(received: &Received, frame: FrameType, length: usize) -> Result<Bytes, FrameError> {
    if received.prelude.frame != frame {
        return Err(FrameError::Unexpected(received.prelude.frame));
    }
    if received.header.len() != length || !received.body.is_empty() {
        return Err(FrameError::Handshake);
    }
    Ok(received.header.clone())
}

fn lane_code(lane: Lane) -> u8 {
    match lane {
        Lane::Control => 0,
        Lane::Bulk => 1,
    }
}

fn lane_of(code: u8) -> Option<Lane> {
    [Lane::Control, Lane::Bulk].into_iter().find(|lane| lane_code(*lane) == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::frame::{FailureReason, PRELUDE_BYTES, Prelude};
    use proptest::prelude::*;

    fn received(frame: Frame) -> Received {
        let prelude = Prelude::decode(&frame.prelude, LIMITS).unwrap();
        let header = frame.parts().next().unwrap();
        Received { prelude, header, body: Bytes::new() }
    }

    fn identities() -> impl Strategy<Value = Identity> {
        (any::<u128>(), 1..=u64::MAX)
            .prop_map(|(cluster, node)| Identity { cluster: ClusterId(cluster), node: NodeId(node) })
    }

    fn hellos() -> impl Strategy<Value = Hello> {
        let lanes = prop_oneof![Just(Lane::Control), Just(Lane::Bulk)];
        let node = (identities(), any::<u64>(), lanes, VERSION..)
            .prop_map(|(identity, to, lane, version)| Hello::Node { version, identity, to: NodeId(to), lane });
        prop_oneof![node, (VERSION..).prop_map(|version| Hello::Stranger { version })]
    }

    proptest! {
        #[test]
        fn hello_survives_the_wire(hello in hellos()) {
            prop_assert_eq!(Hello::read(&received(hello.frame())), Ok(hello));
        }

        #[test]
        fn welcome_survives_the_wire(verdict in prop::sample::select(&Verdict::ALL), identity in identities()) {
            let welcome = Welcome::new(verdict, identity);
            prop_assert_eq!(Welcome::read(&received(welcome.frame())), Ok(welcome));
        }

        #[test]
        fn any_other_bytes_are_refused_or_have_one_meaning(header in prop::collection::vec(any::<u8>(), 30..42)) {
            let header = Bytes::from(header);
            let hello = received(control_frame(FrameType::Hello, header.clone()));
            if let Ok(hello) = Hello::read(&hello) {
                prop_assert_eq!(&received(hello.frame()).header, &header);
            }
            let welcome = received(control_frame(FrameType::Welcome, header.clone()));
            if let Ok(welcome) = Welcome::read(&welcome) {
                prop_assert_eq!(&received(welcome.frame()).header, &header);
            }
        }
    }

    #[test]
    fn reserved_bytes_and_unknown_codes_are_refused() {
        let node = Identity { cluster: ClusterId(1), node: NodeId(1) };
        let hello = received(Hello::node(node, NodeId(2), Lane::Bulk).frame());
        for (offset, value) in [(0, 0), (1, 1), (1, 2), (2, 2), (3, 1), (7, 1)] {
            let mut header = hello.header.to_vec();
            header[offset] = value;
            let changed = received(control_frame(FrameType::Hello, Bytes::from(header)));
            assert_eq!(Hello::read(&changed), Err(FrameError::Handshake), "byte {offset} = {value}");
        }
        let welcome = received(Welcome::new(Verdict::Welcome, node).frame());
        for (offset, value) in [(0, 2), (1, 5), (2, 1)] {
            let mut header = welcome.header.to_vec();
            header[offset] = value;
            let changed = received(control_frame(FrameType::Welcome, Bytes::from(header)));
            assert_eq!(Welcome::read(&changed), Err(FrameError::Handshake), "byte {offset} = {value}");
        }
    }

    fn golden_frames() -> Vec<(&'static str, Frame)> {
        let identity = Identity { cluster: ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff), node: NodeId(2) };
        let (header, body) =
            (Bytes::from_static(b"header"), vec![Bytes::from_static(b"bo"), Bytes::from_static(b"dy")]);
        let payload = || Payload::new(header.clone(), body.clone());
        let failure = |reason| Frame::new(FrameType::Failure(reason), GroupId::METADATA, 6, Payload::default());
        vec![
            ("hello", Hello::node(identity, NodeId(3), Lane::Bulk).frame()),
            ("hello-stranger", Hello::stranger().frame()),
            ("welcome", Welcome::new(Verdict::Welcome, identity).frame()),
            ("welcome-other-node", Welcome::new(Verdict::OtherNode, identity).frame()),
            ("request", Frame::new(FrameType::Request(7), GroupId(0x0102), 0x0304_0506_0708_090a, payload())),
            ("response", Frame::new(FrameType::Response, GroupId::METADATA, 5, payload())),
            ("failure-unanswered", failure(FailureReason::Unanswered)),
            ("failure-not-for-strangers", failure(FailureReason::NotForStrangers)),
        ]
    }

    /// The golden bytes were made from the table in `frame.rs` by other means than this program.
    #[test]
    fn version_1_is_written_and_read_as_ever() {
        let limits = Limits::default().of_nodes();
        let mut golden = include_str!("../../tests/golden/frames-v1.txt").lines();
        for (name, frame) in golden_frames() {
            let bytes = unhex(golden.next().unwrap().strip_prefix(name).unwrap().trim());
            let (prelude, payload) = bytes.split_first_chunk::<PRELUDE_BYTES>().unwrap();
            let read = Prelude::decode(prelude, limits).unwrap();
            assert_eq!(read.encode(), *prelude, "{name}");
            assert!(read.split(Bytes::copy_from_slice(payload)).is_ok(), "{name}");
            assert_eq!(frame.prelude, *prelude, "{name}");
            assert_eq!(frame.parts().flatten().collect::<Vec<u8>>(), payload, "{name}");
        }
        assert_eq!(golden.next(), None);
    }

    fn unhex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }
}
