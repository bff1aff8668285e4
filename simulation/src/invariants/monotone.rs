//! `consumed` only moves forward, and every replica moves it by the same checkpoints.
//!
//! Source: docs/architecture.md, "The one invariant".

use super::Violation;
use std::collections::BTreeMap;

/// How far each replica's rollups reach.
#[derive(Debug, Default)]
pub struct ConsumedMonotone {
    reached: BTreeMap<(String, u64), u64>,
    /// Which checkpoint (its own offset) reached where, by partition.
    checkpoints: BTreeMap<(u64, u64), u64>,
}

impl ConsumedMonotone {
    /// A replica was opened or its state replaced: it goes on from what is durable.
    pub fn goes_on(&mut self, machine: &str, partition: u64) {
        self.reached.remove(&(machine.to_owned(), partition));
    }

    /// A replica has applied the checkpoint at `offset`, which reaches `through`.
    pub fn consumed(&mut self, machine: &str, partition: u64, through: u64, offset: u64) -> Result<(), Violation> {
        let last = self.reached.insert((machine.to_owned(), partition), through);
        if last.is_some_and(|last| last >= through) {
            let detail = format!("{machine} moved consumed of partition {partition} from {last:?} to {through}");
            return Err(Violation::new("monotone", detail));
        }
        let by = *self.checkpoints.entry((partition, through)).or_insert(offset);
        if by != offset {
            let detail =
                format!("{machine} reached {through} of partition {partition} by checkpoint {offset}, another by {by}");
            return Err(Violation::new("monotone", detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_or_by_another_checkpoint_is_seen() {
        let mut consumed = ConsumedMonotone::default();
        consumed.consumed("n1", 0, 10, 12).unwrap();
        consumed.consumed("n2", 0, 10, 12).unwrap();
        assert!(consumed.consumed("n1", 0, 10, 12).is_err());
        assert!(consumed.consumed("n3", 0, 10, 13).is_err());
        consumed.goes_on("n1", 0);
        consumed.consumed("n1", 0, 10, 12).unwrap();
    }
}
