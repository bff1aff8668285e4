//! Everything that is checked at each step of the replicated log.

use super::Violation;
use super::leader_complete::LeaderComplete;
use super::led_once::LedOnce;
use super::log_matching::LogMatching;
use super::monotone::ConsumedMonotone;
use super::purged_behind_durable::PurgedBehindDurable;
use crate::observe::Message;
use std::collections::BTreeMap;

/// An entry's place: the leadership that wrote it, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term.
    pub term: u64,
    /// Number of the leader in that term.
    pub leader: u64,
    /// Offset.
    pub offset: u64,
}

/// What is known of all groups, and the first invariant that did not hold.
#[derive(Debug, Default)]
pub struct Watch {
    lives: BTreeMap<String, u64>,
    leaders: BTreeMap<u64, String>,
    log_matching: LogMatching,
    leader_complete: LeaderComplete,
    led_once: LedOnce,
    consumed_monotone: ConsumedMonotone,
    purged_behind_durable: PurgedBehindDurable,
    violation: Option<Violation>,
    /// Who led each group last.
    last_leaders: BTreeMap<u64, String>,
    /// How often a partition was led by another node than before.
    pub takeovers: u64,
}

impl Watch {
    /// A machine begins a new life.
    pub fn begins(&mut self, machine: &str, life: u64) {
        self.lives.insert(machine.to_owned(), life);
        self.log_matching.begins(machine);
    }

    /// A machine's memory is gone.
    pub fn ends(&mut self, machine: &str) {
        self.leaders.retain(|_, leader| leader != machine);
    }

    /// A bit of a machine's rollups turned over.
    pub fn rots(&mut self, machine: &str) {
        self.consumed_monotone.rots(machine);
    }

    /// Who leads a group, as far as the leaders themselves have said.
    pub fn leader(&self, group: u64) -> Option<&str> {
        self.leaders.get(&group).map(String::as_str)
    }

    /// Whether a machine leads anything.
    pub fn is_leading(&self, machine: &str) -> bool {
        self.leaders.values().any(|leader| leader == machine)
    }

    /// The first invariant that did not hold, once.
    pub fn take_violation(&mut self) -> Option<Violation> {
        self.violation.take()
    }

    /// A node has panicked.
    pub fn panicked(&mut self, machine: &str, what: &str) {
        self.violation.get_or_insert(Violation::new("stays-up", format!("{machine} panics: {what}")));
    }

    /// A node has said something.
    pub fn heard(&mut self, message: &Message) {
        if let Err(violation) = self.check(message) {
            self.violation.get_or_insert(violation);
        }
    }

    fn check(&mut self, message: &Message) -> Result<(), Violation> {
        let machine = message.machine.as_str();
        let number = |name| message.number(name).unwrap_or(u64::MAX);
        match message.text.as_str() {
            "applied" => {
                let at = Position { term: number("term"), leader: number("leader"), offset: number("offset") };
                // The narrower statement first: it says more of what went wrong.
                self.leader_complete.applied(number("group"), at)?;
                self.log_matching.applied(machine, number("group"), at, number("hash"))
            }
            "leads" => {
                let before = self.last_leaders.insert(number("group"), machine.to_owned());
                let is_partition = number("group") > 0;
                self.takeovers += u64::from(is_partition && before.is_some_and(|before| before != machine));
                self.leaders.insert(number("group"), machine.to_owned());
                let life = self.lives.get(machine).copied().unwrap_or(0);
                self.led_once.leads(number("group"), number("term"), machine, life)
            }
            "leads no more" => {
                if self.leader(number("group")) == Some(machine) {
                    self.leaders.remove(&number("group"));
                }
                Ok(())
            }
            "checkpoint applied" => {
                self.consumed_monotone.consumed(machine, number("partition"), number("through"), number("offset"))
            }
            "rollups written out" => {
                self.purged_behind_durable.durable(machine, number("partition"), number("offset"));
                self.consumed_monotone.durable(machine, number("partition"), number("offset"));
                Ok(())
            }
            "a partition's store is open" | "snapshot installed" => {
                let (partition, offset) = (number("partition"), message.number("offset"));
                self.log_matching.goes_on(machine, partition + 1, offset);
                self.purged_behind_durable.goes_on(machine, partition, offset);
                self.consumed_monotone.goes_on(machine, partition, offset)
            }
            "metadata installed" => {
                self.log_matching.goes_on(machine, 0, message.number("offset"));
                Ok(())
            }
            "log purged" => self.purged_behind_durable.purged(machine, number("group"), number("offset")),
            _ => Ok(()),
        }
    }
}
