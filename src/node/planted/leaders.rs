//! Bugs on the way to a partition's leader.

use super::has;
use crate::node::reads::ClusterPartitions;
use crate::query::{AskError, Partitions};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::PartitionId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// The way to leaders of this process, with its bug.
pub fn leaders(partitions: ClusterPartitions) -> Arc<dyn Partitions> {
    match has("answers-again") {
        true => Arc::new(AnswersAgain { partitions, last: Mutex::default() }),
        false => Arc::new(partitions),
    }
}

/// A leader's answer serves those who ask the same a moment later, though it was made before they asked.
struct AnswersAgain {
    partitions: ClusterPartitions,
    last: Mutex<BTreeMap<(PartitionId, Bytes), (Instant, Bytes)>>,
}

/// How long an answer serves.
const MOMENT: Duration = Duration::from_millis(100);

/// Where a request's question begins: behind its version and how long its asker waits, a few seconds in ms.
const QUESTION_AT: usize = 3;

#[async_trait]
impl Partitions for AnswersAgain {
    fn all(&self) -> Vec<PartitionId> {
        self.partitions.all()
    }

    fn of_slot(&self, slot: u16) -> PartitionId {
        self.partitions.of_slot(slot)
    }

    async fn ask_leader(&self, partition: PartitionId, request: Bytes, deadline: Instant) -> Result<Bytes, AskError> {
        let question = (partition, request.slice(QUESTION_AT..));
        let last = self.last.lock().expect("nobody panics with it").get(&question).cloned();
        if let Some((at, answer)) = last
            && at.elapsed() < MOMENT
        {
            return Ok(answer);
        }
        let answer = self.partitions.ask_leader(partition, request, deadline).await?;
        self.last.lock().expect("nobody panics with it").insert(question, (Instant::now(), answer.clone()));
        Ok(answer)
    }
}
