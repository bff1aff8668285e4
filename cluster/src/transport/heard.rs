//! When each node was last heard.

use crate::NodeId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Nodes that are remembered: far more than a cluster has, because a connection can claim any number.
const NODES_MAX: usize = 4096;

/// The times of all nodes.
#[derive(Debug)]
pub(super) struct HeardNodes {
    start: Instant,
    nodes: Mutex<BTreeMap<NodeId, Heard>>,
}

/// The time of one node, shared by all its connections.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    start: Instant,
    /// Nanoseconds since the start, plus one; 0 is never.
    at: Arc<AtomicU64>,
}

impl HeardNodes {
    pub(super) fn new() -> HeardNodes {
        HeardNodes { start: Instant::now(), nodes: Mutex::default() }
    }

    /// The time of a node, remembered from now on if there is room.
    pub(super) fn of(&self, node: NodeId) -> Heard {
        let mut nodes = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&node) {
            return self.nobody();
        }
        nodes.entry(node).or_insert_with(|| self.nobody()).clone()
    }

    /// A time that nobody will ask for.
    pub(super) fn nobody(&self) -> Heard {
        Heard { start: self.start, at: Arc::default() }
    }

    /// When the node was last heard; `None` where it never was.
    pub(super) fn last(&self, node: NodeId) -> Option<Instant> {
        let nodes = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let nanoseconds = nodes.get(&node)?.at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start + Duration::from_nanos(nanoseconds))
    }
}

impl Heard {
    /// The node was heard now.
    pub(super) fn now(&self) {
        let nanoseconds = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.at.fetch_max(nanoseconds + 1, Ordering::Relaxed);
    }
}
