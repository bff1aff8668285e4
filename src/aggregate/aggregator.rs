//! Actor: folds one partition's log into open windows and carries them into the stored rollups by checkpoints.
//!
//! Lives while this node leads the partition in one term. It owns at most two tables: the one whose checkpoint is under
//! way and the one that is being filled. It pulls entries, nothing is pushed at it; when a checkpoint is under way and the
//! next table is full as well, it stops pulling until the log has answered, so its memory is bounded.
//!
//! Dying is always safe: what it held is folded again from `consumed` by the next one. It ends itself whenever the log's
//! answer is not the one it needs (a checkpoint of unknown outcome, a skipped checkpoint). A checkpoint that the log does not
//! take for now is proposed again.

use super::Settings;
use super::messages::{AggregatorMessage, Generation, OpenWindows, Read, Selection};
use super::progress::Progress;
use super::seams::{Checkpointed, Consumed, Partition, ProposeError};
use super::watermark::Watermark;
use super::window_table::WindowTable;
use crate::domain::SketchConfig;
use crate::format::{Checkpoint, DELTA_RATIO, Entry, Quarantined};
use crate::metrics::AggregateMetrics;
use bytes::Bytes;
use cluster::environment::Environment;
use cluster::{Committed, HISTORY, Offset, Payload, Term};
use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause after a checkpoint was first refused; it doubles with each refusal.
const REFUSED_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two proposals of a checkpoint.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Each app of a checkpoint costs every replica some microseconds, whether it has one event or a hundred. So where there are
/// many apps, a checkpoint waits for an interval for each so many of them.
const APPS_AN_INTERVAL: usize = 8192;
/// As many intervals as it waits at most.
const INTERVALS_MAX: usize = 3;

/// Bytes of a checkpoint that neither its deltas nor the payloads set aside take: its head, and why one entry was set aside.
const CHECKPOINT_HEAD_BYTES: usize = 256;

/// What an aggregator is made of.
pub struct Aggregator;

/// What an aggregator is started with.
pub struct Arguments {
    /// The term it aggregates in.
    pub term: Term,
    /// The partition's log and state.
    pub partition: Arc<dyn Partition>,
    /// Limits and intervals.
    pub settings: Settings,
    /// Shared with its supervisor, which sees from it what killed an aggregator or that it stalls.
    pub progress: Arc<Progress>,
    /// Entries that are skipped, because they killed aggregators before.
    pub poisoned: BTreeSet<Offset>,
    /// An aggregator died lately: events are recorded at once, so that the next death names the entry that causes it.
    pub is_careful: bool,
    /// Doors.
    pub environment: Environment,
    /// Counters.
    pub metrics: AggregateMetrics,
}

/// An aggregator's state.
pub struct State {
    arguments: Arguments,
    /// `consumed` that `filling` will be checkpointed on, once what is under way has been applied.
    base: Option<Offset>,
    /// The last entry that was folded.
    folded: Option<Offset>,
    watermark: Watermark,
    filling: WindowTable,
    under_way: Option<UnderWay>,
    /// The next entry waits for the answer to the checkpoint under way.
    waits_for_room: bool,
    reads: Vec<Read>,
    last_checkpoint: Instant,
    last_event: Instant,
}

/// A checkpoint that was proposed and not yet answered.
struct UnderWay {
    base: Option<Offset>,
    through: Offset,
    table: Arc<WindowTable>,
}

impl Actor for Aggregator {
    type Msg = AggregatorMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<AggregatorMessage>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Consumed { through, watermark_ms } = arguments.partition.consumed();
        spawn_waker(&myself, &arguments);
        myself.send_interval(arguments.settings.tick, || AggregatorMessage::Tick);
        myself.cast(AggregatorMessage::Wake)?;
        let now = Instant::now();
        let phase = phase(&arguments);
        Ok(State {
            base: through,
            folded: through,
            watermark: Watermark::new(watermark_ms, arguments.settings.lateness_ms),
            filling: arguments.empty_table(),
            under_way: None,
            waits_for_room: false,
            reads: Vec::new(),
            last_checkpoint: now.checked_sub(phase).unwrap_or(now),
            last_event: now,
            arguments,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<AggregatorMessage>,
        message: AggregatorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AggregatorMessage::Wake => state.pull(&myself).await?,
            AggregatorMessage::Tick => state.tick(&myself)?,
            AggregatorMessage::CheckpointDone(answer) => {
                state.checkpoint_done(answer)?;
                myself.cast(AggregatorMessage::Wake)?;
            }
            AggregatorMessage::Read(read) => state.read(read),
        }
        Ok(())
    }
}

impl Arguments {
    fn empty_table(&self) -> WindowTable {
        if self.is_careful { WindowTable::recording_at_once() } else { WindowTable::default() }
    }
}

/// How far into its interval between checkpoints an aggregator begins: by chance, so that those that began together do not
/// give all replicas all their merging at the same moment, over and over.
fn phase(arguments: &Arguments) -> Duration {
    let interval = arguments.settings.checkpoint_interval;
    let share = arguments.environment.entropy.next_u64() % 1024;
    interval * u32::try_from(share).expect("below 1024") / 1024
}

/// How long after the last checkpoint one of so many apps is due.
fn due_after(interval: Duration, apps: usize) -> Duration {
    let intervals = (apps / APPS_AN_INTERVAL).clamp(1, INTERVALS_MAX);
    interval * u32::try_from(intervals).expect("few intervals")
}

/// Wakes the aggregator when entries have been applied. One wake is under way at most: the next is sent after the entries
/// of the last have been pulled, which the progress shows.
fn spawn_waker(myself: &ActorRef<AggregatorMessage>, arguments: &Arguments) {
    let (aggregator, progress) = (myself.clone(), arguments.progress.clone());
    let mut applied = arguments.partition.applied();
    arguments.environment.tasks.spawn("aggregator waker", async move {
        while applied.changed().await.is_ok() {
            if progress.take_wake_credit() && aggregator.cast(AggregatorMessage::Wake).is_err() {
                return;
            }
        }
    });
}

impl State {
    /// Folds what has been applied behind `folded`, one bite at a time so that reads get their turn in between.
    async fn pull(&mut self, myself: &ActorRef<AggregatorMessage>) -> Result<(), ActorProcessingErr> {
        self.arguments.progress.return_wake_credit();
        if self.waits_for_room && self.under_way.is_some() {
            return Ok(()); // The answer to the checkpoint under way wakes it.
        }
        self.waits_for_room = false;
        let from = self.folded.map_or(Offset(0), Offset::next);
        let entries = self.arguments.partition.tail(from, self.arguments.settings.pull_bytes).await?;
        let Some(last) = entries.last() else { return Ok(()) };
        let more = self.arguments.partition.applied().borrow().is_some_and(|applied| applied > last.position.offset);
        for entry in entries {
            let offset = entry.position.offset;
            assert_eq!(offset, self.folded.map_or(Offset(0), Offset::next), "the tail has no holes");
            // A large entry is folded into an empty table, so that its deltas fit into a checkpoint of their own.
            if !self.has_room_for(&entry) {
                self.checkpoint(myself)?;
                if !self.has_room_for(&entry) {
                    self.waits_for_room = true;
                    break;
                }
            }
            self.fold(entry)?;
            self.folded = Some(offset);
            if self.filling.bytes() >= self.arguments.settings.checkpoint_bytes {
                self.checkpoint(myself)?;
            }
        }
        self.arguments.progress.folded(self.folded);
        self.answer_reads();
        if more && !self.waits_for_room {
            myself.cast(AggregatorMessage::Wake)?;
        }
        Ok(())
    }

    /// Folds one entry. An entry that cannot be decoded, or that killed aggregators before, is set aside.
    fn fold(&mut self, entry: Committed) -> Result<(), ActorProcessingErr> {
        let offset = entry.position.offset;
        let Payload::Data(payload) = entry.payload else { return Ok(()) };
        let events = match Entry::decode(&payload) {
            Ok(Entry::Events(events)) => events,
            Ok(Entry::Checkpoint(_)) => return Ok(()),
            Err(error) => {
                self.quarantine(offset, 0, &error.to_string(), payload);
                return Ok(());
            }
        };
        let count = events.events();
        self.last_event = Instant::now();
        if self.arguments.poisoned.contains(&offset) {
            self.quarantine(offset, count, "folding it ended the aggregator again and again", payload);
            return Ok(());
        }
        self.arguments.progress.folding(offset);
        tracing::debug!(target: HISTORY, offset = offset.0, hash = crc32c::crc32c(&payload), "folding");
        let Some(acceptance) = self.arguments.partition.acceptance(offset) else {
            self.arguments.progress.not_folding();
            return Err("a checkpoint of another aggregator was applied".into());
        };
        let counted_before = self.filling.tally().counted;
        let folded = self.filling.fold(&events, &acceptance, &mut self.watermark, &self.arguments.settings.sketch);
        self.arguments.metrics.folded.inc_by(self.filling.tally().counted - counted_before);
        self.arguments.progress.not_folding();
        if let Err(error) = folded {
            self.quarantine(offset, count, &error.to_string(), payload);
        }
        Ok(())
    }

    fn quarantine(&mut self, offset: Offset, events: u64, reason: &str, payload: Bytes) {
        tracing::error!(%offset, events, reason, "entry quarantined");
        self.filling.quarantine(Quarantined { offset: offset.0, events, reason: reason.to_owned(), payload });
    }

    /// Whether the table may take the entry's deltas too: they take at most [`DELTA_RATIO`] times its bytes, and the table,
    /// twice its own estimate at most, must fit into one checkpoint that the log takes. A table that is full by its own
    /// measure takes nothing before it is checkpointed; an empty one takes any entry.
    fn has_room_for(&self, entry: &Committed) -> bool {
        let Payload::Data(payload) = &entry.payload else { return true };
        let bytes = self.filling.bytes();
        let is_full = bytes >= self.arguments.settings.checkpoint_bytes;
        let bytes_then = CHECKPOINT_HEAD_BYTES + 2 * bytes + DELTA_RATIO * payload.len();
        self.filling.is_empty() || (!is_full && bytes_then <= self.arguments.partition.entry_bytes_max())
    }

    fn tick(&mut self, myself: &ActorRef<AggregatorMessage>) -> Result<(), ActorProcessingErr> {
        let settings = &self.arguments.settings;
        let has_something = !self.filling.is_empty();
        let is_due =
            self.last_checkpoint.elapsed() >= due_after(settings.checkpoint_interval, self.filling.app_count());
        let is_idle = self.last_event.elapsed() >= settings.idle_after;
        let now_ms = self.arguments.environment.clock.now_ms();
        let idle_after_ms = u64::try_from(settings.idle_after.as_millis()).unwrap_or(u64::MAX);
        let seals_by_idleness = is_idle
            && self.base.is_some()
            && self.under_way.is_none()
            && self.watermark.advance_idle(now_ms, idle_after_ms);
        let is_wanted =
            self.under_way.is_none() && self.arguments.progress.take_wanted_checkpoint() && self.folded > self.base;
        if (has_something && is_due) || seals_by_idleness || is_wanted {
            self.checkpoint(myself)?;
        }
        Ok(())
    }

    /// Proposes what has been folded since `base`, unless a checkpoint is under way already.
    fn checkpoint(&mut self, myself: &ActorRef<AggregatorMessage>) -> Result<(), ActorProcessingErr> {
        let (None, Some(through)) = (&self.under_way, self.folded) else { return Ok(()) };
        let table = Arc::new(std::mem::replace(&mut self.filling, self.arguments.empty_table()));
        let head = Checkpoint {
            base: self.base.map(|base| base.0),
            through: through.0,
            watermark_ms: self.watermark.reached_ms(),
            tally: table.tally(),
            ..Checkpoint::default()
        };
        let (windows, sketch) = (table.clone(), self.arguments.settings.sketch.clone());
        let partition = self.arguments.partition.clone();
        let encode = move || {
            let (deltas, quarantined) = (windows.deltas(&sketch), windows.quarantined().to_vec());
            let checkpoint = Checkpoint { deltas, quarantined, ..head };
            partition.check(&checkpoint).map_err(ProposeError::Unfit)?;
            let entry = Entry::Checkpoint(checkpoint).encode();
            let (bytes, bytes_max) = (entry.len(), partition.entry_bytes_max());
            if bytes > bytes_max {
                return Err(ProposeError::Unfit(format!("it has {bytes} bytes, and the log takes {bytes_max}")));
            }
            Ok(entry)
        };
        self.under_way = Some(UnderWay { base: self.base, through, table });
        self.base = Some(through);
        self.last_checkpoint = Instant::now();
        let proposal = Proposal {
            partition: self.arguments.partition.clone(),
            term: self.arguments.term,
            timeout: self.arguments.settings.propose_timeout,
            progress: self.arguments.progress.clone(),
            metrics: self.arguments.metrics.clone(),
        };
        let (aggregator, tasks) = (myself.clone(), self.arguments.environment.tasks.clone());
        self.arguments.environment.tasks.spawn("checkpoint proposal", async move {
            // Thousands of windows: entries are folded and reads answered meanwhile.
            let encoded = AssertUnwindSafe(tasks.background(encode)).catch_unwind().await;
            let answer = match encoded {
                Ok(Ok(entry)) => proposal.see_through(entry, &aggregator).await,
                Ok(Err(unfit)) => Err(unfit),
                Err(_) => Err(ProposeError::Unfit("making it panicked".to_owned())),
            };
            // The aggregator is gone only when a newer one has taken over.
            let _ = aggregator.cast(AggregatorMessage::CheckpointDone(answer));
        });
        Ok(())
    }

    fn checkpoint_done(&mut self, answer: Result<Checkpointed, ProposeError>) -> Result<(), ActorProcessingErr> {
        let under_way = self.under_way.take().ok_or("an answer without a checkpoint under way")?;
        let metrics = &self.arguments.metrics;
        if !matches!(answer, Ok(Checkpointed::Applied) | Err(ProposeError::Unfit(_))) {
            metrics.checkpoints_failed.inc();
        }
        match answer? {
            Checkpointed::Applied => {
                metrics.checkpoints.inc();
                metrics.quarantined.inc_by(under_way.table.quarantined().len() as u64);
                metrics.late.inc_by(under_way.table.late());
                Ok(())
            }
            Checkpointed::Skipped => Err("another checkpoint was applied first".into()),
        }
    }

    fn read(&mut self, read: Read) {
        if self.folded >= read.after {
            self.answer(read);
        } else {
            self.reads.push(read);
        }
    }

    fn answer_reads(&mut self) {
        let (ready, waiting) = std::mem::take(&mut self.reads).into_iter().partition(|read| self.folded >= read.after);
        self.reads = waiting;
        let ready: Vec<Read> = ready;
        for read in ready {
            self.answer(read);
        }
    }

    fn answer(&self, read: Read) {
        let sketch = &self.arguments.settings.sketch;
        let mut generations = Vec::with_capacity(2);
        if let Some(under_way) = &self.under_way {
            generations.push(generation(under_way.base, &under_way.table, &read.selection, sketch));
            debug_assert_eq!(self.base, Some(under_way.through), "generations follow each other");
        }
        generations.push(generation(self.base, &self.filling, &read.selection, sketch));
        // The asker may have given up.
        let _ = read.reply.send(OpenWindows { generations, watermark_ms: self.watermark.reached_ms() });
    }
}

/// A checkpoint on its way into the log.
struct Proposal {
    partition: Arc<dyn Partition>,
    term: Term,
    timeout: Duration,
    progress: Arc<Progress>,
    metrics: AggregateMetrics,
}

impl Proposal {
    /// Proposes the same bytes until the log has an answer, or the aggregator is gone. While the log refuses them (its
    /// disk is full, a new leader is about to be known) nothing is lost by waiting, and nothing gained by starting anew.
    async fn see_through(
        &self,
        entry: Bytes,
        aggregator: &ActorRef<AggregatorMessage>,
    ) -> Result<Checkpointed, ProposeError> {
        self.metrics.checkpoint_bytes.inc_by(entry.len() as u64);
        let mut pause = REFUSED_PAUSE_MIN;
        loop {
            let answer = self.partition.propose(self.term, entry.clone(), Instant::now() + self.timeout).await;
            let is_refused = matches!(answer, Err(ProposeError::NotAppended(_)));
            self.progress.set_waits_for_log(is_refused);
            let is_gone = matches!(aggregator.get_status(), ActorStatus::Stopping | ActorStatus::Stopped);
            match answer {
                Err(ProposeError::NotAppended(reason)) if !is_gone => {
                    self.metrics.checkpoints_failed.inc();
                    tracing::debug!(reason, ?pause, "the log does not take a checkpoint for now");
                }
                answer => return answer,
            }
            sleep(pause).await;
            pause = (pause * 2).min(REFUSED_PAUSE_MAX);
        }
    }
}

fn generation(base: Option<Offset>, table: &WindowTable, selection: &Selection, sketch: &SketchConfig) -> Generation {
    match selection {
        Selection::Hours(app, hours) => Generation {
            base,
            knows_app: table.knows(app),
            deltas: table.hours(app, hours, sketch),
            ..Generation::default()
        },
        Selection::Apps { prefix, cursor, limit } => {
            Generation { base, apps: table.apps(prefix, cursor.as_deref(), *limit), ..Generation::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_of_very_many_apps_are_rarer() {
        let interval = Duration::from_secs(2);
        let seconds = |apps| due_after(interval, apps).as_secs();
        assert_eq!([0, 1000, 9000].map(seconds), [2, 2, 2]);
        assert_eq!([2 * APPS_AN_INTERVAL, 100_000, 10_000_000].map(seconds), [4, 6, 6]);
    }
}
