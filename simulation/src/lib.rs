//! Deterministic simulation of a cluster: the product's own node code on a simulated network, disk, clock and entropy.
//!
//! One plan decides everything: [`run`] twice with the same plan gives the same trace, byte for byte, if each run has
//! a process of its own (tokio numbers its tasks per process). The workload speaks the public HTTP API like any client;
//! this crate never names the product, which hands in how a node is started.
//!
//! ```text
//!   scenarios, schedule   a plan: the world, the load, the faults
//!   world                 nodes and clients, moved on step by step, struck and mended
//!   kernel                machines and the network between them
//!   environment           the doors that a node finds: disk, network, clock, entropy, tasks
//!   workload, client      what clients do;  oracle: what they know
//!   invariants            what must hold;   coverage: what should have happened
//!   trace, timeline       what was seen, for a hash and for people
//! ```

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulator needs --cfg tokio_unstable (set in .cargo/config.toml; a RUSTFLAGS variable replaces it): without it \
     tokio's own random numbers are not seeded, and two runs of one seed differ"
);

mod answer;
mod client;
pub mod coverage;
pub mod environment;
mod html;
mod invariants;
mod kernel;
mod observe;
mod oracle;
pub mod scenarios;
pub mod schedule;
mod shrink;
mod timeline;
mod trace;
mod workload;
mod world;

pub use html::page;
pub use invariants::INVARIANTS;
pub use shrink::Shrinking;
pub use timeline::Mark;

use cluster::environment::Environment;
use futures::future::LocalBoxFuture;
use schedule::Plan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use world::World;

/// Port that the nodes' HTTP servers listen on.
pub const HTTP_PORT: u16 = 3600;

/// Port that nodes listen on for each other.
pub const CLUSTER_PORT: u16 = 3601;

/// What a node is started with.
pub struct NodeStart {
    /// Its doors to the simulated world.
    pub environment: Environment,
    /// Its name, which is also its host in the simulated world.
    pub name: String,
    /// Where it listens for HTTP and is reached by clients.
    pub http_address: String,
    /// Where it listens for other nodes and is reached by them.
    pub cluster_address: String,
    /// Members to join by; empty for the first node.
    pub join: Vec<String>,
    /// Partitions of a new cluster.
    pub partitions: u16,
    /// Size of a file of the log.
    pub segment_bytes: u64,
    /// Bound of the log.
    pub log_bytes_max: u64,
    /// How often aggregators write checkpoints.
    pub checkpoint_interval: Duration,
    /// How often rollups are written out.
    pub write_out_interval: Duration,
    /// After how long the replicas of a silent node are made anew elsewhere.
    pub replace_after: Duration,
    /// Completes when the node is to stop in order.
    pub shutdown: LocalBoxFuture<'static, ()>,
}

/// Runs a node until it ends, which it should not unless it is told to.
pub type StartNode = Rc<dyn Fn(NodeStart) -> LocalBoxFuture<'static, Result<(), String>>>;

/// What to show of a run besides its report.
#[derive(Default)]
pub struct Watching {
    /// Print the trace's readable lines, and the product's messages, to stderr as they happen.
    pub is_verbose: bool,
    /// Keep what [`page`] shows.
    pub keeps_timeline: bool,
    /// Where everything that is recorded goes, a line each.
    pub sink: Option<Box<dyn std::io::Write>>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// The invariant that did not hold, if one did not.
    pub violated: Option<String>,
    /// What was seen of that.
    pub detail: String,
    /// XXH3 over everything that was recorded, in hexadecimal.
    pub trace: String,
    /// How many things were recorded.
    pub records: u64,
    /// Simulated time, in seconds.
    pub simulated_s: f64,
    /// Events that were acked.
    pub acked_events: u64,
    /// Requests that had to be sent again.
    pub retried: u64,
    /// Faults that struck.
    pub faults: u64,
    /// How often each situation was reached, by name.
    pub situations: BTreeMap<String, u64>,
    /// The last readable lines of the trace, where an invariant did not hold.
    pub last_lines: Vec<String>,
}

impl Report {
    /// Whether everything held.
    pub fn held(&self) -> bool {
        self.violated.is_none()
    }
}

/// Runs a plan to its end. Once per process: a second run would not give the trace that the plan gives elsewhere.
pub fn run(plan: &Plan, start: &StartNode, watching: Watching) -> (Report, Vec<Mark>) {
    trace::start(watching.is_verbose, watching.sink);
    if watching.keeps_timeline {
        timeline::start();
    }
    // A panic that is part of the plan is told by the trace; any other of a node breaks the run, one of the simulator's own ends
    // it.
    std::panic::set_hook(Box::new(|panic| {
        trace::line(format_args!("panic: {panic}"));
        let machine = kernel::time::running();
        if ["", "clients"].contains(&machine.as_str()) {
            eprintln!("the simulator panics: {panic}");
        } else if !panic.payload_as_str().is_some_and(|text| text.starts_with("simulated: ")) {
            observe::panicked(&machine, &panic.to_string());
        }
    }));
    cluster::seed_consensus(plan.seed);
    let mut world = World::new(plan, start);
    let ended = world.run();
    let simulated = kernel::time::now();
    let (violated, detail) = match &ended {
        Ok(_) => (None, String::new()),
        Err(violation) => (Some(violation.invariant.to_owned()), violation.detail.clone()),
    };
    let summary = trace::end();
    let report = Report {
        scenario: plan.scenario.clone(),
        seed: plan.seed,
        last_lines: if violated.is_some() { trace::last_lines() } else { Vec::new() },
        violated,
        detail,
        trace: format!("{:016x}", summary.hash),
        records: summary.events,
        simulated_s: simulated.as_secs_f64(),
        acked_events: world.shared().acked_events(),
        retried: world.shared().retried.get(),
        faults: world.struck(),
        situations: coverage::counts(),
    };
    (report, timeline::marks())
}

fn node_name(number: u64) -> String {
    format!("n{number}")
}
