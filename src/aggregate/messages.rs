//! Every message between the actors of this room, with its bound.
//!
//! ractor's mailboxes have no bound of their own. What comes from outside holds credit: one `Wake` of the waker is under
//! way to an aggregator, one `CheckpointDone` a checkpoint, and a permit of [`READS_WAITING_MAX`] a partition is taken before
//! a read is sent. An aggregator sends itself at most one `Wake` for each message it handles. `Tick` and `Check` come by
//! the clock: at an aggregator that hangs they gather until its supervisor replaces it, some hundred.

use super::seams::{Checkpointed, Partition, ProposeError};
use crate::domain::{AppId, Hour, Rollup};
use cluster::{Offset, PartitionId, Term};
use ractor::RpcReplyPort;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Reads that may be under way to one aggregator at a time; over it a read is refused and may be retried.
pub const READS_WAITING_MAX: usize = 4096;

/// To the node's supervisor.
#[derive(Debug)]
pub enum NodeMessage {
    /// The partitions this node leads now, each with the term. Sent when that changes.
    Leaderships(BTreeMap<PartitionId, Term>),
    /// Time to look again for a partition that is led but was not found. At most one under way.
    Retry,
}

/// To a partition's supervisor.
pub enum PartitionMessage {
    /// This node leads, or no longer. Sent when any leadership changes.
    Lead(Option<Leading>),
    /// Time to start an aggregator after one died. At most one under way.
    Restart(Term),
    /// Time to look whether the aggregator still moves.
    Check,
}

/// A partition that this node leads.
#[derive(Clone)]
pub struct Leading {
    /// The term it leads in.
    pub term: Term,
    /// Log and state of the replica it leads with: another one after the partition went away and came back.
    pub partition: Arc<dyn Partition>,
}

/// To an aggregator.
#[derive(Debug)]
pub enum AggregatorMessage {
    /// There may be applied entries to pull.
    Wake,
    /// Time to see whether a checkpoint is due.
    Tick,
    /// The checkpoint that was proposed has an answer.
    CheckpointDone(Result<Checkpointed, ProposeError>),
    /// A question for open windows.
    Read(Read),
}

/// A question for open windows, answered once the aggregator has folded everything up to `after`.
#[derive(Debug)]
pub struct Read {
    /// The offset that must have been folded, `None` for whatever has been.
    pub after: Option<Offset>,
    /// Which windows.
    pub selection: Selection,
    /// Where the answer goes.
    pub reply: RpcReplyPort<OpenWindows>,
}

/// Which open windows.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those of one app, hours in a half-open range.
    Hours(AppId, Range<Hour>),
    /// The apps that have any, by name, after a cursor and with a prefix, at most so many.
    Apps {
        /// Only names that begin so.
        prefix: String,
        /// Only names behind this one.
        cursor: Option<String>,
        /// At most so many.
        limit: usize,
    },
}

/// What is not yet in the stored rollups, generation by generation, oldest first.
///
/// The reader takes the stored rollups and their `consumed` offset in one step, and adds every generation whose `base` is
/// at or behind it. When `consumed` is no generation's boundary, a checkpoint came between: ask again.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenWindows {
    /// One or two generations: the one whose checkpoint is under way, if any, and the one that is being filled.
    pub generations: Vec<Generation>,
    /// Event time reached, in ms since the Unix epoch.
    pub watermark_ms: u64,
}

/// Deltas of the log's entries behind `base`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// The `consumed` these deltas build on.
    pub base: Option<Offset>,
    /// For [`Selection::Hours`]: whether it holds anything of the app, in whatever hour.
    pub knows_app: bool,
    /// For [`Selection::Hours`]: the deltas, ascending by hour.
    pub deltas: Vec<(Hour, Rollup)>,
    /// For [`Selection::Apps`]: the apps with their first and last hour, ascending by name.
    pub apps: Vec<(AppId, Hour, Hour)>,
}
