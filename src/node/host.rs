//! What this node gives the cluster: partitions' state machines, and answers to other nodes.

use super::settings::ClusterSettings;
use crate::query::Leader;
use crate::rollup::Store;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Host, PartitionId, StateMachine};
use std::io;
use std::sync::{Arc, OnceLock};

/// Opens partitions in the node's store; answers questions once the node can.
pub struct ProductHost {
    store: Store,
    leader: OnceLock<Leader>,
}

impl ProductHost {
    /// A host over the node's store.
    pub fn new(store: Store) -> ProductHost {
        ProductHost { store, leader: OnceLock::new() }
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
        let sketch = ClusterSettings::decode(&settings)?.sketch();
        Ok(self.store.open(partition, sketch).await?)
    }

    async fn serve(&self, partition: PartitionId, request: Bytes) -> Bytes {
        match self.leader.get() {
            Some(leader) => leader.serve(partition, &request).await,
            None => crate::query::not_yet(),
        }
    }
}
