//! Clocks, late events, and hours that end.

use super::{leader, random};
use crate::schedule::{BEGAN_MS, Fault, Load, Plan, Who};
use rand::RngExt;
use rand::rngs::StdRng;

pub(super) fn clock_jump(seed: u64) -> Plan {
    let mut random = random(seed);
    let node = |random: &mut StdRng| Who::Node(random.random_range(1..=3));
    let mut plan = Plan::new("clock-jump", seed, 60_000);
    plan.world.skew_ms = 5000;
    plan.at(2000, Fault::ClockJump { who: node(&mut random), by_ms: 7_200_000, ms: 15_000 })
        .at(8000, Fault::ClockJump { who: node(&mut random), by_ms: -86_400_000, ms: 20_000 })
        .at(40_000, Fault::ClockJump { who: leader(&mut random), by_ms: 600_000, ms: 10_000 })
}

pub(super) fn late_flood(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("late-flood", seed, 40_000);
    plan.load = Load { late_ms: 5 * 86_400_000, events_max: 200, apps: 6, ..Load::default() };
    plan.at(8000, Fault::Kill { who: leader(&mut random), down_ms: 3000 })
        .at(20_000, Fault::PowerCut { who: leader(&mut random), down_ms: 3000 })
}

pub(super) fn day_border(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("day-border", seed, 60_000);
    plan.began_ms = BEGAN_MS + 4 * 3_600_000 - 30_000;
    plan.at(20_000, Fault::Kill { who: leader(&mut random), down_ms: 4000 })
        .at(32_000, Fault::PowerCut { who: leader(&mut random), down_ms: 4000 })
}

pub(super) fn quiet_hours(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("quiet-hours", seed, 5_400_000);
    plan.load.pause_ms = 20_000;
    plan.world.write_out_ms = 60_000;
    (0..5).fold(plan, |plan, turn| {
        let at_ms = 600_000 + turn * 900_000 + random.random_range(0..300_000);
        plan.at(at_ms, Fault::PowerCut { who: leader(&mut random), down_ms: 30_000 })
    })
}
