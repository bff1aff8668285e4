//! openraft's state machine over the product's.
//!
//! What openraft calls applied is what the product's machine has applied; after a restart that is what it holds durably,
//! and the log gives it the rest again. A "snapshot" that openraft builds is only the statement how far the durable state
//! reaches (it lets the log be purged); the bytes of a state are captured when another replica needs them.

use super::types::{
    Answer, Entry, LogId, Members, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, log_id, position,
};
use crate::environment::Tasks;
use crate::{
    Begun, Committed, Durable, GroupId, HISTORY, LogPosition, Offset, Pace, Payload, Rest, SnapshotChunks, StateMachine,
};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// The rest of an entry is spread over the time since the one before divided by this: so it is done long before the next, and
/// where entries that leave a rest follow each other closely, none is held up for long.
const REST_DIVISOR: u32 = 3;
/// The longest time that it is spread over.
const REST_TIME_MAX: Duration = Duration::from_secs(1);

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
    /// The work that an entry left over.
    rest: Option<RestUnderWay>,
    /// When the last such work began.
    rest_begun: Option<Instant>,
}

/// Work that an entry left over.
struct RestUnderWay {
    /// While this is there, the work takes its time.
    unhurried: Option<oneshot::Sender<()>>,
    /// Closes when it is done.
    done: oneshot::Receiver<()>,
}

impl Turn {
    /// Waits until no earlier entry has anything left to do.
    async fn wait_for_rest(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.unhurried = None;
            let _ = (&mut rest.done).await;
            self.rest = None;
        }
    }

    /// How long the work may take that an entry leaves over now.
    fn time_for_rest(&mut self) -> Duration {
        let now = Instant::now();
        let before = self.rest_begun.replace(now);
        before.map_or(Duration::ZERO, |before| ((now - before) / REST_DIVISOR).min(REST_TIME_MAX))
    }
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
        turn.wait_for_rest().await;
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
            turn.wait_for_rest().await;
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
            (Begun::Rest(rest), responder) => {
                let time = turn.time_for_rest();
                turn.rest = Some(self.finish(at, rest, time, responder));
            }
        }
        Ok(())
    }

    /// Does what is left of an entry within `time` or so, and answers it.
    fn finish(
        &self,
        at: LogPosition,
        rest: Box<dyn Rest>,
        time: Duration,
        responder: Option<Responder>,
    ) -> RestUnderWay {
        let (unhurried, hurried) = oneshot::channel();
        let (is_done, done) = oneshot::channel();
        let applier = self.clone();
        self.shared.tasks.spawn("rest of an entry", async move {
            let finished = in_steps(&applier.shared.tasks, rest, time, hurried).await;
            match (finished, responder) {
                (Ok(answer), Some(responder)) => responder.send(Answer(answer)),
                (Ok(_), None) => {}
                (Err(error), _) => applier.fail(at, &error),
            }
            drop(is_done);
        });
        RestUnderWay { unhurried: Some(unhurried), done }
    }

    /// The node stops.
    fn fail(&self, at: LogPosition, error: &io::Error) {
        self.shared.tasks.fail(format!("group {}: applying entry {at} failed: {error}", self.shared.group));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Does what is left of an entry in steps that are spread over `time`, or as fast as it goes once `hurried` is closed.
async fn in_steps(
    tasks: &Tasks,
    mut rest: Box<dyn Rest>,
    time: Duration,
    mut hurried: oneshot::Receiver<()>,
) -> io::Result<Bytes> {
    let (begun, whole) = (Instant::now(), rest.remaining().max(1));
    let mut takes_time = !time.is_zero();
    loop {
        let stepped;
        (rest, stepped) = tasks
            .background(move || {
                let stepped = rest.step();
                (rest, stepped)
            })
            .await;
        if let Some(answer) = stepped? {
            return Ok(answer);
        }
        if takes_time {
            let share = whole.saturating_sub(rest.remaining()) as f64 / whole as f64;
            takes_time = timeout_at(begun + time.mul_f64(share), &mut hurried).await.is_err();
        }
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
        turn.wait_for_rest().await;
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
mod tests {
    use super::super::types::Data;
    use super::*;
    use crate::environment::TaskRunner;
    use crate::{LogPosition, NodeId, Snapshot, Term};
    use async_trait::async_trait;
    use futures::future::BoxFuture;
    use tokio::time::sleep;

    /// Runs blocking work where it is asked for.
    struct Inline;

    impl TaskRunner for Inline {
        fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
            work();
            Box::pin(std::future::ready(()))
        }
    }

    /// Writes down what is done when, in ms. An entry of four bytes leaves four steps over, one without any leaves nothing.
    #[derive(Clone)]
    struct Diary(Arc<Mutex<Vec<(u64, u128)>>>, Instant);

    impl Diary {
        fn write(&self, offset: Offset) {
            self.0.lock().unwrap().push((offset.0, self.1.elapsed().as_millis()));
        }

        fn read(&self) -> Vec<(u64, u128)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    struct Steps(Diary, Offset, usize);

    impl Rest for Steps {
        fn remaining(&self) -> usize {
            self.2
        }

        fn step(&mut self) -> io::Result<Option<Bytes>> {
            self.0.write(self.1);
            self.2 -= 1;
            Ok((self.2 == 0).then(Bytes::new))
        }
    }

    #[async_trait]
    impl StateMachine for Diary {
        fn durable(&self) -> Durable {
            Durable::default()
        }

        fn pace(&self, payload: &Bytes) -> Pace {
            if payload.is_empty() { Pace::Quick } else { Pace::Long }
        }

        fn apply(&self, entry: Committed) -> io::Result<Bytes> {
            self.write(entry.position.offset);
            Ok(Bytes::new())
        }

        fn begin(&self, entry: Committed) -> io::Result<Begun> {
            let Payload::Data(payload) = &entry.payload else { panic!("data was applied") };
            Ok(Begun::Rest(Box::new(Steps(self.clone(), entry.position.offset, payload.len()))))
        }

        async fn snapshot(&self) -> io::Result<Snapshot> {
            Err(io::Error::other("nobody asks"))
        }

        async fn install(&self, _: Durable, _: Box<dyn SnapshotChunks>) -> io::Result<()> {
            Err(io::Error::other("nobody asks"))
        }
    }

    fn entry(offset: u64, payload: &'static [u8]) -> Entry {
        Entry { payload: EntryPayload::Normal(Data(Bytes::from_static(payload))), ..blank(offset) }
    }

    fn blank(offset: u64) -> Entry {
        let position = LogPosition { term: Term(1), leader: NodeId(1), offset: Offset(offset) };
        Entry { log_id: log_id(position), payload: EntryPayload::Blank }
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_entry_leaves_over_is_spread_and_done_at_once_where_the_next_waits() {
        let diary = Diary(Arc::default(), Instant::now());
        let tasks = Tasks::new(Arc::new(Inline));
        let applier = Applier::new(GroupId(1), Arc::new(diary.clone()), tasks).unwrap();
        let turn = &mut *applier.turn().await.unwrap();

        applier.apply_one(turn, entry(0, b"long"), None).await.unwrap();
        sleep(Duration::from_millis(1200)).await;
        assert_eq!(diary.read(), [(0, 0); 4], "nothing says how long the next will be in coming");

        applier.apply_one(turn, entry(1, b"long"), None).await.unwrap();
        sleep(Duration::from_millis(250)).await;
        applier.apply_one(turn, entry(2, b""), None).await.unwrap();
        sleep(Duration::from_millis(1550)).await;
        let within_a_third = [(1, 1200), (1, 1300), (1, 1400), (2, 1450), (1, 1500)];
        assert_eq!(diary.read(), within_a_third, "other entries are applied meanwhile");

        applier.apply_one(turn, entry(3, b"long"), None).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        applier.apply_one(turn, entry(4, b"long"), None).await.unwrap();
        turn.wait_for_rest().await;
        assert_eq!(diary.read()[..5], [(3, 3000), (3, 3010), (3, 3010), (3, 3010), (4, 3010)]);

        sleep(Duration::from_secs(60)).await;
        applier.apply_one(turn, entry(5, b"long"), None).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(diary.read(), [(5, 63_010), (5, 63_260), (5, 63_510), (5, 63_760)], "a second at most");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_begins_and_a_machine_is_let_go_of_with_nothing_left_to_do() {
        let diary = Diary(Arc::default(), Instant::now());
        let tasks = Tasks::new(Arc::new(Inline));
        let applier = Applier::new(GroupId(1), Arc::new(diary.clone()), tasks).unwrap();
        let mut turn = applier.turn().await.unwrap();
        applier.apply_one(&mut turn, entry(0, b"long"), None).await.unwrap();
        sleep(Duration::from_secs(3)).await;
        applier.apply_one(&mut turn, entry(1, b"long"), None).await.unwrap();
        applier.apply_one(&mut turn, blank(2), None).await.unwrap();
        assert_eq!(diary.read()[4..], [(1, 3000), (1, 3000), (1, 3000), (1, 3000), (2, 3000)]);

        sleep(Duration::from_secs(3)).await;
        applier.apply_one(&mut turn, entry(3, b"long"), None).await.unwrap();
        drop(turn);
        applier.let_go().await;
        assert_eq!(diary.read(), [(3, 6000); 4]);
        assert!(applier.turn().await.is_err());
    }
}
