//! Named runs: each is about one way in which a cluster can suffer. Its seed still decides moments, nodes and delays.

mod aggregators;
mod disks;
mod members;
mod network;
mod processes;
mod time;

use crate::schedule::{Plan, Who, swarm};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A named kind of run.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, for people.
    pub about: &'static str,
    /// Draws a plan.
    pub plan: fn(seed: u64) -> Plan,
}

/// All scenarios. The first is the one that runs where none is named.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "swarm", about: "each seed draws its own world and its own mix of faults", plan: swarm::plan },
    Scenario {
        name: "split-and-crash",
        about: "one node is split off and comes back, then all nodes lose power, one after the other or at once",
        plan: processes::split_and_crash,
    },
    Scenario {
        name: "leader-isolated",
        about: "leaders are cut off from everyone, one after the other",
        plan: network::leader_isolated,
    },
    Scenario {
        name: "leader-returns",
        about: "leaders are cut off for about an election, again and again, and come back believing that they lead",
        plan: network::leader_returns,
    },
    Scenario {
        name: "one-way-split",
        about: "a leader is heard and hears nothing, then the other way round",
        plan: network::one_way_split,
    },
    Scenario {
        name: "flapping-link",
        about: "a leader's network comes and goes, faster and slower",
        plan: network::flapping_link,
    },
    Scenario { name: "bridge", about: "five nodes reach only one of them", plan: network::bridge },
    Scenario { name: "slow-link", about: "a leader's messages take half a second and more", plan: network::slow_link },
    Scenario {
        name: "lossy-network",
        about: "links fail again and again: what is under way is lost, and connections with it",
        plan: network::lossy_network,
    },
    Scenario {
        name: "rolling-restart",
        about: "every node is stopped in order and started again, in turn",
        plan: processes::rolling_restart,
    },
    Scenario {
        name: "rack-lost",
        about: "two of five nodes lose power at once and stay away for long",
        plan: processes::rack_lost,
    },
    Scenario {
        name: "blackout",
        about: "all nodes lose power at once, again and again, on slow disks",
        plan: processes::blackout,
    },
    Scenario {
        name: "torn-tail",
        about: "the power goes within writes, syncs and renames",
        plan: processes::torn_tail,
    },
    Scenario {
        name: "restart-loop",
        about: "a node is killed whenever it has just started",
        plan: processes::restart_loop,
    },
    Scenario {
        name: "pause-leader",
        about: "a leader stands still for seconds and goes on as if nothing had been",
        plan: processes::pause_leader,
    },
    Scenario { name: "clock-jump", about: "wall clocks jump by hours, forward and back", plan: time::clock_jump },
    Scenario { name: "disk-full", about: "a leader's disk is full, then a follower's", plan: disks::disk_full },
    Scenario {
        name: "fsync-fails",
        about: "a sync fails: the node must stop, and nothing it promised may be lost",
        plan: disks::fsync_fails,
    },
    Scenario { name: "slow-disk", about: "a leader's disk takes seconds for everything", plan: disks::slow_disk },
    Scenario {
        name: "bit-rot",
        about: "a bit turns over in a node's stored rollups while it is off",
        plan: disks::bit_rot,
    },
    Scenario {
        name: "rotten-log",
        about: "a bit turns over in a node's log while it is off: it must not start with it, and is replaced",
        plan: disks::rotten_log,
    },
    Scenario {
        name: "poison-entry",
        about: "an entry kills every aggregator that folds it, and is set aside",
        plan: aggregators::poison_entry,
    },
    Scenario {
        name: "aggregator-panics",
        about: "aggregators panic again and again",
        plan: aggregators::aggregator_panics,
    },
    Scenario {
        name: "aggregators-hang",
        about: "aggregators stand still although entries wait, until they are replaced, or their node is killed",
        plan: aggregators::aggregators_hang,
    },
    Scenario {
        name: "late-flood",
        about: "most events are days late, across many hours, while leaders change",
        plan: time::late_flood,
    },
    Scenario { name: "day-border", about: "an hour and a day end while nodes are killed", plan: time::day_border },
    Scenario { name: "join-under-fire", about: "two nodes enter while leaders die", plan: members::join_under_fire },
    Scenario {
        name: "drain-under-fire",
        about: "a leader is drained and takes its share again, while another dies",
        plan: members::drain_under_fire,
    },
    Scenario {
        name: "drain-and-back",
        about: "a node is drained and takes its share again before it has let go of it, again and again",
        plan: members::drain_and_back,
    },
    Scenario {
        name: "node-removed",
        about: "a node is drained, let go, and started again: it must not come back",
        plan: members::node_removed,
    },
    Scenario {
        name: "node-replaced",
        about: "a node is lost for good and forced away, and a new one enters",
        plan: members::node_replaced,
    },
    Scenario {
        name: "silent-node",
        about: "a node is silent until its replicas are made anew elsewhere, and comes back with the old ones, again and again",
        plan: members::silent_node,
    },
    Scenario {
        name: "follower-away",
        about: "a node is away until only a snapshot helps it",
        plan: members::follower_away,
    },
    Scenario {
        name: "lone-node",
        about: "a cluster of one node loses power again and again",
        plan: processes::lone_node,
    },
    Scenario {
        name: "quiet-hours",
        about: "an hour and a half of little traffic and a power cut now and then",
        plan: time::quiet_hours,
    },
];

/// The scenario of a name.
pub fn find(name: &str) -> Option<Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
}

fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ 0x0005_3E11_7FA0)
}

fn leader(random: &mut StdRng) -> Who {
    Who::Leader { leader_of: random.random_range(0..2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_valid_plan_in_order() {
        for scenario in SCENARIOS {
            for seed in 0..50 {
                let plan = (scenario.plan)(seed);
                assert_eq!(plan.validate(), Ok(()), "{} {seed}", scenario.name);
                assert_eq!(plan.scenario, scenario.name);
                assert!(plan.steps.is_sorted_by_key(|step| step.at_ms), "{} {seed}", scenario.name);
            }
        }
        assert!(SCENARIOS.len() >= 16);
    }
}
