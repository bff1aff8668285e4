//! Entries on their way into Raft: those that come while others are under way go together.
//!
//! ```text
//!  appends ──▶ waiting ── a round begins when none is under way, or with its bytes ──▶ Raft: one write, one fsync,
//!  answers ◀────────────────────────────────────────────────────────────────────────────  one message a member
//! ```
//!
//! A round costs all members together as much whether it carries one small entry or a hundred. So small ones never wait
//! for a clock, only for the round before theirs; large ones are worth a round of their own and follow each other closely.

use super::Inner;
use crate::raft::{WriteError, Written};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// A round with so many bytes begins although others are under way: what its bytes cost outweighs what a round costs.
const ROUND_BYTES: usize = 8 << 10;
/// Bytes of a round at most, save for one larger entry: what a log reader gives to replication at once.
const ROUND_BYTES_MAX: usize = 1 << 20;
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
}

impl Waiting {
    fn push(&mut self, proposal: Proposal) {
        self.bytes += proposal.payload.len();
        self.proposals.push_back(proposal);
    }

    /// Those that go next, if it is time for another round; without those that nobody waits for any more.
    fn next_round(&mut self, under_way: usize) -> Option<Vec<Proposal>> {
        let is_time = under_way == 0 || (self.bytes >= ROUND_BYTES && under_way < ROUNDS_MAX);
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
pub(super) async fn run(inner: Arc<Inner>, mut arrivals: mpsc::UnboundedReceiver<Proposal>) {
    let mut waiting = Waiting::default();
    let mut rounds = FuturesUnordered::new();
    let mut arrived = Vec::new();
    loop {
        while let Some(round) = waiting.next_round(rounds.len()) {
            if !round.is_empty() {
                rounds.push(see_through(&inner, round));
            }
        }
        tokio::select! {
            biased;
            Some(()) = rounds.next() => {}
            count = arrivals.recv_many(&mut arrived, TAKEN_MAX) => {
                if count == 0 {
                    return;
                }
                arrived.drain(..).for_each(|proposal| waiting.push(proposal));
            }
        }
    }
}

async fn see_through(inner: &Inner, round: Vec<Proposal>) {
    let payloads = round.iter().map(|proposal| proposal.payload.clone()).collect();
    // A group that stops ends the outcomes before all are there.
    let mut outcomes = inner.group.write_many(payloads).await.fuse();
    for Proposal { credit, done, .. } in round {
        let outcome = outcomes.next().await.unwrap_or(Err(WriteError::Stopped));
        drop(credit);
        // The caller may have given up at its deadline.
        let _ = done.send(outcome);
    }
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
        assert_eq!(sizes(waiting.next_round(1)), None);
        assert_eq!(sizes(waiting.next_round(0)), Some(vec![10, 20, 30]));
        assert_eq!(sizes(waiting.next_round(0)), None, "nothing is left");
    }

    #[test]
    fn large_entries_do_not_wait_until_too_many_are_under_way() {
        let (mut waiting, _callers) = waiting(&[ROUND_BYTES, ROUND_BYTES_MAX, 3 * ROUND_BYTES_MAX, 7]);
        assert_eq!(sizes(waiting.next_round(ROUNDS_MAX)), None);
        assert_eq!(sizes(waiting.next_round(1)), Some(vec![ROUND_BYTES]));
        assert_eq!(sizes(waiting.next_round(2)), Some(vec![ROUND_BYTES_MAX]));
        assert_eq!(sizes(waiting.next_round(3)), Some(vec![3 * ROUND_BYTES_MAX]));
        assert_eq!(sizes(waiting.next_round(1)), None);
        assert_eq!(sizes(waiting.next_round(0)), Some(vec![7]));
    }

    #[test]
    fn entries_that_nobody_waits_for_are_left_out() {
        let (mut waiting, mut callers) = waiting(&[1, 2, 3]);
        callers.remove(1);
        assert_eq!(sizes(waiting.next_round(0)), Some(vec![1, 3]));
        assert_eq!(waiting.bytes, 0);
    }
}
