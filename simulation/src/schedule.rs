//! The faults of a run as data: at this moment, that. Drawn from the seed by the scenario.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A fault, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A node loses the network to all others (clients still reach it).
    Split(u64),
    /// Its network comes back.
    Heal(u64),
    /// A node loses power: what it had not synced is gone or torn.
    Crash(u64),
    /// It starts again.
    Restart(u64),
}

/// Faults by simulated ms since the load began, ascending.
pub type Schedule = Vec<(u64, Fault)>;

/// A named kind of run.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, for people.
    pub about: &'static str,
    /// Draws its faults.
    pub schedule: fn(seed: u64, nodes: u64) -> Schedule,
    /// How long clients send, in simulated ms.
    pub load_ms: u64,
}

/// All scenarios. The first is the one that runs where none is named.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "split-and-crash",
    about: "under load one node is split off and comes back, then all nodes lose power, one after the other or at once",
    schedule: split_and_crash,
    load_ms: 20_000,
}];

fn split_and_crash(seed: u64, nodes: u64) -> Schedule {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x0005_3E11_7FA0);
    let mut schedule = Schedule::new();
    let (split, start) = (rng.random_range(1..=nodes), rng.random_range(1000..3000));
    schedule.push((start, Fault::Split(split)));
    schedule.push((start + rng.random_range(2000..5000), Fault::Heal(split)));
    let crash = rng.random_range(8000..12_000);
    let first = rng.random_range(0..nodes);
    let at_once = rng.random_bool(0.5);
    for turn in 0..nodes {
        let node = (first + turn) % nodes + 1;
        let at = if at_once { crash } else { crash + turn * 2500 };
        schedule.push((at, Fault::Crash(node)));
        schedule.push((at + rng.random_range(300..2000), Fault::Restart(node)));
    }
    schedule.sort_by_key(|(at, _)| *at);
    schedule
}
