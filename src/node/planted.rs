//! Bugs planted on purpose, compiled with the feature `planted-bugs` only: the simulator must find them.

use super::append::ClusterAppend;
use crate::domain::{Verdict, Verdicts};
use crate::format::Entry;
use crate::ingest::Append;
use bytes::Bytes;
use cluster::PartitionId;
use cluster::environment::Tasks;
use std::time::Duration;
use tokio::time::Instant;

/// Acks every entry at once and appends it afterwards, once, as long as nothing comes between.
pub struct AckBeforeCommit {
    /// The way it should be done.
    pub append: std::sync::Arc<ClusterAppend>,
    /// For what goes on after the ack.
    pub tasks: Tasks,
}

/// Whether the environment asks for the bug.
pub fn is_asked_for() -> bool {
    std::env::var("HOURMARK_PLANT").is_ok_and(|bug| bug == "ack-before-commit")
}

#[async_trait::async_trait]
impl Append for AckBeforeCommit {
    fn slots(&self) -> std::sync::Arc<[PartitionId]> {
        self.append.slots()
    }

    async fn append(
        &self,
        partition: PartitionId,
        entry: Bytes,
        _: Instant,
    ) -> Result<Bytes, crate::ingest::AppendError> {
        let parts = match Entry::decode(&entry) {
            Ok(Entry::Events(events)) => events.parts.len(),
            _ => 0,
        };
        let append = self.append.clone();
        self.tasks.spawn("planted append", async move {
            // That nobody looks at the outcome is the bug.
            let _ = append.append(partition, entry, Instant::now() + Duration::from_millis(100)).await;
        });
        let verdicts = Verdicts { offset: 0, parts: vec![Verdict::Accepted; parts] };
        Ok(postcard::to_allocvec(&verdicts).expect("memory is there").into())
    }
}
