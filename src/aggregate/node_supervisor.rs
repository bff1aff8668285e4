//! Actor: one per node; gives every partition that this node leads its supervisor, and tells it of leadership.

use super::messages::{Leading, NodeMessage, PartitionMessage};
use super::partition_supervisor::{PartitionArguments, PartitionSupervisor};
use super::{Directory, FindPartition, Settings};
use crate::metrics::AggregateMetrics;
use cluster::environment::Environment;
use cluster::{PartitionId, Term};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::BTreeMap;
use std::time::Duration;

/// The actor; its state is [`State`].
pub struct NodeSupervisor;

/// What it is started with.
pub struct NodeArguments {
    /// Finds the log and state of a partition that this node leads.
    pub partitions: FindPartition,
    /// Limits and intervals.
    pub settings: Settings,
    /// Where reads find the aggregators.
    pub directory: Directory,
    /// Doors.
    pub environment: Environment,
    /// Counters.
    pub metrics: AggregateMetrics,
}

/// Pause before a partition that is led but was not found is looked for again: its replica is just being opened.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Its state.
pub struct State {
    arguments: NodeArguments,
    /// As last heard of.
    leaderships: BTreeMap<PartitionId, Term>,
    /// A retry is under way.
    retries: bool,
    /// In order of partition, so that they are also stopped in order.
    supervisors: BTreeMap<PartitionId, ActorRef<PartitionMessage>>,
}

impl Actor for NodeSupervisor {
    type Msg = NodeMessage;
    type State = State;
    type Arguments = NodeArguments;

    async fn pre_start(&self, _: ActorRef<NodeMessage>, arguments: NodeArguments) -> Result<State, ActorProcessingErr> {
        Ok(State { arguments, leaderships: BTreeMap::new(), retries: false, supervisors: BTreeMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMessage>,
        message: NodeMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeMessage::Leaderships(leaderships) => state.leaderships = leaderships,
            NodeMessage::Retry => state.retries = false,
        }
        state.lead(&myself).await
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(cell, reason) = event {
            let failed = state.supervisors.iter().find(|(_, supervisor)| supervisor.get_id() == cell.get_id());
            let partition = failed.map(|(partition, _)| partition.0);
            state.arguments.environment.tasks.fail(format!("supervisor of partition {partition:?} failed: {reason}"));
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<NodeMessage>, state: &mut State) -> Result<(), ActorProcessingErr> {
        for supervisor in std::mem::take(&mut state.supervisors).into_values() {
            // One that has ended already needs no stopping.
            let _ = supervisor.stop_and_wait(None, None).await;
        }
        Ok(())
    }
}

impl State {
    /// Tells every partition's supervisor whether this node leads it, and with which replica; makes one for a partition that
    /// is led the first time.
    async fn lead(&mut self, myself: &ActorRef<NodeMessage>) -> Result<(), ActorProcessingErr> {
        let find = &self.arguments.partitions;
        let found = self.leaderships.iter().filter_map(|(id, term)| {
            let partition = find(*id)?;
            Some((*id, Leading { term: *term, partition }))
        });
        let mut found: BTreeMap<PartitionId, Leading> = found.collect();
        if found.len() < self.leaderships.len() && !self.retries {
            self.retries = true;
            myself.send_after(RETRY_PAUSE, || NodeMessage::Retry);
        }
        for id in found.keys() {
            if self.supervisors.contains_key(id) {
                continue;
            }
            let arguments = PartitionArguments {
                id: *id,
                settings: self.arguments.settings.clone(),
                directory: self.arguments.directory.clone(),
                environment: self.arguments.environment.clone(),
                metrics: self.arguments.metrics.clone(),
            };
            let (supervisor, _) = Actor::spawn_linked(None, PartitionSupervisor, arguments, myself.get_cell()).await?;
            self.supervisors.insert(*id, supervisor);
        }
        for (id, supervisor) in &self.supervisors {
            supervisor.cast(PartitionMessage::Lead(found.remove(id)))?;
        }
        Ok(())
    }
}
