//! On the leader: committed events → open windows → checkpoints.
//!
//! ```text
//!   leaderships ──▶ NodeSupervisor            one per node
//!                      └─ PartitionSupervisor  one per partition that is or was led here; restarts, quarantine, stalls
//!                            └─ Aggregator     while leading, bound to the term; pulls the log, proposes checkpoints
//! ```
//!
//! Exactly once, in three sentences. The stored rollups are the fold of the log up to `consumed`. A checkpoint carries the
//! deltas of `(base, through]` and is applied only where `base` equals `consumed`, so of any number of aggregators (an old
//! term's, a restarted one) only one can add a stretch of the log, and it adds the whole stretch. What an aggregator holds
//! and has not checkpointed is folded again by the next one, because the log keeps everything behind `consumed`.

mod aggregator;
mod messages;
mod node_supervisor;
mod open_apps;
mod partition_supervisor;
mod progress;
mod seams;
#[cfg(test)]
mod tests;
mod watermark;
mod window_table;

pub use messages::{Generation, OpenWindows, Selection};
pub use partition_supervisor::DEATHS_MAX;
pub use seams::{Acceptance, Checkpointed, Consumed, Partition, ProposeError};
pub use watermark::Watermark;
pub use window_table::WindowTable;

use crate::domain::SketchConfig;
use crate::metrics::AggregateMetrics;
use cluster::environment::Environment;
use cluster::{Offset, PartitionId, Term};
use messages::{AggregatorMessage, NodeMessage, READS_WAITING_MAX, Read};
use node_supervisor::{NodeArguments, NodeSupervisor};
use progress::Progress;
use ractor::{Actor, ActorRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Limits and intervals of aggregation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How sketches divide values; the cluster's, fixed at its creation.
    pub sketch: SketchConfig,
    /// How long after its end a window is kept unsealed, in ms of event time.
    pub lateness_ms: u64,
    /// How often a partition with new events is checkpointed; up to three times as rarely where events are of very many apps.
    pub checkpoint_interval: Duration,
    /// A checkpoint is made earlier once its deltas take about so many bytes. Events that wait for their windows take up to eight
    /// times as much in memory, in each of two tables.
    pub checkpoint_bytes: usize,
    /// Bytes of entries that are folded before other messages get their turn.
    pub pull_bytes: usize,
    /// How long a checkpoint may take to be answered before the aggregator gives up its place.
    pub propose_timeout: Duration,
    /// How often it is looked whether a checkpoint is due.
    pub tick: Duration,
    /// After so long without events windows are sealed by the wall clock.
    pub idle_after: Duration,
    /// How often the supervisor looks whether its aggregator moves.
    pub check_interval: Duration,
    /// An aggregator that has not moved for so long although entries wait is replaced.
    pub stall_after: Duration,
}

impl Settings {
    /// The settings of a cluster, with everything that is not configurable at its default.
    pub fn new(sketch: SketchConfig, lateness: Duration, checkpoint_interval: Duration) -> Settings {
        Settings {
            sketch,
            lateness_ms: u64::try_from(lateness.as_millis()).unwrap_or(u64::MAX),
            checkpoint_interval,
            checkpoint_bytes: 5 << 20,
            pull_bytes: 1 << 20,
            propose_timeout: Duration::from_secs(10),
            tick: (checkpoint_interval / 4).max(Duration::from_millis(10)),
            idle_after: Duration::from_secs(60),
            check_interval: Duration::from_secs(5),
            stall_after: Duration::from_secs(30),
        }
    }
}

/// Where reads find the aggregators that run on this node.
#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<Mutex<BTreeMap<PartitionId, Running>>>);

#[derive(Clone)]
struct Running {
    aggregator: ActorRef<AggregatorMessage>,
    progress: Arc<Progress>,
    /// Permits for reads under way.
    reads: Arc<Semaphore>,
}

impl Directory {
    fn put(&self, id: PartitionId, aggregator: ActorRef<AggregatorMessage>, progress: Arc<Progress>) {
        let reads = Arc::new(Semaphore::new(READS_WAITING_MAX));
        self.lock().insert(id, Running { aggregator, progress, reads });
    }

    fn remove(&self, id: PartitionId) {
        self.lock().remove(&id);
    }

    fn get(&self, id: PartitionId) -> Option<Running> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PartitionId, Running>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Finds the log and state of a partition that this node leads.
pub type FindPartition = Arc<dyn Fn(PartitionId) -> Option<Arc<dyn Partition>> + Send + Sync>;

/// The aggregation of a node. Cheap to clone.
#[derive(Clone)]
pub struct Aggregation {
    supervisor: ActorRef<NodeMessage>,
    directory: Directory,
}

/// Why a read of open windows has no answer. Always worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No aggregator of that partition runs here (now).
    #[error("no aggregator of the partition runs on this node")]
    NotAggregating,
    /// It did not get that far in time, ended meanwhile, or too many others ask.
    #[error("the aggregator did not answer in time")]
    NoAnswer,
}

impl Aggregation {
    /// Starts the supervisors; they follow `leaderships` from now on.
    pub async fn start(
        environment: Environment,
        settings: Settings,
        metrics: AggregateMetrics,
        partitions: FindPartition,
        mut leaderships: watch::Receiver<BTreeMap<PartitionId, Term>>,
    ) -> Result<Aggregation, ractor::SpawnErr> {
        let directory = Directory::default();
        let arguments = NodeArguments {
            partitions,
            settings,
            directory: directory.clone(),
            environment: environment.clone(),
            metrics,
        };
        let (supervisor, _) = Actor::spawn(None, NodeSupervisor, arguments).await?;
        let told = supervisor.clone();
        environment.tasks.spawn("leaderships to aggregation", async move {
            loop {
                let current = leaderships.borrow_and_update().clone();
                if told.cast(NodeMessage::Leaderships(current)).is_err() || leaderships.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Aggregation { supervisor, directory })
    }

    /// What is not in the stored rollups yet, once everything up to `after` has been folded.
    pub async fn open_windows(
        &self,
        partition: PartitionId,
        after: Option<Offset>,
        selection: Selection,
        deadline: Instant,
    ) -> Result<OpenWindows, ReadError> {
        let running = self.directory.get(partition).ok_or(ReadError::NotAggregating)?;
        let _permit = running.reads.try_acquire().map_err(|_| ReadError::NoAnswer)?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let asked =
            running.aggregator.call(|reply| AggregatorMessage::Read(Read { after, selection, reply }), Some(timeout));
        match asked.await {
            Ok(ractor::rpc::CallResult::Success(windows)) => Ok(windows),
            _ => Err(ReadError::NoAnswer),
        }
    }

    /// Asks the partition's aggregator here, if one runs, for a checkpoint of all it has folded soon, also where that
    /// holds no events: so that the log can let go of it. Cheap, may be called often.
    pub fn request_checkpoint(&self, partition: PartitionId) {
        if let Some(running) = self.directory.get(partition) {
            running.progress.want_checkpoint();
        }
    }

    /// The last offset folded by the partition's aggregator here, if one runs.
    pub fn folded(&self, partition: PartitionId) -> Option<Offset> {
        self.directory.get(partition).and_then(|running| running.progress.last_folded())
    }

    /// Stops all actors, in order of partition, and waits for their end.
    pub async fn shutdown(&self) {
        // One that has ended already needs no stopping.
        let _ = self.supervisor.stop_and_wait(None, None).await;
    }
}
