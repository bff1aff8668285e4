//! The receiving side of a group: what other members ask of this one.
//!
//! Appends of one sender go through one ordered stream into openraft, so that a window of them is written and synced
//! together. When that stream breaks (conflict, later leadership), requests behind the break are answered `Aborted`, and
//! what the sender sends after it has heard of the break goes through a new one.
//!
//! While the disk is full, entries are refused before openraft sees them: an append that fails ends a group for ever.

use super::confirmation::follows;
use super::group::GroupContext;
use super::incoming::Incoming;
use super::types::{Ballot, Raft, TypeConfig, Vote, log_id};
use super::wire::{self, Appended, Transfer, VoteAnswer, VoteRequest};
use crate::environment::Environment;
use crate::log::{Admitted, GroupLog, GroupState, Log, RECORD_OVERHEAD_BYTES};
use crate::transport::{Reply, Request, Response};
use crate::{GroupId, NodeId, Term, message};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc;

/// Append requests of one sender that may wait for openraft; a sender has at most eight under way.
const APPENDS_WAITING_MAX: usize = 64;

type AppendRequest = AppendEntriesRequest<TypeConfig>;
type Streams = Arc<Mutex<BTreeMap<NodeId, AppendQueue>>>;
type Replies = Arc<Mutex<VecDeque<Waiting>>>;

/// Who waits for the answer to a request, and the room that the log keeps for its entries.
type Waiting = (Reply, Admitted);

/// One sender's ordered way into openraft; the number tells it from its successors.
#[derive(Clone)]
struct AppendQueue {
    generation: u64,
    sender: mpsc::Sender<(AppendRequest, Waiting)>,
}

/// Takes the requests of a group's other members.
pub struct Server {
    node: NodeId,
    raft: Raft,
    log: Log,
    group_log: GroupLog,
    environment: Environment,
    streams: Streams,
    incoming: Incoming,
}

impl Server {
    pub fn new(context: &GroupContext, group: GroupId, raft: Raft) -> Server {
        let environment = context.environment.clone();
        let incoming = Incoming::new(group, raft.clone(), environment.clone());
        let (node, log, group_log) = (context.node, context.log.clone(), context.log.group(group));
        Server { node, raft, log, group_log, environment, streams: Arc::default(), incoming }
    }

    /// Takes one request; called in the order of arrival. Never blocks.
    pub fn accept(&self, from: NodeId, request: Request, reply: Reply) {
        let body = request.body.into_iter().next().unwrap_or_default();
        let taken = match request.kind {
            message::APPEND => self.append(from, &request.header, body, reply),
            message::HEARTBEAT => self.heartbeat(&request.header, reply),
            message::CONFIRM => self.confirm(&request.header, reply),
            message::VOTE => self.vote(&request.header, reply),
            message::PRE_VOTE => self.pre_vote(&request.header, reply),
            message::TRANSFER => self.transfer(&request.header, reply),
            message::SNAPSHOT => self.incoming.accept(from, &request.header, body, reply),
            kind => Err(io::Error::new(io::ErrorKind::InvalidData, format!("request of unknown kind {kind}"))),
        };
        if let Err(error) = taken {
            tracing::warn!(%from, group = %request.group, %error, "a member's request was refused");
        }
    }

    fn append(&self, from: NodeId, header: &Bytes, body: Bytes, reply: Reply) -> io::Result<()> {
        let bytes = body.len() as u64;
        let request = wire::join_append(wire::decode(header)?, body)?;
        let bytes = bytes + RECORD_OVERHEAD_BYTES * request.entries.len() as u64;
        let Some(admitted) = self.log.admit(bytes) else {
            send(reply, &Appended::NoSpace);
            return Ok(());
        };
        let mut waiting = (request, (reply, admitted));
        loop {
            let queue = self.queue_of(from);
            match queue.sender.try_send(waiting) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full((_, (reply, _)))) => {
                    send(reply, &Appended::Aborted);
                    return Ok(());
                }
                Err(mpsc::error::TrySendError::Closed(back)) => waiting = back,
            }
            forget(&self.streams, from, queue.generation);
        }
    }

    fn heartbeat(&self, header: &Bytes, reply: Reply) -> io::Result<()> {
        let request = wire::join_append(wire::decode(header)?, Bytes::new())?;
        let raft = self.raft.clone();
        self.environment.tasks.spawn("heartbeat", async move {
            let previous = request.prev_log_id;
            if let Ok(response) = raft.append_entries(request).await {
                send(reply, &Appended::from(response.into_stream_result(previous, previous)));
            }
        });
        Ok(())
    }

    /// Whether a leader may still take this node for its follower.
    fn confirm(&self, vote: &Bytes, reply: Reply) -> io::Result<()> {
        let is_followed = follows(&self.group_log, vote);
        #[cfg(feature = "planted-bugs")]
        let is_followed = super::planted::is_followed(is_followed);
        send(reply, &is_followed);
        Ok(())
    }

    fn vote(&self, header: &Bytes, reply: Reply) -> io::Result<()> {
        let request: VoteRequest = wire::decode(header)?;
        let Some(reply) = self.without_lacking(&request, reply)? else { return Ok(()) };
        let raft = self.raft.clone();
        self.environment.tasks.spawn("vote", async move {
            if let Ok(response) = raft.vote(request.into()).await {
                send(reply, &VoteAnswer::from(response));
            }
        });
        Ok(())
    }

    fn pre_vote(&self, header: &Bytes, reply: Reply) -> io::Result<()> {
        let request: VoteRequest = wire::decode(header)?;
        let Some(reply) = self.without_lacking(&request, reply)? else { return Ok(()) };
        let raft = self.raft.clone();
        self.environment.tasks.spawn("pre-vote", async move {
            if let Ok(response) = raft.pre_vote(request.into()).await {
                send(reply, &VoteAnswer::from(response));
            }
        });
        Ok(())
    }

    /// Refuses a candidate that lacks entries which this replica had acked before it left and came back. `None` if it was
    /// refused.
    fn without_lacking(&self, candidate: &VoteRequest, reply: Reply) -> io::Result<Option<Reply>> {
        match refusal(&self.group_log.state(), self.node, candidate)? {
            None => Ok(Some(reply)),
            Some(refusal) => {
                send(reply, &refusal);
                Ok(None)
            }
        }
    }

    fn transfer(&self, header: &Bytes, reply: Reply) -> io::Result<()> {
        let transfer: Transfer = wire::decode(header)?;
        if NodeId(transfer.to) == self.node && !self.log.accepts_appends() {
            return Err(io::Error::other("the disk is full: this node does not take leadership over"));
        }
        let from: Vote = transfer.from.into();
        let request = TransferLeaderRequest::new(from, transfer.to, transfer.last.map(log_id));
        let raft = self.raft.clone();
        self.environment.tasks.spawn("transfer", async move {
            if raft.handle_transfer_leader(request).await.is_ok() {
                send(reply, &());
            }
        });
        Ok(())
    }

    /// The sender's stream, a new one where it has none that works.
    fn queue_of(&self, from: NodeId) -> AppendQueue {
        let mut streams = lock(&self.streams);
        let generation = match streams.get(&from) {
            Some(queue) if !queue.sender.is_closed() => return queue.clone(),
            Some(queue) => queue.generation + 1,
            None => self.environment.entropy.next_u64() >> 1,
        };
        let (sender, requests) = mpsc::channel(APPENDS_WAITING_MAX);
        let queue = AppendQueue { generation, sender };
        streams.insert(from, queue.clone());
        let (raft, streams) = (self.raft.clone(), self.streams.clone());
        self.environment.tasks.spawn("appends", async move {
            let replies = Replies::default();
            let input = requests_of(requests, replies.clone());
            serve_stream(&raft, input, &replies, || forget(&streams, from, generation)).await;
            forget(&streams, from, generation);
            let left: Vec<Waiting> = lock(&replies).drain(..).collect();
            for (reply, _) in left {
                send(reply, &Appended::Aborted);
            }
        });
        queue
    }
}

/// The answer to a candidate that lacks entries which this replica had before it left and came back, `None` if it has them:
/// openraft knows only of what is in the log now.
fn refusal(state: &GroupState, node: NodeId, candidate: &VoteRequest) -> io::Result<Option<VoteAnswer>> {
    if state.is_covered_by(candidate.last) {
        return Ok(None);
    }
    let vote = match &state.vote {
        Some(vote) => wire::decode(vote)?,
        None => Ballot { term: Term(0), node, committed: false },
    };
    Ok(Some(VoteAnswer { vote, is_granted: false, last: state.dropped }))
}

/// The requests of a queue, each one's reply put aside in the same order.
fn requests_of(
    requests: mpsc::Receiver<(AppendRequest, Waiting)>,
    replies: Replies,
) -> impl Stream<Item = AppendRequest> + Send + 'static {
    stream::unfold((requests, replies), |(mut requests, replies)| async move {
        let (request, waiting) = requests.recv().await?;
        lock(&replies).push_back(waiting);
        Some((request, (requests, replies)))
    })
}

/// Answers each request of a stream, until it breaks. `broken` is called before the answer that says so leaves: what the
/// sender sends after it must not end up in this stream.
async fn serve_stream(
    raft: &Raft,
    input: impl Stream<Item = AppendRequest> + Send + 'static,
    replies: &Replies,
    broken: impl Fn(),
) {
    let mut results = std::pin::pin!(raft.stream_append(input));
    while let Some(result) = results.next().await {
        let Ok(result) = result else { return };
        if result.is_err() {
            broken();
        }
        let (reply, _) =
            lock(replies).pop_front().expect("each request has put its reply aside before it was given on");
        send(reply, &Appended::from(result));
    }
}

/// Takes a sender's stream out of use; what comes next goes through a new one.
fn forget(streams: &Streams, from: NodeId, generation: u64) {
    let mut streams = lock(streams);
    if streams.get(&from).is_some_and(|queue| queue.generation == generation) {
        streams.remove(&from);
    }
}

/// Answers with an envelope and no payload.
pub fn send<A: Serialize>(reply: Reply, answer: &A) {
    reply.send(Response { header: wire::encode(answer), body: Vec::new() });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogPosition, Offset};

    #[test]
    fn who_lacks_what_a_replica_had_before_it_left_is_refused() {
        let at = |term, offset| Some(LogPosition { term: Term(term), leader: NodeId(1), offset: Offset(offset) });
        let ballot = |term, node| Ballot { term: Term(term), node: NodeId(node), committed: false };
        let candidate = |last| VoteRequest { vote: ballot(9, 2), last, is_transfer: false };
        let state =
            GroupState { vote: Some(wire::encode(&ballot(3, 1))), dropped: at(3, 468), ..GroupState::default() };
        let refused = |last| refusal(&state, NodeId(4), &candidate(last)).unwrap();
        let expected = VoteAnswer { vote: ballot(3, 1), is_granted: false, last: at(3, 468) };
        assert_eq!(refused(None), Some(expected.clone()));
        assert_eq!(refused(at(2, 500)), Some(expected.clone()), "a longer log of an older leadership");
        assert_eq!(refused(at(3, 467)), Some(expected));
        assert_eq!(refused(at(3, 468)), None);
        assert_eq!(refused(at(4, 10)), None);
        let never_left = GroupState::default();
        assert_eq!(super::refusal(&never_left, NodeId(4), &candidate(None)).unwrap(), None);
    }
}
