//! What this node gives the cluster: partitions' state machines, and answers to other nodes.

use super::settings::ClusterSettings;
use crate::admin::Starting;
use crate::metrics::StoreMetrics;
use crate::query::{self, Leader};
use crate::rollup::{Engine, Policy, Store};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::Environment;
use cluster::{Host, PartitionId, StateMachine};
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::sync::OnceCell;

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
