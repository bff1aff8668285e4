//! The clients of a run: they know nothing of what strikes the cluster, and speak its public HTTP API.

mod careless;
mod judge;
mod operator;
mod producer;
mod reader;
mod rude;
mod values;

use crate::client::Client;
use crate::invariants::Violation;
use crate::kernel::time;
use crate::oracle::Ledger;
use crate::schedule::{Fault, Plan};
use crate::{coverage, node_name, timeline, trace};
use futures::future::{LocalBoxFuture, join_all};
pub use operator::Order;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What clients and world share. The simulated world has one thread.
pub struct Shared {
    /// What clients know.
    pub ledger: RefCell<Ledger>,
    /// Set when the cluster is whole and load may begin.
    pub has_begun: Cell<bool>,
    /// Set when clients are to send no new requests.
    pub has_ended: Cell<bool>,
    /// Set when no fault strikes any more and everything was mended.
    pub is_calm: Cell<bool>,
    /// Clients that still have a request under way.
    pub running: Cell<u64>,
    /// Requests whose first answer was not the final one.
    pub retried: Cell<u64>,
    /// How often a partition was led by another node than before.
    pub takeovers: Cell<u64>,
    /// Nodes that take part now.
    pub nodes: Cell<u64>,
    /// Nodes that are lost for good: their data is damaged beyond what a node mends.
    pub lost: RefCell<Vec<u64>>,
    /// Nodes whose disk has failed or rotted at any time: they may say so instead of an answer.
    pub sick: Rc<RefCell<BTreeSet<String>>>,
    /// Nodes that have been, or may have been, let go: they stop by themselves.
    pub leaving: RefCell<BTreeSet<u64>>,
    /// What the operator is still to do.
    pub orders: RefCell<VecDeque<Order>>,
    /// The first invariant that did not hold.
    pub violation: RefCell<Option<Violation>>,
    /// Whether entries may be set aside, whose events are then not counted.
    pub may_miss: bool,
    /// Load of the plan.
    plan: Plan,
}

impl Shared {
    /// What the clients of a plan share.
    pub fn new(plan: &Plan) -> Shared {
        Shared {
            ledger: RefCell::default(),
            has_begun: Cell::new(false),
            has_ended: Cell::new(false),
            is_calm: Cell::new(false),
            running: Cell::new(0),
            retried: Cell::new(0),
            takeovers: Cell::new(0),
            nodes: Cell::new(plan.nodes),
            lost: RefCell::default(),
            sick: Rc::default(),
            leaving: RefCell::default(),
            orders: RefCell::default(),
            violation: RefCell::default(),
            may_miss: plan.steps.iter().any(|step| step.fault == Fault::PoisonEntry),
            plan: plan.clone(),
        }
    }

    /// Keeps the first violation; the run ends with it.
    pub fn must(&self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            trace::line(format_args!("violated: {violation}"));
            timeline::mark("clients", "violation", || violation.to_string());
            self.violation.borrow_mut().get_or_insert(violation);
        }
    }

    /// Events that were acked so far.
    pub fn acked_events(&self) -> u64 {
        self.ledger.borrow().acked_events
    }

    /// Nodes that should serve in the end.
    pub fn hosts(&self) -> Vec<String> {
        let lost = self.lost.borrow();
        (1..=self.nodes.get()).filter(|node| !lost.contains(node)).map(node_name).collect()
    }

    /// Unix time, in ms.
    fn now_ms(&self) -> u64 {
        self.plan.began_ms + u64::try_from(time::now().as_millis()).unwrap_or(0)
    }

    async fn begun(&self) {
        while !self.has_begun.get() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One request in so many begins a burst.
const BURST_ONE_IN: u32 = 100;

/// Requests of a burst.
const BURST: u32 = 20;

/// One client: who it is, and what it leaves to chance.
struct Actor {
    shared: Rc<Shared>,
    client: Client,
    number: u64,
    random: StdRng,
    /// Requests that follow each other closely yet.
    burst: u32,
}

impl Actor {
    fn any_host(&mut self) -> String {
        let hosts = self.shared.hosts();
        hosts[self.random.random_range(0..hosts.len())].clone()
    }

    /// Waits as long as clients do between requests.
    async fn pause(&mut self) {
        let longest = self.shared.plan.load.pause_ms;
        if self.burst == 0 && self.random.random_range(0..BURST_ONE_IN) == 0 {
            self.burst = BURST;
        }
        self.burst = self.burst.saturating_sub(1);
        let longest = if self.burst > 0 { longest / 20 + 1 } else { longest };
        let pause = self.random.random_range(longest / 20..=longest);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Waits before trying again.
    async fn back_off(&mut self) {
        let pause = self.random.random_range(20..=400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// All clients of a plan, to be run on one machine; they end when the judge has spoken.
pub fn clients(shared: &Rc<Shared>) -> LocalBoxFuture<'static, turmoil::Result> {
    let load = shared.plan.load.clone();
    let mut running: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
    let mut number = 0u64;
    let mut actor = |kind: &str| {
        number += 1;
        let random = StdRng::seed_from_u64(shared.plan.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let client = Client::new(&format!("{kind}-{number}"), &shared.sick);
        Actor { shared: shared.clone(), client, number, random, burst: 0 }
    };
    for _ in 0..load.producers {
        running.push(Box::pin(producer::run(actor("producer"))));
    }
    for _ in 0..load.careless {
        running.push(Box::pin(careless::run(actor("careless"))));
    }
    for _ in 0..load.readers {
        running.push(Box::pin(reader::run(actor("reader"))));
    }
    for _ in 0..load.rude {
        running.push(Box::pin(rude::run(actor("rude"))));
    }
    let judge = judge::run(actor("judge"));
    if shared.plan.has_operator() {
        running.push(Box::pin(operator::run(actor("operator"))));
    }
    shared.running.set(running.len() as u64);
    let shared = shared.clone();
    Box::pin(async move {
        let all = running.into_iter().map(|client| async {
            client.await;
            shared.running.update(|running| running - 1);
        });
        futures::future::join(join_all(all), judge).await;
        Ok(())
    })
}

/// Notes on the timeline what became of a request.
fn told(client: &Client, kind: &'static str, text: impl FnOnce() -> String) {
    timeline::mark("clients", kind, || format!("{}: {}", client.name(), text()));
}

/// Whether an answer to a good request says that it may be sent again: too slow, too much, not now. Anything else but an ack
/// is no answer to a good request.
fn may_try_again(status: u16) -> bool {
    [408, 429, 503].contains(&status)
}

/// A request was refused for now.
fn refused(status: u16) {
    if [429, 503].contains(&status) {
        coverage::reached("request_refused");
    }
}
