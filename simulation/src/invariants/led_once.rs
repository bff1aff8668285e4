//! A leadership (term and leader) is held once, by one life of one node.
//!
//! Source: Raft, section 5.2 (Election Safety), in openraft's form: a leadership is named by term and node. A node that restarts
//! and goes on in a term that it led before would give offsets a second time that it may have given already.

use super::Violation;
use std::collections::BTreeMap;

/// Who led when.
#[derive(Debug, Default)]
pub struct LedOnce {
    leaderships: BTreeMap<(u64, u64, String), u64>,
}

impl LedOnce {
    /// A node, in one of its lives, begins to lead a group.
    pub fn leads(&mut self, group: u64, term: u64, machine: &str, life: u64) -> Result<(), Violation> {
        let held = *self.leaderships.entry((group, term, machine.to_owned())).or_insert(life);
        if held == life {
            return Ok(());
        }
        let detail =
            format!("{machine} leads group {group} in term {term} in life {life}, after it did in life {held}");
        Err(Violation::new("led-once", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_life_in_the_same_leadership_is_seen() {
        let mut led = LedOnce::default();
        led.leads(1, 5, "n1", 1).unwrap();
        led.leads(1, 5, "n2", 1).unwrap();
        led.leads(1, 6, "n1", 2).unwrap();
        assert!(led.leads(1, 5, "n1", 2).is_err());
    }
}
