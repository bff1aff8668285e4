//! One replica of one partition: what this node does with it as leader and as follower.
//!
//! - **Invariant**: a leadership is published only after the leader's own first entry is applied, so that everything that
//!   was ever acknowledged is applied here before anyone is served.
//! - **Invariant**: the log is purged only up to what the state machine holds durably.
//! - A replica's tasks end with it ([`Replica::close`]); a group that stops by itself stops the node.

mod append;
mod leaderships;
mod read_barrier;
mod rebuild;
mod rounds;
mod tail;

pub use append::{AppendError, Appended};
pub use read_barrier::ReadError;

use crate::raft::{Group, GroupContext, View};
use crate::{GroupId, NodeId, Offset, PartitionId, StateMachine, Term};
pub(crate) use append::Refusal;
pub(crate) use leaderships::Leaderships;
use read_barrier::Barrier;
pub(crate) use rebuild::{Donors, fetch, has_lost_store};
use rounds::Proposal;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// Appends under way are counted in units of so many bytes.
const CREDIT_BYTES: usize = 1024;

/// While members still need the log, a purge is tried again after so long.
const PURGE_RETRY: Duration = Duration::from_secs(1);

/// A partition's replica on this node. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) context: GroupContext,
    pub(crate) group: Group,
    pub(crate) machine: Arc<dyn StateMachine>,
    leaderships: Leaderships,
    credit: Arc<Semaphore>,
    proposals: mpsc::UnboundedSender<Proposal>,
    barriers: mpsc::Sender<Barrier>,
    durable_moved: Notify,
    /// Up to where the log should be purged as soon as the state is durable, whatever else would be kept.
    unwanted: Mutex<Option<Offset>>,
    is_closing: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Replica {
    /// Opens the replica of a group over `machine`.
    pub(crate) async fn open(
        context: &GroupContext,
        group: GroupId,
        machine: Arc<dyn StateMachine>,
        leaderships: Leaderships,
    ) -> io::Result<Replica> {
        if let Some(durable) = machine.durable().position {
            rebuild::drop_contradictions(&context.log.group(group), durable).await?;
        }
        let group = Group::open(context, group, machine.clone()).await?;
        let (barriers, requests) = mpsc::channel(read_barrier::WAITING_MAX);
        // Bounded by the credit that each entry holds.
        let (proposals, arrivals) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            context: context.clone(),
            group,
            machine,
            leaderships,
            credit: Arc::new(Semaphore::new(context.config.append_bytes_in_flight_max.div_ceil(CREDIT_BYTES))),
            proposals,
            barriers,
            durable_moved: Notify::new(),
            unwanted: Mutex::default(),
            is_closing: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        let tasks = &context.environment.tasks;
        let handles = vec![
            tasks.spawn("leadership", watch_leadership(inner.clone())),
            tasks.spawn("rounds", rounds::run(inner.clone(), arrivals)),
            tasks.spawn("read-barrier", read_barrier::run(inner.clone(), requests)),
            tasks.spawn("purge", purge(inner.clone())),
        ];
        *lock(&inner.tasks) = handles;
        inner.durable_moved.notify_one();
        Ok(Replica { inner })
    }

    /// Which partition this is.
    pub fn partition(&self) -> PartitionId {
        self.inner.group.id().partition().expect("only partitions' replicas leave this crate")
    }

    /// How far this replica has applied; `None` before the first entry. Moves with each entry.
    pub fn applied(&self) -> watch::Receiver<Option<Offset>> {
        self.inner.group.applied()
    }

    /// The largest payload of one append, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        self.inner.context.payload_bytes_max()
    }

    /// The term this node leads in and may serve, if it does.
    pub fn leading(&self) -> Option<Term> {
        self.inner.leaderships.of(self.inner.group.id())
    }

    /// Says that [`StateMachine::durable`] has moved: the log up to there may be purged.
    pub fn durable_moved(&self) {
        self.inner.durable_moved.notify_one();
    }

    /// Has the log purged up to `upto` as soon as the state is durable that far, together with entries that would
    /// otherwise be kept.
    pub(crate) fn let_go(&self, upto: Offset) {
        let mut unwanted = lock(&self.inner.unwanted);
        *unwanted = unwanted.max(Some(upto));
        drop(unwanted);
        self.inner.durable_moved.notify_one();
    }

    pub(crate) fn view(&self) -> View {
        self.inner.group.view()
    }

    /// Whether the replica has been closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.inner.is_closing.load(Ordering::Acquire)
    }

    /// Stops taking part; what was acknowledged stays in the log.
    pub(crate) async fn close(&self) {
        self.inner.is_closing.store(true, Ordering::Release);
        for task in lock(&self.inner.tasks).drain(..) {
            task.abort();
        }
        self.inner.publish(None);
        self.inner.group.shutdown().await;
    }

    /// Like [`Replica::close`], and waits until the machine is left alone, so that it may be removed or opened anew.
    pub(crate) async fn leave(&self) {
        self.close().await;
        self.inner.group.let_go().await;
    }
}

impl Inner {
    fn publish(&self, term: Option<Term>) {
        self.leaderships.publish(self.group.id(), term);
    }

    /// How far the log may be purged now, at most up to `wanted`.
    fn purgeable(&self, wanted: Offset) -> Option<Offset> {
        let is_large = self.group.log().bytes() > self.context.config.log_bytes_held_max;
        let too_much = is_large || self.context.log.must_shrink();
        if self.group.is_sending_snapshot() && !too_much {
            return None;
        }
        purgeable(&self.group.view(), wanted, |member| self.context.is_alive(member), too_much)
    }

    fn is_unpurged(&self, offset: Offset) -> bool {
        self.group.log().state().purged.is_none_or(|purged| purged.offset < offset)
    }
}

/// The term in which `node` may serve: it leads, and has applied an entry of this very leadership.
fn may_serve(view: &View, node: NodeId) -> Option<Term> {
    let own = view.applied.filter(|applied| applied.term == view.term && applied.leader == node);
    own.filter(|_| view.is_leader).map(|applied| applied.term)
}

async fn watch_leadership(inner: Arc<Inner>) {
    let mut changes = inner.group.changes();
    loop {
        let view = changes.view();
        let term = may_serve(&view, inner.context.node);
        inner.publish(term);
        // Once it serves, only another role or vote can end that.
        let is_settled = view.is_leader == term.is_some();
        let has_ended =
            view.failure.is_some() || !if is_settled { changes.next_role().await } else { changes.next().await };
        if !has_ended {
            continue;
        }
        inner.publish(None);
        if !inner.is_closing.load(Ordering::Acquire) {
            let reason = inner.group.view().failure.unwrap_or_else(|| "its task ended".to_owned());
            inner.context.environment.tasks.fail(format!("group {} has stopped: {reason}", inner.group.id()));
        }
        return;
    }
}

async fn purge(inner: Arc<Inner>) {
    loop {
        inner.durable_moved.notified().await;
        while let Some(durable) = inner.machine.durable().position {
            let wanted = wanted(durable.offset, inner.context.config.log_entries_kept, *lock(&inner.unwanted));
            let may_purge = wanted.map(|wanted| inner.purgeable(wanted));
            if let Some(upto) = may_purge.flatten().filter(|upto| inner.is_unpurged(*upto)) {
                match inner.group.purge(upto).await {
                    Ok(()) => tracing::debug!(group = inner.group.id().0, offset = upto.0, "log purged"),
                    Err(error) => tracing::debug!(group = %inner.group.id(), %error, "the log was not purged"),
                }
            }
            if wanted.is_none_or(|wanted| may_purge == Some(Some(wanted))) {
                break;
            }
            tokio::time::sleep(PURGE_RETRY).await;
        }
    }
}

/// How far the log should be purged: some entries are kept behind what is durable, but not those that are `unwanted`.
fn wanted(durable: Offset, kept: u64, unwanted: Option<Offset>) -> Option<Offset> {
    let usual = durable.0.checked_sub(kept).map(Offset);
    usual.max(unwanted.map(|unwanted| unwanted.min(durable)))
}

/// How far a leader may purge at most `wanted`: not what a member that is alive still has to be sent, as long as it is
/// not `too_much` to keep.
fn purgeable(view: &View, wanted: Offset, is_alive: impl Fn(NodeId) -> bool, too_much: bool) -> Option<Offset> {
    let members = view.all_voters().into_iter().chain(view.learners.iter().copied());
    let held = members.filter(|member| is_alive(*member)).map(|member| view.matched.get(&member).copied().flatten());
    match held.min() {
        Some(held) if view.is_leader && !too_much => held.map(|held| held.min(wanted)),
        _ => Some(wanted),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogPosition;

    fn view(is_leader: bool, applied: (u64, u64)) -> View {
        let applied = LogPosition { term: Term(applied.0), leader: NodeId(applied.1), offset: Offset(9) };
        View { is_leader, term: Term(3), applied: Some(applied), ..View::default() }
    }

    #[test]
    fn a_leader_serves_only_after_an_entry_of_its_own_leadership_is_applied() {
        assert_eq!(may_serve(&view(true, (3, 1)), NodeId(1)), Some(Term(3)));
        assert_eq!(may_serve(&view(true, (2, 1)), NodeId(1)), None, "an older term of its own");
        assert_eq!(may_serve(&view(true, (3, 2)), NodeId(1)), None, "another leader of the same term");
        assert_eq!(may_serve(&view(false, (3, 1)), NodeId(1)), None, "no longer leading");
        assert_eq!(may_serve(&View { applied: None, ..view(true, (3, 1)) }, NodeId(1)), None);
    }

    /// A leader of nodes 1 and 2, with 3 learning; how far their logs match.
    fn leader_of(matched: [Option<u64>; 3]) -> View {
        let matched = matched.into_iter().zip(1..).map(|(at, id)| (NodeId(id), at.map(Offset)));
        View {
            voters: vec![[NodeId(1), NodeId(2)].into()],
            learners: [NodeId(3)].into(),
            matched: matched.collect(),
            ..view(true, (3, 1))
        }
    }

    #[test]
    fn entries_are_kept_behind_what_is_durable_unless_the_log_has_to_shrink() {
        assert_eq!(wanted(Offset(300), 128, None), Some(Offset(172)));
        assert_eq!(wanted(Offset(300), 128, Some(Offset(100))), Some(Offset(172)));
        assert_eq!(wanted(Offset(300), 128, Some(Offset(250))), Some(Offset(250)));
        assert_eq!(wanted(Offset(300), 128, Some(Offset(400))), Some(Offset(300)), "no further than what is durable");
        assert_eq!(wanted(Offset(100), 128, None), None);
        assert_eq!(wanted(Offset(100), 128, Some(Offset(40))), Some(Offset(40)));
    }

    #[test]
    fn a_leader_keeps_what_a_living_member_still_needs() {
        let view = leader_of([Some(100), Some(50), None]);
        let all = |_| true;
        assert_eq!(purgeable(&view, Offset(80), all, false), None, "the learner has nothing yet");
        assert_eq!(purgeable(&view, Offset(80), |node| node != NodeId(3), false), Some(Offset(50)));
        assert_eq!(purgeable(&view, Offset(40), |node| node != NodeId(3), false), Some(Offset(40)));
        assert_eq!(purgeable(&view, Offset(80), all, true), Some(Offset(80)), "there is too much to keep");
        let follower = View { is_leader: false, ..view };
        assert_eq!(purgeable(&follower, Offset(80), all, false), Some(Offset(80)));
    }
}
