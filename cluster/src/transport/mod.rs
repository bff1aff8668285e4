//! Node to node: requests, answers, and the connections that carry them.
//!
//! What it promises:
//! - Requests to one peer on one lane arrive in the order of [`Transport::send`], at most once, whole and unaltered, and
//!   only at the node that was meant, in this cluster (as far as its claims can be trusted).
//! - Each call ends: answered, or failed at its deadline at the latest. [`CallError::may_have_arrived`] says whether it can
//!   have had an effect. Nothing is ever sent again by itself.
//! - Everything it holds is bounded by [`Limits`]; over a bound callers are refused at once and peers are read from later.
//! - What bulk data does to its lane the control lane does not feel.
//!
//! A deadline that passes while the peer answers nothing drops the connection: a stream that has silently died looks like
//! that, and the next call then starts a new one. What a request means is the business of the rooms above.

mod calls;
mod connection;
mod frame;
mod handshake;
mod heard;
mod limits;
mod message;
mod reader;
mod reply;
mod server;
mod stats;
mod stranger;
#[cfg(test)]
mod tests;
mod writer;

pub use frame::{BODY_BYTES_MAX, HEADER_BYTES_MAX};
pub use limits::Limits;
pub use message::{CallError, Directory, Handler, Identity, Lane, Peer, Pending, Request, Response};
pub use reply::Reply;
pub use stats::TransportStats;
pub use stranger::call_stranger;

use crate::NodeId;
use crate::environment::{Environment, Listener};
use connection::Connection;
use heard::{Heard, HeardNodes};
use reader::Buffers;
use server::Server;
use stats::Counters;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// This node's end of all connections. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
    connections: Arc<Mutex<Connections>>,
}

type Connections = BTreeMap<(NodeId, Lane), Arc<Connection>>;

/// What all connections use.
struct Shared {
    environment: Environment,
    identity: Identity,
    directory: Arc<dyn Directory>,
    limits: Limits,
    counters: Counters,
    heard: HeardNodes,
    buffers: Arc<Buffers>,
    stop: watch::Sender<bool>,
    numbers: AtomicU64,
}

impl Transport {
    /// Starts to take connections in from `listener` and to give their requests to `handler`. Calls can be made at once;
    /// connections are made when they are needed.
    pub fn start(
        environment: &Environment,
        identity: Identity,
        listener: Box<dyn Listener>,
        directory: Arc<dyn Directory>,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> Transport {
        limits.check();
        let shared = Arc::new(Shared {
            environment: environment.clone(),
            identity,
            directory,
            buffers: Buffers::new(limits.receive_buffers_bytes_max),
            limits,
            counters: Counters::default(),
            heard: HeardNodes::new(),
            stop: watch::Sender::new(false),
            numbers: AtomicU64::new(0),
        });
        let server = Server::new(shared.clone(), handler);
        environment.tasks.spawn("transport-listen", server.listen(listener));
        Transport { shared, connections: Arc::default() }
    }

    /// Who this node says it is.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Sends a request; when this returns it is queued behind all that were sent to this peer on this lane before. The
    /// outcome is there at the deadline at the latest. Fails at once, without being sent, where the peer could not be
    /// reached a moment ago, where too much waits for it, or where the request is larger than a frame may be.
    ///
    /// A call to this node itself is refused like any other wrong node: use [`Reply::local`].
    pub fn send(&self, to: NodeId, lane: Lane, request: Request, deadline: Instant) -> Pending {
        let counters = &self.shared.counters;
        counters.calls.add(1);
        match self.connection(to, lane).send(request, deadline) {
            Ok(pending) => pending,
            Err(error) => {
                counters.calls_failed.add(1);
                match error {
                    CallError::Overloaded => counters.calls_overloaded.add(1),
                    CallError::Deadline => counters.calls_late.add(1),
                    _ => {}
                }
                Pending::failed(error)
            }
        }
    }

    /// Sends a request and waits for its outcome.
    pub async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Request,
        deadline: Instant,
    ) -> Result<Response, CallError> {
        self.send(to, lane, request, deadline).await
    }

    /// When a whole frame of this node last arrived, on any connection; `None` where none ever did.
    pub fn last_heard(&self, node: NodeId) -> Option<Instant> {
        self.shared.heard.last(node)
    }

    /// What was counted so far.
    pub fn stats(&self) -> TransportStats {
        self.shared.counters.read()
    }

    /// Stops listening, closes all connections and fails all calls, also those still to come.
    pub fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        for connection in self.connections().values() {
            connection.stop();
        }
    }

    fn connection(&self, to: NodeId, lane: Lane) -> Arc<Connection> {
        let mut connections = self.connections();
        let connection = connections.entry((to, lane)).or_insert_with(|| {
            let connection = Connection::new(self.shared.clone(), to, lane, self.shared.heard.of(to));
            if *self.shared.stop.borrow() {
                connection.stop();
            }
            Arc::new(connection)
        });
        connection.clone()
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Shared {
    /// Turns true when the transport stops.
    fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// How long to wait after that many failures to connect in a row.
    fn backoff(&self, failures: u32) -> Duration {
        let Limits { backoff_min, backoff_max, .. } = self.limits;
        let doubled = backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let half = doubled.min(backoff_max) / 2;
        let half_us = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(self.environment.entropy.next_u64() % half_us)
    }
}

/// An error and what caused it, in one line.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
