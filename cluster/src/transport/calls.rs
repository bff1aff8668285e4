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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::FutureExt;
    use proptest::prelude::*;
    use std::time::Duration;

    const LIMITS: CallLimits = CallLimits { calls_max: 10, queue_bytes_max: 1000 };

    fn add(calls: &mut Calls, bytes: usize, deadline: Instant) -> Result<Pending, CallError> {
        calls.add(1, GroupId(1), Payload::new(Bytes::from(vec![0; bytes]), Vec::new()), deadline)
    }

    fn lost() -> CallError {
        CallError::Lost { peer: "p".into(), reason: "r".into() }
    }

    fn unreachable() -> CallError {
        CallError::Unreachable { peer: "p".into(), reason: "r".into() }
    }

    #[test]
    fn frames_are_taken_in_order_up_to_a_size_but_at_least_one() {
        let (mut calls, deadline) = (Calls::new(LIMITS), Instant::now());
        let _pending: Vec<_> = [100, 100, 100, 500].map(|bytes| add(&mut calls, bytes, deadline).unwrap()).into();
        assert_eq!(calls.take(2 * 132).len(), 2);
        assert_eq!(calls.take(1).len(), 1);
        assert_eq!(calls.take(1).len(), 1);
        assert!(calls.take(1).is_empty());
    }

    #[test]
    fn failing_all_tells_apart_what_was_taken_and_what_was_not() {
        let (mut calls, deadline) = (Calls::new(LIMITS), Instant::now());
        let (taken, queued) = (add(&mut calls, 1, deadline).unwrap(), add(&mut calls, 1, deadline).unwrap());
        calls.take(1);
        assert_eq!(calls.fail_all(&lost(), &unreachable()), 2);
        assert_eq!(taken.now_or_never(), Some(Err(lost())));
        assert_eq!(queued.now_or_never(), Some(Err(unreachable())));
        assert!(calls.is_empty() && calls.take(1).is_empty() && calls.earliest().is_none());
        assert_eq!(calls.answer(3).unwrap_err(), FrameError::NeverAsked(3));
    }

    #[test]
    fn call_that_expires_in_the_queue_is_not_sent() {
        let (mut calls, start) = (Calls::new(LIMITS), Instant::now());
        let late = add(&mut calls, 900, start).unwrap();
        assert_eq!(add(&mut calls, 900, start).unwrap_err(), CallError::Overloaded);
        assert_eq!(calls.expire(start), Expired { calls: 1, is_stalled: true });
        assert_eq!(late.now_or_never(), Some(Err(CallError::Deadline)));
        assert!(calls.take(usize::MAX).is_empty());
        assert!(add(&mut calls, 900, start).is_ok(), "its bytes do not count any more");
    }

    #[test]
    fn only_calls_that_were_taken_can_be_answered_and_only_once() {
        let (mut calls, deadline) = (Calls::new(LIMITS), Instant::now());
        let _pending = add(&mut calls, 1, deadline).unwrap();
        assert_eq!(calls.answer(1).unwrap_err(), FrameError::NeverAsked(1));
        calls.take(1);
        assert!(calls.answer(1).unwrap().is_some());
        assert!(calls.answer(1).unwrap().is_none());
        assert_eq!(calls.answer(0).unwrap_err(), FrameError::NeverAsked(0));
    }

    proptest! {
        /// Whatever happens in whatever order, each call has exactly one outcome, and the bounds hold.
        #[test]
        fn every_call_ends_once(steps in prop::collection::vec((0..6_u8, 0..400_u64), 0..80)) {
            let (mut calls, start) = (Calls::new(LIMITS), Instant::now());
            let mut now = start;
            let mut unwritten = 0;
            let mut pending = Vec::new();
            for (step, number) in steps {
                match step {
                    0 | 1 => {
                        let deadline = now + Duration::from_millis(number);
                        pending.extend(add(&mut calls, number as usize, deadline));
                    }
                    2 => unwritten += calls.take(number as usize).iter().map(Frame::len).sum::<usize>(),
                    3 => calls.written(std::mem::take(&mut unwritten)),
                    4 => {
                        if let Ok(Some(outcome)) = calls.answer(number % 40) {
                            prop_assert!(outcome.send(Ok(Default::default())).is_ok());
                        }
                    }
                    _ => {
                        now += Duration::from_millis(number);
                        calls.expire(now);
                        prop_assert!(calls.earliest().is_none_or(|earliest| earliest > now));
                    }
                }
                prop_assert!(calls.waiting.len() <= LIMITS.calls_max);
                prop_assert_eq!(calls.waiting.len(), calls.deadlines.len());
                let queued: usize = calls.queue.iter().map(|(_, frame)| frame.len()).sum();
                prop_assert_eq!(calls.unwritten_bytes, queued + unwritten);
            }
            calls.fail_all(&lost(), &unreachable());
            for pending in pending {
                prop_assert!(pending.now_or_never().is_some_and(|outcome| outcome != Err(CallError::Stopped)));
            }
        }
    }
}
