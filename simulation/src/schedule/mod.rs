//! A run as data: the world that it takes place in, and the faults that strike it, each at its moment.
//!
//! A plan is drawn from a seed ([`swarm`]), written by a scenario, or read from a file ([`mod@file`]) that a person has edited. A
//! fault carries its own end, so that any of them can be left out and the rest still makes sense (which is how a failing
//! plan is made smaller).

pub mod file;
pub mod swarm;

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Everything that decides a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Which scenario it was made by; any text.
    pub scenario: String,
    /// Decides everything that the plan leaves open: delays, elections, event values, retries.
    pub seed: u64,
    /// Nodes at the beginning, 1 to 7.
    pub nodes: u64,
    /// Partitions, 1 to 8.
    pub partitions: u16,
    /// Unix time at the beginning, in ms.
    pub began_ms: u64,
    /// How long clients send, in simulated ms.
    pub load_ms: u64,
    /// The clients.
    pub load: Load,
    /// The machines and what is between them.
    pub world: Conditions,
    /// The faults, in the order of their moments.
    #[serde(skip)]
    pub steps: Vec<Step>,
}

/// What clients do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Clients that send under an identity and retry until they are answered.
    pub producers: u64,
    /// Clients that send each request once, without identity.
    pub careless: u64,
    /// Clients that read while others send.
    pub readers: u64,
    /// Clients that send garbage, hang up in the middle, or ask for nonsense.
    pub rude: u64,
    /// Longest pause of a client between requests, in ms; the shortest is a twentieth of it.
    pub pause_ms: u64,
    /// Events of one request at most.
    pub events_max: u64,
    /// Apps that producers share. Half of all events go to the first.
    pub apps: u64,
    /// How late an event may be, in ms.
    pub late_ms: u64,
}

/// Machines and network while nothing is wrong, and how the product is set up on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// Shortest and longest delay of a message, in ms.
    pub latency_ms: (u64, u64),
    /// Messages with which a link fails, in thousandths: what is under way on it is lost, and connections with it.
    pub loss_permille: u64,
    /// Longest pause of ordinary work on a disk, and of one operation in sixteen, in ms.
    pub disk_ms: (u64, u64),
    /// How far a node's wall clock may be off, in ms.
    pub skew_ms: u64,
    /// Size of a file of the log, in KiB.
    pub segment_kib: u64,
    /// How often aggregators write checkpoints, in ms.
    pub checkpoint_ms: u64,
    /// How often rollups are written out, in ms.
    pub write_out_ms: u64,
    /// After how long the replicas of a silent node are made anew elsewhere, in ms.
    #[serde(default = "ten_minutes")]
    pub replace_after_ms: u64,
}

impl Conditions {
    /// Bound of a node's log, in bytes: eight of its files.
    pub fn log_bytes_max(&self) -> u64 {
        self.segment_kib << 13
    }
}

fn ten_minutes() -> u64 {
    600_000
}

/// A fault and its moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Simulated ms since the load began.
    pub at_ms: u64,
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
}

/// Whom a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`who` is a node's number or {\"leader_of\": PARTITION}")]
pub enum Who {
    /// A node by its number.
    Node(u64),
    /// Whoever leads a partition at that moment, as far as is known.
    Leader {
        /// The partition.
        leader_of: u16,
    },
}

/// What goes wrong. Every `ms` is how long, in simulated ms; every `down_ms` after how long the node is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are what the line above them says")]
pub enum Fault {
    /// A node loses the network to all other nodes; clients still reach it.
    Split { who: Who, ms: u64 },
    /// A node loses the network to everyone.
    CutOff { who: Who, ms: u64 },
    /// Nothing that a node sends reaches other nodes; what they send reaches it.
    Mute { who: Who, ms: u64 },
    /// Nothing that other nodes send reaches a node; what it sends reaches them.
    Deaf { who: Who, ms: u64 },
    /// The first `nodes` nodes and the rest do not reach each other.
    Halves { nodes: u64, ms: u64 },
    /// Nodes reach only this one.
    Bridge { who: Who, ms: u64 },
    /// A node's network to others goes and comes back every so many ms.
    Flap { who: Who, every_ms: u64, ms: u64 },
    /// Links between all nodes fail with so many messages: what is under way on them is lost, and connections with it.
    Loss { permille: u64, ms: u64 },
    /// All that a node and others send each other takes longer.
    SlowLink { who: Who, latency_ms: u64, ms: u64 },
    /// A node loses power: what it had not synced is gone or torn.
    PowerCut { who: Who, down_ms: u64 },
    /// A node loses power within its next operation of a kind on its disk.
    PowerCutIn { who: Who, operation: Operation, down_ms: u64 },
    /// All nodes lose power at once.
    PowerCutAll { down_ms: u64 },
    /// A node's process is killed; what it wrote is there.
    Kill { who: Who, down_ms: u64 },
    /// A node is told to stop, and does so in order.
    Stop { who: Who, down_ms: u64 },
    /// A node is killed again and again, as often as `times`.
    RestartLoop { who: Who, times: u64, every_ms: u64 },
    /// Nothing reaches or leaves a node, and its disk does nothing; then all of it goes on, late.
    Pause { who: Who, ms: u64 },
    /// A node's next reads from its disk fail.
    FailReads { who: Who, count: u64 },
    /// A node's next writes to its disk stop half-way.
    FailWrites { who: Who, count: u64 },
    /// A node's next sync fails.
    FailSync { who: Who },
    /// A node's disk is full.
    FullDisk { who: Who, ms: u64 },
    /// A node's disk takes so much longer for everything.
    SlowDisk { who: Who, extra_ms: u64, ms: u64 },
    /// A bit in a node's files turns over while the node is without power.
    FlipBit { who: Who, place: Place, draw: u64, down_ms: u64 },
    /// A node's wall clock jumps.
    ClockJump { who: Who, by_ms: i64, ms: u64 },
    /// A new node enters the cluster.
    Join,
    /// An operator has everything that a node holds moved away, and lets it take its share again.
    Drain { who: Who, ms: u64 },
    /// An operator drains a node and lets it go for good. It is started once more: it must not come back.
    Remove { who: Who },
    /// A node is lost for good, disk and all, and an operator forces it away.
    Lose { who: Who },
    /// The next aggregators to fold an entry, on any node, panic.
    AggregatorPanics { times: u64 },
    /// The next aggregators to fold an entry panic, and those that a node starts are not woken when entries come.
    AggregatorsHang { who: Who, ms: u64 },
    /// The next entry to be folded makes every aggregator panic that folds it.
    PoisonEntry,
}

/// A kind of operation on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A write to a file.
    Write,
    /// Making a file durable.
    Sync,
    /// Giving a file another name.
    Rename,
}

/// Which of a node's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The log.
    Log,
    /// The rollups.
    Store,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            producers: 3,
            careless: 1,
            readers: 1,
            rude: 0,
            pause_ms: 200,
            events_max: 40,
            apps: 12,
            late_ms: 3 * 3_600_000,
        }
    }
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            latency_ms: (1, 4),
            loss_permille: 0,
            disk_ms: (2, 40),
            skew_ms: 200,
            segment_kib: 256,
            checkpoint_ms: 2000,
            write_out_ms: 5000,
            replace_after_ms: ten_minutes(),
        }
    }
}

impl Plan {
    /// Three nodes, two partitions, the usual load for so long, no faults.
    pub fn new(scenario: &str, seed: u64, load_ms: u64) -> Plan {
        Plan {
            scenario: scenario.to_owned(),
            seed,
            nodes: 3,
            partitions: 2,
            began_ms: BEGAN_MS,
            load_ms,
            load: Load::default(),
            world: Conditions::default(),
            steps: Vec::new(),
        }
    }

    /// Adds a fault.
    pub fn at(mut self, at_ms: u64, fault: Fault) -> Plan {
        self.steps.push(Step { at_ms, fault });
        self
    }

    /// The steps in the order of their moments; equal moments keep their order.
    pub fn sorted(mut self) -> Plan {
        self.steps.sort_by_key(|step| step.at_ms);
        self
    }

    /// How many nodes there are in the end.
    pub fn nodes_in_the_end(&self) -> u64 {
        self.nodes + self.steps.iter().filter(|step| step.fault == Fault::Join).count() as u64
    }

    /// Whether somebody has to tell the cluster to let nodes go.
    pub fn has_operator(&self) -> bool {
        self.departures() > 0
    }

    fn departures(&self) -> usize {
        let leave =
            |step: &&Step| matches!(step.fault, Fault::Drain { .. } | Fault::Remove { .. } | Fault::Lose { .. });
        self.steps.iter().filter(leave).count()
    }

    /// Whether only one node leaves at a time; the same one may be drained again and again.
    fn departs_alone(&self) -> bool {
        let drained = |step: &Step| match step.fault {
            Fault::Drain { who: Who::Node(node), .. } => Some(node),
            _ => None,
        };
        let nodes: BTreeSet<u64> = self.steps.iter().filter_map(drained).collect();
        let drains = self.steps.iter().filter(|step| drained(step).is_some()).count();
        self.departures() <= 1 || (self.departures() == drains && nodes.len() == 1)
    }

    /// Checks every bound; says which is not kept.
    pub fn validate(&self) -> Result<(), String> {
        let rules = [
            (
                (1..=7).contains(&self.nodes) && self.nodes_in_the_end() <= 9,
                "nodes must be 1 to 7, and 9 with those that join",
            ),
            ((1..=8).contains(&self.partitions), "partitions must be 1 to 8"),
            // A second one could take the majority of those that are left.
            (self.departs_alone() && (self.departures() == 0 || self.nodes >= 3), "one node may leave, of 3 or more"),
            (self.load.apps >= 1 && self.load.events_max >= 1, "apps and events_max must be at least 1"),
            (self.load.apps <= 1000 && self.load.events_max <= 4000, "apps may be 1000, events_max 4000"),
            ((20..=DAY_MS).contains(&self.load.pause_ms), "pause_ms must be 20 to 86400000"),
            (self.load.late_ms <= 20 * DAY_MS, "late_ms may be 20 days"),
            ((1..=16).contains(&(self.load.clients())), "there must be 1 to 16 clients"),
            ((1..=DAY_MS).contains(&self.load_ms), "load_ms must be 1 to 86400000"),
            (is_pair(self.world.latency_ms), "latency_ms must be the shorter one first, both at most 60000"),
            (is_pair(self.world.disk_ms), "disk_ms must be the shorter one first, both at most 60000"),
            (self.world.loss_permille <= 1000, "loss_permille may be 1000"),
            (self.world.skew_ms <= DAY_MS, "skew_ms may be 86400000"),
            ((64..=1 << 20).contains(&self.world.segment_kib), "segment_kib must be 64 to 1048576"),
            ((50..=DAY_MS).contains(&self.world.checkpoint_ms), "checkpoint_ms must be 50 to 86400000"),
            ((50..=DAY_MS).contains(&self.world.write_out_ms), "write_out_ms must be 50 to 86400000"),
            ((5000..=DAY_MS).contains(&self.world.replace_after_ms), "replace_after_ms must be 5000 to 86400000"),
            (
                (MONTH_MS..MONTH_MS + 25 * 86_400_000).contains(&self.began_ms),
                "began_ms must lie in the first 25 days of November 2026",
            ),
        ];
        for step in &self.steps {
            self.validate_step(step).map_err(|why| {
                let line = serde_json::to_string(step).unwrap_or_default();
                format!("{} {}: {why}: {line}", self.scenario, self.seed)
            })?;
        }
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err((*message).to_owned()),
            None => Ok(()),
        }
    }
}

impl Plan {
    fn validate_step(&self, step: &Step) -> Result<(), &'static str> {
        let is_there = match step.fault.who() {
            Some(Who::Node(node)) => (1..=self.nodes_in_the_end()).contains(&node),
            Some(Who::Leader { leader_of }) => leader_of < self.partitions,
            None => true,
        };
        let (longest_ms, is_sane) = match step.fault {
            Fault::Halves { nodes, ms } => (ms, (1..self.nodes_in_the_end()).contains(&nodes)),
            Fault::Loss { permille, ms } => (ms, permille <= 1000),
            Fault::SlowLink { latency_ms, ms, .. } => (latency_ms.max(ms), true),
            Fault::SlowDisk { extra_ms, ms, .. } => (extra_ms.max(ms), true),
            Fault::Flap { every_ms, ms, .. } => (every_ms.max(ms), true),
            Fault::RestartLoop { times, every_ms, .. } => (every_ms, times <= 1000),
            Fault::ClockJump { by_ms, ms, .. } => (by_ms.unsigned_abs().max(ms), true),
            Fault::Split { ms, .. }
            | Fault::CutOff { ms, .. }
            | Fault::Mute { ms, .. }
            | Fault::Deaf { ms, .. }
            | Fault::Bridge { ms, .. }
            | Fault::Pause { ms, .. }
            | Fault::FullDisk { ms, .. }
            | Fault::Drain { ms, .. }
            | Fault::AggregatorsHang { ms, .. } => (ms, true),
            Fault::PowerCut { down_ms, .. }
            | Fault::PowerCutIn { down_ms, .. }
            | Fault::PowerCutAll { down_ms }
            | Fault::Kill { down_ms, .. }
            | Fault::Stop { down_ms, .. }
            | Fault::FlipBit { down_ms, .. } => (down_ms, true),
            _ => (0, true),
        };
        match () {
            () if !is_there => Err("there is no such node or partition"),
            () if step.at_ms > self.load_ms => Err("it would come after the load, see load_ms"),
            () if longest_ms > DAY_MS => Err("it may take 86400000 ms"),
            () if !is_sane => Err("it is out of range"),
            () => Ok(()),
        }
    }
}

impl Load {
    /// How many clients there are.
    fn clients(&self) -> u64 {
        [self.producers, self.careless, self.readers, self.rude].into_iter().fold(0, u64::saturating_add)
    }
}

fn is_pair((shorter, longer): (u64, u64)) -> bool {
    shorter <= longer && longer <= 60_000
}

/// A day in ms: nothing takes longer.
const DAY_MS: u64 = 86_400_000;

impl Fault {
    /// Whom it strikes, if anyone in particular.
    pub fn who(&self) -> Option<Who> {
        match self {
            Fault::Split { who, .. }
            | Fault::CutOff { who, .. }
            | Fault::Mute { who, .. }
            | Fault::Deaf { who, .. }
            | Fault::Bridge { who, .. }
            | Fault::Flap { who, .. }
            | Fault::SlowLink { who, .. }
            | Fault::PowerCut { who, .. }
            | Fault::PowerCutIn { who, .. }
            | Fault::Kill { who, .. }
            | Fault::Stop { who, .. }
            | Fault::RestartLoop { who, .. }
            | Fault::Pause { who, .. }
            | Fault::FailReads { who, .. }
            | Fault::FailWrites { who, .. }
            | Fault::FailSync { who }
            | Fault::FullDisk { who, .. }
            | Fault::SlowDisk { who, .. }
            | Fault::FlipBit { who, .. }
            | Fault::ClockJump { who, .. }
            | Fault::AggregatorsHang { who, .. }
            | Fault::Drain { who, .. }
            | Fault::Remove { who }
            | Fault::Lose { who } => Some(*who),
            Fault::Halves { .. }
            | Fault::Loss { .. }
            | Fault::PowerCutAll { .. }
            | Fault::Join
            | Fault::AggregatorPanics { .. }
            | Fault::PoisonEntry => None,
        }
    }
}

/// 2026-11-01T00:00:00Z in Unix ms: hours are told from here.
pub const MONTH_MS: u64 = 1_793_491_200_000;

/// When simulated time begins unless a plan says otherwise: 2026-11-22T20:00:00Z.
pub const BEGAN_MS: u64 = MONTH_MS + (21 * 24 + 20) * 3_600_000;
