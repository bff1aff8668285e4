//! Entries on their way into Raft: those that come while others are under way go together.
//!
//! ```text
//!  appends ──▶ waiting ── a round begins when none is under way and a pause is over, or with its bytes ──▶ Raft: one
//!  answers ◀──────────────────────────────────────────────────────────── write, one fsync, one message a member
//! ```
//!
//! A round costs all members together as much whether it carries one small entry or a hundred. So small ones wait for the
//! round before theirs; and where several small ones went together, those who wrote them are about to come back, and the
//! next round waits until most of them are there, or as long again as that round took. Behind a lone entry there is no
//! pause. Large entries are worth a round of their own and follow each other closely.

use super::Inner;
use crate::raft::{WriteError, Written};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// A round with so many bytes begins although others are under way, and without a pause: what its bytes cost outweighs what
/// a round costs.
const ROUND_BYTES: usize = 8 << 10;
/// Bytes of a round at most, save for one larger entry: what a log reader gives to replication at once.
const ROUND_BYTES_MAX: usize = 1 << 20;
/// The longest pause: a stall is not to be followed by another.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// Rounds under way at most.
const ROUNDS_MAX: usize = 8;
/// Entries that are taken over at once.
const TAKEN_MAX: usize = 1024;

/// An entry that waits for Raft.
pub(super) struct Proposal {
    pub payload: Bytes,
    /// Held until Raft is done with the entry, also when the caller has stopped waiting.
    pub credit: OwnedSemaphorePermit,
    pub done: oneshot::Sender<Result<Written, WriteError>>,
}

/// Entries without a round.
#[derive(Default)]
struct Waiting {
    proposals: VecDeque<Proposal>,
    bytes: usize,
    /// The pause after the last round, if it has one.
    pause: Option<Pause>,
}

/// A pause: it ends when so many bytes wait, and at this moment at the latest.
struct Pause {
    bytes: usize,
    until: Instant,
}

/// What is remembered of a round until it has landed: until Raft is done with it.
struct Round {
    began: Instant,
    /// Its bytes, if several small entries went together.
    shared_bytes: Option<usize>,
}

impl Round {
    fn begin(proposals: &[Proposal]) -> Round {
        let bytes: usize = proposals.iter().map(|proposal| proposal.payload.len()).sum();
        let is_shared = proposals.len() > 1 && bytes < ROUND_BYTES;
        Round { began: Instant::now(), shared_bytes: is_shared.then_some(bytes) }
    }
}

impl Waiting {
    fn push(&mut self, proposal: Proposal) {
        self.bytes += proposal.payload.len();
        self.proposals.push_back(proposal);
    }

    fn landed(&mut self, round: &Round, now: Instant) {
        let until = now + (now - round.began).min(PAUSE_MAX);
        // Those who wait already count: else two halves that take turns would never come together again.
        self.pause = round.shared_bytes.map(|bytes| Pause { bytes: (bytes + self.bytes) / 4 * 3, until });
    }

    /// When the next round begins, if nothing else comes and none is under way.
    fn due(&self) -> Option<Instant> {
        self.pause.as_ref().filter(|_| !self.proposals.is_empty()).map(|pause| pause.until)
    }

    /// Those that go next, if it is time for another round; without those that nobody waits for any more.
    fn next_round(&mut self, under_way: usize, now: Instant) -> Option<Vec<Proposal>> {
        let is_over = self.pause.as_ref().is_none_or(|pause| pause.until <= now || pause.bytes <= self.bytes);
        let is_time = (under_way == 0 && is_over) || (self.bytes >= ROUND_BYTES && under_way < ROUNDS_MAX);
        if !is_time || self.proposals.is_empty() {
            return None;
        }
        let (mut round, mut bytes) = (Vec::new(), 0);
        while let Some(next) =
            self.proposals.pop_front_if(|next| bytes == 0 || bytes + next.payload.len() <= ROUND_BYTES_MAX)
        {
            self.bytes -= next.payload.len();
            if !next.done.is_closed() {
                bytes += next.payload.len();
                round.push(next);
            }
        }
        Some(round)
    }
}

/// Begins rounds and sees them through, until nobody can send entries any more.
pub(super) async fn run(inner: Arc<Inner>, arrivals: mpsc::UnboundedReceiver<Proposal>) {
    take_turns(arrivals, |round| see_through(&inner, round)).await;
}

async fn take_turns<R: Future<Output = Round>>(
    mut arrivals: mpsc::UnboundedReceiver<Proposal>,
    see_through: impl Fn(Vec<Proposal>) -> R,
) {
    let mut waiting = Waiting::default();
    let mut rounds = FuturesUnordered::new();
    let mut arrived = Vec::new();
    loop {
        while let Some(round) = waiting.next_round(rounds.len(), Instant::now()) {
            if !round.is_empty() {
                rounds.push(see_through(round));
            }
        }
        let due = waiting.due().filter(|_| rounds.is_empty());
        tokio::select! {
            biased;
            count = arrivals.recv_many(&mut arrived, TAKEN_MAX) => {
                if count == 0 {
                    return;
                }
                arrived.drain(..).for_each(|proposal| waiting.push(proposal));
            }
            Some(round) = rounds.next() => waiting.landed(&round, Instant::now()),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

async fn see_through(inner: &Inner, proposals: Vec<Proposal>) -> Round {
    let round = Round::begin(&proposals);
    let payloads = proposals.iter().map(|proposal| proposal.payload.clone()).collect();
    // A group that stops ends the outcomes before all are there.
    let mut outcomes = inner.group.write_many(payloads).await.fuse();
    for Proposal { credit, done, .. } in proposals {
        let outcome = outcomes.next().await.unwrap_or(Err(WriteError::Stopped));
        drop(credit);
        // The caller may have given up at its deadline.
        let _ = done.send(outcome);
    }
    round
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    fn waiting(sizes: &[usize]) -> (Waiting, Vec<oneshot::Receiver<Result<Written, WriteError>>>) {
        let credit = Arc::new(Semaphore::new(sizes.len()));
        let mut waiting = Waiting::default();
        let callers = sizes.iter().map(|size| {
            let (done, caller) = oneshot::channel();
            let credit = credit.clone().try_acquire_owned().unwrap();
            waiting.push(Proposal { payload: vec![0; *size].into(), credit, done });
            caller
        });
        let callers = callers.collect();
        (waiting, callers)
    }

    fn sizes(round: Option<Vec<Proposal>>) -> Option<Vec<usize>> {
        round.map(|round| round.iter().map(|proposal| proposal.payload.len()).collect())
    }

    #[test]
    fn small_entries_wait_for_the_round_before_theirs_and_go_together() {
        let (mut waiting, _callers) = waiting(&[10, 20, 30]);
        assert_eq!(sizes(waiting.next_round(1, Instant::now())), None);
        assert_eq!(sizes(waiting.next_round(0, Instant::now())), Some(vec![10, 20, 30]));
        assert_eq!(sizes(waiting.next_round(0, Instant::now())), None, "nothing is left");
    }

    #[test]
    fn after_several_that_went_together_the_next_wait_for_most_of_them_or_as_long_again() {
        let (mut waiting, _callers) = waiting(&[10, 20]);
        let began = Instant::now();
        let ms = |ms| began + Duration::from_millis(ms);
        assert_eq!(waiting.due(), None);
        waiting.landed(&Round { began, shared_bytes: Some(30) }, ms(3));
        assert_eq!(waiting.due(), Some(ms(6)));
        assert_eq!(sizes(waiting.next_round(0, ms(5))), None);
        assert_eq!(sizes(waiting.next_round(0, ms(6))), Some(vec![10, 20]));
        assert_eq!(waiting.due(), None, "nothing waits");

        // Of 30 bytes that wait and 30 that went, most are 45.
        for (back, round) in [(14, None), (15, Some(vec![10, 20, 15]))] {
            let ((mut waiting, _callers), (mut more, _caller)) = (self::waiting(&[10, 20]), self::waiting(&[back]));
            waiting.landed(&Round { began, shared_bytes: Some(30) }, ms(3));
            waiting.push(more.proposals.remove(0).unwrap());
            assert_eq!(sizes(waiting.next_round(0, ms(4))), round);
        }
    }

    #[test]
    fn the_pause_has_a_bound_and_neither_lone_nor_large_entries_wait() {
        let (mut waiting, _callers) = waiting(&[10, ROUND_BYTES]);
        let began = Instant::now();
        let late = began + Duration::from_secs(1);
        waiting.landed(&Round { began, shared_bytes: Some(ROUND_BYTES - 1) }, late);
        assert_eq!(waiting.due(), Some(late + PAUSE_MAX));
        assert_eq!(sizes(waiting.next_round(1, late)), Some(vec![10, ROUND_BYTES]), "its bytes are worth a round");
        let (mut waiting, _callers) = self::waiting(&[10]);
        waiting.landed(&Round { began, shared_bytes: None }, late);
        assert_eq!(sizes(waiting.next_round(0, late)), Some(vec![10]), "it is alone");
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_writers_share_rounds_with_pauses_between_them() {
        let (arrivals, taken) = mpsc::unbounded_channel();
        let rounds = std::cell::RefCell::new(Vec::new());
        let start = Instant::now();
        let turns = take_turns(taken, async |proposals| {
            let round = Round::begin(&proposals);
            rounds.borrow_mut().push((start.elapsed().as_millis(), proposals.len()));
            sleep_until(round.began + Duration::from_millis(4)).await;
            round
        });
        let writes = async {
            let mut callers = Vec::new();
            let small = [0, 1, 2, 9, 20, 21, 22, 29].map(|at| (at, 7));
            let back = [40, 41, 42, 46, 50, 51].map(|at| (at, 7));
            for (at, size) in small.into_iter().chain([(30, ROUND_BYTES), (35, 7)]).chain(back) {
                sleep_until(start + Duration::from_millis(at)).await;
                let (mut one, caller) = waiting(&[size]);
                callers.extend(caller);
                arrivals.send(one.proposals.remove(0).unwrap()).unwrap();
            }
            sleep_until(start + Duration::from_millis(60)).await;
            drop(arrivals);
        };
        tokio::join!(turns, writes);
        // One alone, two at its end, a pause until 12; again, and a large one, which takes along who waits and has no pause;
        // once more, and a pause that ends when most have come back.
        let expected = [(0, 1), (4, 2), (12, 1), (20, 1), (24, 2), (30, 2), (35, 1), (40, 1), (44, 2), (51, 3)];
        assert_eq!(*rounds.borrow(), expected);
    }

    #[test]
    fn large_entries_do_not_wait_until_too_many_are_under_way() {
        let (mut waiting, _callers) = waiting(&[ROUND_BYTES, ROUND_BYTES_MAX, 3 * ROUND_BYTES_MAX, 7]);
        assert_eq!(sizes(waiting.next_round(ROUNDS_MAX, Instant::now())), None);
        assert_eq!(sizes(waiting.next_round(1, Instant::now())), Some(vec![ROUND_BYTES]));
        assert_eq!(sizes(waiting.next_round(2, Instant::now())), Some(vec![ROUND_BYTES_MAX]));
        assert_eq!(sizes(waiting.next_round(3, Instant::now())), Some(vec![3 * ROUND_BYTES_MAX]));
        assert_eq!(sizes(waiting.next_round(1, Instant::now())), None);
        assert_eq!(sizes(waiting.next_round(0, Instant::now())), Some(vec![7]));
    }

    #[test]
    fn entries_that_nobody_waits_for_are_left_out() {
        let (mut waiting, mut callers) = waiting(&[1, 2, 3]);
        callers.remove(1);
        assert_eq!(sizes(waiting.next_round(0, Instant::now())), Some(vec![1, 3]));
        assert_eq!(waiting.bytes, 0);
    }
}
