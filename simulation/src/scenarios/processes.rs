//! Processes that end, and power that goes.

use super::{leader, random};
use crate::schedule::{Fault, Operation, Plan, Who};
use rand::RngExt;

pub(super) fn split_and_crash(seed: u64) -> Plan {
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

pub(super) fn rolling_restart(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..6).fold(Plan::new("rolling-restart", seed, 60_000), |plan, turn| {
        let down_ms = random.random_range(500..4000);
        plan.at(2000 + turn * 9000, Fault::Stop { who: Who::Node(turn % 3 + 1), down_ms })
    })
}

pub(super) fn rack_lost(seed: u64) -> Plan {
    let mut random = random(seed);
    let first = random.random_range(0..5);
    let mut plan = Plan::new("rack-lost", seed, 60_000);
    plan.nodes = 5;
    plan.at(4000, Fault::PowerCut { who: Who::Node(first + 1), down_ms: 35_000 })
        .at(4000, Fault::PowerCut { who: Who::Node((first + 1) % 5 + 1), down_ms: 40_000 })
}

pub(super) fn blackout(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("blackout", seed, 50_000);
    plan.world.disk_ms = (10, 80);
    (0..4).fold(plan, |plan, turn| {
        let at_ms = 3000 + turn * 12_000 + random.random_range(0..2000);
        plan.at(at_ms, Fault::PowerCutAll { down_ms: random.random_range(100..2000) })
    })
}

pub(super) fn torn_tail(seed: u64) -> Plan {
    let mut random = random(seed);
    let operations = [Operation::Write, Operation::Sync, Operation::Rename];
    (0..9).fold(Plan::new("torn-tail", seed, 60_000), |plan, turn| {
        let operation = operations[turn as usize % 3];
        let who = if random.random_bool(0.5) { leader(&mut random) } else { Who::Node(turn % 3 + 1) };
        plan.at(2000 + turn * 6000, Fault::PowerCutIn { who, operation, down_ms: random.random_range(200..2500) })
    })
}

pub(super) fn restart_loop(seed: u64) -> Plan {
    let mut random = random(seed);
    let who = Who::Node(random.random_range(1..=3));
    Plan::new("restart-loop", seed, 50_000)
        .at(2000, Fault::RestartLoop { who, times: 12, every_ms: random.random_range(300..1500) })
        .at(25_000, Fault::RestartLoop { who: leader(&mut random), times: 8, every_ms: 2500 })
}

pub(super) fn pause_leader(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..5).fold(Plan::new("pause-leader", seed, 60_000), |plan, turn| {
        let ms = random.random_range(600..9000);
        plan.at(2000 + turn * 11_000, Fault::Pause { who: leader(&mut random), ms })
    })
}

pub(super) fn lone_node(seed: u64) -> Plan {
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
