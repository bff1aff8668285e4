//! One Raft group on this node: the cluster's own words for what it does with openraft.

use super::applier::Applier;
use super::confirmation::{Leadership, Voters, follows};
use super::log_store::LogStore;
use super::network::Network;
use super::server::Server;
use super::types::{Answer, Data, Raft, TypeConfig, leadership, log_id};
use super::view::View;
use crate::config::Config;
use crate::environment::Environment;
use crate::log::{GroupLog, Log};
use crate::transport::{Reply, Request, Transport};
use crate::{GroupId, LogPosition, NodeId, Offset, StateMachine, Term};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::ClientWriteResult;
use openraft::{ChangeMembers, EmptyNode, Precondition, RaftMetrics, ReadPolicy, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// After so long openraft is asked again how far the state is durable.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

/// After so long without a majority's answers a leader is confirmed by openraft's round instead.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(200);

/// After so long without applying what it has committed, a leader asks openraft, which knows whether the group has ended.
const APPLIED_TIMEOUT: Duration = Duration::from_secs(2);

/// What every group of a node shares.
#[derive(Clone)]
pub struct GroupContext {
    pub environment: Environment,
    pub config: Arc<Config>,
    pub node: NodeId,
    pub log: Log,
    pub transport: Transport,
}

impl GroupContext {
    /// The largest payload of one append: of what the configuration allows, what a record of the log can hold.
    pub fn payload_bytes_max(&self) -> usize {
        self.config.payload_bytes_max.min(self.log.payload_bytes_max())
    }

    /// Whether a node was heard of lately.
    pub fn is_alive(&self, node: NodeId) -> bool {
        let heard = || self.transport.last_heard(node);
        node == self.node || heard().is_some_and(|at| at.elapsed() < self.config.alive_timeout)
    }
}

/// A group that this node is a member of, or is about to become one.
pub struct Group {
    id: GroupId,
    node: NodeId,
    raft: Raft,
    log: GroupLog,
    applier: Applier,
    server: Server,
    voters: Voters,
    network: Network,
}

/// An entry that was appended, committed and applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub offset: Offset,
    pub answer: Bytes,
}

/// Why an entry was not appended, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This node does not lead; nothing was appended.
    #[error("this node does not lead the group")]
    NotLeader(Option<NodeId>),
    /// This node leads, but may not write at the moment (its majority has not confirmed it, or it is handing over);
    /// nothing was appended. Try again in a moment.
    #[error("the leader may not write at the moment")]
    NotNow,
    /// The leadership was lost while the entry was under way; it may or may not be committed.
    #[error("the leadership was lost while the entry was under way")]
    Unknown,
    /// The group has stopped; the entry may or may not be committed.
    #[error("the group has stopped")]
    Stopped,
}

impl Group {
    /// Opens a group from its log and `machine`'s durable state; committed entries behind that are applied again before
    /// this returns.
    pub async fn open(context: &GroupContext, id: GroupId, machine: Arc<dyn StateMachine>) -> io::Result<Group> {
        let environment = context.environment.clone();
        let log = context.log.group(id);
        let applier = Applier::new(id, machine, environment.tasks.clone())?;
        let network = Network {
            group: id,
            transport: context.transport.clone(),
            entropy: environment.entropy.clone(),
            stall_timeout: context.config.stall_timeout,
            install_timeout: context.config.install_timeout,
            sending: Arc::new(AtomicUsize::new(0)),
            log: log.clone(),
        };
        let raft_config = raft_config(&context.config, id)?;
        applier.set_opening(true);
        let store = LogStore::new(log.clone());
        let raft = Raft::build(context.node.0, raft_config, network.clone(), store, applier.clone()).await;
        let raft = raft.map_err(|error| io::Error::other(format!("group {id} does not open: {error}")))?;
        applier.set_opening(false);
        raft.run();
        let server = Server::new(context, id, raft.clone());
        Ok(Group { id, node: context.node, raft, log, applier, server, voters: Voters::new(context.node), network })
    }

    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The group's share of the log.
    pub fn log(&self) -> &GroupLog {
        &self.log
    }

    /// How far this node has applied; moves with each entry.
    pub fn applied(&self) -> watch::Receiver<Option<Offset>> {
        self.applier.applied()
    }

    /// The group as this node sees it now.
    pub fn view(&self) -> View {
        View::of(&self.raft.metrics().borrow_watched())
    }

    /// Waits until the view may have changed.
    pub fn changes(&self) -> Changes {
        Changes { metrics: self.raft.metrics(), roles: self.raft.server_metrics(), is_current: false }
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Takes a request of another member. Never blocks.
    pub fn accept(&self, from: NodeId, request: Request, reply: Reply) {
        self.server.accept(from, request, reply);
    }

    /// Makes this node the only member of a group that has none. No effect on a group that has.
    pub async fn initialize(&self) -> io::Result<()> {
        if self.raft.is_initialized().await.map_err(other)? {
            return Ok(());
        }
        let members = BTreeMap::from([(self.node.0, EmptyNode::new())]);
        self.raft.initialize(members).await.map_err(other)
    }

    /// Appends an entry as the leader of `term`, and not otherwise. On return it is committed and applied here. Dropping
    /// the future does not take the entry back.
    pub async fn write_as(&self, term: Term, payload: Bytes) -> Result<Written, WriteError> {
        let (responder, done) = ProgressResponder::complete_only();
        let request = self.raft.write(Data(payload)).responder(responder).with_leader(leadership(term, self.node));
        request.await.map_err(|_| WriteError::Stopped)?;
        self.written(done.await.map_err(|_| WriteError::Stopped)?)
    }

    /// Appends entries as the leader, in one write; their outcomes in the same order, as [`Group::write_as`] has them. Where
    /// they end early, the group has stopped.
    pub async fn write_many(&self, payloads: Vec<Bytes>) -> BoxStream<'_, Result<Written, WriteError>> {
        match self.raft.client_write_many(payloads.into_iter().map(Data)).await {
            Ok(outcomes) => outcomes
                .map(|outcome| match outcome {
                    Ok(Ok(response)) => {
                        let Answer(answer) = response.response;
                        Ok(Written { offset: Offset(response.log_id.index), answer })
                    }
                    Ok(Err(error)) => self.written(Err(error)),
                    Err(_) => Err(WriteError::Stopped),
                })
                .boxed(),
            Err(_) => stream::empty().boxed(),
        }
    }

    fn written(&self, done: ClientWriteResult<TypeConfig>) -> Result<Written, WriteError> {
        match done {
            Ok(response) => {
                let Answer(answer) = response.response().clone();
                Ok(Written { offset: Offset(response.log_id().index), answer })
            }
            Err(ClientWriteError::ForwardToLeader(forward)) => Err(self.not_leading(&forward)),
            Err(_) => Err(WriteError::Unknown),
        }
    }

    /// Confirms with a majority that this node leads; returns the offset up to which it had to apply, and has.
    pub async fn read_index(&self) -> Result<Offset, WriteError> {
        if let Some(offset) = self.confirm().await {
            return Ok(offset);
        }
        // Slower, but it knows why not.
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(read) => Ok(Offset(read.index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(self.not_leading(&forward))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(WriteError::NotNow),
            Err(RaftError::Fatal(_)) => Err(WriteError::Stopped),
        }
    }

    /// What [`Group::read_index`] returns, where nothing stands in the way: this node leads, its voters say so, and it has applied.
    async fn confirm(&self) -> Option<Offset> {
        let node = self.node;
        let leadership = self.raft.with_raft_state(move |state| Leadership::of(node, state)).await.ok()??;
        let is_confirmed = self.voters.confirm(&leadership, |voter| self.network.confirm(voter, &leadership.vote));
        let is_confirmed = timeout(CONFIRM_TIMEOUT, is_confirmed).await.unwrap_or(false);
        if !is_confirmed || !follows(&self.log, &leadership.vote) {
            tracing::debug!(group = self.id.0, "not confirmed by the voters");
            return None;
        }
        tracing::debug!(group = self.id.0, "confirmed by the voters");
        let mut applied = self.applied();
        let is_applied = applied.wait_for(|applied| *applied >= Some(leadership.committed));
        timeout(APPLIED_TIMEOUT, is_applied).await.ok()?.ok()?;
        Some(leadership.committed)
    }

    fn not_leading(&self, forward: &ForwardToLeader<TypeConfig>) -> WriteError {
        use openraft::errors::ForwardReason;
        match forward.reason {
            ForwardReason::NotLeader => match forward.leader_id {
                // Led here, but in another term than the caller's.
                Some(leader) if leader == self.node.0 => WriteError::NotLeader(None),
                leader => WriteError::NotLeader(leader.map(NodeId)),
            },
            ForwardReason::LeadershipTransfer | ForwardReason::LeaseExpired => WriteError::NotNow,
        }
    }

    /// Adds a member without a vote; returns once that is committed, not once it has caught up. `seen`, here and in the
    /// other changes: the entry that names the members that the change was decided by ([`View::members_at`]). If it is not
    /// the newest, nothing is changed.
    pub async fn add_learner(&self, seen: Option<LogPosition>, node: NodeId) -> io::Result<()> {
        self.change(seen, ChangeMembers::AddNodes(BTreeMap::from([(node.0, EmptyNode::new())])), true).await
    }

    /// Makes exactly these members vote; who voted before and is not among them leaves the group. Also ends a change that
    /// a former leader left half-done.
    pub async fn set_voters(&self, seen: Option<LogPosition>, voters: &BTreeSet<NodeId>) -> io::Result<()> {
        let voters = voters.iter().map(|node| node.0).collect();
        self.change(seen, ChangeMembers::ReplaceAllVoters(voters), false).await
    }

    /// Ends a change of voters that a former leader left half-done.
    pub async fn finish_change(&self, seen: Option<LogPosition>) -> io::Result<()> {
        self.change(seen, ChangeMembers::AddVoterIds(BTreeSet::new()), false).await
    }

    /// Removes a member that has no vote.
    pub async fn remove_learner(&self, seen: Option<LogPosition>, node: NodeId) -> io::Result<()> {
        self.change(seen, ChangeMembers::RemoveNodes(BTreeSet::from([node.0])), true).await
    }

    async fn change(
        &self,
        seen: Option<LogPosition>,
        change: ChangeMembers<u64, EmptyNode>,
        retain: bool,
    ) -> io::Result<()> {
        let still = Precondition::LastMembershipLogId { last_membership_log_id: seen.map(log_id) };
        self.raft.change_membership_if(change, retain, [still]).await.map_err(other)?;
        Ok(())
    }

    /// As the leader, asks `to` to take over at once. Whether it did is seen in the view.
    pub async fn transfer(&self, to: NodeId) -> io::Result<()> {
        self.raft.trigger().transfer_leader(to.0).await.map_err(other)
    }

    /// Purges the log up to and including `upto`, which the state machine holds durably.
    pub async fn purge(&self, upto: Offset) -> io::Result<()> {
        let mut metrics = self.raft.metrics();
        // openraft purges what it knows to be in a snapshot only. It learns of this one a moment after it was triggered,
        // and of none if an earlier one was still being looked at: then it is triggered again.
        while metrics.borrow_watched().snapshot.as_ref().is_none_or(|snapshot| snapshot.index < upto.0) {
            self.raft.trigger().snapshot().await.map_err(other)?;
            let is_known = async {
                while metrics.borrow_watched().snapshot.as_ref().is_none_or(|snapshot| snapshot.index < upto.0) {
                    metrics.changed().await.map_err(other)?;
                }
                Ok::<(), io::Error>(())
            };
            if let Ok(outcome) = timeout(SNAPSHOT_RETRY, is_known).await {
                outcome?;
            }
        }
        self.raft.trigger().purge_log(upto.0).await.map_err(other)
    }

    /// Whether a snapshot is on its way from here to a follower, which will need the log that follows it.
    pub fn is_sending_snapshot(&self) -> bool {
        self.network.sending.load(Ordering::Relaxed) > 0
    }

    /// Whether this node may stand for election when the leader falls silent.
    pub fn set_may_lead(&self, may: bool) {
        self.raft.runtime_config().elect(may);
    }

    /// Stops taking part. Whatever was acknowledged stays in the log.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, %error, "a group's task did not end cleanly");
        }
    }

    /// Once it is shut down: waits until the state machine is left alone.
    pub async fn let_go(&self) {
        self.applier.let_go().await;
    }
}

/// Tells when a group's view may have changed.
pub struct Changes {
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    roles: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    /// Whether the view last taken has the role last known.
    is_current: bool,
}

impl Changes {
    /// The group as this node sees it now.
    pub fn view(&mut self) -> View {
        // A role is told before the view that has it. What comes in between the two lines is a change.
        let (role, vote) = {
            let roles = self.roles.borrow_and_update();
            (roles.state, roles.vote)
        };
        let metrics = self.metrics.borrow_and_update();
        self.is_current = metrics.state == role && metrics.vote == vote;
        View::of(&metrics)
    }

    /// Waits until the view may be another than that last taken; `false` when the group has ended.
    pub async fn next(&mut self) -> bool {
        self.metrics.changed().await.is_ok()
    }

    /// Waits until role, vote or members may be others than in the view last taken: much rarer than other changes. `false`
    /// when the group has ended.
    pub async fn next_role(&mut self) -> bool {
        if self.is_current { self.roles.changed().await.is_ok() } else { self.next().await }
    }
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// openraft's settings for a group.
fn raft_config(config: &Config, group: GroupId) -> io::Result<Arc<openraft::Config>> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let raft_config = openraft::Config {
        cluster_name: format!("group {group}"),
        heartbeat_interval: millis(config.heartbeat_interval),
        election_timeout_min: millis(config.election_timeout_min),
        election_timeout_max: millis(config.election_timeout_max),
        // With it on, a leader that lost unsynced entries in a power cut resumes its term and gives their positions to
        // other entries, while a follower has kept the first ones: replicas diverge (seen in 4 of 24 simulated runs).
        #[cfg(not(feature = "planted-bugs"))]
        enable_leader_restore: Some(false),
        #[cfg(feature = "planted-bugs")]
        enable_leader_restore: Some(super::planted::has("leader-restore")),
        enable_pre_vote: Some(true),
        // A replica that moved away and comes back begins anew, and a leader may have heard the old one answer just before.
        // It must then forget what that one had; only entries before the replica was a member again can be among it.
        allow_log_reversion: Some(true),
        // Snapshots are how far the state is durable; the state machine says when (`Group::purge`).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Enough entries to fill a read's bytes with small ones.
        max_payload_entries: 4096,
        install_snapshot_timeout: millis(config.install_timeout),
        backoff: "50ms 100ms 200ms ..1s".to_owned(),
        ..openraft::Config::default()
    };
    raft_config.validate().map(Arc::new).map_err(other)
}
