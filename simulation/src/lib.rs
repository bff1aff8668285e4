//! Deterministic simulation of a cluster: the product's own node code on a simulated network, disk, clock and entropy.
//!
//! One seed decides everything: [`run`] twice with the same options gives the same trace, byte for byte, if each run has
//! a process of its own (tokio numbers its tasks per process). The workload speaks the public HTTP API like any client;
//! this crate never names the product, which hands in how a node is started.

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulator needs --cfg tokio_unstable (set in .cargo/config.toml; a RUSTFLAGS variable replaces it): without it \
     tokio's own random numbers are not seeded, and two runs of one seed differ"
);

pub mod environment;
mod http;
mod invariants;
mod oracle;
mod schedule;
mod trace;
mod workload;
mod world;

pub use schedule::{Fault, SCENARIOS, Scenario, Schedule};
pub use trace::Summary;

use cluster::environment::Environment;
use futures::future::LocalBoxFuture;
use std::rc::Rc;
use std::time::Duration;
use world::World;

/// Port that the nodes' HTTP servers listen on.
pub const HTTP_PORT: u16 = 3600;

/// Port that nodes listen on for each other.
pub const CLUSTER_PORT: u16 = 3601;

/// When simulated time begins: 2026-11-22T20:00:00Z, in seconds since the Unix epoch.
const EPOCH_S: u64 = 1_795_377_600;

/// The hour that the month of [`EPOCH_S`] begins with, in hours since the Unix epoch.
const MONTH_START_HOUR: u64 = EPOCH_S / 3600 - 21 * 24 - 20;

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
}

/// Runs a node until it ends, which it should not.
pub type StartNode = Rc<dyn Fn(NodeStart) -> LocalBoxFuture<'static, Result<(), String>>>;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Which kind of faults.
    pub scenario: Scenario,
    /// How many nodes.
    pub nodes: u64,
    /// Whether to print the trace's readable lines to stderr as they happen.
    pub is_verbose: bool,
}

/// A run in which everything held.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Hash and size of the trace.
    pub trace: Summary,
    /// Simulated time.
    pub simulated: Duration,
    /// Events that were acked, each found exactly once.
    pub acked_events: u64,
    /// Requests that had to be sent again.
    pub retried: u64,
}

/// A run in which something did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What.
    pub reason: String,
    /// The last readable lines of the trace.
    pub last_lines: Vec<String>,
    /// Hash and size of the trace up to there.
    pub trace: Summary,
}

impl Failure {
    fn new(reason: String) -> Failure {
        Failure { reason, last_lines: trace::last_lines(), trace: trace::summary() }
    }
}

/// Runs one seed to its end. Once per process: a second run would not give the trace that its seed gives elsewhere.
pub fn run(options: &Options, start: &StartNode) -> Result<Outcome, Failure> {
    trace::start(options.is_verbose);
    cluster::seed_consensus(options.seed);
    let schedule = (options.scenario.schedule)(options.seed, options.nodes);
    let mut world = World::new(options, start);
    let simulated = world.run(&schedule, options.scenario.load_ms)?;
    let shared = world.shared();
    Ok(Outcome {
        trace: trace::summary(),
        simulated,
        acked_events: shared.acked_events.get(),
        retried: shared.retried.get(),
    })
}

fn node_name(number: u64) -> String {
    format!("n{number}")
}
