//! openraft's network over the transport: one client for each follower of each group this node leads.
//!
//! - Heartbeats, votes and handovers take the control lane; entries and snapshots the bulk lane, so that they never delay
//!   a heartbeat.
//! - Appends are pipelined: up to [`APPENDS_IN_FLIGHT`] requests are under way, answered in order.
//! - An append's deadline is how long a stream may stand still, not the heartbeat interval: a follower whose fsync takes a
//!   moment must not be cut off. A missed deadline drops the connection, which is what a dead one needs.

use super::applier::SnapshotData;
use super::types::{Ballot, Snapshot, TypeConfig, Vote, log_id, position};
use super::wire::{self, Appended, SnapshotAnswer, SnapshotStep, Transfer, VoteAnswer};
use crate::environment::Entropy;
use crate::log::GroupLog;
use crate::transport::{CallError, Lane, Pending, Request, Response, Transport};
use crate::{GroupId, NodeId, message};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use futures::{FutureExt, Stream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Append requests that may be under way to one follower of one group: enough to keep network and disk of the follower
/// busy at once (2 to 8 made no difference beyond that when measured), few enough to bound what a broken stream resends.
const APPENDS_IN_FLIGHT: usize = 8;

/// The first and the longest wait before a follower is asked again whether it has installed a snapshot.
const INSTALL_POLL_MIN: Duration = Duration::from_millis(5);
const INSTALL_POLL_MAX: Duration = Duration::from_millis(500);

/// How long a follower may learn later than it could that entries are committed. Only its own reads feel it; under load the
/// next entries tell it sooner, which halves the messages.
const COMMIT_WAIT_MAX: Duration = Duration::from_millis(5);

type Error = RPCError<TypeConfig>;
type Append = AppendEntriesRequest<TypeConfig>;

/// Makes the clients of one group.
#[derive(Clone)]
pub struct Network {
    pub group: GroupId,
    pub transport: Transport,
    pub entropy: Arc<dyn Entropy>,
    /// How long a request may stay without an answer before its connection counts as dead.
    pub stall_timeout: Duration,
    /// How long a follower may take to install a snapshot it has received.
    pub install_timeout: Duration,
    /// Snapshots under way from this node: while there are any, the log they connect to is not purged.
    pub sending: Arc<AtomicUsize>,
    /// The group's log on this node.
    pub log: GroupLog,
}

/// Talks to one member of one group.
pub struct Client {
    network: Network,
    target: NodeId,
    is_heartbeat: bool,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Client {
        Client { network: self.clone(), target: NodeId(target), is_heartbeat: false }
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &EmptyNode) -> Client {
        Client { network: self.clone(), target: NodeId(target), is_heartbeat: true }
    }
}

impl Network {
    fn send(&self, to: NodeId, lane: Lane, kind: u8, header: Bytes, body: Vec<Bytes>, timeout: Duration) -> Pending {
        let request = Request { kind, group: self.group, header, body };
        self.transport.send(to, lane, request, Instant::now() + timeout)
    }

    /// Whether a voter's log was given this vote last ([`super::confirmation`]), as far as it can be asked; nothing if the voter gives the
    /// question up.
    pub fn confirm(&self, voter: NodeId, vote: &Bytes) -> impl Future<Output = Option<bool>> + Send + use<> {
        let answer = self.send(voter, Lane::Control, message::CONFIRM, vote.clone(), Vec::new(), self.stall_timeout);
        answer.map(confirmation)
    }
}

fn confirmation(answer: Result<Response, CallError>) -> Option<bool> {
    match answer {
        Ok(answer) => Some(wire::decode(&answer.header).unwrap_or(false)),
        Err(CallError::Unanswered) => None,
        // It may be reached again by the next question.
        Err(_) => Some(false),
    }
}

impl Client {
    fn send(&self, lane: Lane, kind: u8, header: Bytes, body: Vec<Bytes>, timeout: Duration) -> Pending {
        self.network.send(self.target, lane, kind, header, body, timeout)
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(&self, kind: u8, question: &Q) -> Result<A, Error> {
        let timeout = self.network.stall_timeout;
        let response = self.send(Lane::Control, kind, wire::encode(question), Vec::new(), timeout).await;
        answer(response)
    }

    /// A question for a vote; an error where this node lacks entries that it once had, and must not lead.
    fn candidacy(&self, request: &VoteRequest<TypeConfig>) -> Result<wire::VoteRequest, Error> {
        let request = wire::VoteRequest::from(request);
        match self.network.log.state().is_covered_by(request.last) {
            true => Ok(request),
            false => Err(unreachable(&io::Error::other("this replica has come back and lacks what it had before"))),
        }
    }

    fn append(&self, request: &Append) -> BoxFuture<'static, Result<Appended, Error>> {
        let (append, body) = wire::split_append(request);
        let (lane, kind) = match self.is_heartbeat {
            true => (Lane::Control, message::HEARTBEAT),
            false => (Lane::Bulk, message::APPEND),
        };
        let pending = self.send(lane, kind, wire::encode(&append), body, self.network.stall_timeout);
        pending.map(answer).boxed()
    }

    async fn snapshot_step(&self, step: &SnapshotStep, body: Vec<Bytes>, timeout: Duration) -> StepResult {
        let response = self.send(Lane::Bulk, message::SNAPSHOT, wire::encode(step), body, timeout).await;
        answer(response).map_err(streaming)
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, StreamingError<TypeConfig>> {
        let _sending = Sending::start(&self.network.sending);
        let transfer = self.network.entropy.next_u64();
        let (Some(last), SnapshotData(Some(mut chunks))) = (snapshot.meta.last_log_id, snapshot.snapshot) else {
            return Err(streaming(unreachable(&io::Error::other("there is no snapshot to send"))));
        };
        let members = super::types::Members::of_stored(&snapshot.meta.last_membership);
        let begin = SnapshotStep::Begin { transfer, vote: Ballot::from(&vote), last: position(&last), members };
        let timeout = self.network.stall_timeout;
        tracing::info!(group = self.network.group.0, to = %self.target, position = %position(&last), "sending a snapshot");
        let mut answer = self.snapshot_step(&begin, Vec::new(), timeout).await?;
        let mut sequence = 0;
        while let SnapshotAnswer::Received = answer {
            let Some(chunk) = chunks.next().await.map_err(|error| streaming(unreachable(&error)))? else { break };
            answer = self.snapshot_step(&SnapshotStep::Chunk { transfer, sequence }, vec![chunk], timeout).await?;
            sequence += 1;
        }
        let end = SnapshotStep::End { transfer, chunks: sequence };
        let deadline = Instant::now() + self.network.install_timeout;
        let mut wait = INSTALL_POLL_MIN;
        while matches!(answer, SnapshotAnswer::Received) && Instant::now() < deadline {
            answer = self.snapshot_step(&end, Vec::new(), timeout).await?;
            if matches!(answer, SnapshotAnswer::Received) {
                sleep(wait).await;
                wait = (wait * 2).min(INSTALL_POLL_MAX);
            }
        }
        match answer {
            SnapshotAnswer::Installed(vote) => Ok(vote.into()),
            _ => Err(streaming(unreachable(&io::Error::other("the follower lost the snapshot")))),
        }
    }
}

/// Counts a snapshot as under way until it is dropped.
struct Sending(Arc<AtomicUsize>);

impl Sending {
    fn start(count: &Arc<AtomicUsize>) -> Sending {
        count.fetch_add(1, Ordering::Relaxed);
        Sending(count.clone())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type StepResult = Result<SnapshotAnswer, StreamingError<TypeConfig>>;

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: Append,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Error> {
        stream_result(self.append(&request).await?).map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(&'s mut self, requests: S, _: RPCOption) -> AppendStream<'s>
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        // `append` sends at once, in the order of the input; `buffered` awaits the answers in that order.
        let client: &'s Client = self;
        let requests = entries_first(requests.fuse());
        let answers = requests.map(move |request| client.append(&request)).buffered(APPENDS_IN_FLIGHT);
        let results = answers.map(|answer| answer.and_then(stream_result));
        async move { Ok(results.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let answer: VoteAnswer = self.ask(message::VOTE, &self.candidacy(&request)?).await?;
        Ok(answer.into())
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let answer: VoteAnswer = self.ask(message::PRE_VOTE, &self.candidacy(&request)?).await?;
        Ok(answer.into())
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Error> {
        let from = Ballot::from(request.from_leader());
        let transfer = Transfer { from, to: *request.to_node_id(), last: request.last_log_id().map(position) };
        // Whether it took is seen by who leads next; a refusal only means that the election timeout decides.
        let () = self.ask(message::TRANSFER, &transfer).await?;
        Ok(Ok(()))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            vote = self.send_snapshot(vote, snapshot) => vote.map(SnapshotResponse::new),
        }
    }
}

/// The requests that are worth sending. One without entries, which only tells what is committed, waits a moment for the
/// next, which tells it as well; it is left out if that comes. The answer to the next one covers both.
fn entries_first<S>(requests: S) -> impl Stream<Item = Append> + Send
where
    S: Stream<Item = Append> + Send + Unpin,
{
    stream::unfold(requests, |mut requests| async move {
        let mut next = requests.next().await?;
        let deadline = Instant::now() + COMMIT_WAIT_MAX;
        while next.entries.is_empty()
            && let Ok(Some(later)) = timeout_at(deadline, requests.next()).await
        {
            next = later;
        }
        Some((next, requests))
    })
}

type AppendStream<'s> = BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Error>>, Error>>;

/// openraft's view of a follower's answer.
fn stream_result(answer: Appended) -> Result<StreamAppendResult<TypeConfig>, Error> {
    match answer {
        Appended::Matches(at) => Ok(Ok(at.map(log_id))),
        Appended::Conflict(at) => Ok(Err(StreamAppendError::Conflict(log_id(at)))),
        Appended::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
        // openraft waits before it tries a member again that is unreachable.
        Appended::NoSpace => Err(unreachable(&io::Error::other("the follower's disk is full"))),
        Appended::Aborted => {
            let reason = io::Error::other("the follower's stream broke");
            Err(RPCError::Network(NetworkError::new(&reason)))
        }
    }
}

fn answer<A: DeserializeOwned>(response: Result<Response, CallError>) -> Result<A, Error> {
    let response = response.map_err(|error| unreachable(&error))?;
    wire::decode(&response.header).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

fn unreachable<E: std::error::Error + Send + Sync + 'static>(error: &E) -> Error {
    RPCError::Unreachable(Unreachable::new(error))
}

fn streaming(error: Error) -> StreamingError<TypeConfig> {
    match error {
        RPCError::Timeout(timeout) => StreamingError::Timeout(timeout),
        RPCError::Unreachable(unreachable) => StreamingError::Unreachable(unreachable),
        RPCError::Network(network) => StreamingError::Network(network),
        RPCError::RemoteError(error) => StreamingError::Unreachable(Unreachable::new(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Entry, leadership};
    use super::*;
    use crate::{LogPosition, Offset, Term};
    use futures::channel::mpsc;
    use openraft::EntryPayload;

    /// A request that carries the entries of these offsets.
    fn request(offsets: std::ops::Range<u64>) -> Append {
        let at = |offset| log_id(LogPosition { term: Term(1), leader: NodeId(1), offset: Offset(offset) });
        AppendEntriesRequest {
            vote: Vote { leader_id: leadership(Term(1), NodeId(1)), committed: true },
            prev_log_id: Some(at(offsets.start - 1)),
            leader_commit: None,
            entries: offsets.map(|offset| Entry { log_id: at(offset), payload: EntryPayload::Blank }).collect(),
        }
    }

    fn entries(request: Option<Append>) -> Option<usize> {
        request.map(|request| request.entries.len())
    }

    #[test]
    fn only_a_voter_that_is_reached_says_yes_or_gives_up() {
        let answered = |header| Ok(Response { header, body: Vec::new() });
        assert_eq!(confirmation(answered(wire::encode(&true))), Some(true));
        assert_eq!(confirmation(answered(wire::encode(&false))), Some(false));
        assert_eq!(confirmation(answered(Bytes::from_static(&[7]))), Some(false), "no answer of ours");
        assert_eq!(confirmation(Err(CallError::Unanswered)), None);
        let (peer, reason) = ("n2".into(), "reset".into());
        for error in [CallError::Lost { peer, reason }, CallError::Deadline, CallError::Overloaded, CallError::Stopped]
        {
            assert_eq!(confirmation(Err(error)), Some(false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_tells_a_commit_waits_for_entries_but_not_for_long() {
        let (sender, requests) = mpsc::unbounded();
        let mut sent = std::pin::pin!(entries_first(requests.fuse()));
        let give = |offsets| sender.unbounded_send(request(offsets)).unwrap();
        let begin = Instant::now();
        [1..3, 3..3, 3..3, 3..7].into_iter().for_each(give);
        assert_eq!(entries(sent.next().await), Some(2));
        assert_eq!(entries(sent.next().await), Some(4), "the two before it are left out");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        give(7..7);
        assert_eq!(entries(sent.next().await), Some(0), "nothing has come");
        assert_eq!(begin.elapsed(), COMMIT_WAIT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_request_of_a_stream_is_sent_at_once() {
        let begin = Instant::now();
        let requests = stream::iter([request(1..1)]);
        let sent: Vec<Append> = entries_first(requests.fuse()).collect().await;
        assert_eq!((sent.len(), begin.elapsed()), (1, Duration::ZERO));
    }
}
