//! A partitioned, Raft-replicated log of opaque bytes.
//!
//! What it promises: an append that was answered is fsynced on a majority of the partition's replicas and never lost; the
//! entries of a partition have one order, the same on every replica; a leadership is named by term and node, and held by
//! one node once; a node that restarts comes back with its identity and its log. It knows bytes, partitions, offsets and
//! terms, never what is inside.
//!
//! ```text
//!   product ── append, call ──▶ router ──▶ leader's replica ── Raft ──▶ log (one per node, one fsync for all groups)
//!                                                │ committed                 │ transport: entries, votes, snapshots
//!                                                ▼                           ▼
//!                                     StateMachine::apply on every replica of the partition
//!
//!   membership: group 0, in which every node takes part, decides who belongs, who holds what; the steward brings it about
//! ```

mod cluster;
mod config;
pub mod environment;
mod error;
mod hosting;
mod ids;
pub mod log;
mod membership;
mod message;
mod node;
mod partition;
mod raft;
mod router;
mod space;
mod start;
mod state_machine;
mod status;
pub mod transport;

/// Target of the log lines that tell every entry's way: applied, folded, checkpointed. Thousands a second, so they have a name
/// of their own, to be asked for by. (Lines below `debug` are not compiled into a release: openraft and tokio open a span for
/// nearly each thing they do.)
pub const HISTORY: &str = "history";

pub use cluster::Cluster;
pub use config::{Config, PAYLOAD_BYTES_MAX};
pub use error::Error;
pub use ids::{ClusterId, GroupId, LogPosition, NodeId, Offset, PartitionId, Term};
pub use membership::state::{SLOTS, Standing};
pub use partition::{AppendError, Appended, ReadError, Replica};
pub use raft::seed_consensus;
pub use router::{CallError, Target};
pub use state_machine::{
    Begun, Committed, Durable, Host, Pace, Payload, Rest, SNAPSHOT_CHUNK_BYTES_MAX, Snapshot, SnapshotChunks,
    StateMachine,
};
pub use status::{NodeStatus, PartitionStatus, Status};
