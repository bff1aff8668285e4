//! What a plan must keep to, so that its run makes sense and ends.

use super::{Fault, Load, MONTH_MS, Plan, Step, Who};
use std::collections::BTreeSet;

/// A day in ms: nothing takes longer.
const DAY_MS: u64 = 86_400_000;

impl Plan {
    /// Checks every bound; says which is not kept.
    pub fn validate(&self) -> Result<(), String> {
        let rules = [
            (
                (1..=7).contains(&self.nodes) && self.nodes_in_the_end() <= 9,
                "nodes must be 1 to 7, and 9 with those that join",
            ),
            ((1..=8).contains(&self.partitions), "partitions must be 1 to 8"),
            // A second one could take the majority of those that are left.
            (self.departs_alone() && (self.departures() == 0 || self.nodes >= 3), "one node may leave, of 3 or more"),
            (self.load.apps >= 1 && self.load.events_max >= 1, "apps and events_max must be at least 1"),
            (self.load.apps <= 1000 && self.load.events_max <= 4000, "apps may be 1000, events_max 4000"),
            ((20..=DAY_MS).contains(&self.load.pause_ms), "pause_ms must be 20 to 86400000"),
            (self.load.late_ms <= 20 * DAY_MS, "late_ms may be 20 days"),
            (
                self.began_ms.checked_sub(self.load.late_ms).is_some_and(|first_ms| first_ms >= MONTH_MS),
                "late_ms must not reach behind November 2026 from began_ms",
            ),
            ((1..=16).contains(&(self.load.clients())), "there must be 1 to 16 clients"),
            ((1..=DAY_MS).contains(&self.load_ms), "load_ms must be 1 to 86400000"),
            (is_pair(self.world.latency_ms), "latency_ms must be the shorter one first, both at most 60000"),
            (is_pair(self.world.disk_ms), "disk_ms must be the shorter one first, both at most 60000"),
            (self.world.loss_permille <= 1000, "loss_permille may be 1000"),
            (self.world.skew_ms <= DAY_MS, "skew_ms may be 86400000"),
            ((64..=1 << 20).contains(&self.world.segment_kib), "segment_kib must be 64 to 1048576"),
            ((50..=DAY_MS).contains(&self.world.checkpoint_ms), "checkpoint_ms must be 50 to 86400000"),
            ((50..=DAY_MS).contains(&self.world.write_out_ms), "write_out_ms must be 50 to 86400000"),
            ((5000..=DAY_MS).contains(&self.world.replace_after_ms), "replace_after_ms must be 5000 to 86400000"),
            (
                (MONTH_MS..MONTH_MS + 25 * 86_400_000).contains(&self.began_ms),
                "began_ms must lie in the first 25 days of November 2026",
            ),
        ];
        for step in &self.steps {
            self.validate_step(step).map_err(|why| {
                let line = serde_json::to_string(step).unwrap_or_default();
                format!("{} {}: {why}: {line}", self.scenario, self.seed)
            })?;
        }
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err((*message).to_owned()),
            None => Ok(()),
        }
    }

    /// Whether only one node leaves at a time; the same one may be drained again and again.
    fn departs_alone(&self) -> bool {
        let drained = |step: &Step| match step.fault {
            Fault::Drain { who: Who::Node(node), .. } => Some(node),
            _ => None,
        };
        let nodes: BTreeSet<u64> = self.steps.iter().filter_map(drained).collect();
        let drains = self.steps.iter().filter(|step| drained(step).is_some()).count();
        self.departures() <= 1 || (self.departures() == drains && nodes.len() == 1)
    }

    fn validate_step(&self, step: &Step) -> Result<(), &'static str> {
        let is_there = match step.fault.who() {
            Some(Who::Node(node)) => (1..=self.nodes_in_the_end()).contains(&node),
            Some(Who::Leader { leader_of }) => leader_of < self.partitions,
            None => true,
        };
        let is_sane = match step.fault {
            Fault::Halves { nodes, .. } => (1..self.nodes_in_the_end()).contains(&nodes),
            Fault::Loss { permille, .. } => permille <= 1000,
            Fault::RestartLoop { times, .. } => times <= 1000,
            _ => true,
        };
        match () {
            () if !is_there => Err("there is no such node or partition"),
            () if step.at_ms > self.load_ms => Err("it would come after the load, see load_ms"),
            () if step.fault.longest_ms() > DAY_MS => Err("it may take 86400000 ms"),
            () if !is_sane => Err("it is out of range"),
            () => Ok(()),
        }
    }
}

impl Load {
    /// How many clients there are.
    fn clients(&self) -> u64 {
        [self.producers, self.careless, self.readers, self.rude].into_iter().fold(0, u64::saturating_add)
    }
}

fn is_pair((shorter, longer): (u64, u64)) -> bool {
    shorter <= longer && longer <= 60_000
}
