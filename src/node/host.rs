//! What this node gives the cluster: partitions' state machines, and answers to other nodes.

use super::settings::ClusterSettings;
use crate::admin::Starting;
use crate::metrics::StoreMetrics;
use crate::query::{self, Leader};
use crate::rollup::rows::is_full;
use crate::rollup::{Engine, Policy, Store};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::Environment;
use cluster::{Host, PartitionId, StateMachine};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::sleep;

/// How often a store that found no room on the disk is tried again.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// Opens partitions in the node's store; answers questions once the node can.
pub struct ProductHost {
    environment: Environment,
    engine: Engine,
    policy: Policy,
    metrics: StoreMetrics,
    starting: Starting,
    store: OnceCell<Store>,
    leader: OnceLock<Leader>,
}

impl ProductHost {
    /// A host whose store is opened when the cluster's settings are known.
    pub fn new(
        environment: Environment,
        engine: Engine,
        policy: Policy,
        metrics: StoreMetrics,
        starting: Starting,
    ) -> ProductHost {
        let (store, leader) = (OnceCell::new(), OnceLock::new());
        ProductHost { environment, engine, policy, metrics, starting, store, leader }
    }

    /// The node's store, opened with the cluster's settings.
    pub async fn store(&self, settings: &ClusterSettings) -> io::Result<Store> {
        #[cfg(feature = "planted-bugs")]
        let settings = &super::planted::sketches(*settings);
        let open = || {
            Store::open(
                &self.environment,
                self.engine.clone(),
                settings.sketch(),
                self.policy.clone(),
                self.metrics.clone(),
            )
        };
        Ok(self.store.get_or_try_init(open).await?.clone())
    }

    /// The node's store, opened as soon as the disk has room for it.
    pub async fn store_when_there_is_room(&self, settings: &ClusterSettings) -> io::Result<Store> {
        self.starting.waits_for("opening the stored rollups");
        loop {
            match self.store(settings).await {
                Err(error) if is_full(&error) => {
                    tracing::warn!(%error, "the store is not opened: the disk is full; it is tried again");
                    self.starting.waits_for("opening the stored rollups; the disk is full");
                    sleep(ROOM_INTERVAL).await;
                }
                opened => return opened,
            }
        }
    }

    /// Questions are answered from now on.
    pub fn answer_by(&self, leader: Leader) {
        // Set once, at the node's only start.
        let _ = self.leader.set(leader);
    }
}

#[async_trait]
impl Host for ProductHost {
    async fn open(&self, partition: PartitionId, settings: Bytes) -> io::Result<Arc<dyn StateMachine>> {
        let store = self.store(&ClusterSettings::decode(&settings)?).await?;
        let machine: Arc<dyn StateMachine> = Arc::new(store.partition(partition).await?);
        #[cfg(feature = "planted-bugs")]
        let machine = super::planted::machine(machine, self.environment.clock.now_ms());
        Ok(machine)
    }

    fn starting(&self, what: &str) {
        self.starting.waits_for(what);
    }

    async fn close(&self, partition: PartitionId) -> io::Result<()> {
        match self.store.get() {
            Some(store) => Ok(store.remove(partition).await?),
            None => Ok(()),
        }
    }

    async fn serve(&self, partition: PartitionId, request: Bytes) -> Bytes {
        match self.leader.get() {
            Some(leader) => leader.serve(partition, &request).await,
            None => query::not_yet(),
        }
    }
}
