//! The log is never purged beyond what its node holds durably in rollups.
//!
//! Source: docs/architecture.md, "The one invariant"; Kafka and NATS lose events where it does not hold.

use super::Violation;
use std::collections::BTreeMap;

/// How far each node's rollups are durable.
#[derive(Debug, Default)]
pub struct PurgedBehindDurable {
    durable: BTreeMap<(String, u64), u64>,
}

impl PurgedBehindDurable {
    /// A node's rollups of a partition are durable up to and including an offset.
    pub fn durable(&mut self, machine: &str, partition: u64, offset: u64) {
        let known = self.durable.entry((machine.to_owned(), partition)).or_default();
        *known = (*known).max(offset);
    }

    /// A replica was opened or its state replaced: this is durable, and nothing else.
    pub fn goes_on(&mut self, machine: &str, partition: u64, offset: Option<u64>) {
        let replica = (machine.to_owned(), partition);
        match offset {
            Some(offset) => self.durable.insert(replica, offset),
            None => self.durable.remove(&replica),
        };
    }

    /// A node has purged the log of a group up to and including an offset. Group 0 holds no rollups.
    pub fn purged(&mut self, machine: &str, group: u64, offset: u64) -> Result<(), Violation> {
        let Some(partition) = group.checked_sub(1) else { return Ok(()) };
        let durable = self.durable.get(&(machine.to_owned(), partition)).copied();
        if durable.is_some_and(|durable| durable >= offset) {
            return Ok(());
        }
        let detail = format!("{machine} purged partition {partition} up to {offset}, its rollups reach {durable:?}");
        Err(Violation::new("purged-behind-durable", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purging_more_than_is_durable_is_seen() {
        let mut purged = PurgedBehindDurable::default();
        assert!(purged.purged("n1", 1, 0).is_err());
        purged.durable("n1", 0, 9);
        purged.purged("n1", 1, 9).unwrap();
        assert!(purged.purged("n1", 1, 10).is_err());
        purged.goes_on("n1", 0, Some(4));
        assert!(purged.purged("n1", 1, 9).is_err(), "what an earlier replica held");
        assert!(purged.purged("n2", 1, 1).is_err());
        purged.purged("n2", 0, 100).unwrap();
    }
}
