//! A led partition as the aggregation sees it: the replica of the log, and the replicated state.

use crate::aggregate::{self, Acceptance, Checkpointed, Consumed, ProposeError};
use crate::format::Checkpoint;
use crate::rollup::{CheckpointAnswer, PartitionState};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{AppendError, Committed, Offset, Replica, Term};
use std::io;
use tokio::sync::watch;
use tokio::time::Instant;

/// Joins a replica of the log with its state.
pub struct LedPartition {
    /// The log.
    pub replica: Replica,
    /// What it has been folded into.
    pub state: PartitionState,
}

#[async_trait]
impl aggregate::Partition for LedPartition {
    fn applied(&self) -> watch::Receiver<Option<Offset>> {
        self.replica.applied()
    }

    async fn tail(&self, from: Offset, bytes_max: usize) -> io::Result<Vec<Committed>> {
        self.replica.tail(from, bytes_max).await
    }

    fn entry_bytes_max(&self) -> usize {
        self.replica.payload_bytes_max()
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        self.state.check(checkpoint).map_err(|error| error.to_string())
    }

    async fn propose(&self, term: Term, entry: Bytes, deadline: Instant) -> Result<Checkpointed, ProposeError> {
        let appended = self.replica.propose(term, entry, deadline).await.map_err(|error| match error {
            AppendError::DiskFull | AppendError::NotLeading => ProposeError::NotAppended(error.to_string()),
            AppendError::TooLarge => ProposeError::Unfit(error.to_string()),
            AppendError::NotAdmitted | AppendError::Unavailable | AppendError::Deadline => {
                ProposeError::Unknown(error.to_string())
            }
        })?;
        match CheckpointAnswer::decode(&appended.answer) {
            Ok(CheckpointAnswer::Applied) => Ok(Checkpointed::Applied),
            Ok(CheckpointAnswer::Skipped) => Ok(Checkpointed::Skipped),
            Err(error) => Err(ProposeError::Unknown(error.to_string())),
        }
    }

    fn consumed(&self) -> Consumed {
        let consumed = self.state.consumed();
        Consumed { through: consumed.through, watermark_ms: consumed.watermark_ms }
    }

    fn acceptance(&self, offset: Offset) -> Option<Acceptance> {
        Some(match self.state.acceptance(offset)? {
            crate::rollup::Acceptance::All => Acceptance::All,
            crate::rollup::Acceptance::Nothing => Acceptance::Nothing,
            crate::rollup::Acceptance::Some(parts) => Acceptance::Some(parts),
        })
    }
}
