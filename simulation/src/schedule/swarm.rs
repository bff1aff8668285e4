//! Swarm testing: each seed draws its own world and its own mix of faults, most kinds left out.
//!
//! A run in which everything may happen at once rarely gets anywhere; one that leaves out most kinds goes deep with the
//! rest. Source: Groce et al., "Swarm Testing", ISSTA 2012.

use super::{BEGAN_MS, Conditions, Fault, Load, MONTH_MS, Operation, Place, Plan, Step, Who};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A kind of fault that a run has or leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Split,
    OneWay,
    Halves,
    Bridge,
    Flap,
    Loss,
    SlowLink,
    PowerCut,
    PowerCutIn,
    PowerCutAll,
    Kill,
    Stop,
    RestartLoop,
    Pause,
    FailWrites,
    FailSync,
    FailReads,
    FullDisk,
    SlowDisk,
    FlipBit,
    ClockJump,
    Join,
    AggregatorPanics,
    PoisonEntry,
}

const KINDS: [Kind; 24] = [
    Kind::Split,
    Kind::OneWay,
    Kind::Halves,
    Kind::Bridge,
    Kind::Flap,
    Kind::Loss,
    Kind::SlowLink,
    Kind::PowerCut,
    Kind::PowerCutIn,
    Kind::PowerCutAll,
    Kind::Kill,
    Kind::Stop,
    Kind::RestartLoop,
    Kind::Pause,
    Kind::FailWrites,
    Kind::FailSync,
    Kind::FailReads,
    Kind::FullDisk,
    Kind::SlowDisk,
    Kind::FlipBit,
    Kind::ClockJump,
    Kind::Join,
    Kind::AggregatorPanics,
    Kind::PoisonEntry,
];

/// Kinds of one run at most.
const KINDS_MAX: usize = 6;

/// Share of the runs with nodes enough in which one of them leaves, for a while or for good.
const DEPARTURES: f64 = 0.2;

/// Share of the runs in which aggregators hang.
const HANGS: f64 = 0.1;

/// Share of the runs, with nodes enough and none that leaves, in which a bit of a node's log turns over.
const ROTTEN_LOGS: f64 = 0.1;

/// How long runs are, in ms: most are short, some long, so that slow things happen too.
const LOADS_MS: [u64; 5] = [60_000, 120_000, 240_000, 600_000, 1_500_000];

/// The plan of a seed.
pub fn plan(seed: u64) -> Plan {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5741_524D);
    let load_ms = pick(&mut random, &LOADS_MS);
    let nodes = pick(&mut random, &[1, 2, 3, 3, 3, 3, 4, 5, 5, 7]);
    // Short before an hour's end, a day's end, or in the middle of an hour.
    let began_ms = match random.random_range(0..3) {
        0 => BEGAN_MS,
        1 => BEGAN_MS + 3_600_000 - random.random_range(10_000..60_000),
        _ => MONTH_MS + 23 * 86_400_000 - random.random_range(10_000..60_000),
    };
    let mut plan = Plan {
        scenario: "swarm".to_owned(),
        seed,
        nodes,
        partitions: random.random_range(1..=if nodes > 4 { 4 } else { 8 }),
        began_ms,
        load_ms,
        load: load(&mut random, load_ms),
        world: conditions(&mut random),
        steps: Vec::new(),
    };
    let kinds = kinds(&mut random);
    // As many faults as make trouble most of the time, whatever the length.
    let mut at_ms = random.random_range(500..5000);
    let gap_ms = pick(&mut random, &[3_000, 8_000, 20_000]);
    while at_ms < load_ms && plan.steps.len() < 60 && !kinds.is_empty() {
        let kind = pick(&mut random, &kinds);
        if let Some(fault) = fault(&mut random, kind, &plan) {
            plan.steps.push(Step { at_ms, fault });
        }
        at_ms += random.random_range(200..gap_ms.max(load_ms / 40));
    }
    if nodes >= 3 && random.random_bool(DEPARTURES) {
        let step = Step { at_ms: random.random_range(1000..load_ms), fault: departure(&mut random, &plan) };
        plan.steps.push(step);
    }
    // What follows is drawn last: runs without it are what they were before there were such faults.
    if random.random_bool(HANGS) {
        let who = Who::Leader { leader_of: random.random_range(0..plan.partitions) };
        let ms = pick(&mut random, &[3000, 40_000]);
        plan.steps.push(Step { at_ms: random.random_range(1000..load_ms), fault: Fault::AggregatorsHang { who, ms } });
    }
    if nodes >= 3 && !plan.has_operator() && random.random_bool(ROTTEN_LOGS) {
        let who = Who::Node(random.random_range(1..=nodes));
        let down_ms = pick(&mut random, &[200, 6000]);
        let fault = Fault::FlipBit { who, place: Place::Log, draw: random.random_range(0..u64::MAX), down_ms };
        // Late: there must be something to damage.
        plan.steps.push(Step { at_ms: random.random_range(load_ms / 2..load_ms), fault });
    }
    plan.sorted()
}

fn kinds(random: &mut StdRng) -> Vec<Kind> {
    let count = random.random_range(0..=KINDS_MAX);
    (0..count).map(|_| pick(random, &KINDS)).collect()
}

fn load(random: &mut StdRng, load_ms: u64) -> Load {
    // A long run sends less often: what takes time is requests.
    let pause_ms = pick(random, &[150, 300, 600]) * (load_ms / 120_000).clamp(1, 12);
    Load {
        producers: random.random_range(1..=3),
        careless: random.random_range(0..=1),
        readers: random.random_range(1..=2),
        rude: u64::from(random.random_bool(0.2)),
        pause_ms,
        events_max: pick(random, &[1, 10, 40, 200]),
        apps: pick(random, &[1, 3, 8]),
        late_ms: pick(random, &[10_000, 3 * 3_600_000, 3 * 86_400_000]),
    }
}

fn conditions(random: &mut StdRng) -> Conditions {
    Conditions {
        latency_ms: pick(random, &[(1, 2), (1, 10), (5, 40)]),
        loss_permille: pick(random, &[0, 0, 1, 10]),
        disk_ms: pick(random, &[(1, 2), (2, 40), (10, 80)]),
        skew_ms: pick(random, &[0, 200, 5000]),
        segment_kib: pick(random, &[64, 256, 1024]),
        checkpoint_ms: pick(random, &[200, 2000, 5000]),
        write_out_ms: pick(random, &[1000, 5000, 30_000]),
        replace_after_ms: pick(random, &[5000, 20_000, 600_000]),
    }
}

fn departure(random: &mut StdRng, plan: &Plan) -> Fault {
    let who = Who::Node(random.random_range(1..=plan.nodes));
    let ms = pick(random, &[3000, 25_000]);
    pick(random, &[Fault::Drain { who, ms }, Fault::Remove { who }, Fault::Lose { who }])
}

/// A fault of a kind; `None` if it makes no sense in this world.
fn fault(random: &mut StdRng, kind: Kind, plan: &Plan) -> Option<Fault> {
    let nodes = plan.nodes;
    let who = if random.random_bool(0.4) {
        Who::Leader { leader_of: random.random_range(0..plan.partitions) }
    } else {
        Who::Node(random.random_range(1..=nodes))
    };
    let ms = pick(random, &[800, 3000, 10_000, 25_000]);
    let down_ms = pick(random, &[200, 1500, 6000, 20_000]);
    let several = nodes > 1;
    Some(match kind {
        Kind::Split if several && random.random_bool(0.7) => Fault::Split { who, ms },
        Kind::Split => Fault::CutOff { who, ms },
        Kind::OneWay if several && random.random_bool(0.5) => Fault::Mute { who, ms },
        Kind::OneWay if several => Fault::Deaf { who, ms },
        Kind::Halves if several => Fault::Halves { nodes: random.random_range(1..nodes), ms },
        Kind::Bridge if nodes > 2 => Fault::Bridge { who, ms },
        Kind::Flap if several => Fault::Flap { who, every_ms: pick(random, &[100, 700, 3000]), ms },
        Kind::Loss => Fault::Loss { permille: pick(random, &[20, 100, 300]), ms },
        Kind::SlowLink if several => Fault::SlowLink { who, latency_ms: pick(random, &[50, 300, 1000]), ms },
        Kind::PowerCut => Fault::PowerCut { who, down_ms },
        Kind::PowerCutIn => {
            let operation = pick(random, &[Operation::Write, Operation::Sync, Operation::Rename]);
            Fault::PowerCutIn { who, operation, down_ms }
        }
        Kind::PowerCutAll => Fault::PowerCutAll { down_ms },
        Kind::Kill => Fault::Kill { who, down_ms },
        Kind::Stop => Fault::Stop { who, down_ms },
        Kind::RestartLoop => {
            Fault::RestartLoop { who, times: random.random_range(2..6), every_ms: random.random_range(300..4000) }
        }
        Kind::Pause => Fault::Pause { who, ms },
        Kind::FailWrites => Fault::FailWrites { who, count: random.random_range(1..4) },
        Kind::FailSync => Fault::FailSync { who },
        Kind::FailReads => Fault::FailReads { who, count: random.random_range(1..4) },
        Kind::FullDisk => Fault::FullDisk { who, ms },
        Kind::SlowDisk => Fault::SlowDisk { who, extra_ms: pick(random, &[50, 300, 2000]), ms },
        // Rot is survived as long as another replica is whole.
        Kind::FlipBit if nodes > 2 && !plan.steps.iter().any(|step| matches!(step.fault, Fault::FlipBit { .. })) => {
            Fault::FlipBit { who, place: Place::Store, draw: random.random_range(0..u64::MAX), down_ms }
        }
        Kind::ClockJump => {
            Fault::ClockJump { who, by_ms: pick(random, &[-3_600_000, -5000, 5000, 300_000, 7_200_000]), ms }
        }
        Kind::Join if plan.nodes_in_the_end() < 7 => Fault::Join,
        Kind::AggregatorPanics => Fault::AggregatorPanics { times: random.random_range(1..4) },
        Kind::PoisonEntry => Fault::PoisonEntry,
        _ => return None,
    })
}

fn pick<T: Clone>(random: &mut StdRng, from: &[T]) -> T {
    from[random.random_range(0..from.len())].clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_is_valid_and_every_kind_of_fault_is_drawn() {
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let plan = plan(seed);
            assert_eq!(plan.validate(), Ok(()), "seed {seed}");
            names
                .extend(plan.steps.iter().map(|step| format!("{:?}", step.fault).split(' ').next().map(str::to_owned)));
        }
        assert_eq!(names.len(), 30, "{names:?}");
    }
}
