//! Linearizable reads: a leader confirms with a majority that it leads, once for all who wait.
//!
//! A caller's round must begin after the call. So while a round is under way, later callers gather for the next one.

use super::{Inner, Replica};
use crate::Offset;
use crate::environment::next_turn;
use crate::raft::WriteError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Callers that may wait for a round to begin; more wait in line before that.
pub(super) const WAITING_MAX: usize = 1024;

/// Turns of its thread that a round waits for further questions at most, as long as each brings some: a round costs as much as
/// several questions.
const TURNS_MAX: usize = 4;

/// After so long a leader that could not confirm itself is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// Where the outcome of a round goes.
pub(super) type Barrier = oneshot::Sender<Result<Offset, WriteError>>;

/// Why a read may not be answered here now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead the partition: ask the leader.
    #[error("this node does not lead the partition")]
    NotLeader,
    /// No majority confirmed the leadership before the deadline.
    #[error("no majority confirmed the leader before the deadline")]
    Deadline,
    /// The replica is closing.
    #[error("the replica is closing")]
    Unavailable,
}

impl Replica {
    /// Confirms that this node leads (ReadIndex) and waits until everything acknowledged before the call is applied here;
    /// returns the offset up to which that is. A read of the state after it is linearizable.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<Offset, ReadError> {
        loop {
            let (sender, receiver) = oneshot::channel();
            let round = async {
                self.inner.barriers.send(sender).await.ok()?;
                receiver.await.ok()
            };
            match timeout_at(deadline, round).await {
                Err(_) => return Err(ReadError::Deadline),
                Ok(Some(Ok(offset))) => return Ok(offset),
                Ok(Some(Err(WriteError::NotLeader(_)))) => return Err(ReadError::NotLeader),
                Ok(None | Some(Err(WriteError::Stopped))) => return Err(ReadError::Unavailable),
                Ok(Some(Err(WriteError::NotNow | WriteError::Unknown))) => {}
            }
            let retry = Instant::now() + RETRY;
            if retry >= deadline {
                return Err(ReadError::Deadline);
            }
            sleep_until(retry).await;
        }
    }
}

/// Runs one round after the other, each for all who came before it began.
pub(super) async fn run(inner: Arc<Inner>, mut requests: mpsc::Receiver<Barrier>) {
    let mut waiting = Vec::new();
    while requests.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        // Questions that are about to be read come along.
        for _ in 0..TURNS_MAX {
            let known = waiting.len();
            next_turn().await;
            while waiting.len() < WAITING_MAX
                && let Ok(barrier) = requests.try_recv()
            {
                waiting.push(barrier);
            }
            if waiting.len() == known {
                break;
            }
        }
        let outcome = inner.group.read_index().await;
        for barrier in waiting.drain(..) {
            // The caller may have given up at its deadline.
            let _ = barrier.send(outcome.clone());
        }
    }
}
