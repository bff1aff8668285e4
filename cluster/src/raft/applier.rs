//! openraft's state machine over the product's.
//!
//! What openraft calls applied is what the product's machine has applied; after a restart that is what it holds durably,
//! and the log gives it the rest again. A "snapshot" that openraft builds is only the statement how far the durable state
//! reaches (it lets the log be purged); the bytes of a state are captured when another replica needs them.

use super::rests::{Leisure, Rests};
use super::types::{
    Answer, Entry, LogId, Members, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, log_id, position,
};
use crate::environment::Tasks;
use crate::{
    Begun, Committed, Durable, GroupId, HISTORY, LogPosition, Offset, Pace, Payload, Rest, SnapshotChunks, StateMachine,
};
use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// The bytes of a snapshot, or nothing where openraft only asks how far it reaches.
pub struct SnapshotData(pub Option<Box<dyn SnapshotChunks>>);

/// Takes the answer for whoever appended an entry.
type Responder = ApplyResponder<TypeConfig>;

/// A group's state machine as openraft wants it. Cheap to clone.
#[derive(Clone)]
pub struct Applier {
    shared: Arc<Shared>,
}

struct Shared {
    group: GroupId,
    machine: Arc<dyn StateMachine>,
    tasks: Tasks,
    applied: watch::Sender<Option<Offset>>,
    state: Mutex<State>,
    /// While openraft recovers, which asks for the current snapshot several times, none is captured.
    is_opening: AtomicBool,
    /// Held while the machine is changed.
    turn: tokio::sync::Mutex<Turn>,
}

/// What a change of the machine has to look at before.
#[derive(Default)]
struct Turn {
    /// The machine is left alone: openraft's worker goes on for a while after the group was shut down.
    is_over: bool,
    /// What entries left over.
    rests: Rests,
}

/// What openraft asks back: the last entry applied, and the newest members.
struct State {
    applied: Option<LogPosition>,
    members: Members,
}

impl Applier {
    /// `machine` at its durable state.
    pub fn new(group: GroupId, machine: Arc<dyn StateMachine>, tasks: Tasks) -> io::Result<Applier> {
        let durable = machine.durable();
        let state = Mutex::new(State { applied: durable.position, members: members_of(group, &durable)? });
        let applied = watch::channel(durable.position.map(|position| position.offset)).0;
        let (is_opening, turn) = (AtomicBool::new(false), tokio::sync::Mutex::default());
        Ok(Applier { shared: Arc::new(Shared { group, machine, tasks, applied, state, is_opening, turn }) })
    }

    /// Waits for what is being applied or installed, and lets nothing follow it: on return the machine is left alone.
    pub async fn let_go(&self) {
        let mut turn = self.shared.turn.lock().await;
        turn.is_over = true;
        turn.rests.wait().await;
    }

    async fn turn(&self) -> io::Result<tokio::sync::MutexGuard<'_, Turn>> {
        let turn = self.shared.turn.lock().await;
        if turn.is_over {
            return Err(io::Error::other(format!("group {} has let go of its machine", self.shared.group)));
        }
        Ok(turn)
    }

    /// Whether openraft is still recovering from this machine.
    pub fn set_opening(&self, is_opening: bool) {
        self.shared.is_opening.store(is_opening, Ordering::Relaxed);
    }

    /// How far the machine has applied; moves with each entry.
    pub fn applied(&self) -> watch::Receiver<Option<Offset>> {
        self.shared.applied.subscribe()
    }

    fn meta(&self, durable: &Durable) -> io::Result<SnapshotMeta> {
        let last_membership = members_of(self.shared.group, durable)?.stored()?;
        Ok(SnapshotMeta { last_log_id: durable.position.map(log_id), last_membership })
    }

    /// Applies an entry and answers it, now or when the rest of it is done.
    async fn apply_one(&self, turn: &mut Turn, entry: Entry, responder: Option<Responder>) -> io::Result<()> {
        let at = position(&entry.log_id);
        let payload = match entry.payload {
            EntryPayload::Blank => Payload::Blank,
            EntryPayload::Normal(data) => Payload::Data(data.0),
            EntryPayload::Membership(membership) => {
                let members = Members::new(Some(at), &membership);
                let bytes = members.encode();
                self.state().members = members;
                Payload::Membership(bytes)
            }
        };
        #[cfg(feature = "planted-bugs")]
        let payload = super::planted::payload(self.shared.group, at, payload);
        let hash = fingerprint(&payload);
        let pace = match &payload {
            Payload::Data(payload) => self.shared.machine.pace(payload),
            Payload::Membership(_) => Pace::Quick,
            // A new leader begins with nothing left to do, or what it begins from would move under it.
            Payload::Blank => Pace::InTurn,
        };
        if pace != Pace::Quick {
            turn.rests.wait().await;
        }
        let committed = Committed { position: at, payload };
        let begun = if pace == Pace::Long {
            let machine = self.shared.machine.clone();
            self.shared.tasks.blocking(move || machine.begin(committed)).await
        } else {
            self.shared.machine.apply(committed).map(Begun::Done)
        };
        let begun = begun.inspect_err(|error| self.fail(at, error))?;
        tracing::debug!(
            target: HISTORY,
            group = self.shared.group.0,
            term = at.term.0,
            leader = at.leader.0,
            offset = at.offset.0,
            hash,
            "applied"
        );
        self.state().applied = Some(at);
        self.shared.applied.send_replace(Some(at.offset));
        match (begun, responder) {
            (Begun::Done(answer), Some(responder)) => responder.send(Answer(answer)),
            (Begun::Done(_), None) => {}
            (Begun::Rest(rest), responder) => self.finish(at, rest, turn.rests.begin(), responder),
        }
        Ok(())
    }

    /// Does what is left of an entry, and answers it.
    fn finish(&self, at: LogPosition, rest: Box<dyn Rest>, mut leisure: Leisure, responder: Option<Responder>) {
        let applier = self.clone();
        self.shared.tasks.spawn("rest of an entry", async move {
            match (leisure.spend(&applier.shared.tasks, rest).await, responder) {
                (Ok(answer), Some(responder)) => responder.send(Answer(answer)),
                (Ok(_), None) => {}
                (Err(error), _) => applier.fail(at, &error),
            }
            drop(leisure);
        });
    }

    /// The node stops.
    fn fail(&self, at: LogPosition, error: &io::Error) {
        self.shared.tasks.fail(format!("group {}: applying entry {at} failed: {error}", self.shared.group));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What is told of an entry to whoever follows all of them; nobody usually does, and then it costs nothing.
fn fingerprint(payload: &Payload) -> u32 {
    if !tracing::enabled!(target: HISTORY, tracing::Level::DEBUG) {
        return 0;
    }
    match payload {
        Payload::Data(bytes) | Payload::Membership(bytes) => crc32c::crc32c(bytes),
        Payload::Blank => 0,
    }
}

/// The members that travel with a durable state.
fn members_of(group: GroupId, durable: &Durable) -> io::Result<Members> {
    match (&durable.position, &durable.membership) {
        (_, Some(bytes)) => Members::decode(bytes),
        (None, None) => Ok(Members::default()),
        (Some(at), None) => {
            let reason = format!("group {group}: the state at {at} has lost its membership");
            Err(io::Error::new(io::ErrorKind::InvalidData, reason))
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let meta = self.meta(&self.shared.machine.durable())?;
        Ok(Snapshot { meta, snapshot: SnapshotData(None) })
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Applier;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.state();
        Ok((state.applied.map(log_id), state.members.stored()?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut turn = self.turn().await?;
        while let Some((entry, responder)) = entries.try_next().await? {
            self.apply_one(&mut turn, entry, responder).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Applier {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let Some(chunks) = snapshot.0 else {
            return Err(io::Error::other("a snapshot without bytes cannot be installed"));
        };
        let mut turn = self.turn().await?;
        turn.rests.wait().await;
        let members = Members::of_stored(&meta.last_membership);
        let at = meta.last_log_id.as_ref().map(position);
        let durable = Durable { position: at, membership: Some(members.encode()) };
        self.shared.machine.install(durable, chunks).await.map_err(|error| {
            self.shared.tasks.fail(format!("group {}: installing a snapshot failed: {error}", self.shared.group));
            error
        })?;
        *self.state() = State { applied: at, members };
        self.shared.applied.send_replace(at.map(|at| at.offset));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        if self.shared.is_opening.load(Ordering::Relaxed) {
            let durable = self.shared.machine.durable();
            let meta = self.meta(&durable)?;
            return Ok(durable.position.map(|_| Snapshot { meta, snapshot: SnapshotData(None) }));
        }
        if self.shared.machine.durable().position.is_none() {
            return Ok(None);
        }
        let captured = self.shared.machine.snapshot().await?;
        let meta = self.meta(&captured.durable)?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotData(Some(captured.chunks)) }))
    }
}

#[cfg(test)]
#[path = "applier_tests.rs"]
mod tests;
