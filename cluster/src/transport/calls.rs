//! The calls under way to one peer on one lane: what waits to be written, what waits for an answer, and until when.
//!
//! Pure state: no socket, no clock, no task. Ids ascend in the order of [`Calls::add`], which is the order of writing:
//!
//! ```text
//!   id:  … answered or failed … │ taken: written or being written │ queued │ next
//!                               └──────────── waiting ─────────────────────┘
//! ```

use super::frame::{Frame, FrameError, FrameType, Payload};
use super::message::{CallError, Outcome, Pending};
use crate::GroupId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::time::Instant;

/// The bounds of [`Calls`].
#[derive(Debug, Clone, Copy)]
pub(super) struct CallLimits {
    pub calls_max: usize,
    pub queue_bytes_max: usize,
}

/// The calls under way.
#[derive(Debug)]
pub(super) struct Calls {
    limits: CallLimits,
    next_id: u64,
    queue: VecDeque<(u64, Frame)>,
    /// Bytes queued, and taken but not reported as written.
    unwritten_bytes: usize,
    waiting: BTreeMap<u64, Waiting>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Calls below this id were taken for writing.
    taken: u64,
    /// How many calls the peer has answered, in time or late.
    answers: u64,
}

#[derive(Debug)]
struct Waiting {
    outcome: Outcome,
    deadline: Instant,
    /// The count of answers when it was queued.
    answers_before: u64,
}

/// What became of calls whose deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired {
    /// How many there were.
    pub calls: usize,
    /// Whether one of them casts doubt on the connection: the peer has answered nothing at all since it was queued. Where
    /// other answers come in, the connection works and the peer is only slow with this one: dropping it would fail the
    /// others for nothing, heartbeats among them. A connection that broke in between is found by the next deadline.
    pub is_stalled: bool,
}

impl Calls {
    pub(super) fn new(limits: CallLimits) -> Calls {
        Calls {
            limits,
            next_id: 1,
            queue: VecDeque::new(),
            unwritten_bytes: 0,
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            taken: 1,
            answers: 0,
        }
    }

    /// Queues a call behind all earlier ones; `Overloaded` where too much is under way.
    pub(super) fn add(
        &mut self,
        kind: u8,
        group: GroupId,
        payload: Payload,
        deadline: Instant,
    ) -> Result<Pending, CallError> {
        let frame = Frame::new(FrameType::Request(kind), group, self.next_id, payload);
        let is_over_bytes =
            self.unwritten_bytes > 0 && self.unwritten_bytes + frame.len() > self.limits.queue_bytes_max;
        if is_over_bytes || self.waiting.len() >= self.limits.calls_max {
            return Err(CallError::Overloaded);
        }
        let (outcome, pending) = Pending::new();
        self.unwritten_bytes += frame.len();
        self.queue.push_back((self.next_id, frame));
        self.waiting.insert(self.next_id, Waiting { outcome, deadline, answers_before: self.answers });
        self.deadlines.insert((deadline, self.next_id));
        self.next_id += 1;
        Ok(pending)
    }

    /// Takes the next frames to be written, about `bytes_max` of them, at least one if there is one. Calls that have missed
    /// their deadline are left out.
    pub(super) fn take(&mut self, bytes_max: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        while let Some((id, frame)) = self.queue.pop_front_if(|(_, next)| bytes == 0 || bytes + next.len() <= bytes_max)
        {
            self.taken = id + 1;
            if self.waiting.contains_key(&id) {
                bytes += frame.len();
                frames.push(frame);
            } else {
                self.unwritten_bytes -= frame.len();
            }
        }
        frames
    }

    /// Reports bytes of taken frames as written. Where all calls were failed meanwhile, they are counted no more.
    pub(super) fn written(&mut self, bytes: usize) {
        self.unwritten_bytes = self.unwritten_bytes.saturating_sub(bytes);
    }

    /// The peer has answered call `id`: whom to tell, or `None` where the call has missed its deadline meanwhile.
    pub(super) fn answer(&mut self, id: u64) -> Result<Option<Outcome>, FrameError> {
        if id == 0 || id >= self.taken {
            return Err(FrameError::NeverAsked(id));
        }
        self.answers += 1;
        let waiting = self.waiting.remove(&id);
        Ok(waiting.map(|waiting| {
            self.deadlines.remove(&(waiting.deadline, id));
            waiting.outcome
        }))
    }

    /// The earliest deadline of a call under way.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Fails every call whose deadline is not after `now`.
    pub(super) fn expire(&mut self, now: Instant) -> Expired {
        let mut expired = Expired { calls: 0, is_stalled: false };
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let waiting = self.waiting.remove(&id).expect("every deadline belongs to a waiting call");
            expired.calls += 1;
            expired.is_stalled |= waiting.answers_before == self.answers;
            // A caller that does not wait any more wants no outcome.
            let _ = waiting.outcome.send(Err(CallError::Deadline));
        }
        expired
    }

    /// Fails every call: those taken for writing with `lost`, the others, which the peer cannot have, with `unreachable`.
    /// Returns how many there were.
    pub(super) fn fail_all(&mut self, lost: &CallError, unreachable: &CallError) -> usize {
        let failed = std::mem::take(&mut self.waiting);
        let count = failed.len();
        for (id, waiting) in failed {
            let error = if id < self.taken { lost } else { unreachable };
            // A caller that does not wait any more wants no outcome.
            let _ = waiting.outcome.send(Err(error.clone()));
        }
        self.queue.clear();
        self.deadlines.clear();
        self.unwritten_bytes = 0;
        self.taken = self.next_id;
        count
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
