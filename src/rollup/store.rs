//! The row store of a node with the states of its partitions, and the task that writes them out.

use super::error::Error;
use super::identities::Limits;
use super::install::remove_some;
use super::journal_rows::{self, JournalRows};
use super::keys;
use super::rows::{RowStore, is_full};
use super::sled_rows::{self, SledRows};
use super::state::{Condition, Damage, PartitionState};
use super::write_out::{Exclusive, Policy, exclusive, free, write_out};
use crate::domain::SketchConfig;
use crate::metrics::StoreMetrics;
use cluster::PartitionId;
use cluster::environment::Environment;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;

/// The store's directory, in the node's data directory.
pub const DIRECTORY: &str = "rollups";
/// The marker of damage beside it.
const DAMAGE_MARKER: &str = "rollups.damaged";

/// How often it is looked whether a write-out is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where the rows are.
#[derive(Debug, Clone)]
pub enum Engine {
    /// In sled, below this data directory of the operating system: the one that the environment's disk is.
    Sled {
        /// The node's data directory.
        data_directory: PathBuf,
    },
    /// In a journal on the environment's disk.
    Journal,
}

/// The stored rollups of a node. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<StoreShared>,
}

struct StoreShared {
    environment: Environment,
    rows: Arc<dyn RowStore>,
    sketch: SketchConfig,
    policy: Policy,
    metrics: StoreMetrics,
    partitions: Mutex<BTreeMap<PartitionId, PartitionState>>,
    requested: Notify,
}

impl Store {
    /// Opens the rows and starts writing them out by `policy`.
    ///
    /// A store that was found damaged before the last stop, or does not open, is moved aside (the newest two are kept) and
    /// a fresh one is opened; the states then begin empty, and the log gives or sends what they lack.
    pub async fn open(
        environment: &Environment,
        engine: Engine,
        sketch: SketchConfig,
        policy: Policy,
        metrics: StoreMetrics,
    ) -> Result<Store, Error> {
        let (doors, rebuilds) = (environment.clone(), metrics.rebuilds.clone());
        let rows = environment.tasks.blocking(move || open_rows(&doors, &engine, &rebuilds)).await?;
        let shared = StoreShared {
            environment: environment.clone(),
            rows,
            sketch,
            policy,
            metrics,
            partitions: Mutex::default(),
            requested: Notify::new(),
        };
        let store = Store { shared: Arc::new(shared) };
        let housekeeper = store.clone();
        environment.tasks.spawn("rollup write-out", async move { housekeeper.keep_house().await });
        Ok(store)
    }

    /// Opens a partition as of its last durable write-out. One that is open already is let go of: what it had applied
    /// beyond that is forgotten.
    pub async fn partition(&self, id: PartitionId) -> Result<PartitionState, Error> {
        let _exclusive = self.let_go(id).await;
        let shared = Arc::clone(&self.shared);
        let opened = self.shared.environment.tasks.blocking(move || shared.open_partition(id)).await?;
        self.lock().insert(id, opened.clone());
        let cleaner = opened.clone();
        self.shared.environment.tasks.spawn("old rollups", async move { cleaner.remove_old_generations().await });
        Ok(opened)
    }

    /// Closes a partition: what holds on to its state can change no rows any more. The guard keeps out what still does.
    async fn let_go(&self, id: PartitionId) -> Option<OwnedMutexGuard<()>> {
        let state = self.lock().remove(&id)?;
        let exclusive = Arc::clone(&state.shared.writing).lock_owned().await;
        state.shared.lock().condition = Condition::LetGo;
        Some(exclusive)
    }

    /// The state of a partition that is open.
    pub fn find(&self, id: PartitionId) -> Option<PartitionState> {
        self.lock().get(&id).cloned()
    }

    /// All partitions that are open, in ascending order.
    pub fn partitions(&self) -> Vec<PartitionState> {
        self.lock().values().cloned().collect()
    }

    /// Closes a partition and removes all its rows: this node no longer holds a replica of it. For want of room some may stay
    /// behind, which then count nothing; if it fails otherwise, the node stops, because all partitions share the files.
    pub async fn remove(&self, id: PartitionId) -> Result<(), Error> {
        let _exclusive = self.let_go(id).await;
        let rows = Arc::clone(&self.shared.rows);
        let removed = self.shared.environment.tasks.blocking(move || {
            rows.settle()?;
            // The row that names the generation comes first, so what a crash leaves behind counts nothing.
            let (from, to) = (keys::current(id), keys::partition_end(id));
            while remove_some(&*rows, &from, &to)? > 0 {}
            Ok::<_, Error>(rows.flush()?)
        });
        removed.await.inspect_err(|error| match error {
            Error::Rows(error) if is_full(error) => {}
            error => self.shared.environment.tasks.fail(format!("removing rollups failed: {error}")),
        })
    }

    /// Writes out all partitions that have something to write; durable on return. Returns how many rows it wrote.
    pub async fn write_out(&self) -> Result<usize, Error> {
        self.write_out_of(exclusive(self.partitions()).await).await
    }

    /// Asks for a write-out soon, because the log wants to be purged. Cheap, may be called often.
    pub fn request_write_out(&self) {
        self.shared.requested.notify_one();
    }

    /// Writes out everything and lets go of the files.
    pub async fn close(&self) -> Result<(), Error> {
        let written = self.write_out().await;
        self.lock().clear();
        let rows = Arc::clone(&self.shared.rows);
        let closed = self.shared.environment.tasks.blocking(move || rows.close()).await;
        written?;
        Ok(closed?)
    }

    async fn write_out_of(&self, states: Vec<Exclusive>) -> Result<usize, Error> {
        let begin = Instant::now();
        let kept_max = self.shared.policy.rows_share(self.lock().len());
        let rows = write_out(states, kept_max).await?;
        if rows > 0 {
            self.shared.metrics.rows_written.inc_by(rows as u64);
            self.shared.metrics.write_out_seconds.observe(begin.elapsed().as_secs_f64());
        }
        Ok(rows)
    }

    /// Writes out what is due, until the node stops. A full disk is no reason to stop: memory and log keep what could not
    /// be written.
    async fn keep_house(&self) {
        loop {
            let is_requested = tokio::select! {
                biased;
                () = self.shared.requested.notified() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let (now, policy) = (Instant::now(), &self.shared.policy);
            let states = self.partitions();
            let dirty: usize = states.iter().map(|state| state.behind().dirty_rows).sum();
            self.shared.metrics.dirty_rows.set(dirty as u64);
            let partitions = states.len();
            let is_due = |state: &PartitionState| is_requested || policy.is_due(&state.behind(), partitions, now);
            let due = states.into_iter().filter(is_due);
            match self.write_out_of(free(due)).await {
                Ok(_) => {}
                Err(Error::Rows(error)) if is_full(&error) => {
                    tracing::error!(%error, "rollups were not written out: the disk is full; it is tried again");
                    tokio::time::sleep(LOOK_INTERVAL * 10).await;
                }
                Err(error) => {
                    self.shared.environment.tasks.fail(format!("writing out rollups failed: {error}"));
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, PartitionState>> {
        self.shared.partitions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl StoreShared {
    fn open_partition(&self, id: PartitionId) -> Result<PartitionState, Error> {
        self.rows.settle()?;
        let damage = Damage { environment: self.environment.clone(), marker: PathBuf::from(DAMAGE_MARKER) };
        let (rows, environment) = (Arc::clone(&self.rows), self.environment.clone());
        PartitionState::open(id, rows, environment, self.sketch.clone(), damage, Limits::default())
    }
}

fn open_rows(
    environment: &Environment,
    engine: &Engine,
    rebuilds: &prometheus_client::metrics::counter::Counter,
) -> io::Result<Arc<dyn RowStore>> {
    let (disk, now_ms) = (&environment.disk, environment.clock.now_ms());
    let (root, marker, directory) = (Path::new(""), Path::new(DAMAGE_MARKER), Path::new(DIRECTORY));
    if disk.list(root)?.iter().any(|name| name == DAMAGE_MARKER) {
        tracing::error!(
            "the row store was found damaged before; it is moved aside and rebuilt from the log and from peers"
        );
        rebuilds.inc();
        match engine {
            Engine::Sled { data_directory } => {
                sled_rows::move_aside(&data_directory.join(directory), now_ms, "damaged")?;
            }
            Engine::Journal => journal_rows::move_aside(&**disk, directory, now_ms, "damaged")?,
        }
        disk.remove(marker)?;
        disk.sync_directory(root)?;
    }
    let (rows, was_moved_aside): (Arc<dyn RowStore>, bool) = match engine {
        Engine::Sled { data_directory } => {
            let rows = SledRows::open(&data_directory.join(directory), now_ms)?;
            let was_moved_aside = rows.was_moved_aside();
            (Arc::new(rows), was_moved_aside)
        }
        Engine::Journal => {
            let rows = JournalRows::open(Arc::clone(disk), directory, now_ms)?;
            let was_moved_aside = rows.was_moved_aside();
            (Arc::new(rows), was_moved_aside)
        }
    };
    rebuilds.inc_by(u64::from(was_moved_aside));
    Ok(rows)
}
