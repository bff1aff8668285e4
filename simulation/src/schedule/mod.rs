//! A run as data: the world that it takes place in, and the faults that strike it, each at its moment.
//!
//! A plan is drawn from a seed ([`swarm`]), written by a scenario, or read from a file ([`mod@file`]) that a person has edited. A
//! fault carries its own end, so that any of them can be left out and the rest still makes sense (which is how a failing
//! plan is made smaller).

pub mod file;
mod rules;
pub mod swarm;

use serde::{Deserialize, Serialize};

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
    /// A bit in a node's files turns over while the node is without power. With a bit of its log it does not start again, and
    /// an operator forces it away.
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
        self.steps.iter().filter(|step| step.fault.may_take_node()).count()
    }
}

impl Fault {
    /// Whether a node leaves the cluster because of it, for a while or for good.
    fn may_take_node(&self) -> bool {
        // A node whose log is damaged does not start any more.
        let damages_log = matches!(self, Fault::FlipBit { place: Place::Log, .. });
        damages_log || matches!(self, Fault::Drain { .. } | Fault::Remove { .. } | Fault::Lose { .. })
    }

    /// Whom it strikes, if anyone in particular.
    pub fn who(&self) -> Option<Who> {
        self.reach().0
    }

    /// The longest time that it names, in ms.
    fn longest_ms(&self) -> u64 {
        self.reach().1
    }

    fn reach(&self) -> (Option<Who>, u64) {
        match *self {
            Fault::Split { who, ms }
            | Fault::CutOff { who, ms }
            | Fault::Mute { who, ms }
            | Fault::Deaf { who, ms }
            | Fault::Bridge { who, ms }
            | Fault::Pause { who, ms }
            | Fault::FullDisk { who, ms }
            | Fault::Drain { who, ms }
            | Fault::AggregatorsHang { who, ms } => (Some(who), ms),
            Fault::PowerCut { who, down_ms }
            | Fault::PowerCutIn { who, down_ms, .. }
            | Fault::Kill { who, down_ms }
            | Fault::Stop { who, down_ms }
            | Fault::FlipBit { who, down_ms, .. } => (Some(who), down_ms),
            Fault::Flap { who, every_ms, ms } => (Some(who), every_ms.max(ms)),
            Fault::SlowLink { who, latency_ms, ms } => (Some(who), latency_ms.max(ms)),
            Fault::SlowDisk { who, extra_ms, ms } => (Some(who), extra_ms.max(ms)),
            Fault::RestartLoop { who, every_ms, .. } => (Some(who), every_ms),
            Fault::ClockJump { who, by_ms, ms } => (Some(who), by_ms.unsigned_abs().max(ms)),
            Fault::FailReads { who, .. }
            | Fault::FailWrites { who, .. }
            | Fault::FailSync { who }
            | Fault::Remove { who }
            | Fault::Lose { who } => (Some(who), 0),
            Fault::Halves { ms, .. } | Fault::Loss { ms, .. } => (None, ms),
            Fault::PowerCutAll { down_ms } => (None, down_ms),
            Fault::Join | Fault::AggregatorPanics { .. } | Fault::PoisonEntry => (None, 0),
        }
    }
}

/// 2026-11-01T00:00:00Z in Unix ms: hours are told from here.
pub const MONTH_MS: u64 = 1_793_491_200_000;

/// When simulated time begins unless a plan says otherwise: 2026-11-22T20:00:00Z.
pub const BEGAN_MS: u64 = MONTH_MS + (21 * 24 + 20) * 3_600_000;
