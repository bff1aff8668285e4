//! Networks that split, lose and delay.

use super::{leader, random};
use crate::schedule::{Fault, Plan, Who};
use rand::RngExt;

pub(super) fn leader_isolated(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..4).fold(Plan::new("leader-isolated", seed, 40_000), |plan, turn| {
        let ms = random.random_range(2000..7000);
        plan.at(2000 + turn * 9000, Fault::CutOff { who: leader(&mut random), ms })
    })
}

pub(super) fn leader_returns(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..16).fold(Plan::new("leader-returns", seed, 60_000), |plan, turn| {
        let ms = random.random_range(1000..2500);
        plan.at(2000 + turn * 3500, Fault::CutOff { who: leader(&mut random), ms })
    })
}

pub(super) fn one_way_split(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("one-way-split", seed, 40_000)
        .at(2000, Fault::Deaf { who: leader(&mut random), ms: 8000 })
        .at(14_000, Fault::Mute { who: leader(&mut random), ms: 8000 })
        .at(26_000, Fault::Mute { who: Who::Node(random.random_range(1..=3)), ms: 6000 })
        .at(27_000, Fault::Deaf { who: leader(&mut random), ms: 6000 })
}

pub(super) fn flapping_link(seed: u64) -> Plan {
    let mut random = random(seed);
    [100, 500, 1200, 3000].into_iter().enumerate().fold(
        Plan::new("flapping-link", seed, 60_000),
        |plan, (turn, every_ms)| {
            plan.at(2000 + turn as u64 * 13_000, Fault::Flap { who: leader(&mut random), every_ms, ms: 10_000 })
        },
    )
}

pub(super) fn bridge(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("bridge", seed, 40_000);
    plan.nodes = 5;
    plan.at(2000, Fault::Bridge { who: Who::Node(random.random_range(1..=5)), ms: 12_000 })
        .at(20_000, Fault::Halves { nodes: random.random_range(2..=3), ms: 10_000 })
}

pub(super) fn slow_link(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("slow-link", seed, 40_000)
        .at(2000, Fault::SlowLink { who: leader(&mut random), latency_ms: 500, ms: 15_000 })
        .at(22_000, Fault::SlowLink { who: Who::Node(1), latency_ms: 100, ms: 10_000 })
}

pub(super) fn lossy_network(seed: u64) -> Plan {
    Plan::new("lossy-network", seed, 40_000)
        .at(1000, Fault::Loss { permille: 200, ms: 20_000 })
        .at(25_000, Fault::Loss { permille: 500, ms: 8000 })
}
