//! What callers and handlers of the transport hold in their hands: requests, responses, and what may go wrong between.

use super::reply::Reply;
use crate::{ClusterId, GroupId, NodeId};
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// What a node proves about itself when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its number there.
    pub node: NodeId,
}

/// Which of a peer's two connections a request takes. Within a lane requests arrive in the order they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Small and urgent: heartbeats, votes, queries.
    Control,
    /// Large: entries and snapshots. Whatever it carries, the control lane does not wait for it.
    Bulk,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lane::Control => "control",
            Lane::Bulk => "bulk",
        })
    }
}

/// A question to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked; opaque to the transport.
    pub kind: u8,
    /// The Raft group it is about.
    pub group: GroupId,
    /// The envelope, usually postcard.
    pub header: Bytes,
    /// The payload. Slices are sent as they are, without being joined; what is received is at most one slice.
    pub body: Vec<Bytes>,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// The envelope, usually postcard.
    pub header: Bytes,
    /// The payload, as in [`Request::body`].
    pub body: Vec<Bytes>,
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// A node of this cluster, as it says itself.
    Node(NodeId),
    /// Someone without an identity. Only kinds that [`Handler::serves_strangers`] allows come from one.
    Stranger,
}

/// Knows where nodes listen.
pub trait Directory: Send + Sync + 'static {
    /// The `host:port` a node listens on, or `None` where the node is unknown. Asked anew for every connection.
    fn address(&self, node: NodeId) -> Option<String>;
}

/// Takes the requests of other nodes.
pub trait Handler: Send + Sync + 'static {
    /// Takes one request; called in the order of arrival within a connection, by several connections at once. Must not
    /// block: answer at once, queue, or spawn. Answers may be given in any order.
    fn accept(&self, from: Peer, request: Request, reply: Reply);

    /// Whether requests of this kind are taken from strangers. None is unless this says so.
    fn serves_strangers(&self, _kind: u8) -> bool {
        false
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request never left this node: no address, no connection, or still backing off from the last failure. Trying
    /// another node is safe.
    #[error("{peer} is unreachable: {reason}")]
    Unreachable {
        /// The node or address that was to be called.
        peer: Arc<str>,
        /// What the last attempt to reach it met.
        reason: Arc<str>,
    },
    /// The connection broke after the request may have been sent: whether it took effect is unknown.
    #[error("connection to {peer} was lost: {reason}")]
    Lost {
        /// The node or address that was called.
        peer: Arc<str>,
        /// How the connection ended.
        reason: Arc<str>,
    },
    /// No answer came in time: whether the request took effect is unknown.
    #[error("no answer before the deadline")]
    Deadline,
    /// Too much is waiting for this peer already; nothing was sent. Come back later.
    #[error("too many calls or bytes wait for this peer")]
    Overloaded,
    /// The request exceeds a frame's limits; nothing was sent.
    #[error("request of {header_bytes} + {body_bytes} bytes exceeds the limits of a frame")]
    TooLarge {
        /// Bytes of its header.
        header_bytes: usize,
        /// Bytes of its body.
        body_bytes: usize,
    },
    /// The peer does not talk to this node: other cluster, other node at its address, or a stranger's request that only
    /// nodes may send. Nothing took effect; trying again does not help until someone changes the configuration.
    #[error("{peer} refused: {reason}")]
    Refused {
        /// The node or address that was called.
        peer: Arc<str>,
        /// What the handshake or the peer said.
        reason: Arc<str>,
    },
    /// The peer took the request and gave it up without an answer: whether it took effect is unknown.
    #[error("the peer gave the request up without an answer")]
    Unanswered,
    /// This node's transport has stopped: whether the request took effect is unknown.
    #[error("the transport has stopped")]
    Stopped,
}

impl CallError {
    /// Whether the request may have reached the peer. Where it cannot have, sending it elsewhere never repeats it.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            CallError::Lost { .. } | CallError::Deadline | CallError::Unanswered | CallError::Stopped => true,
            CallError::Unreachable { .. }
            | CallError::Overloaded
            | CallError::TooLarge { .. }
            | CallError::Refused { .. } => false,
        }
    }
}

/// The outcome of a call that is under way. Dropping it does not take the request back.
#[derive(Debug)]
pub struct Pending {
    receiver: oneshot::Receiver<Result<Response, CallError>>,
}

/// Where the outcome of a call is put.
pub(super) type Outcome = oneshot::Sender<Result<Response, CallError>>;

impl Pending {
    pub(super) fn new() -> (Outcome, Pending) {
        let (sender, receiver) = oneshot::channel();
        (sender, Pending { receiver })
    }

    pub(super) fn failed(error: CallError) -> Pending {
        let (outcome, pending) = Pending::new();
        // The receiver is in hand.
        let _ = outcome.send(Err(error));
        pending
    }
}

impl Future for Pending {
    type Output = Result<Response, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(context).map(|outcome| outcome.unwrap_or(Err(CallError::Stopped)))
    }
}
