//! The ties between the log's size and the store's durability: what is durable may be purged, and a log that is too large
//! asks for checkpoints and write-outs.

use crate::aggregate::Aggregation;
use crate::rollup::{PartitionState, Store};
use cluster::Cluster;
use cluster::environment::Environment;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often it is looked for partitions that this node has begun to hold, and whether the log is too large.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Has the log purged as the store becomes durable, for every partition that this node holds or will hold, and the store
/// made durable as the log needs it.
pub fn start(environment: &Environment, cluster: &Cluster, store: &Store, aggregation: &Aggregation) {
    let tasks = environment.tasks.clone();
    let (cluster, store, aggregation) = (cluster.clone(), store.clone(), aggregation.clone());
    environment.tasks.spawn("housekeeping", async move {
        let mut kept = BTreeSet::new();
        loop {
            for state in store.partitions() {
                if kept.insert(state.id()) {
                    tasks.spawn("purge as durable", purge(cluster.clone(), state));
                }
            }
            make_room(&cluster, &store, &aggregation);
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

/// Moves partitions on whose entries keep the log too large: what is consumed is written out, what is not is checkpointed
/// first, by the leader.
fn make_room(cluster: &Cluster, store: &Store, aggregation: &Aggregation) {
    for (partition, upto) in cluster.unwanted() {
        let Some(state) = store.find(partition) else { continue };
        if state.consumed().through < Some(upto) {
            aggregation.request_checkpoint(partition);
        } else {
            store.request_write_out();
        }
    }
}
