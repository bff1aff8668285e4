//! `consumed` only moves forward, every replica moves it by the same checkpoints, and none forgets how far it was durable.
//!
//! Source: docs/architecture.md, "The one invariant".

use super::Violation;
use std::collections::BTreeMap;

/// How far each replica's rollups reach.
#[derive(Debug, Default)]
pub struct ConsumedMonotone {
    reached: BTreeMap<(String, u64), u64>,
    /// How far each replica said its rollups are durable.
    durable: BTreeMap<(String, u64), u64>,
    /// Which checkpoint (its own offset) reached where, by partition.
    checkpoints: BTreeMap<(u64, u64), u64>,
}

impl ConsumedMonotone {
    /// A replica's rollups are durable up to and including an offset.
    pub fn durable(&mut self, machine: &str, partition: u64, offset: u64) {
        self.durable.insert((machine.to_owned(), partition), offset);
    }

    /// A bit of a machine's rollups turned over: what comes behind it may have to be cut, and is folded from the log again.
    pub fn rots(&mut self, machine: &str) {
        self.durable.retain(|(name, _), _| name != machine);
    }

    /// A replica was opened or its state replaced: it goes on from what is durable, which is no less than it was; from
    /// nothing if it is new, or if its rollups were moved aside.
    pub fn goes_on(&mut self, machine: &str, partition: u64, offset: Option<u64>) -> Result<(), Violation> {
        let replica = (machine.to_owned(), partition);
        self.reached.remove(&replica);
        let before = self.durable.remove(&replica);
        let Some(offset) = offset else { return Ok(()) };
        self.durable.insert(replica, offset);
        match before.filter(|before| *before > offset) {
            None => Ok(()),
            Some(before) => {
                let detail = format!("{machine} goes on at {offset} of partition {partition}, {before} was durable");
                Err(Violation::new("monotone", detail))
            }
        }
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
        consumed.goes_on("n1", 0, Some(4)).unwrap();
        consumed.consumed("n1", 0, 10, 12).unwrap();
    }

    #[test]
    fn going_on_behind_what_was_durable_is_seen() {
        let mut consumed = ConsumedMonotone::default();
        consumed.durable("n1", 0, 10);
        consumed.goes_on("n1", 0, Some(10)).unwrap();
        assert!(consumed.goes_on("n1", 0, Some(9)).is_err());
        consumed.durable("n1", 1, 10);
        consumed.goes_on("n1", 1, None).unwrap();
        consumed.goes_on("n1", 1, Some(3)).unwrap();
        consumed.durable("n2", 0, 10);
        consumed.rots("n2");
        consumed.goes_on("n2", 0, Some(9)).unwrap();
    }
}
