//! Which groups this node leads and may serve.

use crate::{GroupId, PartitionId, Term};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The leaderships of a node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Leaderships {
    metadata: Arc<watch::Sender<Option<Term>>>,
    partitions: Arc<watch::Sender<BTreeMap<PartitionId, Term>>>,
}

impl Default for Leaderships {
    fn default() -> Self {
        Leaderships { metadata: Arc::new(watch::Sender::default()), partitions: Arc::new(watch::Sender::default()) }
    }
}

impl Leaderships {
    /// The term this node leads the group in, if it does.
    pub fn of(&self, group: GroupId) -> Option<Term> {
        match group.partition() {
            Some(partition) => self.partitions.borrow().get(&partition).copied(),
            None => *self.metadata.borrow(),
        }
    }

    /// The partitions, whenever that changes.
    pub fn partitions(&self) -> watch::Receiver<BTreeMap<PartitionId, Term>> {
        self.partitions.subscribe()
    }

    /// Notes that the group is led here in that term, or not at all.
    pub fn publish(&self, group: GroupId, term: Option<Term>) {
        let is_news = match group.partition() {
            None => self.metadata.send_if_modified(|known| std::mem::replace(known, term) != term),
            Some(partition) => self.partitions.send_if_modified(|known| match term {
                Some(term) => known.insert(partition, term) != Some(term),
                None => known.remove(&partition).is_some(),
            }),
        };
        match term {
            Some(term) if is_news => tracing::debug!(group = group.0, term = term.0, "leads"),
            None if is_news => tracing::debug!(group = group.0, "leads no more"),
            _ => {}
        }
    }
}
