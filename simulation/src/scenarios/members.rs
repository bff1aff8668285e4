//! Nodes that enter, leave, or are away for long.

use super::{leader, random};
use crate::schedule::{Fault, Plan, Who};
use rand::RngExt;

pub(super) fn join_under_fire(seed: u64) -> Plan {
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

pub(super) fn drain_under_fire(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("drain-under-fire", seed, 60_000);
    plan.nodes = random.random_range(3..=5);
    plan.at(3000, Fault::Drain { who: leader(&mut random), ms: random.random_range(5000..30_000) })
        .at(5000, Fault::Kill { who: leader(&mut random), down_ms: 2000 })
        .at(15_000, Fault::Split { who: leader(&mut random), ms: 4000 })
        .at(40_000, Fault::PowerCut { who: leader(&mut random), down_ms: 2000 })
}

pub(super) fn drain_and_back(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("drain-and-back", seed, 60_000);
    plan.nodes = 4;
    plan.partitions = 8;
    plan.world.latency_ms = (1, random.random_range(2..60));
    let who = Who::Node(random.random_range(1..=4));
    (0..9)
        .fold(plan, |plan, turn| plan.at(2000 + turn * 6000, Fault::Drain { who, ms: random.random_range(300..4000) }))
}

pub(super) fn node_removed(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("node-removed", seed, 60_000);
    plan.nodes = random.random_range(3..=5);
    let who = Who::Node(random.random_range(1..=plan.nodes));
    plan.at(3000, Fault::Remove { who })
        .at(4000, Fault::Kill { who: leader(&mut random), down_ms: 2000 })
        .at(20_000, Fault::PowerCut { who: leader(&mut random), down_ms: 2000 })
        .at(40_000, Fault::PowerCutAll { down_ms: 1000 })
}

pub(super) fn node_replaced(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("node-replaced", seed, 60_000)
        .at(3000, Fault::Lose { who: Who::Node(random.random_range(1..=3)) })
        .at(12_000, Fault::Join)
        .at(25_000, Fault::Kill { who: leader(&mut random), down_ms: 2000 })
        .at(35_000, Fault::PowerCutAll { down_ms: 1000 })
}

pub(super) fn silent_node(seed: u64) -> Plan {
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

pub(super) fn follower_away(seed: u64) -> Plan {
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
