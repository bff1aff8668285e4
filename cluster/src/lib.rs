//! A partitioned, Raft-replicated log of opaque bytes.
//!
//! What it promises: an append that was answered is fsynced on a majority of the partition's replicas and never lost; the
//! entries of a partition have one order, the same on every replica; at most one leader per term; a node that restarts
//! comes back with its identity and its log. It knows bytes, partitions, offsets and terms, never what is inside.

pub mod environment;
mod ids;
pub mod log;
mod state_machine;
pub mod transport;

pub use ids::{ClusterId, GroupId, LogPosition, NodeId, Offset, PartitionId, Term};
pub use state_machine::{
    Committed, Durable, Host, Payload, SNAPSHOT_CHUNK_BYTES_MAX, Snapshot, SnapshotChunks, StateMachine,
};
