//! Snapshots on their way in: chunks are kept in a [`Spool`] until all have arrived, then installed.

use super::applier::SnapshotData;
use super::server::send;
use super::spool::Spool;
use super::types::{Ballot, Members, Raft, Snapshot, SnapshotMeta, log_id};
use super::wire::{self, SnapshotAnswer, SnapshotStep};
use crate::environment::Environment;
use crate::transport::Reply;
use crate::{GroupId, LogPosition, NodeId, SNAPSHOT_CHUNK_BYTES_MAX};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The transfers of one group: at most one of each sender, the newest.
#[derive(Clone)]
pub struct Incoming {
    group: GroupId,
    raft: Raft,
    environment: Environment,
    transfers: Arc<Mutex<BTreeMap<NodeId, Transfer>>>,
}

struct Transfer {
    id: u64,
    vote: Ballot,
    last: LogPosition,
    members: Members,
    spool: Spool,
}

impl Incoming {
    pub fn new(group: GroupId, raft: Raft, environment: Environment) -> Incoming {
        Incoming { group, raft, environment, transfers: Arc::default() }
    }

    /// Takes a step of a transfer. A sender waits for the answer to each, so steps of one transfer never overtake.
    pub fn accept(&self, from: NodeId, header: &Bytes, chunk: Bytes, reply: Reply) -> io::Result<()> {
        let step: SnapshotStep = wire::decode(header)?;
        let incoming = self.clone();
        self.environment.tasks.spawn("snapshot", async move {
            let answer = incoming.take(from, step, chunk).await.unwrap_or_else(|error| {
                tracing::warn!(group = %incoming.group, %from, %error, "a snapshot on its way in was dropped");
                SnapshotAnswer::Lost
            });
            send(reply, &answer);
        });
        Ok(())
    }

    async fn take(&self, from: NodeId, step: SnapshotStep, chunk: Bytes) -> io::Result<SnapshotAnswer> {
        match step {
            SnapshotStep::Begin { transfer, vote, last, members } => {
                let spool = Spool::create(&self.environment, self.group, transfer).await?;
                let transfer = Transfer { id: transfer, vote, last, members, spool };
                self.transfers.lock().await.insert(from, transfer);
                Ok(SnapshotAnswer::Received)
            }
            SnapshotStep::Chunk { transfer, sequence } => self.chunk(from, transfer, sequence, chunk).await,
            SnapshotStep::End { transfer, chunks } => self.end(from, transfer, chunks).await,
        }
    }

    async fn chunk(&self, from: NodeId, id: u64, sequence: u64, chunk: Bytes) -> io::Result<SnapshotAnswer> {
        let mut transfers = self.transfers.lock().await;
        let Some(transfer) = transfers.get_mut(&from).filter(|transfer| transfer.id == id) else {
            return Ok(SnapshotAnswer::Lost);
        };
        if sequence != transfer.spool.len() || chunk.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            transfers.remove(&from);
            return Ok(SnapshotAnswer::Lost);
        }
        let pushed = transfer.spool.push(chunk).await;
        if let Err(error) = pushed {
            transfers.remove(&from);
            return Err(error);
        }
        Ok(SnapshotAnswer::Received)
    }

    async fn end(&self, from: NodeId, id: u64, chunks: u64) -> io::Result<SnapshotAnswer> {
        let mut transfers = self.transfers.lock().await;
        let is_whole = |transfer: &Transfer| transfer.id == id && transfer.spool.len() == chunks;
        let Some(transfer) = transfers.remove(&from).filter(is_whole) else {
            return Ok(SnapshotAnswer::Lost);
        };
        drop(transfers);
        let meta =
            SnapshotMeta { last_log_id: Some(log_id(transfer.last)), last_membership: transfer.members.stored()? };
        tracing::info!(group = %self.group, %from, position = %transfer.last, chunks, "installing a snapshot");
        let snapshot = Snapshot { meta, snapshot: SnapshotData(Some(Box::new(transfer.spool))) };
        let installed = self.raft.install_full_snapshot(transfer.vote.into(), snapshot).await;
        let response = installed.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(SnapshotAnswer::Installed(Ballot::from(&response.vote)))
    }
}
