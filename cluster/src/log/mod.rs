//! This node's write-ahead log: one for all Raft groups, so that one fsync commits whatever all of them have waiting.
//!
//! ```text
//!   group 0 ─┐  append, vote,    ┌── segment 7 ──┐┌── segment 8 ──┐┌─ segment 9 ─┐
//!   group 1 ─┼─ truncate, purge ▶│ states·records ││ states·rec▸   ││   (spare)   │
//!   group 2 ─┘   one order       └────────────────┘└───────────────┘└─────────────┘
//!                                   one write + one fsync for all that waits
//! ```
//!
//! **Promises.**
//! - The order of the log is the order of the calls; a vote is never reordered with an append of any group.
//! - What was called done survives a power cut; what was not may or may not be there, but never something behind it
//!   without it, and never anything that was not written.
//! - A group's entries have no hole. Appending one is refused; finding one is damage.
//! - A failed write or fsync is never tried again: every call fails from then on and the node stops.
//! - A torn tail is cut when the log opens; damage to what had been synced is refused (recovery.rs says how they differ).
//!
//! **Full disk.** The next segment is made before it is needed. When that fails, [`Log::accepts_appends`] turns false
//! while half of the current segment is in use at most, so that half a segment of room remains for what was already
//! proposed and for what other leaders replicate to this node. A leader asks [`Log::accepts_appends`] before it
//! *proposes*, and a follower asks [`Log::admit`] for room before it hands a leader's entries to Raft. What finds no
//! room all the same, because the segment was full before it was known that there is no other, waits for space, and its
//! group with it. Votes, truncations and purges have a reserve of their own (and wait for space if even that is used
//! up). Purging recycles segments, which ends the shortage without any space.
//!
//! **Bound.** Above `bytes_max`, or when the disk is full, [`Log::pins`] names the groups that have to let go of old
//! entries. Segments go from the oldest on, so one entry of an idle group keeps everything behind it.
//!
//! **Not here.** When to purge (the product knows what it has stored durably), and what entries mean.

mod config;
mod error;
mod index;
mod purge;
mod reader;
mod record;
mod recovery;
mod segment;
mod state;
mod writer;

pub use config::LogConfig;
pub use error::Error;
pub(crate) use purge::is_disk_full;

use crate::environment::Environment;
use crate::{GroupId, LogPosition, Offset};
use bytes::Bytes;
use index::Change;
use record::Kind;
use segment::Segment;
use state::{Bounds, State};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// Bytes of a record besides its payload, padding included.
pub const RECORD_OVERHEAD_BYTES: u64 = (record::HEADER_BYTES + record::ALIGNMENT) as u64;

/// A vote takes at most this many bytes.
pub const VOTE_BYTES_MAX: usize = 256;

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub position: LogPosition,
    /// What the caller calls it; opaque to the log.
    pub kind: u8,
    /// Its bytes, at most [`Log::payload_bytes_max`]; never copied on the way to the disk.
    pub payload: Bytes,
}

/// What the log knows of a group besides its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The vote last saved, as the caller encoded it.
    pub vote: Option<Bytes>,
    /// Everything up to and including this entry is gone.
    pub purged: Option<LogPosition>,
    /// The last entry, or `purged` where there is none.
    pub last: Option<LogPosition>,
    /// What was last saved as committed; may be older than the truth.
    pub committed: Option<LogPosition>,
    /// The last entry of those that a reset has dropped. This replica may have acked it, so until it has it again, it may
    /// neither lead nor choose a leader who lacks it.
    pub dropped: Option<LogPosition>,
}

impl GroupState {
    /// Whether a replica whose last entry is `last` holds all that this one has ever acked, as far as resets have dropped it.
    pub fn is_covered_by(&self, last: Option<LogPosition>) -> bool {
        last >= self.dropped
    }
}

/// Called once, from any task, in the order of the appends, when entries are durable or never will be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Whether the disk has room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The next segment is there, or nothing speaks against it.
    Ok,
    /// The disk is full: the next segment cannot be made. Propose nothing; what a leader replicates still fits.
    Low,
    /// A record of the largest size may not fit any more: refuse entries before Raft sees them.
    Full,
}

/// What the log has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Batches that were written and synced.
    pub syncs: u64,
    /// Time that took.
    pub sync_time: Duration,
}

/// A group that keeps segments which should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Which group.
    pub group: GroupId,
    /// Its last entry in them: purged up to here, it no longer needs them.
    pub upto: LogPosition,
}

/// The log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// Room that is kept for entries on their way into the log.
pub struct Admitted {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.lock().admitted_bytes -= self.bytes;
    }
}

/// One group's share of the log. Cheap to clone. Calls that write are made one after the other, by one caller.
#[derive(Clone)]
pub struct GroupLog {
    shared: Arc<Shared>,
    group: GroupId,
}

/// What the log's handles and tasks share.
struct Shared {
    state: Mutex<State>,
    environment: Environment,
    config: LogConfig,
    bounds: Bounds,
    is_fresh: bool,
    /// There is work for the writer.
    work: Notify,
    /// There may be something to do for the segment files.
    chores: Notify,
    /// There may be room for those who wait for it.
    room: Notify,
    /// How many of the log's tasks run.
    running: watch::Sender<usize>,
    activity: Mutex<Activity>,
}

/// Counts a task as running until it is dropped.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

impl Log {
    /// Opens the log in `config.directory`; an empty or missing directory is a fresh log. Only one may be open at a time.
    ///
    /// [`Error::Damaged`] means that this node's history cannot be trusted, [`Error::Io`] that trying again may help.
    pub async fn open(environment: &Environment, config: LogConfig) -> Result<Log, Error> {
        let bounds = config.check()?;
        let salt = environment.entropy.next_u64();
        let disk = Arc::clone(&environment.disk);
        let directory = config.directory.clone();
        let opened = environment.tasks.blocking(move || {
            let found = recovery::recover(&*disk, &directory, bounds.segment_bytes)?;
            let is_fresh = found.is_none();
            let state = match found {
                Some(found) => {
                    let ends = (found.position, found.next_lsn);
                    State::new(found.groups, found.segments, found.spares, ends, bounds)
                }
                None => {
                    let first =
                        Segment::create(&*disk, &directory, 1, bounds.segment_bytes, salt).map_err(|source| {
                            Error::Io { action: "create the first log segment in", path: directory, source }
                        })?;
                    let segments = BTreeMap::from([(1, Arc::new(first))]);
                    State::new(BTreeMap::new(), segments, VecDeque::new(), (segment::FIRST_RECORD, 1), bounds)
                }
            };
            Ok((state, is_fresh))
        });
        let (state, is_fresh) = opened.await?;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            environment: environment.clone(),
            config,
            bounds,
            is_fresh,
            work: Notify::new(),
            chores: Notify::new(),
            room: Notify::new(),
            running: watch::channel(2).0,
            activity: Mutex::default(),
        });
        let running = Running(Arc::clone(&shared));
        environment.tasks.spawn("log writer", async move { writer::run(&running.0).await });
        let running = Running(Arc::clone(&shared));
        environment.tasks.spawn("log segments", async move { purge::run(&running.0).await });
        Ok(Log { shared })
    }

    /// A group's share of the log; empty if the log has never heard of it.
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog { shared: Arc::clone(&self.shared), group }
    }

    /// Every group that has a vote or ever had an entry.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.lock().groups.keys().copied().collect()
    }

    /// Whether there was no log before. A node that has an identity but a fresh log was wiped: it has forgotten its
    /// votes, and must not go on under the same id.
    pub fn is_fresh(&self) -> bool {
        self.shared.is_fresh
    }

    /// Whether the disk has room for more.
    pub fn space(&self) -> Space {
        self.shared.lock().space()
    }

    /// Room for entries of so many bytes, records included, that Raft is about to be given; kept until it is dropped.
    /// `None` when the disk is full and they may not fit any more: refuse them.
    pub fn admit(&self, bytes: u64) -> Option<Admitted> {
        let mut state = self.shared.lock();
        if state.space() == Space::Full {
            return None;
        }
        state.admitted_bytes += bytes;
        Some(Admitted { shared: Arc::clone(&self.shared), bytes })
    }

    /// Whether new entries should be proposed at this node: asked *before* proposing, see the module.
    pub fn accepts_appends(&self) -> bool {
        self.space() == Space::Ok
    }

    /// The largest payload of one record, in bytes: a quarter of a segment.
    pub fn payload_bytes_max(&self) -> usize {
        self.shared.bounds.payload_bytes_max()
    }

    /// Bytes of all segment files, the spare included.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().bytes()
    }

    /// Who has to let go of what: of all but the newest half of `bytes_max` once more than that is in use, of all but the
    /// newest segment while the disk is full. Nobody otherwise.
    pub fn pins(&self) -> Vec<Pin> {
        self.shared.lock().pins()
    }

    /// Whether it has to shrink whatever that costs others: more than twice `bytes_max` is in use, or the disk is full.
    pub fn must_shrink(&self) -> bool {
        self.shared.lock().must_shrink()
    }

    /// What writing has cost since the log was opened.
    pub fn activity(&self) -> Activity {
        *self.shared.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and syncs all that waits and marks it as synced. Every later call fails, but for reads.
    pub async fn close(&self) {
        self.shared.lock().is_closing = true;
        self.shared.work.notify_one();
        self.shared.chores.notify_one();
        self.shared.room.notify_waiters();
        // Fails only if the sender is gone, which this handle keeps alive.
        let _ = self.shared.running.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl GroupLog {
    /// Vote and ends of this group's log, as of the last call.
    pub fn state(&self) -> GroupState {
        let state = self.shared.lock();
        state.groups.get(&self.group).map(|group| group.state().clone()).unwrap_or_default()
    }

    /// Appends entries, each at the offset after the last (an empty log begins anywhere). When it returns they are
    /// readable; `done` is called when they are durable.
    ///
    /// Waits only while more than `queue_bytes_max` waits for the disk, or for the next segment to be made, which takes
    /// until there is room when the disk is full (see the module). Errors: `InvalidInput` for an entry that would leave a
    /// hole or is too large, any other when the log has failed or is closed. After an error, the entries before the
    /// refused one are in the log, and `done` is not called.
    pub async fn append(&self, entries: Vec<Record>, done: Done) -> io::Result<()> {
        let mut done = Some(done);
        let count = entries.len();
        for (number, Record { position, kind, payload }) in entries.into_iter().enumerate() {
            if payload.len() > self.shared.bounds.payload_bytes_max() {
                return Err(invalid(format!("entry {position} has {} bytes", payload.len())));
            }
            let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
            let entry = Change::Entry { position, label: kind, length, payload: Some(payload) };
            let done = if number + 1 == count { done.take() } else { None };
            self.change(entry, done).await?;
        }
        self.shared.press(&mut self.shared.lock());
        // Without entries there is nothing to wait for.
        if let Some(done) = done {
            done(Ok(()));
        }
        Ok(())
    }

    /// Saves a vote of at most [`VOTE_BYTES_MAX`] bytes; durable when it returns.
    pub async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        if vote.len() > VOTE_BYTES_MAX {
            return Err(invalid(format!("a vote of {} bytes", vote.len())));
        }
        let (sender, saved) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // The caller may have gone; then nobody relies on the vote.
            let _ = sender.send(result);
        });
        self.change(Change::Vote(vote), Some(done)).await?;
        self.shared.press(&mut self.shared.lock());
        saved.await.unwrap_or_else(|_| Err(io::Error::other("the log's writer has ended")))
    }

    /// Saves what is committed. Durable with whatever is synced next, or a moment later.
    pub async fn save_committed(&self, committed: Option<LogPosition>) -> io::Result<()> {
        self.change(Change::Committed(committed), None).await
    }

    /// Drops every entry behind `last`, which must be in the log or be what was purged last. Durable before any later
    /// append or vote is.
    pub async fn truncate_after(&self, last: Option<LogPosition>) -> io::Result<()> {
        self.change(Change::Truncate(last), None).await
    }

    /// Drops every entry up to and including `upto`; where that lies behind the last entry, the log goes on behind it.
    /// Durable before any later append or vote is. What was purged before is not brought back: a lower `upto` does
    /// nothing.
    pub async fn purge(&self, upto: LogPosition) -> io::Result<()> {
        self.change(Change::Purge(upto), None).await
    }

    /// Drops all entries and forgets what was purged and committed, for a replica that leaves the node. How far the entries went
    /// stays, and so does the vote: leaders are confirmed by it.
    pub async fn reset(&self) -> io::Result<()> {
        self.change(Change::Reset, None).await
    }

    /// The entries of a range that exist, in order, until their payloads exceed `bytes_max`; at least one if there is one.
    /// A damaged entry stops the node.
    pub async fn read(&self, offsets: Range<Offset>, bytes_max: usize) -> io::Result<Vec<Record>> {
        reader::read(&self.shared, self.group, offsets, bytes_max).await
    }

    /// The whole position of the entry at an offset (also of the last purged one), without reading it.
    pub fn position(&self, offset: Offset) -> Option<LogPosition> {
        let state = self.shared.lock();
        let group = state.groups.get(&self.group)?;
        let purged = group.state().purged.filter(|purged| purged.offset == offset);
        purged.or_else(|| group.get(offset).map(|entry| entry.position))
    }

    /// Bytes of the payloads of this group's entries.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().groups.get(&self.group).map_or(0, index::Group::payload_bytes)
    }

    /// Places a change as soon as there is room for it.
    async fn change(&self, change: Change, done: Option<Done>) -> io::Result<()> {
        let (kind, _, _, payload) = state::parts(&change);
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = self.shared.lock();
                state.check_open()?;
                if let Some(refusal) = state.refusal(self.group, &change) {
                    return Err(invalid(format!("group {}: {refusal}", self.group.0)));
                }
                if state.is_noop(self.group, &change) {
                    return Ok(());
                }
                if self.shared.has_room_for(&mut state, kind, payload.len()) {
                    state.place(self.group, change, done);
                    if state.queue.len() == 1 {
                        self.shared.work.notify_one();
                    }
                    return Ok(());
                }
                // What waits for the disk stands in the way.
                self.shared.press(&mut state);
            }
            room.await;
        }
    }
}

impl Shared {
    fn note_activity(&self, sync_time: Duration) {
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        activity.syncs += 1;
        activity.sync_time += sync_time;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// [`State::has_room_for`]; if that begins the spare segment, another is asked for.
    fn has_room_for(&self, state: &mut State, kind: Kind, payload_bytes: usize) -> bool {
        let spares = state.spares.len();
        let has_room = state.has_room_for(kind, payload_bytes);
        if state.spares.len() < spares {
            self.chores.notify_one();
        }
        has_room
    }

    /// Has what waits written at once.
    fn press(&self, state: &mut State) {
        state.is_urgent = true;
        self.work.notify_one();
    }

    /// Marks the last write as synced if it is not, and has written what waits. Says whether anything does.
    fn mark(&self) -> bool {
        let mut state = self.lock();
        if state.is_unmarked && self.has_room_for(&mut state, Kind::Mark, 0) {
            state.place_mark();
        }
        state.is_urgent |= !state.queue.is_empty();
        !state.queue.is_empty()
    }

    /// Fails the log for good and stops the node.
    fn fail(&self, reason: String) {
        self.lock().failure.get_or_insert_with(|| reason.clone());
        self.environment.tasks.fail(reason);
        self.room.notify_waiters();
        self.work.notify_one();
        self.chores.notify_one();
    }

    /// Tells everyone who still waits that the log has failed.
    fn abandon(&self) {
        let abandoned: Vec<_> = self.lock().queue.drain(..).filter_map(|queued| queued.done).collect();
        abandoned.into_iter().for_each(|done| done(Err(io::Error::other("the log has failed"))));
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}
