//! Aggregators that panic or hang.

use super::{leader, random};
use crate::schedule::{Fault, Plan};
use rand::RngExt;

pub(super) fn poison_entry(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("poison-entry", seed, 60_000)
        .at(3000, Fault::PoisonEntry)
        .at(20_000, Fault::PoisonEntry)
        .at(21_000, Fault::Kill { who: leader(&mut random), down_ms: 3000 })
}

pub(super) fn aggregator_panics(seed: u64) -> Plan {
    let mut random = random(seed);
    (0..6).fold(Plan::new("aggregator-panics", seed, 40_000), |plan, turn| {
        plan.at(2000 + turn * 6000, Fault::AggregatorPanics { times: random.random_range(1..3) })
    })
}

pub(super) fn aggregators_hang(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("aggregators-hang", seed, 110_000)
        .at(3000, Fault::AggregatorsHang { who: leader(&mut random), ms: 45_000 })
        .at(60_000, Fault::AggregatorsHang { who: leader(&mut random), ms: 40_000 })
        .at(70_000, Fault::Kill { who: leader(&mut random), down_ms: 3000 })
}
