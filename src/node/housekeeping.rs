//! The ties between the log's size and the store's durability: what is durable may be purged, and a log that grows asks for
//! a write-out.

use crate::rollup::{PartitionState, Store};
use cluster::Cluster;
use cluster::environment::Environment;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often it is looked for partitions that this node has begun to hold.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Has the log purged as the store becomes durable, for every partition that this node holds or will hold.
pub fn start(environment: &Environment, cluster: &Cluster, store: &Store) {
    let (tasks, cluster, store) = (environment.tasks.clone(), cluster.clone(), store.clone());
    environment.tasks.spawn("housekeeping", async move {
        let mut kept = BTreeSet::new();
        loop {
            for state in store.partitions() {
                if kept.insert(state.id()) {
                    tasks.spawn("purge as durable", purge(cluster.clone(), state));
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    });
}

async fn purge(cluster: Cluster, state: PartitionState) {
    let mut durable = state.watch_durable();
    while durable.changed().await.is_ok() {
        if let Some(replica) = cluster.replica(state.id()) {
            replica.durable_moved();
        }
    }
}
