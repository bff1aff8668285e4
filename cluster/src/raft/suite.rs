//! openraft's own conformance suite, over the real log in a real directory.

use super::applier::Applier;
use super::log_store::LogStore;
use super::types::TypeConfig;
use crate::environment::Environment;
use crate::log::{Log, LogConfig};
use crate::{Committed, Durable, GroupId, Payload, Snapshot, SnapshotChunks, StateMachine};
use async_trait::async_trait;
use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::io;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Remembers how far it is; everything it applies is durable at once.
#[derive(Default)]
struct Memory(Mutex<Durable>);

struct NoChunks;

#[async_trait]
impl SnapshotChunks for NoChunks {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

#[async_trait]
impl StateMachine for Memory {
    fn durable(&self) -> Durable {
        self.0.lock().unwrap().clone()
    }

    fn apply(&self, entry: Committed) -> io::Result<Bytes> {
        let mut durable = self.0.lock().unwrap();
        durable.position = Some(entry.position);
        match entry.payload {
            Payload::Membership(membership) => durable.membership = Some(membership),
            // The suite applies entries without any members before them.
            _ => durable.membership = durable.membership.take().or(Some(super::types::Members::default().encode())),
        }
        Ok(Bytes::new())
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        Ok(Snapshot { durable: self.durable(), chunks: Box::new(NoChunks) })
    }

    async fn install(&self, durable: Durable, _: Box<dyn SnapshotChunks>) -> io::Result<()> {
        *self.0.lock().unwrap() = durable;
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Applier, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Applier), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment::system(directory.path()).unwrap();
        let config = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
        let log = Log::open(&environment, config).await.unwrap();
        let store = LogStore::new(log.group(GroupId(1)));
        let applier = Applier::new(GroupId(1), Arc::new(Memory::default()), environment.tasks.clone()).unwrap();
        Ok((directory, store, applier))
    }
}

#[tokio::test]
async fn log_store_and_applier_pass_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
