//! The calling end: one connection per peer and lane, made when the first call needs it.
//!
//! ```text
//!   idle ──call──▶ running: connect, handshake, write and read ──lost──▶ idle
//!                     │                      └──no call for long──▶ idle
//!                     └──failed, or lost without an answer──▶ backing off ──call after it──▶ running
//! ```
//!
//! While it backs off, calls fail at once. Whatever ends a connection fails all calls on it: nothing is sent twice here,
//! because only the caller knows whether that is harmless.

use super::calls::{CallLimits, Calls};
use super::frame::{FailureReason, Frame, FrameError, FrameType, Payload, bytes_of};
use super::handshake::{Hello, greet};
use super::message::{CallError, Lane, Pending, Request, Response};
use super::reader::{FrameReader, ReadError, Received};
use super::writer::write_frames;
use super::{Heard, Shared, with_sources};
use crate::NodeId;
use crate::environment::Stream;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

/// All calls from this node to one peer on one lane.
pub(super) struct Connection {
    shared: Arc<Shared>,
    to: NodeId,
    lane: Lane,
    /// The peer's name in errors.
    name: Arc<str>,
    heard: Heard,
    state: Mutex<State>,
    /// A call was queued.
    queued: Notify,
    /// The earliest deadline has changed to an earlier one.
    sooner: Notify,
}

struct State {
    calls: Calls,
    link: Link,
    /// Failures to connect in a row; a connection without a single answer counts.
    failures: u32,
    /// The last call came in then.
    used: Instant,
    /// The failure that was last logged, so that a peer that is away for a day does not fill the log.
    logged: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
enum Link {
    Idle,
    /// The task of this number connects or is connected.
    Running {
        number: u64,
        is_connected: bool,
    },
    BackingOff {
        until: Instant,
        why: CallError,
    },
    Stopped,
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("no call came for a while")]
    Unused,
    #[error("no answer came in time")]
    Stalled,
    #[error("its address is not known")]
    NoAddress,
    #[error("connecting failed")]
    Connect(#[source] io::Error),
    #[error("the handshake failed")]
    Handshake(#[source] ReadError),
    #[error("{0}")]
    Refused(String),
    #[error("reading failed")]
    Read(#[from] ReadError),
    #[error("writing failed")]
    Write(#[source] io::Error),
    #[error("the node stops")]
    Stopped,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, to: NodeId, lane: Lane, heard: Heard) -> Connection {
        let limits = CallLimits { calls_max: shared.limits.calls_max, queue_bytes_max: shared.limits.queue_bytes_max };
        let state =
            State { calls: Calls::new(limits), link: Link::Idle, failures: 0, used: Instant::now(), logged: None };
        Connection {
            shared,
            to,
            lane,
            name: format!("node {to}").into(),
            heard,
            state: Mutex::new(state),
            queued: Notify::new(),
            sooner: Notify::new(),
        }
    }

    /// Queues a call; connects if need be.
    pub(super) fn send(self: &Arc<Self>, request: Request, deadline: Instant) -> Result<Pending, CallError> {
        let Request { kind, group, header, body } = request;
        let (header_bytes, body_bytes) = (header.len(), bytes_of(&body));
        let limits = &self.shared.limits;
        if header_bytes > limits.header_bytes_max || body_bytes > limits.body_bytes_max {
            return Err(CallError::TooLarge { header_bytes, body_bytes });
        }
        let payload = Payload::new(header, body);
        let now = Instant::now();
        if deadline <= now {
            return Err(CallError::Deadline);
        }
        let mut state = self.state();
        match &state.link {
            Link::Stopped => return Err(CallError::Stopped),
            Link::BackingOff { until, why } if now < *until => return Err(why.clone()),
            Link::Running { .. } => {}
            Link::Idle | Link::BackingOff { .. } => self.start(&mut state),
        }
        let earliest = state.calls.earliest();
        let pending = state.calls.add(kind, group, payload, deadline)?;
        state.used = now;
        drop(state);
        self.queued.notify_one();
        if earliest.is_none_or(|earliest| deadline < earliest) {
            self.sooner.notify_one();
        }
        Ok(pending)
    }

    /// Ends the connection for good.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.link = Link::Stopped;
        let count = state.calls.fail_all(&CallError::Stopped, &CallError::Stopped);
        self.shared.counters.calls_failed.add(count);
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        let number = self.shared.next_number();
        state.link = Link::Running { number, is_connected: false };
        let run = Run { connection: self.clone(), number };
        self.shared.environment.tasks.spawn("transport-connection", run.drive());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One attempt to connect, and the connection that comes of it. Dropped at any moment (the task is aborted), it leaves no
/// caller waiting.
struct Run {
    connection: Arc<Connection>,
    number: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end(&End::Stopped);
    }
}

impl Run {
    async fn drive(self) {
        let mut stopped = self.connection.shared.stopped();
        let end = tokio::select! {
            _ = stopped.wait_for(|is_stopped| *is_stopped) => End::Stopped,
            end = self.watch() => end,
            talked = self.talk() => match talked { Err(end) => end, Ok(never) => match never {} },
        };
        self.end(&end);
    }

    /// Connects and then writes and reads until that fails.
    async fn talk(&self) -> Result<Infallible, End> {
        let Connection { shared, to, lane, .. } = &*self.connection;
        let (reader, mut writer) = tokio::io::split(self.connect().await?);
        let mut reader = FrameReader::new(reader, &shared.limits, &shared.buffers);
        let hello = Hello::node(shared.identity, *to, *lane);
        let greeting = greet(&mut reader, &mut writer, &hello, &shared.limits, &shared.counters);
        if let Some(reason) = greeting.await.map_err(End::Handshake)?.refusal(&hello) {
            return Err(End::Refused(reason));
        }
        self.connected();
        // In random order, so that neither direction can starve the other.
        tokio::select! {
            end = self.receive(reader) => end,
            end = self.transmit(writer) => end,
        }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, End> {
        let Connection { shared, to, .. } = &*self.connection;
        let address = shared.directory.address(*to).ok_or(End::NoAddress)?;
        let connect = shared.environment.network.connect(&address);
        let connected = timeout(shared.limits.connect_timeout, connect).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(End::Connect)
    }

    fn connected(&self) {
        self.connection.shared.counters.connections_made.add(1);
        self.connection.heard.now();
        if let Link::Running { number, is_connected } = &mut self.connection.state().link
            && *number == self.number
        {
            *is_connected = true;
        }
    }

    async fn receive<R: AsyncRead + Unpin>(&self, mut reader: FrameReader<R>) -> Result<Infallible, End> {
        let shared = &self.connection.shared;
        loop {
            let received = reader.next(shared.limits.of_nodes(), Duration::MAX).await?;
            shared.counters.bytes_in.add(received.len());
            self.connection.heard.now();
            self.answer(received).map_err(ReadError::from)?;
        }
    }

    fn answer(&self, received: Received) -> Result<(), FrameError> {
        let id = received.prelude.id;
        let frame = received.prelude.frame;
        let outcome = outcome_of(received, &self.connection.name)?;
        let mut state = self.connection.state();
        let caller = state.calls.answer(id)?;
        state.failures = 0;
        let is_back = state.logged.take().is_some();
        drop(state);
        if is_back {
            tracing::info!(node = %self.connection.to, lane = %self.connection.lane, "node answers again");
        }
        let Some(caller) = caller else { return Ok(()) };
        if frame != FrameType::Response {
            self.connection.shared.counters.calls_failed.add(1);
        }
        // A caller that does not wait any more wants no outcome.
        let _ = caller.send(outcome);
        Ok(())
    }

    async fn transmit<W: AsyncWrite + Unpin>(&self, mut writer: W) -> Result<Infallible, End> {
        let Connection { shared, queued, .. } = &*self.connection;
        loop {
            let frames = self.connection.state().calls.take(shared.limits.write_bytes_max);
            if frames.is_empty() {
                queued.notified().await;
                // What others are about to send goes in the same write.
                yield_now().await;
                continue;
            }
            let bytes = frames.iter().map(Frame::len).sum();
            let write = write_frames(&mut writer, frames, shared.limits.stall_timeout, &shared.counters);
            write.await.map_err(End::Write)?;
            self.connection.state().calls.written(bytes);
        }
    }

    /// Waits for deadlines; ends the connection when one casts doubt on it, and when it is not used any more.
    async fn watch(&self) -> End {
        let Connection { shared, sooner, .. } = &*self.connection;
        loop {
            let wake = {
                let state = self.connection.state();
                state.calls.earliest().unwrap_or(state.used + shared.limits.idle_timeout)
            };
            tokio::select! {
                biased;
                () = sooner.notified() => continue,
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            let mut state = self.connection.state();
            let expired = state.calls.expire(now);
            shared.counters.calls_late.add(expired.calls);
            shared.counters.calls_failed.add(expired.calls);
            // While it is still connecting, that has its own time limit.
            if expired.is_stalled && matches!(state.link, Link::Running { is_connected: true, .. }) {
                shared.counters.connections_stalled.add(1);
                return End::Stalled;
            }
            if state.calls.is_empty() && now >= state.used + shared.limits.idle_timeout {
                // In the same breath: the next call has to start a new connection.
                state.calls.fail_all(&CallError::Deadline, &CallError::Deadline);
                state.link = Link::Idle;
                return End::Unused;
            }
        }
    }

    /// Fails what is under way and decides when to try again, unless a newer connection has taken over.
    fn end(&self, end: &End) {
        let Connection { shared, to, lane, name, .. } = &*self.connection;
        let mut state = self.connection.state();
        let is_connected = match state.link {
            Link::Running { number, is_connected } if number == self.number => is_connected,
            _ => return,
        };
        let reason: Arc<str> = with_sources(end).into();
        let why = match end {
            End::Stopped => CallError::Stopped,
            End::Refused(_) => CallError::Refused { peer: name.clone(), reason: reason.clone() },
            _ => CallError::Unreachable { peer: name.clone(), reason: reason.clone() },
        };
        let lost = match end {
            End::Stopped => CallError::Stopped,
            _ => CallError::Lost { peer: name.clone(), reason: reason.clone() },
        };
        let count = state.calls.fail_all(&lost, &why);
        shared.counters.calls_failed.add(count);
        state.link = Link::Idle;
        if matches!(end, End::Stopped) {
            return;
        }
        if !is_connected {
            shared.counters.connections_failed.add(1);
        }
        state.failures += 1;
        let until = Instant::now() + shared.backoff(state.failures);
        state.link = Link::BackingOff { until, why };
        let is_news = state.logged.as_ref() != Some(&reason);
        state.logged = Some(reason.clone());
        drop(state);
        if matches!(end, End::Read(ReadError::Malformed(_)) | End::Handshake(ReadError::Malformed(_))) {
            shared.counters.frames_malformed.add(1);
        }
        if is_news {
            tracing::warn!(node = %to, %lane, %reason, "connection to a node failed");
        }
    }
}

/// What a caller is told by a frame that answers its call.
pub(super) fn outcome_of(received: Received, peer: &Arc<str>) -> Result<Result<Response, CallError>, FrameError> {
    Ok(match received.prelude.frame {
        FrameType::Response => Ok(Response { header: received.header.clone(), body: received.body() }),
        FrameType::Failure(FailureReason::Unanswered) => Err(CallError::Unanswered),
        FrameType::Failure(FailureReason::NotForStrangers) => {
            Err(CallError::Refused { peer: peer.clone(), reason: "only nodes of its cluster may ask this".into() })
        }
        other => return Err(FrameError::Unexpected(other)),
    })
}
