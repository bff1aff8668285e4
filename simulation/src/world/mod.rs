//! The simulated world: nodes and clients, moved on step by step, struck by faults, mended in the end.

mod node;
mod strike;
mod undo;

use crate::invariants::{Violation, Watch};
use crate::kernel::{Ended, Quality, SharedNetwork, time};
use crate::oracle::hour_of;
use crate::schedule::Plan;
use crate::workload::{self, Order, Shared};
use crate::{StartNode, coverage, observe, timeline, trace};
use node::Node;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use undo::Undo;

/// How much longer than its load a run may take, in simulated time.
const OVERTIME: Duration = Duration::from_secs(600);

/// How long after an operation on its disk has failed a node may end because of it, in simulated time.
const EXCUSED_FOR: Duration = Duration::from_secs(60);

/// After how long a process that ended is started again, in ms, as a service manager does.
const RESTART_MS: u64 = 1500;

/// One run.
pub struct World {
    plan: Plan,
    start: StartNode,
    network: SharedNetwork,
    nodes: BTreeMap<u64, Node>,
    shared: Rc<Shared>,
    watch: Rc<RefCell<Watch>>,
    undos: BTreeMap<(u64, u64), Undo>,
    next_undo: u64,
    next_step: usize,
    begun_ms: Option<u64>,
    /// Nodes that were lost, disk and all.
    gone: BTreeSet<u64>,
    /// Nodes in whose log a bit turned over that had been made durable.
    rotten: BTreeSet<u64>,
    /// Nodes that were let go and started again all the same.
    returned: BTreeSet<u64>,
}

impl World {
    /// A world with its nodes and clients; the nodes are started, nothing has run.
    pub fn new(plan: &Plan, start: &StartNode) -> World {
        let quality = Quality { latency_ms: plan.world.latency_ms, loss_permille: plan.world.loss_permille };
        let network = SharedNetwork::new(plan.seed ^ 0x4E45_5457, quality);
        let nodes = (1..=plan.nodes_in_the_end()).map(|number| (number, Node::new(number, plan, &network)));
        let shared = Rc::new(Shared::new(plan));
        let mut world = World {
            plan: plan.clone(),
            start: start.clone(),
            nodes: nodes.collect(),
            network,
            shared,
            watch: Rc::default(),
            undos: BTreeMap::new(),
            next_undo: 0,
            next_step: 0,
            begun_ms: None,
            gone: BTreeSet::new(),
            rotten: BTreeSet::new(),
            returned: BTreeSet::new(),
        };
        (1..=plan.nodes).for_each(|number| world.start(number));
        world.network.add_client("clients", workload::clients(&world.shared));
        world
    }

    /// Runs to the end: faults by the plan, then mending, then the last checks. Returns how long it took in simulated time.
    pub fn run(&mut self) -> Result<Duration, Violation> {
        let _listening = observe::listen(self.watch.clone());
        let end = Duration::from_millis(self.plan.load_ms) + OVERTIME;
        loop {
            self.do_what_is_due();
            let stepped = self.network.step();
            self.look_after_nodes();
            self.shared.takeovers.set(self.watch.borrow().takeovers);
            if let Some(violation) = self.violation(end) {
                return Err(violation);
            }
            if stepped.map_err(|error| Violation::new("serves-again", error))? {
                return Ok(time::now());
            }
        }
    }

    /// How many faults have struck.
    pub fn struck(&self) -> u64 {
        self.next_step as u64
    }

    /// What the clients know.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(time::now().as_millis()).unwrap_or(u64::MAX)
    }

    fn violation(&self, end: Duration) -> Option<Violation> {
        if let Some(violation) = self.watch.borrow_mut().take_violation() {
            self.shared.must(Err(violation));
        }
        if time::now() > end {
            self.shared.must(Err(Violation::new("serves-again", "the run does not come to its end")));
        }
        self.shared.violation.borrow_mut().take()
    }

    fn do_what_is_due(&mut self) {
        let now_ms = self.now_ms();
        while let Some(due) = self.undos.first_entry().filter(|undo| undo.key().0 <= now_ms) {
            let undo = due.remove();
            self.undo(undo);
        }
        if self.begun_ms.is_none() && self.shared.has_begun.get() {
            self.begun_ms = Some(self.now_ms());
        }
        let Some(begun_ms) = self.begun_ms else { return };
        let age_ms = self.now_ms() - begun_ms;
        while let Some(step) = self.plan.steps.get(self.next_step).filter(|step| step.at_ms <= age_ms) {
            let fault = step.fault.clone();
            self.next_step += 1;
            self.strike(&fault);
        }
        if age_ms >= self.plan.load_ms && self.next_step >= self.plan.steps.len() && !self.shared.is_calm.get() {
            self.calm();
        }
    }

    /// Mends everything at once.
    fn calm(&mut self) {
        trace::line(format_args!("faults are over, no new requests"));
        timeline::mark("faults", "end", || "faults are over, no new requests".to_owned());
        let undos = std::mem::take(&mut self.undos);
        undos.into_values().for_each(|undo| self.undo_for_good(undo));
        observe::stop_panics();
        self.lose_no_more();
        let lost = self.shared.lost.borrow().clone();
        for number in 1..=self.shared.nodes.get() {
            self.node(number).mend();
            if !self.node(number).machine.is_on() && !lost.contains(&number) {
                self.start(number);
            }
        }
        if hour_of(self.plan.began_ms) != hour_of(self.plan.began_ms + self.now_ms()) {
            coverage::reached("hour_crossed");
        }
        self.shared.has_ended.set(true);
        self.shared.is_calm.set(true);
    }

    /// Links do not fail by themselves any more.
    fn lose_no_more(&self) {
        let quality = Quality { loss_permille: 0, ..self.network.quality() };
        let names = self.network.names();
        for (number, one) in names.iter().enumerate() {
            names[number + 1..].iter().for_each(|other| self.network.set_quality(one, other, Some(quality)));
        }
    }

    fn look_after_nodes(&mut self) {
        for number in 1..=self.shared.nodes.get() {
            if let Some(ended) = self.node(number).machine.take_ended() {
                self.node_ended(number, &ended);
            }
            if self.node(number).has_lost_power.load(Ordering::Relaxed) {
                let (network, watch) = (self.network.clone(), self.watch.clone());
                self.node(number).cut_power(&network, &watch);
                let down_ms = self.take_down_ms(number);
                self.later(down_ms, Undo::Start(number));
            }
        }
    }

    /// A process has ended by itself: it must have had a reason, and is started again.
    fn node_ended(&mut self, number: u64, ended: &Ended) {
        let watch = self.watch.clone();
        let node = self.node(number);
        let (name, has_lost_power) = (node.name.clone(), node.has_lost_power.load(Ordering::Relaxed));
        if has_lost_power {
            return; // It noticed that its disk was gone before its power was.
        }
        trace::line(format_args!("{name} ended: {ended:?}"));
        node.has_ended(&watch);
        if self.shared.leaving.borrow().contains(&number) {
            return self.let_return(number);
        }
        if self.rotten.contains(&number) && ended.as_ref().is_err_and(|error| is_damaged_log(error)) {
            coverage::reached("damaged_log_refused");
            return self.lose(number);
        }
        let node = self.node(number);
        let has_disk_failed = node.hardware.disk.take_failed(EXCUSED_FOR);
        if !node.take_excuse() && !has_disk_failed {
            self.shared.must(Err(Violation::new("stays-up", format!("{name} ended: {ended:?}"))));
        }
        let down_ms = self.take_down_ms(number);
        self.later(down_ms, Undo::Start(number));
    }

    /// A node that was let go has stopped: it is started once more, as if by mistake.
    fn let_return(&mut self, number: u64) {
        if self.returned.insert(number) {
            self.later(RESTART_MS, Undo::Start(number));
        } else {
            coverage::reached("removed_node_returned");
        }
    }

    fn take_down_ms(&mut self, number: u64) -> u64 {
        std::mem::replace(&mut self.node(number).down_ms, RESTART_MS)
    }

    /// Tells the operator to do something.
    fn order(&self, order: Order) {
        self.shared.orders.borrow_mut().push_back(order);
    }

    fn start(&mut self, number: u64) {
        if self.gone.contains(&number) {
            return;
        }
        let (plan, network) = (self.plan.clone(), self.network.clone());
        let (watch, start) = (self.watch.clone(), self.start.clone());
        self.node(number).start(&plan, &network, &watch, &start);
    }

    fn node(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&number).expect("plans name nodes that exist")
    }

    /// Does something after so many ms.
    fn later(&mut self, after_ms: u64, undo: Undo) {
        self.undos.insert((self.now_ms() + after_ms, self.next_undo), undo);
        self.next_undo += 1;
    }
}

/// Whether a node ended because its log was not as it had left it.
fn is_damaged_log(error: &str) -> bool {
    error.contains("is damaged at byte")
}
