//! Bugs between a leader's log and its aggregator.

use super::has;
use crate::aggregate::{Acceptance, Checkpointed, Consumed, Partition, ProposeError};
use crate::format::Checkpoint;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Committed, Offset, Term};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// A led partition, with the bug of this process.
pub fn partition(partition: Arc<dyn Partition>) -> Arc<dyn Partition> {
    let bugs = ["counts-duplicates", "drops-events", "stuck-after-takeover"];
    if bugs.into_iter().any(has) { Arc::new(Wrong(partition)) } else { partition }
}

struct Wrong(Arc<dyn Partition>);

#[async_trait]
impl Partition for Wrong {
    fn applied(&self) -> watch::Receiver<Option<Offset>> {
        self.0.applied()
    }

    async fn tail(&self, from: Offset, bytes_max: usize) -> io::Result<Vec<Committed>> {
        let entries = self.0.tail(from, bytes_max).await?;
        // The first term is the founder's; whoever takes over from it reads nothing.
        let is_stuck = has("stuck-after-takeover") && entries.last().is_some_and(|entry| entry.position.term.0 > 2);
        if is_stuck { Err(io::Error::other("the log cannot be read")) } else { Ok(entries) }
    }

    async fn propose(&self, term: Term, entry: Bytes, deadline: Instant) -> Result<Checkpointed, ProposeError> {
        self.0.propose(term, entry, deadline).await
    }

    fn entry_bytes_max(&self) -> usize {
        self.0.entry_bytes_max()
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        self.0.check(checkpoint)
    }

    fn consumed(&self) -> Consumed {
        self.0.consumed()
    }

    fn acceptance(&self, offset: Offset) -> Option<Acceptance> {
        let accepted = self.0.acceptance(offset)?;
        match () {
            () if has("counts-duplicates") => Some(Acceptance::All),
            () if has("drops-events") && offset.0.is_multiple_of(97) => Some(Acceptance::Nothing),
            () => Some(accepted),
        }
    }
}
