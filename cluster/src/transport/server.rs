//! The answering end: takes connections in, checks who they are, hands their requests over and writes the answers.
//!
//! One task reads and writes a connection. It stops reading while the peer has too much unanswered, so a peer that asks
//! faster than it is served is slowed down by its own socket.

use super::frame::{Frame, FrameError, FrameLimits, FrameType};
use super::handshake::{Hello, Verdict, Welcome, expect_hello};
use super::message::{Handler, Lane, Peer, Request};
use super::reader::{FrameReader, ReadError, Received};
use super::reply::Outbox;
use super::writer::write_frames;
use super::{Heard, Shared, with_sources};
use crate::NodeId;
use crate::environment::{Listener, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep};

/// Wait after a failed accept: usually no file descriptor is left, and the next one comes when something closes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Lines about strangers' mistakes come this far apart: anyone can make them.
const NOISE_PAUSE: Duration = Duration::from_secs(1);
/// Refusals that are remembered as logged.
const REFUSALS_MAX: usize = 256;

/// Connections by number, each with what ends it.
type Current = BTreeMap<(NodeId, Lane), (u64, oneshot::Sender<()>)>;

/// Takes in connections.
pub(super) struct Server {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    /// What connections of nodes hold one of.
    connections: Arc<Semaphore>,
    /// What everybody else's connection holds one of.
    strangers: Arc<Semaphore>,
    /// The connection of each node and lane, and what ends it when a newer one takes its place.
    current: Mutex<Current>,
    logged: Mutex<Logged>,
}

#[derive(Default)]
struct Logged {
    refusals: BTreeSet<String>,
    noise: Option<Instant>,
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("reading failed")]
    Read(#[from] ReadError),
    #[error("writing failed")]
    Write(#[source] io::Error),
    #[error("a newer connection took its place")]
    Replaced,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, handler: Arc<dyn Handler>) -> Arc<Server> {
        let connections = Arc::new(Semaphore::new(shared.limits.connections_max));
        let strangers = Arc::new(Semaphore::new(shared.limits.strangers_max));
        Arc::new(Server {
            shared,
            handler,
            connections,
            strangers,
            current: Mutex::default(),
            logged: Mutex::default(),
        })
    }

    /// Takes connections in until the transport stops.
    pub(super) async fn listen(self: Arc<Self>, listener: Box<dyn Listener>) {
        let mut stopped = self.shared.stopped();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopped.wait_for(|is_stopped| *is_stopped) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.take_in(stream, address),
                Err(error) => {
                    self.noise("-", &error.to_string());
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take_in(self: &Arc<Self>, stream: Box<dyn Stream>, address: String) {
        let Ok(permit) = self.strangers.clone().try_acquire_owned() else {
            self.shared.counters.connections_refused.add(1);
            self.noise(&address, "too many connections that have not said who they are");
            return;
        };
        let server = self.clone();
        self.shared.environment.tasks.spawn("transport-server", async move {
            let mut stopped = server.shared.stopped();
            tokio::select! {
                biased;
                _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
                () = server.serve(stream, &address, permit) => {}
            }
        });
    }

    /// A connection's life: handshake, then requests and answers.
    async fn serve(&self, stream: Box<dyn Stream>, address: &str, stranger: OwnedSemaphorePermit) {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, &self.shared.limits, &self.shared.buffers);
        let hello = match expect_hello(&mut reader, &self.shared.limits, &self.shared.counters).await {
            Ok(hello) => hello,
            Err(error) => {
                self.count(&error);
                return self.noise(address, &with_sources(&error));
            }
        };
        let Some(node) = self.admit(&hello, address, &mut writer).await else { return };
        let peer = hello.peer();
        let end = match (hello, node) {
            (Hello::Node { identity, lane, .. }, Some(permit)) => {
                drop(stranger);
                let end = self.serve_node(identity.node, lane, reader, writer).await;
                drop(permit);
                end
            }
            _ => {
                let limits = self.shared.limits.of_strangers();
                let idle = self.shared.limits.handshake_timeout;
                let heard = self.shared.heard.nobody();
                self.exchange(Channel { peer, heard, limits, idle }, reader, writer).await
            }
        };
        self.log_end(peer, address, &end);
    }

    /// Answers a hello. `None`: refused; otherwise the permit that a node's connection holds.
    async fn admit(
        &self,
        hello: &Hello,
        address: &str,
        writer: &mut WriteHalf<Box<dyn Stream>>,
    ) -> Option<Option<OwnedSemaphorePermit>> {
        let Shared { identity, limits, counters, .. } = &*self.shared;
        let mut verdict = hello.verdict(*identity);
        let mut permit = None;
        if verdict == Verdict::Welcome && matches!(hello, Hello::Node { .. }) {
            permit = self.connections.clone().try_acquire_owned().ok();
            if permit.is_none() {
                verdict = Verdict::TooManyConnections;
            }
        }
        let welcome = Welcome::new(verdict, *identity).frame();
        let written = write_frames(writer, vec![welcome], limits.handshake_timeout, counters).await;
        if verdict != Verdict::Welcome {
            counters.connections_refused.add(1);
            self.log_refusal(hello, verdict, address);
            return None;
        }
        written.ok()?;
        counters.connections_accepted.add(1);
        Some(permit)
    }

    async fn serve_node<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        node: NodeId,
        lane: Lane,
        reader: FrameReader<R>,
        writer: W,
    ) -> End {
        let number = self.shared.next_number();
        let (replace, replaced) = oneshot::channel();
        // The old sender is dropped, which wakes the old connection: its peer has given it up, noticed here or not.
        self.current().insert((node, lane), (number, replace));
        let heard = self.shared.heard.of(node);
        heard.now();
        let limits = self.shared.limits.of_nodes();
        let idle = self.shared.limits.idle_timeout * 3;
        let end = tokio::select! {
            biased;
            _ = replaced => End::Replaced,
            end = self.exchange(Channel { peer: Peer::Node(node), heard, limits, idle }, reader, writer) => end,
        };
        let mut current = self.current();
        if current.get(&(node, lane)).is_some_and(|(newest, _)| *newest == number) {
            current.remove(&(node, lane));
        }
        end
    }

    async fn exchange<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        channel: Channel,
        reader: FrameReader<R>,
        writer: W,
    ) -> End {
        let outbox = Closing(Outbox::new(self.shared.limits.clone()));
        // In random order, so that neither direction can starve the other.
        let ended = tokio::select! {
            ended = self.receive(channel, reader, &outbox.0) => ended,
            ended = self.transmit(writer, &outbox.0) => ended,
        };
        match ended {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn receive<R: AsyncRead + Unpin>(
        &self,
        channel: Channel,
        mut reader: FrameReader<R>,
        outbox: &Arc<Outbox>,
    ) -> Result<Infallible, End> {
        loop {
            outbox.room().await;
            let received = match reader.next(channel.limits, channel.idle).await {
                // Silence is fine while the peer waits for us.
                Err(ReadError::Idle(_)) if outbox.is_owing() => continue,
                received => received?,
            };
            self.shared.counters.bytes_in.add(received.len());
            channel.heard.now();
            self.dispatch(channel.peer, received, outbox).map_err(ReadError::from)?;
        }
    }

    fn dispatch(&self, peer: Peer, received: Received, outbox: &Arc<Outbox>) -> Result<(), FrameError> {
        let FrameType::Request(kind) = received.prelude.frame else {
            return Err(FrameError::Unexpected(received.prelude.frame));
        };
        self.shared.counters.requests.add(1);
        let reply = outbox.open(received.prelude.id, received.len());
        if peer == Peer::Stranger && !self.handler.serves_strangers(kind) {
            reply.refuse_stranger();
            return Ok(());
        }
        let (group, header) = (received.prelude.group, received.header.clone());
        self.handler.accept(peer, Request { kind, group, header, body: received.body() }, reply);
        Ok(())
    }

    async fn transmit<W: AsyncWrite + Unpin>(&self, mut writer: W, outbox: &Outbox) -> Result<Infallible, End> {
        let Shared { limits, counters, .. } = &*self.shared;
        loop {
            let frames = outbox.take().await;
            let (count, bytes) = (frames.len(), frames.iter().map(Frame::len).sum());
            write_frames(&mut writer, frames, limits.stall_timeout, counters).await.map_err(End::Write)?;
            outbox.written(count, bytes);
        }
    }

    fn log_refusal(&self, hello: &Hello, verdict: Verdict, address: &str) {
        let line = format!("{hello:?} {verdict:?}");
        let mut logged = self.logged();
        if logged.refusals.len() < REFUSALS_MAX && logged.refusals.insert(line) {
            tracing::warn!(?hello, ?verdict, own = ?self.shared.identity, address, "connection refused");
        }
    }

    fn log_end(&self, peer: Peer, address: &str, end: &End) {
        let End::Read(error) = end else {
            return tracing::debug!(?peer, address, reason = %with_sources(end), "connection ended");
        };
        self.count(error);
        match (error, peer) {
            (ReadError::Malformed(error), Peer::Node(node)) => {
                tracing::warn!(%node, address, %error, "connection dropped: malformed frame");
            }
            (ReadError::Malformed(error), Peer::Stranger) => self.noise(address, &error.to_string()),
            _ => tracing::debug!(?peer, address, reason = %with_sources(end), "connection ended"),
        }
    }

    fn count(&self, error: &ReadError) {
        if matches!(error, ReadError::Malformed(_)) {
            self.shared.counters.frames_malformed.add(1);
        }
    }

    /// Logs what anyone can provoke, seldom.
    fn noise(&self, address: &str, reason: &str) {
        let now = Instant::now();
        let mut logged = self.logged();
        if logged.noise.is_none_or(|last| now >= last + NOISE_PAUSE) {
            logged.noise = Some(now);
            tracing::warn!(address, reason, "connection dropped before it said who it is");
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn logged(&self) -> MutexGuard<'_, Logged> {
        self.logged.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a connection was found to be.
struct Channel {
    peer: Peer,
    heard: Heard,
    limits: FrameLimits,
    idle: Duration,
}

/// Closes the outbox however the connection ends.
struct Closing(Arc<Outbox>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}
