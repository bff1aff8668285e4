//! Disks that are full, slow, or wrong.

use super::{leader, random};
use crate::schedule::{Fault, Place, Plan, Who};
use rand::RngExt;

pub(super) fn disk_full(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("disk-full", seed, 80_000);
    plan.world.segment_kib = 64;
    plan.load.events_max = 200;
    plan.at(3000, Fault::FullDisk { who: leader(&mut random), ms: 25_000 })
        .at(40_000, Fault::FullDisk { who: Who::Node(random.random_range(1..=3)), ms: 25_000 })
}

pub(super) fn fsync_fails(seed: u64) -> Plan {
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

pub(super) fn slow_disk(seed: u64) -> Plan {
    let mut random = random(seed);
    Plan::new("slow-disk", seed, 60_000)
        .at(2000, Fault::SlowDisk { who: leader(&mut random), extra_ms: 300, ms: 12_000 })
        .at(20_000, Fault::SlowDisk { who: leader(&mut random), extra_ms: 3000, ms: 15_000 })
        .at(40_000, Fault::SlowDisk { who: Who::Node(random.random_range(1..=3)), extra_ms: 1000, ms: 10_000 })
}

pub(super) fn bit_rot(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("bit-rot", seed, 50_000);
    plan.world.write_out_ms = 1000;
    let who = Who::Node(random.random_range(1..=3));
    plan.at(15_000, Fault::FlipBit { who, place: Place::Store, draw: random.random_range(0..u64::MAX), down_ms: 2000 })
}

pub(super) fn rotten_log(seed: u64) -> Plan {
    let mut random = random(seed);
    let mut plan = Plan::new("rotten-log", seed, 90_000);
    // Many small files of the log, so that most of them are not the newest.
    plan.world.segment_kib = 64;
    plan.load.events_max = 200;
    let who = leader(&mut random);
    let draw = random.random_range(0..u64::MAX);
    plan.at(40_000, Fault::FlipBit { who, place: Place::Log, draw, down_ms: 2000 })
        .at(55_000, Fault::Join)
        .at(75_000, Fault::PowerCutAll { down_ms: 1000 })
}
