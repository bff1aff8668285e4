//! The ties between the log's size and the store's durability: what is durable may be purged, and a log that is too large
//! asks for checkpoints and write-outs.

use crate::aggregate::Aggregation;
use crate::rollup::Store;
use cluster::environment::Environment;
use cluster::{Cluster, Offset, PartitionId};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it is looked what has become durable, and whether the log is too large.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Has the log purged as the store becomes durable, for every partition that this node holds at the time, and the store
/// made durable as the log needs it.
pub fn start(environment: &Environment, cluster: &Cluster, store: &Store, aggregation: &Aggregation) {
    let (cluster, store, aggregation) = (cluster.clone(), store.clone(), aggregation.clone());
    environment.tasks.spawn("housekeeping", async move {
        let mut seen = BTreeMap::new();
        loop {
            seen = purge(&cluster, &store, &seen);
            make_room(&cluster, &store, &aggregation);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    });
}

/// How far each partition is durable.
type DurableOffsets = BTreeMap<PartitionId, Option<Offset>>;

/// Tells the replicas of partitions that became durable further than was seen last. Returns what is to be seen now.
fn purge(cluster: &Cluster, store: &Store, seen: &DurableOffsets) -> DurableOffsets {
    let durable: DurableOffsets =
        store.partitions().into_iter().map(|state| (state.id(), state.figures().durable)).collect();
    for (partition, offset) in &durable {
        if seen.get(partition) != Some(offset)
            && let Some(replica) = cluster.replica(*partition)
        {
            replica.durable_moved();
        }
    }
    durable
}

/// Moves partitions on whose entries keep the log too large: what is consumed is written out, what is not is checkpointed
/// first, by the leader.
fn make_room(cluster: &Cluster, store: &Store, aggregation: &Aggregation) {
    for (partition, upto) in cluster.unwanted() {
        let Some(state) = store.find(partition) else { continue };
        let figures = state.figures();
        if figures.consumed < Some(upto) {
            aggregation.request_checkpoint(partition);
        } else if figures.durable < Some(upto) {
            store.request_write_out();
        }
    }
}
