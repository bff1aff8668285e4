//! The bounds of the transport, each with its unit and its reason.

use super::frame::{BODY_BYTES_MAX, FrameLimits, HEADER_BYTES_MAX};
use std::time::Duration;

/// Bounds of everything that the transport holds or waits for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a frame's header; at most [`HEADER_BYTES_MAX`]. A peer that announces more is cut off.
    pub header_bytes_max: usize,
    /// Bytes of a frame's body; at most [`BODY_BYTES_MAX`].
    pub body_bytes_max: usize,
    /// Bytes of the header and of the body of a stranger's request: anyone can send one.
    pub stranger_bytes_max: usize,
    /// Calls under way to one peer on one lane; one more is answered `Overloaded`.
    pub calls_max: usize,
    /// Bytes waiting to be written to one peer on one lane. A request is taken when nothing waits, whatever its size.
    pub queue_bytes_max: usize,
    /// Bytes that one vectored write gathers, unless the first frame alone has more.
    pub write_bytes_max: usize,
    /// Requests that a peer may have unanswered on one connection before this node stops reading from it.
    pub unanswered_max: usize,
    /// Bytes of unanswered requests and unwritten answers on one connection before this node stops reading from it.
    pub unanswered_bytes_max: usize,
    /// Bytes of large receive buffers that are remembered for reuse, by all connections together. Those that someone still
    /// holds count too, so it should exceed what caches hold of received payloads. Those that no frame fits stay until newer
    /// ones take their room.
    pub receive_buffers_bytes_max: usize,
    /// Connections that this node takes in from nodes of its cluster: two for each peer, and some that are just being
    /// replaced.
    pub connections_max: usize,
    /// Connections of strangers, and of nodes that have not said who they are yet.
    pub strangers_max: usize,
    /// How long connecting may take, name resolution included.
    pub connect_timeout: Duration,
    /// How long the handshake may take, from the connection (so it bounds the wait for the first byte) to its answer.
    pub handshake_timeout: Duration,
    /// How long a started frame may make no progress, in either direction.
    pub stall_timeout: Duration,
    /// After how long without a call this node closes a connection that it made. The other side waits three times as
    /// long, so that it never closes while a request is on its way.
    pub idle_timeout: Duration,
    /// Wait after the first failed attempt to connect; doubled by each further one. Half of it is random.
    pub backoff_min: Duration,
    /// Longest wait between attempts to connect: how long a healed network may go unnoticed.
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes_max: HEADER_BYTES_MAX,
            body_bytes_max: BODY_BYTES_MAX,
            stranger_bytes_max: 64 * 1024,
            calls_max: 16 * 1024,
            queue_bytes_max: 64 * 1024 * 1024,
            write_bytes_max: 1024 * 1024,
            unanswered_max: 4096,
            unanswered_bytes_max: 64 * 1024 * 1024,
            receive_buffers_bytes_max: 64 * 1024 * 1024,
            connections_max: 1024,
            strangers_max: 64,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// What is read from a node of this cluster.
    pub(super) fn of_nodes(&self) -> FrameLimits {
        FrameLimits { header_bytes_max: self.header_bytes_max, body_bytes_max: self.body_bytes_max }
    }

    /// What is read from a stranger.
    pub(super) fn of_strangers(&self) -> FrameLimits {
        FrameLimits {
            header_bytes_max: self.stranger_bytes_max.min(self.header_bytes_max),
            body_bytes_max: self.stranger_bytes_max.min(self.body_bytes_max),
        }
    }

    /// Panics where a limit cannot work: these are this program's constants or its checked configuration.
    pub(super) fn check(&self) {
        assert!(self.header_bytes_max <= HEADER_BYTES_MAX, "header_bytes_max {} is too large", self.header_bytes_max);
        assert!(self.body_bytes_max <= BODY_BYTES_MAX, "body_bytes_max {} is too large", self.body_bytes_max);
        assert!(self.calls_max > 0 && self.unanswered_max > 0, "no call could be made");
        assert!(self.connections_max > 0 && self.strangers_max > 0, "no connection could be taken in");
        assert!(self.backoff_min <= self.backoff_max, "backoff_min {:?} is above the maximum", self.backoff_min);
    }
}
