//! Appending at the leader: bounded in size and in bytes under way, refused early when the disk is full.

use super::{CREDIT_BYTES, Replica};
use crate::log::Space;
use crate::raft::{WriteError, Written};
use crate::{NodeId, Offset, Term};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

/// After so long a leader that may not write at the moment is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// An entry that is durable on a majority and applied on the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Where it stands.
    pub offset: Offset,
    /// What the state machine answered.
    pub answer: Bytes,
}

/// Why an append has no answer. Unless stated otherwise it is unknown whether the entry is, or will be, in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No leader could be reached, or leadership was lost while the entry was under way. Try again with the same bytes.
    #[error("no leader took the append")]
    Unavailable,
    /// The deadline passed first. Try again with the same bytes.
    #[error("no answer before the deadline")]
    Deadline,
    /// The payload exceeds the limit; nothing was appended.
    #[error("the payload exceeds the limit of an append")]
    TooLarge,
    /// This node does not lead, or not in the term that [`Replica::propose`] was given; nothing was appended.
    #[error("this node does not lead the partition")]
    NotLeading,
    /// The leader's state machine does not admit the payload, see [`crate::StateMachine::admits`]; nothing was appended.
    #[error("the leader does not admit the payload")]
    NotAdmitted,
    /// The leader's disk is full; nothing was appended. Reads go on; try again when there is space.
    #[error("the leader's disk is full")]
    DiskFull,
}

/// Why this node, as the leader it was taken for, did not append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not lead; who does, if it knows. Nothing was appended.
    NotLeader(Option<NodeId>),
    /// As in [`AppendError`].
    Failed(AppendError),
}

impl Replica {
    /// Appends as the leader of `term`, and not otherwise: for whoever acts on behalf of a leadership.
    ///
    /// Is refused for want of space only when the next entry may not fit: what a leadership proposes is what lets the log
    /// shrink again.
    pub async fn propose(&self, term: Term, payload: Bytes, deadline: Instant) -> Result<Appended, AppendError> {
        self.append_here(Some(term), payload, deadline).await.map_err(|refusal| match refusal {
            Refusal::NotLeader(_) => AppendError::NotLeading,
            Refusal::Failed(error) => error,
        })
    }

    /// Appends as the leader, of `term` if given. Waits while too many bytes are under way, or while the leader may not
    /// write for the moment.
    pub(crate) async fn append_here(
        &self,
        term: Option<Term>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Appended, Refusal> {
        let context = &self.inner.context;
        if payload.len() > context.payload_bytes_max() {
            return Err(Refusal::Failed(AppendError::TooLarge));
        }
        if !self.inner.machine.admits(&payload) {
            return Err(Refusal::Failed(AppendError::NotAdmitted));
        }
        loop {
            let has_room = match term {
                Some(_) => context.log.space() != Space::Full,
                None => context.log.accepts_appends(),
            };
            if !has_room {
                return Err(Refusal::Failed(AppendError::DiskFull));
            }
            match self.submit(term, payload.clone(), deadline).await? {
                Ok(written) => return Ok(Appended { offset: written.offset, answer: written.answer }),
                Err(WriteError::NotLeader(leader)) => return Err(Refusal::NotLeader(leader)),
                Err(WriteError::Unknown | WriteError::Stopped) => {
                    return Err(Refusal::Failed(AppendError::Unavailable));
                }
                Err(WriteError::NotNow) => {}
            }
            let retry = Instant::now() + RETRY;
            if retry >= deadline {
                return Err(Refusal::Failed(AppendError::Deadline));
            }
            sleep_until(retry).await;
        }
    }

    /// Gives the entry to Raft. The credit for its bytes is held until Raft is done with it, also when the caller has
    /// stopped waiting: what a leader without majority has taken in stays bounded.
    async fn submit(
        &self,
        term: Option<Term>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Result<Written, WriteError>, Refusal> {
        let units = u32::try_from(payload.len() / CREDIT_BYTES + 1).expect("a payload has at most 13 MiB");
        let credit = timeout_at(deadline, self.inner.credit.clone().acquire_many_owned(units)).await;
        let credit = credit.map_err(|_| Refusal::Failed(AppendError::Deadline))?;
        let credit = credit.expect("the semaphore is never closed");
        let (sender, receiver) = oneshot::channel();
        let inner = self.inner.clone();
        self.inner.context.environment.tasks.spawn("append", async move {
            let written = inner.group.write(term, payload).await;
            drop(credit);
            // The caller may have given up at its deadline.
            let _ = sender.send(written);
        });
        match timeout_at(deadline, receiver).await {
            Ok(written) => Ok(written.unwrap_or(Err(WriteError::Stopped))),
            Err(_) => Err(Refusal::Failed(AppendError::Deadline)),
        }
    }
}
