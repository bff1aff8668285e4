//! Actor: one per partition that this node leads or has led; keeps exactly one aggregator alive while it leads.
//!
//! An aggregator that dies is started again from `consumed` after a pause that grows with each death. An entry that was
//! being folded at [`DEATHS_MAX`] deaths is passed over by the next aggregator, which sets it aside (quarantine). The first
//! death may come when an event that waited is recorded, while another entry is folded or none is; the aggregators that follow
//! let none wait, so that the right one is named. An aggregator that does not move although entries wait is killed and replaced.

use super::aggregator::{Aggregator, Arguments};
use super::messages::{AggregatorMessage, Leading, PartitionMessage};
use super::progress::Progress;
use super::{Directory, Settings};
use crate::metrics::AggregateMetrics;
use cluster::environment::Environment;
use cluster::{Offset, PartitionId, Term};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Deaths over the same entry before it is set aside: twice could be a coincidence.
pub const DEATHS_MAX: u32 = 3;

/// Entries remembered as deadly at a time. Each is forgotten once `consumed` has passed it.
const DEADLY_MAX: usize = 1024;

/// The actor; its state is [`State`].
pub struct PartitionSupervisor;

/// What it is started with.
pub struct PartitionArguments {
    /// Which partition.
    pub id: PartitionId,
    /// Limits and intervals.
    pub settings: Settings,
    /// Where reads find the aggregator.
    pub directory: Directory,
    /// Doors.
    pub environment: Environment,
    /// Counters.
    pub metrics: AggregateMetrics,
}

/// Its state.
pub struct State {
    arguments: PartitionArguments,
    leading: Option<Leading>,
    running: Option<Running>,
    deaths: BTreeMap<Offset, u32>,
    deaths_in_a_row: u32,
}

struct Running {
    aggregator: ActorRef<AggregatorMessage>,
    progress: Arc<Progress>,
    seen: Option<Offset>,
    seen_at: Instant,
}

impl Actor for PartitionSupervisor {
    type Msg = PartitionMessage;
    type State = State;
    type Arguments = PartitionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<PartitionMessage>,
        arguments: PartitionArguments,
    ) -> Result<State, ActorProcessingErr> {
        myself.send_interval(arguments.settings.check_interval, || PartitionMessage::Check);
        Ok(State { arguments, leading: None, running: None, deaths: BTreeMap::new(), deaths_in_a_row: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<PartitionMessage>,
        message: PartitionMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PartitionMessage::Lead(leading) if leading.as_ref().map(|new| new.term) != state.term() => {
                state.stop().await;
                state.leading = leading;
                state.deaths_in_a_row = 0;
                state.start(&myself).await?;
            }
            PartitionMessage::Lead(_) => {}
            PartitionMessage::Restart(term) if state.term() == Some(term) && state.running.is_none() => {
                state.start(&myself).await?;
            }
            PartitionMessage::Restart(_) => {}
            PartitionMessage::Check => state.check(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<PartitionMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, reason) => state.died(&myself, &cell, &reason.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.died(&myself, &cell, reason.as_deref().unwrap_or("stopped"));
            }
            _ => {}
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<PartitionMessage>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.stop().await;
        Ok(())
    }
}

impl State {
    fn term(&self) -> Option<Term> {
        self.leading.as_ref().map(|leading| leading.term)
    }

    /// Starts an aggregator if this node leads.
    async fn start(&mut self, myself: &ActorRef<PartitionMessage>) -> Result<(), ActorProcessingErr> {
        let Some(Leading { term, partition }) = self.leading.clone() else { return Ok(()) };
        let consumed = partition.consumed().through;
        self.deaths.retain(|offset, _| Some(*offset) > consumed);
        let poisoned: BTreeSet<Offset> =
            self.deaths.iter().filter(|(_, deaths)| **deaths >= DEATHS_MAX).map(|(offset, _)| *offset).collect();
        let progress = Arc::new(Progress::default());
        progress.folded(consumed);
        let arguments = Arguments {
            term,
            partition,
            settings: self.arguments.settings.clone(),
            progress: progress.clone(),
            poisoned,
            is_careful: self.deaths_in_a_row > 0 || !self.deaths.is_empty(),
            environment: self.arguments.environment.clone(),
            metrics: self.arguments.metrics.clone(),
        };
        let (aggregator, _) = Actor::spawn_linked(None, Aggregator, arguments, myself.get_cell()).await?;
        self.arguments.directory.put(self.arguments.id, aggregator.clone(), progress.clone());
        self.running = Some(Running { aggregator, seen: progress.last_folded(), progress, seen_at: Instant::now() });
        Ok(())
    }

    /// Stops the aggregator, if there is one, and waits for its end.
    async fn stop(&mut self) {
        self.arguments.directory.remove(self.arguments.id);
        if let Some(running) = self.running.take() {
            // It may have died meanwhile, or hang: killing needs no answer.
            let _ = running.aggregator.kill_and_wait(Some(STOP_TIMEOUT)).await;
        }
    }

    /// Takes note of an aggregator's death and plans the next.
    fn died(&mut self, myself: &ActorRef<PartitionMessage>, cell: &ActorCell, reason: &str) {
        if !self.is_running(cell.get_id()) {
            return; // One that was stopped on purpose.
        }
        let Some(running) = self.running.take() else { return };
        let Some(term) = self.term() else { return };
        self.arguments.directory.remove(self.arguments.id);
        self.arguments.metrics.restarts.inc();
        let entry = running.progress.take_folding();
        if let Some(offset) = entry
            && (self.deaths.contains_key(&offset) || self.deaths.len() < DEADLY_MAX)
        {
            *self.deaths.entry(offset).or_default() += 1;
        }
        let pause = RESTART_PAUSE_MIN * 2u32.pow(self.deaths_in_a_row.min(6));
        self.deaths_in_a_row += 1;
        tracing::warn!(partition = %self.arguments.id, ?entry, reason, ?pause, "aggregator ended, starting a fresh one");
        myself.send_after(pause, move || PartitionMessage::Restart(term));
    }

    /// Kills an aggregator that does not move although entries wait; its death is then handled as any other.
    fn check(&mut self) {
        let (Some(running), Some(leading)) = (&mut self.running, &self.leading) else { return };
        let folded = running.progress.last_folded();
        let applied = *leading.partition.applied().borrow();
        if folded != running.seen || folded >= applied || running.progress.waits_for_log() {
            if folded != running.seen {
                self.deaths_in_a_row = 0;
            }
            running.seen = folded;
            running.seen_at = Instant::now();
        } else if running.seen_at.elapsed() >= self.arguments.settings.stall_after {
            tracing::error!(partition = %self.arguments.id, ?folded, ?applied, "aggregator stalls, replacing it");
            running.seen_at = Instant::now();
            running.aggregator.kill();
        }
    }

    fn is_running(&self, id: ActorId) -> bool {
        self.running.as_ref().is_some_and(|running| running.aggregator.get_id() == id)
    }
}

/// Pause before the first restart; doubled with each death in a row up to 64 times.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(50);

/// How long a killed aggregator may take to end. A handler that does not reach an await point keeps its task, but its
/// messages and proposals go nowhere: the next one's checkpoint base keeps it harmless.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
