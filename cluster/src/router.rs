//! Appends and calls from any node to where they belong.
//!
//! The leader is whom this node's replica follows, or who last reported to lead; a wrong guess is corrected by the answer.
//! A request goes through at most one other node. An append is tried again with the same bytes until its deadline, also
//! when it is unknown whether the last attempt took effect: entries carry an identity of their own, and whoever applies
//! them counts each once.

use crate::message;
use crate::node::Node;
use crate::partition::{AppendError, Appended, Refusal};
use crate::raft;
use crate::transport::{CallError as TransportError, Lane, Reply, Request, Response};
use crate::{GroupId, NodeId, Offset, PartitionId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The first and the longest wait before the next attempt.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(200);

/// How long one attempt at another node may take: beyond it another node may lead by now.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);

/// What the other node's answer may take beyond that before its connection counts as dead.
const GRACE: Duration = Duration::from_secs(1);

/// Where a call is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// At the partition's leader, wherever it is.
    Leader,
    /// At this node's replica, or at any other where this node has none.
    Local,
}

/// Why a call has no answer. It may have been served all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no such partition.
    #[error("there is no such partition")]
    UnknownPartition,
    /// The request or its answer exceeds what a frame can hold.
    #[error("the request exceeds the limit of a call")]
    TooLarge,
    /// No node served it before the deadline.
    #[error("no node served the call before the deadline")]
    Deadline,
}

/// Envelope of a forwarded append or call; the payload is the message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Forward {
    /// How long the receiver may take.
    budget_ms: u32,
    /// For calls: only if the receiver leads.
    at_leader: bool,
}

/// Envelope of the answer; the payload is the message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Forwarded {
    Appended(Offset),
    Served,
    NotLeader(Option<NodeId>),
    DiskFull,
    TooLarge,
    /// It may or may not have taken effect.
    Unknown,
    NotAdmitted,
}

/// What an attempt at an append came to.
enum Attempt<T> {
    Done(T),
    /// Nothing happened; someone else may lead.
    Elsewhere(Option<NodeId>),
    /// It may have taken effect; try again after a moment.
    Again,
}

/// Waits between attempts: doubling, half random, never beyond the deadline.
struct Backoff {
    wait: Duration,
    deadline: Instant,
}

impl Backoff {
    fn new(deadline: Instant) -> Backoff {
        Backoff { wait: RETRY_MIN, deadline }
    }

    /// Waits; `false` if the deadline has come.
    async fn wait(&mut self, node: &Node) -> bool {
        let half_us = self.wait.as_micros() as u64 / 2;
        let jitter = Duration::from_micros(node.environment().entropy.next_u64() % half_us.max(1));
        let until = Instant::now() + self.wait / 2 + jitter;
        self.wait = (self.wait * 2).min(RETRY_MAX);
        sleep_until(until.min(self.deadline)).await;
        Instant::now() < self.deadline
    }
}

impl Node {
    /// Appends at the group's leader, wherever it is.
    pub async fn append(&self, group: GroupId, payload: Bytes, deadline: Instant) -> Result<Appended, AppendError> {
        if payload.len() > self.context.payload_bytes_max() {
            return Err(AppendError::TooLarge);
        }
        let mut backoff = Backoff::new(deadline);
        let mut hint = None;
        let mut may_have_arrived = false;
        loop {
            let attempt = match hint.take().or_else(|| self.leader_of(group)) {
                Some(leader) if leader == self.id() => self.append_as_leader(group, payload.clone(), deadline).await?,
                Some(leader) => self.append_at(leader, group, payload.clone(), deadline).await?,
                None => Attempt::Elsewhere(None),
            };
            match attempt {
                Attempt::Done(appended) => return Ok(appended),
                Attempt::Elsewhere(leader) => hint = leader.filter(|leader| Some(*leader) != self.leader_of(group)),
                Attempt::Again => may_have_arrived = true,
            }
            if !backoff.wait(self).await {
                return Err(if may_have_arrived { AppendError::Deadline } else { AppendError::Unavailable });
            }
        }
    }

    async fn append_as_leader(
        &self,
        group: GroupId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Attempt<Appended>, AppendError> {
        let Some(replica) = self.replica_of(group) else { return Ok(Attempt::Elsewhere(None)) };
        match replica.append_here(None, payload, deadline).await {
            Ok(appended) => Ok(Attempt::Done(appended)),
            Err(Refusal::NotLeader(leader)) => Ok(Attempt::Elsewhere(leader)),
            Err(Refusal::Failed(AppendError::Unavailable)) => Ok(Attempt::Again),
            Err(Refusal::Failed(error)) => Err(error),
        }
    }

    async fn append_at(
        &self,
        leader: NodeId,
        group: GroupId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Attempt<Appended>, AppendError> {
        let (answer, body) = match self.forward(message::FORWARD, leader, group, true, payload, deadline).await {
            Ok(answer) => answer,
            Err(TransportError::TooLarge { .. }) => return Err(AppendError::TooLarge),
            Err(error) => {
                tracing::debug!(%group, %leader, %error, "an append did not get through");
                return Ok(if error.may_have_arrived() { Attempt::Again } else { Attempt::Elsewhere(None) });
            }
        };
        match answer {
            Forwarded::Appended(offset) => Ok(Attempt::Done(Appended { offset, answer: body })),
            Forwarded::NotLeader(leader) => Ok(Attempt::Elsewhere(leader)),
            Forwarded::DiskFull => Err(AppendError::DiskFull),
            Forwarded::TooLarge => Err(AppendError::TooLarge),
            Forwarded::NotAdmitted => Err(AppendError::NotAdmitted),
            Forwarded::Unknown | Forwarded::Served => Ok(Attempt::Again),
        }
    }

    /// Has a request served by the product at a partition's replica. It may be served more than once.
    pub async fn call(
        &self,
        partition: PartitionId,
        target: Target,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let group = GroupId::from(partition);
        if !self.state().placement.contains_key(&partition) {
            return Err(CallError::UnknownPartition);
        }
        let mut backoff = Backoff::new(deadline);
        let mut hint = None;
        loop {
            let at = match target {
                Target::Leader => hint.take().or_else(|| self.leader_of(group)),
                Target::Local => self.replica_holder(partition),
            };
            let attempt = match at {
                Some(node) if node == self.id() => self.serve_here(partition, target, request.clone()).await,
                Some(node) => self.call_at(node, partition, target, request.clone(), deadline).await?,
                None => Attempt::Elsewhere(None),
            };
            match attempt {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Elsewhere(leader) => hint = leader.filter(|leader| Some(*leader) != self.leader_of(group)),
                Attempt::Again => {}
            }
            if !backoff.wait(self).await {
                return Err(CallError::Deadline);
            }
        }
    }

    async fn serve_here(&self, partition: PartitionId, target: Target, request: Bytes) -> Attempt<Bytes> {
        let Some(replica) = self.replica_of(partition.into()) else { return Attempt::Elsewhere(None) };
        if target == Target::Leader && replica.leading().is_none() {
            let leader = replica.view().leader.filter(|leader| *leader != self.id());
            return Attempt::Elsewhere(leader);
        }
        Attempt::Done(self.host().serve(partition, request).await)
    }

    async fn call_at(
        &self,
        node: NodeId,
        partition: PartitionId,
        target: Target,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Attempt<Bytes>, CallError> {
        let at_leader = target == Target::Leader;
        match self.forward(message::CALL, node, partition.into(), at_leader, request, deadline).await {
            Ok((Forwarded::Served, body)) => Ok(Attempt::Done(body)),
            Ok((Forwarded::NotLeader(leader), _)) => Ok(Attempt::Elsewhere(leader)),
            Ok(_) => Ok(Attempt::Again),
            Err(TransportError::TooLarge { .. }) => Err(CallError::TooLarge),
            Err(error) => {
                tracing::debug!(%partition, %node, %error, "a call did not get through");
                Ok(Attempt::Again)
            }
        }
    }

    async fn forward(
        &self,
        kind: u8,
        to: NodeId,
        group: GroupId,
        at_leader: bool,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<(Forwarded, Bytes), TransportError> {
        let budget = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT_MAX);
        let forward = Forward { budget_ms: budget.as_millis() as u32, at_leader };
        // A call may wait for the product, and must not wait behind bulk data; its answer is seldom large.
        let lane = if kind == message::CALL { Lane::Control } else { Lane::Bulk };
        let request = Request { kind, group, header: raft::encode(&forward), body: vec![payload] };
        let response = self.transport().call(to, lane, request, Instant::now() + budget + GRACE).await?;
        let body = response.body.into_iter().next().unwrap_or_default();
        Ok((raft::decode(&response.header).unwrap_or(Forwarded::Unknown), body))
    }

    /// Serves an append or a call that another node has forwarded.
    pub async fn serve_forwarded(self: Arc<Self>, request: Request, reply: Reply) {
        let Ok(forward) = raft::decode::<Forward>(&request.header) else { return };
        let payload = request.body.into_iter().next().unwrap_or_default();
        let deadline = Instant::now() + Duration::from_millis(forward.budget_ms.into());
        let (answer, body) = match (request.kind, request.group.partition()) {
            (message::CALL, Some(partition)) => {
                let target = if forward.at_leader { Target::Leader } else { Target::Local };
                match self.serve_here(partition, target, payload).await {
                    Attempt::Done(answer) => (Forwarded::Served, answer),
                    Attempt::Elsewhere(leader) => (Forwarded::NotLeader(leader), Bytes::new()),
                    Attempt::Again => (Forwarded::Unknown, Bytes::new()),
                }
            }
            _ => match self.append_as_leader(request.group, payload, deadline).await {
                Ok(Attempt::Done(appended)) => (Forwarded::Appended(appended.offset), appended.answer),
                Ok(Attempt::Elsewhere(leader)) => (Forwarded::NotLeader(leader), Bytes::new()),
                Err(AppendError::DiskFull) => (Forwarded::DiskFull, Bytes::new()),
                Err(AppendError::TooLarge) => (Forwarded::TooLarge, Bytes::new()),
                Err(AppendError::NotAdmitted) => (Forwarded::NotAdmitted, Bytes::new()),
                Ok(Attempt::Again) | Err(_) => (Forwarded::Unknown, Bytes::new()),
            },
        };
        reply.send(Response { header: raft::encode(&answer), body: vec![body] });
    }
}
