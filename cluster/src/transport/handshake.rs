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
