//! Bugs on the way into the log.

use super::has;
use crate::domain::{Verdict, Verdicts};
use crate::format::Entry;
use crate::ingest::{Append, AppendError};
use crate::node::append::ClusterAppend;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::PartitionId;
use cluster::environment::Tasks;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The append of this process, with its bug.
pub fn append(append: ClusterAppend, tasks: Tasks) -> Arc<dyn Append> {
    let append = Arc::new(append);
    match () {
        () if has("ack-before-commit") => Arc::new(AckBeforeCommit { append, tasks }),
        () if has("append-twice") => Arc::new(AppendTwice(append)),
        () if has("lost-acks") => Arc::new(LostAcks { append, entries: AtomicU64::new(0) }),
        () if has("forgetful-receipt") => Arc::new(ForgetfulReceipt(append)),
        () => append,
    }
}

/// Acks every entry at once and appends it afterwards, once, as long as nothing comes between.
struct AckBeforeCommit {
    append: Arc<ClusterAppend>,
    tasks: Tasks,
}

#[async_trait]
impl Append for AckBeforeCommit {
    fn slots(&self) -> Arc<[PartitionId]> {
        self.append.slots()
    }

    async fn append(&self, partition: PartitionId, entry: Bytes, _: Instant) -> Result<Bytes, AppendError> {
        let answer = accepted(&entry);
        let append = self.append.clone();
        self.tasks.spawn("planted append", async move {
            // That nobody looks at the outcome is the bug.
            let _ = append.append(partition, entry, Instant::now() + Duration::from_millis(100)).await;
        });
        Ok(answer)
    }
}

/// What an entry is answered of which every part counts.
fn accepted(entry: &Bytes) -> Bytes {
    let parts = match Entry::decode(entry) {
        Ok(Entry::Events(events)) => events.parts.len(),
        _ => 0,
    };
    encode(&Verdicts { offset: 0, parts: vec![Verdict::Accepted; parts] })
}

/// Appends once more under another identity when the first attempt had no answer, as a proxy that retries would.
struct AppendTwice(Arc<ClusterAppend>);

#[async_trait]
impl Append for AppendTwice {
    fn slots(&self) -> Arc<[PartitionId]> {
        self.0.slots()
    }

    async fn append(&self, partition: PartitionId, entry: Bytes, deadline: Instant) -> Result<Bytes, AppendError> {
        let first = self.0.append(partition, entry.clone(), Instant::now() + Duration::from_millis(30)).await;
        if first.is_ok() {
            return first;
        }
        let Ok(Entry::Events(mut events)) = Entry::decode(&entry) else { return first };
        events.edge ^= u128::from(events.edge_sequence + 1) << 64;
        self.0.append(partition, Entry::Events(events).encode(), deadline).await
    }
}

/// Acks an entry in so many without appending it.
struct LostAcks {
    append: Arc<ClusterAppend>,
    entries: AtomicU64,
}

#[async_trait]
impl Append for LostAcks {
    fn slots(&self) -> Arc<[PartitionId]> {
        self.append.slots()
    }

    async fn append(&self, partition: PartitionId, entry: Bytes, deadline: Instant) -> Result<Bytes, AppendError> {
        if self.entries.fetch_add(1, Ordering::Relaxed) % 301 == 300 {
            return Ok(accepted(&entry));
        }
        self.append.append(partition, entry, deadline).await
    }
}

/// Answers a repeated request as if it counted again.
struct ForgetfulReceipt(Arc<ClusterAppend>);

#[async_trait]
impl Append for ForgetfulReceipt {
    fn slots(&self) -> Arc<[PartitionId]> {
        self.0.slots()
    }

    async fn append(&self, partition: PartitionId, entry: Bytes, deadline: Instant) -> Result<Bytes, AppendError> {
        let answer = self.0.append(partition, entry, deadline).await?;
        let Ok(mut verdicts) = postcard::from_bytes::<Verdicts>(&answer) else { return Ok(answer) };
        for verdict in &mut verdicts.parts {
            if matches!(verdict, Verdict::Duplicate { .. }) {
                *verdict = Verdict::Accepted;
            }
        }
        Ok(encode(&verdicts))
    }
}

fn encode(verdicts: &Verdicts) -> Bytes {
    postcard::to_allocvec(verdicts).expect("memory is there").into()
}
