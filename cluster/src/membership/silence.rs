//! How long nodes have been silent, as one who listens knows it. Pure.

use crate::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Since when each silent node has been silent.
#[derive(Debug, Default)]
pub struct Silence {
    since: BTreeMap<NodeId, Instant>,
}

impl Silence {
    /// Takes note of who is silent now; everybody else has been heard of.
    pub fn look(&mut self, now: Instant, silent: impl Iterator<Item = NodeId>) {
        let before = std::mem::take(&mut self.since);
        self.since = silent.map(|node| (node, before.get(&node).copied().unwrap_or(now))).collect();
    }

    /// Those that have been silent for at least so long.
    pub fn longer_than(&self, patience: Duration, now: Instant) -> BTreeSet<NodeId> {
        let long = self.since.iter().filter(|(_, since)| now.duration_since(**since) >= patience);
        long.map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_its_beginning_and_ended_by_a_word() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let patience = Duration::from_secs(10);
        silence.look(after(0), [NodeId(1), NodeId(2)].into_iter());
        silence.look(after(5), [NodeId(2)].into_iter());
        silence.look(after(10), [NodeId(1), NodeId(2)].into_iter());
        assert_eq!(silence.longer_than(patience, after(10)), BTreeSet::from([NodeId(2)]));
        assert_eq!(silence.longer_than(patience, after(20)), BTreeSet::from([NodeId(1), NodeId(2)]));
    }
}
