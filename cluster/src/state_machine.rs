//! What the product plugs into a partition: a deterministic state machine over opaque bytes.
//!
//! ```text
//!   log:   0 ─────────── consumed ─────────── applied ── committed ── last
//!                           │ state that survives (position)  │
//!                           └── tail: applied in memory, its entries stay in the log ──┘
//! ```
//!
//! Every replica sees the same entries in the same order. The *durable* state of a machine may lag behind what it has
//! applied: after a restart it says how far its durable state reaches ([`StateMachine::durable`]) and is given every
//! entry behind that again. The log keeps all entries behind that position, so nothing else has to be saved.

use crate::ids::{LogPosition, PartitionId};
use async_trait::async_trait;
use bytes::Bytes;
use std::io;

/// One committed entry.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Where it stands in the log.
    pub position: LogPosition,
    /// What it carries.
    pub payload: Payload,
}

/// What a committed entry carries.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Bytes that a client of the log appended.
    Data(Bytes),
    /// A change of the partition's replicas, opaque to the product, which stores the newest at or before its durable
    /// position next to its state and hands it back in [`Durable::membership`].
    Membership(Bytes),
    /// A new leader's first entry.
    Blank,
}

/// How far a machine's durable state reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// Every entry up to and including this one is in the state; `None` is the empty state.
    pub position: Option<LogPosition>,
    /// The newest membership payload at or before `position`.
    pub membership: Option<Bytes>,
}

/// How applying an entry goes along with applying others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It takes microseconds, and needs nothing of the work that earlier entries of [`Pace::Long`] left over.
    Quick,
    /// It takes microseconds, once the work of earlier entries is done.
    InTurn,
    /// It takes a millisecond and more, so that it must not hold up an async thread, and with it connections and heartbeats:
    /// [`StateMachine::begin`] is called where blocking work runs, once the work of earlier entries is done.
    Long,
}

/// How far an entry of [`Pace::Long`] is applied.
pub enum Begun {
    /// All of it; this is the answer.
    Done(Bytes),
    /// The rest is done where background work is, step by step, and gives the answer. Entries of [`Pace::Quick`] are applied
    /// meanwhile, so that those who wait for them do not wait for this one.
    Rest(Box<dyn Rest>),
}

/// What is left to do of an entry.
///
/// All replicas have it to do at the same moment, and would have no time for anything else. So its steps are spread: over a
/// third of the time since the entry before that left something over, a second at most, and over no time once anything waits for it.
pub trait Rest: Send {
    /// How much is left, in any unit.
    fn remaining(&self) -> usize;

    /// Does some of it, a millisecond or so; the last step may take longer. Returns the answer when nothing is left.
    fn step(&mut self) -> io::Result<Option<Bytes>>;
}

/// A partition's state on one replica.
///
/// `apply` must be a pure function of state and entry: no clock, no randomness, no iteration order of a hash map. A local
/// failure (disk, damaged row) is returned as an error and stops the process; it never becomes an answer.
#[async_trait]
pub trait StateMachine: Send + Sync + 'static {
    /// How far the durable state reaches. After a restart, entries behind it are applied again. Entries at or before it
    /// may be purged from the log: what it returns survives a power cut.
    fn durable(&self) -> Durable;

    /// Applies one entry; returns the answer for whoever appended it (the same on every replica).
    fn apply(&self, entry: Committed) -> io::Result<Bytes>;

    /// How applying these bytes goes along with applying others.
    fn pace(&self, _payload: &Bytes) -> Pace {
        Pace::Quick
    }

    /// Begins to apply an entry of [`Pace::Long`]: on return, all that entries of [`Pace::Quick`] depend on has happened.
    fn begin(&self, entry: Committed) -> io::Result<Begun> {
        self.apply(entry).map(Begun::Done)
    }

    /// Whether this replica, as the leader, may propose these bytes now. Unlike [`StateMachine::apply`] it may look at the
    /// clock: it guards the log against what no replica could refuse any more once it is there.
    fn admits(&self, _payload: &Bytes) -> bool {
        true
    }

    /// Captures the whole state at one position for another replica. What it returns does not change while the machine
    /// goes on applying.
    async fn snapshot(&self) -> io::Result<Snapshot>;

    /// Replaces the whole state by a snapshot, durably: when this returns, [`StateMachine::durable`] is at the snapshot's
    /// position, and a crash at any moment leaves either the old state or the new one.
    async fn install(&self, durable: Durable, chunks: Box<dyn SnapshotChunks>) -> io::Result<()>;
}

/// A captured state.
pub struct Snapshot {
    /// The position it is at.
    pub durable: Durable,
    /// Its bytes.
    pub chunks: Box<dyn SnapshotChunks>,
}

/// The bytes of a snapshot, in order, each at most [`SNAPSHOT_CHUNK_BYTES_MAX`].
#[async_trait]
pub trait SnapshotChunks: Send + Sync + 'static {
    /// The next chunk, or `None` after the last.
    async fn next(&mut self) -> io::Result<Option<Bytes>>;
}

/// Upper bound of one snapshot chunk in bytes: large enough to stream at disk speed, small enough that appends
/// interleave on the same connection within a millisecond.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 256 * 1024;

/// What the product gives a node of the cluster.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Opens the state machine of a partition that this node (now) holds a replica of, at its durable state. One that was
    /// opened before is not used any more, and what it had applied beyond that is forgotten: the log gives it again.
    /// `settings` are the product's, as given to the cluster's first node.
    async fn open(&self, partition: PartitionId, settings: Bytes) -> io::Result<std::sync::Arc<dyn StateMachine>>;

    /// Lets go of a partition whose replica has moved away from this node for good: its state is removed, so that a
    /// replica that comes here later begins anew. Called after the replica's log was dropped.
    async fn close(&self, partition: PartitionId) -> io::Result<()>;

    /// Is told what the start of the node waits for, in words that continue "the node is starting: ".
    fn starting(&self, _what: &str) {}

    /// Answers a request that another node (or this one) addressed to a partition's replica here, see
    /// [`crate::Cluster::call`]. Errors travel inside the answer's bytes.
    async fn serve(&self, partition: PartitionId, request: Bytes) -> Bytes;
}
