//! Named runs: each is about one way in which a cluster can suffer. Its seed still decides moments, nodes and delays.

use crate::schedule::{BEGAN_MS, Fault, Load, Operation, Place, Plan, Who, swarm};
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
        plan: split_and_crash,
    },
    Scenario {
        name: "leader-isolated",
        about: "leaders are cut off from everyone, one after the other",
        plan: leader_isolated,
    },
    Scenario {
        name: "one-way-split",
        about: "a leader is heard and hears nothing, then the other way round",
        plan: one_way_split,
    },
    Scenario {
        name: "flapping-link",
        about: "a leader's network comes and goes, faster and slower",
        plan: flapping_link,
    },
    Scenario { name: "bridge", about: "five nodes reach only one of them", plan: bridge },
    Scenario { name: "slow-link", about: "a leader's messages take half a second and more", plan: slow_link },
    Scenario {
        name: "lossy-network",
        about: "links fail again and again: what is under way is lost, and connections with it",
        plan: lossy_network,
    },
    Scenario {
        name: "rolling-restart",
        about: "every node is stopped in order and started again, in turn",
        plan: rolling_restart,
    },
    Scenario {
        name: "rack-lost",
        about: "two of five nodes lose power at once and stay away for long",
        plan: rack_lost,
    },
    Scenario {
        name: "blackout",
        about: "all nodes lose power at once, again and again, on slow disks",
        plan: blackout,
    },
    Scenario { name: "torn-tail", about: "the power goes within writes, syncs and renames", plan: torn_tail },
    Scenario { name: "restart-loop", about: "a node is killed whenever it has just started", plan: restart_loop },
    Scenario {
        name: "pause-leader",
        about: "a leader stands still for seconds and goes on as if nothing had been",
        plan: pause_leader,
    },
    Scenario { name: "clock-jump", about: "wall clocks jump by hours, forward and back", plan: clock_jump },
    Scenario { name: "disk-full", about: "a leader's disk is full, then a follower's", plan: disk_full },
    Scenario {
        name: "fsync-fails",
        about: "a sync fails: the node must stop, and nothing it promised may be lost",
        plan: fsync_fails,
    },
    Scenario { name: "slow-disk", about: "a leader's disk takes seconds for everything", plan: slow_disk },
    Scenario { name: "bit-rot", about: "a bit turns over in a node's stored rollups while it is off", plan: bit_rot },
    Scenario {
        name: "poison-entry",
        about: "an entry kills every aggregator that folds it, and is set aside",
        plan: poison_entry,
    },
    Scenario { name: "aggregator-panics", about: "aggregators panic again and again", plan: aggregator_panics },
    Scenario {
        name: "aggregators-hang",
        about: "aggregators stand still although entries wait, until they are replaced, or their node is killed",
        plan: aggregators_hang,
    },
    Scenario {
        name: "late-flood",
        about: "most events are days late, across many hours, while leaders change",
        plan: late_flood,
    },
    Scenario { name: "day-border", about: "an hour and a day end while nodes are killed", plan: day_border },
    Scenario { name: "join-under-fire", about: "two nodes enter while leaders die", plan: join_under_fire },
    Scenario {
        name: "drain-under-fire",
        about: "a leader is drained and takes its share again, while another dies",
        plan: drain_under_fire,
    },
    Scenario {
        name: "drain-and-back",
        about: "a node is drained and takes its share again before it has let go of it, again and again",
        plan: drain_and_back,
    },
    Scenario {
        name: "node-removed",
        about: "a node is drained, let go, and started again: it must not come back",
        plan: node_removed,
    },
    Scenario {
        name: "node-replaced",
        about: "a node is lost for good and forced away, and a new one enters",
        plan: node_replaced,
    },
    Scenario {
        name: "silent-node",
        about: "a node is silent until its replicas are made anew elsewhere, and comes back with the old ones, again and again",
        plan: silent_node,
    },
    Scenario { name: "follower-away", about: "a node is away until only a snapshot helps it", plan: follower_away },
    Scenario { name: "lone-node", about: "a cluster of one node loses power again and again", plan: lone_node },
    Scenario {
        name: "quiet-hours",
        about: "an hour and a half of little traffic and a power cut now and then",
        plan: quiet_hours,
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

fn split_and_crash(seed: u64) -> Plan {
    let mut random = random(seed);
    let start = random.random_range(1000..3000);
    let ms = random.random_range(2000..5000);
    let mut plan = Plan::new("split-and-crash", seed, 20_000)
        .at(start, Fault::Split { who: Who::Node(random.random_range(1..=3)), ms });
    let crash = random.random_range(8000..12_000);
    let at_once = random.random_bool(0.5);
    let first = random.random_range(0..3);
    for turn in 0..3 {
        let at_ms = if at_once { crash } else { crash + turn * 2500 };
        let down_ms = random.random_range(300..2000);
        plan = plan.at(at_ms, Fault::PowerCut { who: Who::Node((first + turn) % 3 + 1), down_ms });
    }
    plan.sorted()
}

fn leader_isolated(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..4).fold(Plan::new("leader-isolated", seed, 40_000), |plan, turn| {
        let ms = random.random_range(2000..7000);
        plan.at(2000 + turn * 9000, Fault::CutOff { who: leader(&mut random), ms })
    })
}

fn one_way_split(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("one-way-split", seed, 40_000)
        .at(2000, Fault::Deaf { who: leader(&mut random), ms: 8000 })
        .at(14_000, Fault::Mute { who: leader(&mut random), ms: 8000 })
        .at(26_000, Fault::Mute { who: Who::Node(random.random_range(1..=3)), ms: 6000 })
        .at(27_000, Fault::Deaf { who: leader(&mut random), ms: 6000 })
}

fn flapping_link(seed: u64) -> Plan {
    let mut random = random(seed);
    [100, 500, 1200, 3000].into_iter().enumerate().fold(
        Plan::new("flapping-link", seed, 60_000),
        |plan, (turn, every_ms)| {
            plan.at(2000 + turn as u64 * 13_000, Fault::Flap { who: leader(&mut random), every_ms, ms: 10_000 })
        },
    )
}

fn bridge(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("bridge", seed, 40_000);
    plan.nodes = 5;
    plan.at(2000, Fault::Bridge { who: Who::Node(random.random_range(1..=5)), ms: 12_000 })
        .at(20_000, Fault::Halves { nodes: random.random_range(2..=3), ms: 10_000 })
}

fn slow_link(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("slow-link", seed, 40_000)
        .at(2000, Fault::SlowLink { who: leader(&mut random), latency_ms: 500, ms: 15_000 })
        .at(22_000, Fault::SlowLink { who: Who::Node(1), latency_ms: 100, ms: 10_000 })
}

fn lossy_network(seed: u64) -> Plan {
    Plan::new("lossy-network", seed, 40_000)
        .at(1000, Fault::Loss { permille: 200, ms: 20_000 })
        .at(25_000, Fault::Loss { permille: 500, ms: 8000 })
}

fn rolling_restart(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..6).fold(Plan::new("rolling-restart", seed, 60_000), |plan, turn| {
        let down_ms = random.random_range(500..4000);
        plan.at(2000 + turn * 9000, Fault::Stop { who: Who::Node(turn % 3 + 1), down_ms })
    })
}

fn rack_lost(seed: u64) -> Plan {
    let mut random = random(seed);
    let first = random.random_range(0..5);
    let mut plan = Plan::new("rack-lost", seed, 60_000);
    plan.nodes = 5;
    plan.at(4000, Fault::PowerCut { who: Who::Node(first + 1), down_ms: 35_000 })
        .at(4000, Fault::PowerCut { who: Who::Node((first + 1) % 5 + 1), down_ms: 40_000 })
}

fn blackout(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("blackout", seed, 50_000);
    plan.world.disk_ms = (10, 80);
    (0..4).fold(plan, |plan, turn| {
        let at_ms = 3000 + turn * 12_000 + random.random_range(0..2000);
        plan.at(at_ms, Fault::PowerCutAll { down_ms: random.random_range(100..2000) })
    })
}

fn torn_tail(seed: u64) -> Plan {
    let mut random = random(seed);
    let operations = [Operation::Write, Operation::Sync, Operation::Rename];
    (0..9).fold(Plan::new("torn-tail", seed, 60_000), |plan, turn| {
        let operation = operations[turn as usize % 3];
        let who = if random.random_bool(0.5) { leader(&mut random) } else { Who::Node(turn % 3 + 1) };
        plan.at(2000 + turn * 6000, Fault::PowerCutIn { who, operation, down_ms: random.random_range(200..2500) })
    })
}

fn restart_loop(seed: u64) -> Plan {
    let mut random = random(seed);
    let who = Who::Node(random.random_range(1..=3));
    Plan::new("restart-loop", seed, 50_000)
        .at(2000, Fault::RestartLoop { who, times: 12, every_ms: random.random_range(300..1500) })
        .at(25_000, Fault::RestartLoop { who: leader(&mut random), times: 8, every_ms: 2500 })
}

fn pause_leader(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..5).fold(Plan::new("pause-leader", seed, 60_000), |plan, turn| {
        let ms = random.random_range(600..9000);
        plan.at(2000 + turn * 11_000, Fault::Pause { who: leader(&mut random), ms })
    })
}

fn clock_jump(seed: u64) -> Plan {
    let mut random = random(seed);
    let node = |random: &mut StdRng| Who::Node(random.random_range(1..=3));
    let mut plan = Plan::new("clock-jump", seed, 60_000);
    plan.world.skew_ms = 5000;
    plan.at(2000, Fault::ClockJump { who: node(&mut random), by_ms: 7_200_000, ms: 15_000 })
        .at(8000, Fault::ClockJump { who: node(&mut random), by_ms: -86_400_000, ms: 20_000 })
        .at(40_000, Fault::ClockJump { who: leader(&mut random), by_ms: 600_000, ms: 10_000 })
}

fn disk_full(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("disk-full", seed, 80_000);
    plan.world.segment_kib = 64;
    plan.load.events_max = 200;
    plan.at(3000, Fault::FullDisk { who: leader(&mut random), ms: 25_000 })
        .at(40_000, Fault::FullDisk { who: Who::Node(random.random_range(1..=3)), ms: 25_000 })
}

fn fsync_fails(seed: u64) -> Plan {
    let mut random = random(seed);
    // What was not made durable is missed only when the power goes.
    Plan::new("fsync-fails", seed, 60_000)
        .at(3000, Fault::FailSync { who: leader(&mut random) })
        .at(9000, Fault::PowerCutAll { down_ms: 500 })
        .at(18_000, Fault::FailSync { who: Who::Node(random.random_range(1..=3)) })
        .at(24_000, Fault::PowerCutAll { down_ms: 500 })
        .at(33_000, Fault::FailWrites { who: leader(&mut random), count: 2 })
        .at(46_000, Fault::FailReads { who: leader(&mut random), count: 2 })
}

fn slow_disk(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("slow-disk", seed, 60_000)
        .at(2000, Fault::SlowDisk { who: leader(&mut random), extra_ms: 300, ms: 12_000 })
        .at(20_000, Fault::SlowDisk { who: leader(&mut random), extra_ms: 3000, ms: 15_000 })
        .at(40_000, Fault::SlowDisk { who: Who::Node(random.random_range(1..=3)), extra_ms: 1000, ms: 10_000 })
}

fn bit_rot(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("bit-rot", seed, 50_000);
    plan.world.write_out_ms = 1000;
    let who = Who::Node(random.random_range(1..=3));
    plan.at(15_000, Fault::FlipBit { who, place: Place::Store, draw: random.random_range(0..u64::MAX), down_ms: 2000 })
}

fn poison_entry(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("poison-entry", seed, 60_000)
        .at(3000, Fault::PoisonEntry)
        .at(20_000, Fault::PoisonEntry)
        .at(21_000, Fault::Kill { who: leader(&mut random), down_ms: 3000 })
}

fn aggregator_panics(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..6).fold(Plan::new("aggregator-panics", seed, 40_000), |plan, turn| {
        plan.at(2000 + turn * 6000, Fault::AggregatorPanics { times: random.random_range(1..3) })
    })
}

fn aggregators_hang(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("aggregators-hang", seed, 110_000)
        .at(3000, Fault::AggregatorsHang { who: leader(&mut random), ms: 45_000 })
        .at(60_000, Fault::AggregatorsHang { who: leader(&mut random), ms: 40_000 })
        .at(70_000, Fault::Kill { who: leader(&mut random), down_ms: 3000 })
}

fn late_flood(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("late-flood", seed, 40_000);
    plan.load = Load { late_ms: 5 * 86_400_000, events_max: 200, apps: 6, ..Load::default() };
    plan.at(8000, Fault::Kill { who: leader(&mut random), down_ms: 3000 })
        .at(20_000, Fault::PowerCut { who: leader(&mut random), down_ms: 3000 })
}

fn day_border(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("day-border", seed, 60_000);
    plan.began_ms = BEGAN_MS + 4 * 3_600_000 - 30_000;
    plan.at(20_000, Fault::Kill { who: leader(&mut random), down_ms: 4000 })
        .at(32_000, Fault::PowerCut { who: leader(&mut random), down_ms: 4000 })
}

fn join_under_fire(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("join-under-fire", seed, 60_000);
    plan.nodes = random.random_range(1..=3);
    plan.at(4000, Fault::Join)
        .at(4500, Fault::Kill { who: leader(&mut random), down_ms: 2000 })
        .at(12_000, Fault::Pause { who: leader(&mut random), ms: 3000 })
        .at(16_000, Fault::Join)
        .at(17_000, Fault::PowerCut { who: leader(&mut random), down_ms: 2000 })
        .at(26_000, Fault::PowerCutAll { down_ms: 1000 })
}

fn drain_under_fire(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("drain-under-fire", seed, 60_000);
    plan.nodes = random.random_range(3..=5);
    plan.at(3000, Fault::Drain { who: leader(&mut random), ms: random.random_range(5000..30_000) })
        .at(5000, Fault::Kill { who: leader(&mut random), down_ms: 2000 })
        .at(15_000, Fault::Split { who: leader(&mut random), ms: 4000 })
        .at(40_000, Fault::PowerCut { who: leader(&mut random), down_ms: 2000 })
}

fn drain_and_back(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("drain-and-back", seed, 60_000);
    plan.nodes = 4;
    plan.partitions = 8;
    plan.world.latency_ms = (1, random.random_range(2..60));
    let who = Who::Node(random.random_range(1..=4));
    (0..9)
        .fold(plan, |plan, turn| plan.at(2000 + turn * 6000, Fault::Drain { who, ms: random.random_range(300..4000) }))
}

fn node_removed(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("node-removed", seed, 60_000);
    plan.nodes = random.random_range(3..=5);
    let who = Who::Node(random.random_range(1..=plan.nodes));
    plan.at(3000, Fault::Remove { who })
        .at(4000, Fault::Kill { who: leader(&mut random), down_ms: 2000 })
        .at(20_000, Fault::PowerCut { who: leader(&mut random), down_ms: 2000 })
        .at(40_000, Fault::PowerCutAll { down_ms: 1000 })
}

fn node_replaced(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("node-replaced", seed, 60_000)
        .at(3000, Fault::Lose { who: Who::Node(random.random_range(1..=3)) })
        .at(12_000, Fault::Join)
        .at(25_000, Fault::Kill { who: leader(&mut random), down_ms: 2000 })
        .at(35_000, Fault::PowerCutAll { down_ms: 1000 })
}

fn silent_node(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("silent-node", seed, 90_000);
    plan.nodes = random.random_range(4..=5);
    plan.partitions = 6;
    plan.world.replace_after_ms = 5000;
    let who = Who::Node(random.random_range(1..=plan.nodes));
    // How long it is there in between decides whether it has let go of everything before it is silent again.
    (0..6).fold(plan, |plan, turn| {
        let ms = random.random_range(7000..10_000);
        let fault = match random.random_range(0..3) {
            0 => Fault::CutOff { who, ms },
            1 => Fault::Kill { who, down_ms: ms },
            _ => Fault::PowerCut { who, down_ms: ms },
        };
        plan.at(3000 + turn * 14_000 + random.random_range(0..3000), fault)
    })
}

fn follower_away(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("follower-away", seed, 90_000);
    plan.world.segment_kib = 64;
    plan.world.write_out_ms = 1000;
    plan.world.checkpoint_ms = 200;
    plan.load.pause_ms = 60;
    let who = Who::Node(random.random_range(1..=3));
    plan.at(3000, Fault::PowerCut { who, down_ms: 55_000 })
        .at(70_000, Fault::Kill { who: leader(&mut random), down_ms: 3000 })
}

fn lone_node(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("lone-node", seed, 50_000);
    plan.nodes = 1;
    (0..5).fold(plan, |plan, turn| {
        let down_ms = random.random_range(200..2000);
        let at_ms = 2000 + turn * 9000 + random.random_range(0..3000);
        match turn % 2 {
            0 => plan.at(at_ms, Fault::PowerCut { who: Who::Node(1), down_ms }),
            _ => plan.at(at_ms, Fault::PowerCutIn { who: Who::Node(1), operation: Operation::Sync, down_ms }),
        }
    })
}

fn quiet_hours(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("quiet-hours", seed, 5_400_000);
    plan.load.pause_ms = 20_000;
    plan.world.write_out_ms = 60_000;
    (0..5).fold(plan, |plan, turn| {
        let at_ms = 600_000 + turn * 900_000 + random.random_range(0..300_000);
        plan.at(at_ms, Fault::PowerCut { who: leader(&mut random), down_ms: 30_000 })
    })
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
