//! How a request is answered, and what a connection owes its peer.

use super::frame::{FailureReason, Frame, FrameType, Payload, bytes_of};
use super::limits::Limits;
use super::message::{CallError, Outcome, Pending, Response};
use crate::GroupId;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::yield_now;

/// The way back to whoever asked. Dropped without an answer, it tells them that there will be none.
pub struct Reply {
    destination: Option<Destination>,
}

enum Destination {
    Connection { outbox: Arc<Outbox>, id: u64, request_bytes: usize },
    Local(Outcome),
}

impl Reply {
    /// Makes a way back that stays on this node, for requests that need no connection.
    pub fn local() -> (Reply, Pending) {
        let (outcome, pending) = Pending::new();
        (Reply { destination: Some(Destination::Local(outcome)) }, pending)
    }

    /// Answers. Whether the peer still waits, or can be reached, is not known here. An answer beyond a frame's limits is
    /// logged and becomes [`CallError::Unanswered`].
    pub fn send(mut self, response: Response) {
        match self.destination.take() {
            Some(Destination::Connection { outbox, id, request_bytes }) => outbox.answer(id, request_bytes, response),
            Some(Destination::Local(outcome)) => {
                // A caller that does not wait any more wants no outcome.
                let _ = outcome.send(Ok(response));
            }
            None => {}
        }
    }

    /// Tells the stranger that only nodes may ask this.
    pub(super) fn refuse_stranger(mut self) {
        if let Some(Destination::Connection { outbox, id, request_bytes }) = self.destination.take() {
            outbox.fail(id, request_bytes, FailureReason::NotForStrangers);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        match self.destination.take() {
            Some(Destination::Connection { outbox, id, request_bytes }) => {
                outbox.fail(id, request_bytes, FailureReason::Unanswered);
            }
            Some(Destination::Local(outcome)) => {
                // A caller that does not wait any more wants no outcome.
                let _ = outcome.send(Err(CallError::Unanswered));
            }
            None => {}
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// The answers of one connection that wait to be written, and the measure of what is still owed.
///
/// A request counts from its arrival until its answer is written; its bytes are replaced by the answer's when that is
/// there. So a peer that asks without reading, and a handler that does not keep up, are both felt at the reading end.
pub(super) struct Outbox {
    state: Mutex<Owed>,
    /// An answer was queued.
    queued: Notify,
    /// Less is owed.
    room: Notify,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Owed {
    queue: VecDeque<Frame>,
    requests: usize,
    bytes: usize,
    is_closed: bool,
}

impl Outbox {
    pub(super) fn new(limits: Limits) -> Arc<Outbox> {
        Arc::new(Outbox { state: Mutex::default(), queued: Notify::new(), room: Notify::new(), limits })
    }

    /// Notes a request of that many bytes.
    pub(super) fn open(self: &Arc<Self>, id: u64, request_bytes: usize) -> Reply {
        let mut owed = self.owed();
        owed.requests += 1;
        owed.bytes += request_bytes;
        drop(owed);
        Reply { destination: Some(Destination::Connection { outbox: self.clone(), id, request_bytes }) }
    }

    /// Waits until another request may be read.
    pub(super) async fn room(&self) {
        loop {
            {
                let owed = self.owed();
                if owed.requests < self.limits.unanswered_max && owed.bytes < self.limits.unanswered_bytes_max {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Waits for answers and takes about `write_bytes_max` bytes of them.
    pub(super) async fn take(&self) -> Vec<Frame> {
        loop {
            let frames = self.owed().take(self.limits.write_bytes_max);
            if !frames.is_empty() {
                return frames;
            }
            self.queued.notified().await;
            // What others are about to answer goes in the same write.
            yield_now().await;
        }
    }

    /// Reports that many answers of that many bytes as written.
    pub(super) fn written(&self, answers: usize, bytes: usize) {
        let mut owed = self.owed();
        owed.requests -= answers;
        owed.bytes -= bytes;
        drop(owed);
        self.room.notify_one();
    }

    /// Whether a request is unanswered, or its answer unwritten.
    pub(super) fn is_owing(&self) -> bool {
        self.owed().requests > 0
    }

    /// The connection is gone: answers go nowhere from now on.
    pub(super) fn close(&self) {
        let mut owed = self.owed();
        owed.is_closed = true;
        owed.queue.clear();
    }

    fn answer(&self, id: u64, request_bytes: usize, response: Response) {
        let Response { header, body } = response;
        let (header_bytes, body_bytes) = (header.len(), bytes_of(&body));
        if header_bytes > self.limits.header_bytes_max || body_bytes > self.limits.body_bytes_max {
            tracing::error!(header_bytes, body_bytes, "an answer exceeds the limits of a frame");
            return self.fail(id, request_bytes, FailureReason::Unanswered);
        }
        let payload = Payload::new(header, body);
        self.queue(request_bytes, Frame::new(FrameType::Response, GroupId::METADATA, id, payload));
    }

    fn fail(&self, id: u64, request_bytes: usize, reason: FailureReason) {
        let frame = Frame::new(FrameType::Failure(reason), GroupId::METADATA, id, Payload::default());
        self.queue(request_bytes, frame);
    }

    fn queue(&self, request_bytes: usize, frame: Frame) {
        let mut owed = self.owed();
        if owed.is_closed {
            return;
        }
        owed.bytes += frame.len();
        owed.bytes -= request_bytes;
        owed.queue.push_back(frame);
        drop(owed);
        self.queued.notify_one();
        self.room.notify_one();
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Owed {
    fn take(&mut self, bytes_max: usize) -> Vec<Frame> {
        let mut bytes = 0;
        let mut frames = Vec::new();
        while let Some(frame) = self.queue.pop_front_if(|next| bytes == 0 || bytes + next.len() <= bytes_max) {
            bytes += frame.len();
            frames.push(frame);
        }
        frames
    }
}
