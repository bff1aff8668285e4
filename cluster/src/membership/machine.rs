//! The metadata group's state machine on this node: [`State`] in memory, and a copy of it in the file `metadata`.
//!
//! The file is written after each change, in the background; a restart applies what came after it again from the log.

use super::command::{Command, Outcome};
use super::file::{self, Kind};
use super::state::State;
use crate::environment::Environment;
use crate::{
    Committed, Durable, LogPosition, NodeId, Payload, SNAPSHOT_CHUNK_BYTES_MAX, Snapshot, SnapshotChunks, StateMachine,
    raft,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

/// The file, in the data directory.
pub const PATH: &str = "metadata";

const KIND: Kind = Kind { path: PATH, magic: *b"HMMD", version: 1 };

/// The content of the file and of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    position: LogPosition,
    membership: Bytes,
    /// The state at that position.
    pub state: State,
    /// The node that wrote it.
    pub node: NodeId,
}

/// The machine. Shared by the group that feeds it and by everyone who wants to know.
pub struct Machine {
    environment: Environment,
    node: NodeId,
    held: Mutex<Held>,
    state: watch::Sender<Arc<State>>,
    changed: Notify,
}

#[derive(Default)]
struct Held {
    applied: Durable,
    durable: Durable,
}

/// A command as the log's bytes.
pub fn encode_command(command: &Command) -> Bytes {
    raft::encode(command)
}

/// The outcome out of an append's answer.
pub fn decode_outcome(answer: &[u8]) -> io::Result<Outcome> {
    raft::decode(answer)
}

/// Reads the file; `None` if nothing was written yet.
pub async fn read(environment: &Environment) -> io::Result<Option<Stored>> {
    file::read(environment, KIND).await
}

impl Machine {
    /// The machine of this node at what its file holds.
    pub fn new(environment: &Environment, node: NodeId, stored: Option<Stored>) -> Machine {
        let (durable, state) = match stored {
            Some(stored) => (durable_of(&stored), stored.state),
            None => (Durable::default(), State::default()),
        };
        Machine {
            environment: environment.clone(),
            node,
            held: Mutex::new(Held { applied: durable.clone(), durable }),
            state: watch::channel(Arc::new(state)).0,
            changed: Notify::new(),
        }
    }

    /// The state now.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// The state, whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Where a node listens for other nodes, if it is known. Also where it has left: its replicas may still be moving.
    pub fn address(&self, node: NodeId) -> Option<String> {
        let state = self.state.borrow();
        state.nodes.get(&node).map(|node| node.address.cluster.clone())
    }

    /// Waits until something was applied that the file does not hold, and writes it; then the log may be purged. After an
    /// error it may be called again: what was not written is not forgotten.
    pub async fn persist_next(&self) -> io::Result<()> {
        loop {
            let stored = self.stored();
            if let Some(stored) = stored.filter(|stored| self.held().durable != durable_of(stored)) {
                return self.persist(&stored).await;
            }
            self.changed.notified().await;
        }
    }

    /// What is applied now; `None` before the first entry.
    fn stored(&self) -> Option<Stored> {
        let held = self.held();
        let state = State::clone(&self.state.borrow());
        let membership = held.applied.membership.clone().unwrap_or_default();
        held.applied.position.map(|position| Stored { position, membership, state, node: self.node })
    }

    async fn persist(&self, stored: &Stored) -> io::Result<()> {
        file::write(&self.environment, KIND, stored).await?;
        self.held().durable = durable_of(stored);
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn durable_of(stored: &Stored) -> Durable {
    let membership = Some(stored.membership.clone()).filter(|membership| !membership.is_empty());
    Durable { position: Some(stored.position), membership }
}

#[async_trait]
impl StateMachine for Machine {
    fn durable(&self) -> Durable {
        self.held().durable.clone()
    }

    fn apply(&self, entry: Committed) -> io::Result<Bytes> {
        let mut held = self.held();
        held.applied.position = Some(entry.position);
        let answer = match entry.payload {
            Payload::Blank => Bytes::new(),
            Payload::Membership(membership) => {
                held.applied.membership = Some(membership);
                Bytes::new()
            }
            Payload::Data(bytes) => {
                let command: Command = raft::decode(&bytes)?;
                let mut state = State::clone(&self.state.borrow());
                let outcome = state.apply(command);
                self.state.send_replace(Arc::new(state));
                raft::encode(&outcome)
            }
        };
        drop(held);
        self.changed.notify_one();
        Ok(answer)
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        let stored = self.stored().ok_or_else(|| io::Error::other("there is no state to capture"))?;
        let bytes = Bytes::from(file::encode(KIND, &stored));
        Ok(Snapshot { durable: durable_of(&stored), chunks: Box::new(Chunks(bytes)) })
    }

    async fn install(&self, _durable: Durable, mut chunks: Box<dyn SnapshotChunks>) -> io::Result<()> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let sent: Stored = file::decode(KIND, &bytes)?;
        let stored = Stored { node: self.node, ..sent };
        self.persist(&stored).await?;
        let durable = durable_of(&stored);
        let offset = durable.position.map(|position| position.offset.0);
        self.held().applied = durable;
        self.state.send_replace(Arc::new(stored.state));
        tracing::info!(offset, "metadata installed");
        Ok(())
    }
}

/// Bytes in memory, chunk by chunk.
struct Chunks(Bytes);

#[async_trait]
impl SnapshotChunks for Chunks {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let chunk = self.0.split_to(self.0.len().min(SNAPSHOT_CHUNK_BYTES_MAX));
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::command::NodeAddress;
    use crate::membership::state::Standing;
    use crate::{ClusterId, Offset, PartitionId, Term};
    use std::collections::BTreeMap;

    fn address(name: &str) -> NodeAddress {
        NodeAddress { name: name.into(), http: format!("{name}:3600"), cluster: format!("{name}:3601") }
    }

    fn commands() -> Vec<(&'static str, Command)> {
        let create = Command::Create {
            cluster: ClusterId(7),
            settings: Bytes::from_static(b"settings"),
            partitions: 2,
            replication_factor: 3,
            node: address("a"),
        };
        let placement = BTreeMap::from([(PartitionId(0), vec![NodeId(1)]), (PartitionId(1), vec![NodeId(2)])]);
        vec![
            ("create", create),
            ("add-node", Command::AddNode { entry: 300, node: address("b") }),
            ("update-node", Command::UpdateNode { id: NodeId(2), node: address("c") }),
            ("place", Command::Place { base: 1, placement }),
            ("set-standing", Command::SetStanding { id: NodeId(2), from: Standing::Active, to: Standing::Draining }),
            ("remove-node", Command::RemoveNode { id: NodeId(1) }),
        ]
    }

    #[test]
    fn bytes_are_the_golden_ones() {
        let mut state = State::default();
        let mut lines = Vec::new();
        for (name, command) in commands() {
            let bytes = encode_command(&command);
            lines.push(format!("{name} {}\n", hex(&bytes)));
            assert_eq!(raft::decode::<Command>(&bytes).unwrap(), command);
            let outcome = state.apply(command);
            assert_eq!(decode_outcome(&raft::encode(&outcome)).unwrap(), outcome);
        }
        // The slots would fill a page.
        state.slots.truncate(4);
        let position = LogPosition { term: Term(2), leader: NodeId(1), offset: Offset(300) };
        let stored = Stored { position, membership: Bytes::from_static(b"members"), state, node: NodeId(2) };
        let bytes = file::encode(KIND, &stored);
        lines.push(format!("metadata {}\n", hex(&bytes)));
        assert_eq!(lines.concat(), include_str!("../../tests/golden/metadata.v1"));
        assert_eq!(file::decode::<Stored>(KIND, &bytes).unwrap(), stored);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
