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
    stage: Stage,
}

enum Stage {
    /// Chunks are coming in.
    Receiving(Box<Receiving>),
    /// All are there; openraft has them.
    Installing,
    /// This came of it.
    Done(SnapshotAnswer),
}

struct Receiving {
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
                let stage = Stage::Receiving(Box::new(Receiving { vote, last, members, spool }));
                self.transfers.lock().await.insert(from, Transfer { id: transfer, stage });
                Ok(SnapshotAnswer::Received)
            }
            SnapshotStep::Chunk { transfer, sequence } => self.chunk(from, transfer, sequence, chunk).await,
            SnapshotStep::End { transfer, chunks } => self.end(from, transfer, chunks).await,
        }
    }

    async fn chunk(&self, from: NodeId, id: u64, sequence: u64, chunk: Bytes) -> io::Result<SnapshotAnswer> {
        let mut transfers = self.transfers.lock().await;
        let Some(Transfer { id: known, stage: Stage::Receiving(receiving) }) = transfers.get_mut(&from) else {
            return Ok(SnapshotAnswer::Lost);
        };
        if *known != id {
            return Ok(SnapshotAnswer::Lost);
        }
        if sequence != receiving.spool.len() || chunk.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            transfers.remove(&from);
            return Ok(SnapshotAnswer::Lost);
        }
        let pushed = receiving.spool.push(chunk).await;
        if let Err(error) = pushed {
            transfers.remove(&from);
            return Err(error);
        }
        Ok(SnapshotAnswer::Received)
    }

    /// Begins to install what has arrived; asked again, says whether that is done. Never waits for it: the sender must be
    /// able to tell a long installation from a dead connection.
    async fn end(&self, from: NodeId, id: u64, chunks: u64) -> io::Result<SnapshotAnswer> {
        let mut transfers = self.transfers.lock().await;
        let Some(transfer) = transfers.get_mut(&from).filter(|transfer| transfer.id == id) else {
            return Ok(SnapshotAnswer::Lost);
        };
        match std::mem::replace(&mut transfer.stage, Stage::Installing) {
            Stage::Installing => Ok(SnapshotAnswer::Received),
            Stage::Done(answer) => {
                transfer.stage = Stage::Done(answer.clone());
                Ok(answer)
            }
            Stage::Receiving(receiving) if receiving.spool.len() == chunks => {
                let Receiving { vote, last, members, spool } = *receiving;
                let meta = SnapshotMeta { last_log_id: Some(log_id(last)), last_membership: members.stored()? };
                tracing::info!(group = %self.group, %from, position = %last, chunks, "installing a snapshot");
                let snapshot = Snapshot { meta, snapshot: SnapshotData(Some(Box::new(spool))) };
                let incoming = self.clone();
                self.environment
                    .tasks
                    .spawn("install", async move { incoming.install(from, id, vote, snapshot).await });
                Ok(SnapshotAnswer::Received)
            }
            Stage::Receiving(_) => {
                transfers.remove(&from);
                Ok(SnapshotAnswer::Lost)
            }
        }
    }

    async fn install(&self, from: NodeId, id: u64, vote: Ballot, snapshot: Snapshot) {
        let answer = match self.raft.install_full_snapshot(vote.into(), snapshot).await {
            Ok(response) => SnapshotAnswer::Installed(Ballot::from(&response.vote)),
            // The group has stopped, and the node with it.
            Err(_) => SnapshotAnswer::Lost,
        };
        let mut transfers = self.transfers.lock().await;
        if let Some(transfer) = transfers.get_mut(&from).filter(|transfer| transfer.id == id) {
            transfer.stage = Stage::Done(answer);
        }
    }
}
