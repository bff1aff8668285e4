//! turmoil's network: which of its links are cut, held, slow or lossy, and why.
//!
//! A link that is cut loses what is sent; turmoil's TCP never sends anything again, so that a connection which has lost a
//! segment says nothing more until somebody gives up. A machine that loses power is cut off before its process is dropped:
//! nobody hears of it, and once it is up again what others send on its old connections is answered with a reset.

use super::time;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use turmoil::{Builder, Sim};

/// How far time moves at once. What is sent arrives at the beginning of a tick.
const TICK: Duration = Duration::from_millis(5);

/// Ports that connections come from: turmoil keeps those of attempts that failed.
const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 10_000..=65_535;

/// Segments that wait in a socket at most: so many that turmoil never finds a socket full, which it does not recover from.
const TCP_CAPACITY: usize = 65_536;

/// How good a link is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Shortest and longest delay of a message, in ms.
    pub latency_ms: (u64, u64),
    /// Share of messages with which the link fails, in thousandths: that message and all others under way on it are lost.
    pub loss_permille: u64,
}

/// The network of a world and the hosts on it. Clones are the same network.
#[derive(Clone)]
pub struct SharedNetwork(Rc<Network>);

struct Network {
    sim: RefCell<Sim<'static>>,
    ways: RefCell<Ways>,
    quality: Quality,
}

#[derive(Default)]
struct Ways {
    /// Hosts, in the order in which turmoil came to know them.
    names: Vec<String>,
    without_power: BTreeSet<String>,
    paused: BTreeSet<String>,
    /// How many faults cut a way from one host to another; it is open at zero.
    cuts: BTreeMap<(String, String), u32>,
}

impl SharedNetwork {
    /// A network without hosts; `quality` is that of every link of which nothing else is said.
    pub fn new(seed: u64, quality: Quality) -> SharedNetwork {
        let sim = Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::MAX)
            .min_message_latency(Duration::from_millis(quality.latency_ms.0))
            .max_message_latency(Duration::from_millis(quality.latency_ms.1))
            .fail_rate(rate(quality.loss_permille))
            .ephemeral_ports(EPHEMERAL_PORTS)
            .tcp_capacity(TCP_CAPACITY)
            .build();
        time::stand(Duration::ZERO);
        SharedNetwork(Rc::new(Network { sim: RefCell::new(sim), ways: RefCell::default(), quality }))
    }

    /// Runs every host for a tick. Returns whether all clients have ended; an error if one failed.
    pub fn step(&self) -> Result<bool, String> {
        let mut sim = self.0.sim.borrow_mut();
        time::begin_tick();
        let stepped = sim.step();
        time::stand(sim.elapsed());
        stepped.map_err(|error| error.to_string())
    }

    /// Adds a client, which runs until it ends by itself.
    pub fn add_client(&self, name: &str, software: impl Future<Output = turmoil::Result> + 'static) {
        self.0.sim.borrow_mut().client(name, software);
        self.added(name);
    }

    /// Adds a host and starts it; `software` makes what runs in each of its lives.
    pub(super) fn add_host<F>(&self, name: &str, software: impl Fn() -> F + 'static)
    where
        F: Future<Output = turmoil::Result> + 'static,
    {
        self.0.sim.borrow_mut().host(name, software);
        self.added(name);
    }

    /// Starts what runs on a host anew.
    pub(super) fn bounce(&self, name: &str) {
        self.0.sim.borrow_mut().bounce(name);
    }

    /// Drops what runs on a host.
    pub(super) fn crash(&self, name: &str) {
        self.0.sim.borrow_mut().crash(name);
    }

    /// All hosts, in the order they were added.
    pub fn names(&self) -> Vec<String> {
        self.0.ways.borrow().names.clone()
    }

    /// A host loses power: nothing leaves it any more, not even the news.
    pub fn power_off(&self, name: &str) {
        self.0.ways.borrow_mut().without_power.insert(name.to_owned());
        self.settle_all(name);
    }

    /// What [`SharedNetwork::power_off`] does, for a moment in which hosts run.
    pub fn power_off_within(&self, name: &str) -> impl FnOnce() + Send + use<> {
        let (name, others) = (name.to_owned(), self.names());
        move || others.iter().for_each(|other| turmoil::partition(name.as_str(), other.as_str()))
    }

    /// It is up again.
    pub fn power_on(&self, name: &str) {
        self.0.ways.borrow_mut().without_power.remove(name);
        self.settle_all(name);
    }

    /// Holds what goes to a host and comes from it.
    pub(super) fn hold(&self, name: &str) {
        self.0.ways.borrow_mut().paused.insert(name.to_owned());
        self.settle_all(name);
    }

    /// Lets what was held arrive.
    pub(super) fn release(&self, name: &str) {
        if self.0.ways.borrow_mut().paused.remove(name) {
            self.settle_all(name);
        }
    }

    /// Cuts the way from one host to another, once more.
    pub fn cut(&self, from: &str, to: &str) {
        *self.0.ways.borrow_mut().cuts.entry((from.to_owned(), to.to_owned())).or_default() += 1;
        self.settle(from, to);
    }

    /// Takes one cut back.
    pub fn mend(&self, from: &str, to: &str) {
        if let Some(cuts) = self.0.ways.borrow_mut().cuts.get_mut(&(from.to_owned(), to.to_owned())) {
            *cuts = cuts.saturating_sub(1);
        }
        self.settle(from, to);
    }

    /// Changes how good a link is, in both directions; `None` is as good as all others.
    pub fn set_quality(&self, one: &str, other: &str, quality: Option<Quality>) {
        let Quality { latency_ms, loss_permille } = quality.unwrap_or(self.0.quality);
        let mut sim = self.0.sim.borrow_mut();
        sim.set_link_latency(one, other, Duration::from_millis(latency_ms.0));
        sim.set_link_max_message_latency(one, other, Duration::from_millis(latency_ms.1));
        sim.set_link_fail_rate(one, other, rate(loss_permille));
    }

    /// How good links are that nothing was said of.
    pub fn quality(&self) -> Quality {
        self.0.quality
    }

    fn added(&self, name: &str) {
        self.0.ways.borrow_mut().names.push(name.to_owned());
        self.settle_all(name);
    }

    fn settle_all(&self, name: &str) {
        self.names().iter().for_each(|other| self.settle(name, other));
    }

    /// Tells turmoil how the link between two hosts is.
    fn settle(&self, one: &str, other: &str) {
        let (ways, sim) = (self.0.ways.borrow(), self.0.sim.borrow());
        if one == other || !ways.knows(one) || !ways.knows(other) {
            return;
        }
        if ways.is_held(one, other) {
            return sim.hold(one, other);
        }
        sim.release(one, other);
        for (from, to) in [(one, other), (other, one)] {
            if ways.is_cut(from, to) {
                sim.partition_oneway(from, to);
            }
        }
    }
}

impl Ways {
    fn knows(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    fn has_power(&self, one: &str, other: &str) -> bool {
        !self.without_power.contains(one) && !self.without_power.contains(other)
    }

    fn is_held(&self, one: &str, other: &str) -> bool {
        self.has_power(one, other) && (self.paused.contains(one) || self.paused.contains(other))
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        !self.has_power(from, to) || self.cuts.get(&(from.to_owned(), to.to_owned())).is_some_and(|cuts| *cuts > 0)
    }
}

fn rate(permille: u64) -> f64 {
    permille as f64 / 1000.0
}
