//! The simulated world: nodes and clients on turmoil, moved on millisecond by millisecond, struck by faults.

use crate::environment::{SimulatedDisk, environment};
use crate::schedule::{Fault, Schedule};
use crate::workload::{self, Shared};
use crate::{CLUSTER_PORT, EPOCH_S, Failure, HTTP_PORT, NodeStart, Options, StartNode, invariants, node_name, trace};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};
use turmoil::{Builder, Sim};

/// Clients that send under an identity of their own.
const PRODUCERS: u64 = 3;

/// Longest simulated run: liveness is violated beyond it.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Longest delay of a message, in ms.
const LATENCY_MS_MAX: u64 = 12;

/// One run.
pub struct World<'a> {
    sim: Sim<'a>,
    disks: BTreeMap<u64, SimulatedDisk>,
    shared: Rc<Shared>,
    nodes: u64,
}

impl World<'_> {
    /// A world with its nodes and clients, nothing of it started.
    pub fn new(options: &Options, start: &StartNode) -> World<'static> {
        let mut sim = Builder::new()
            .rng_seed(options.seed)
            .epoch(UNIX_EPOCH + Duration::from_secs(EPOCH_S))
            .simulation_duration(RUN_MAX)
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(LATENCY_MS_MAX))
            .tcp_capacity(65_536)
            .build();
        let shared = Rc::new(Shared::default());
        let mut disks = BTreeMap::new();
        for number in 1..=options.nodes {
            let disk = SimulatedDisk::new(options.seed.wrapping_mul(31).wrapping_add(number));
            disks.insert(number, disk.clone());
            add_node(&mut sim, number, options.seed, disk, start.clone());
        }
        add_clients(&mut sim, options, &shared);
        World { sim, disks, shared, nodes: options.nodes }
    }

    /// Runs to the end: faults by the schedule, then healing, then the invariants (which the last client checks).
    pub fn run(&mut self, schedule: &Schedule, load_ms: u64) -> Result<Duration, Failure> {
        let mut faults = schedule.iter().peekable();
        let mut begun_ms = None;
        for now_ms in 0u64.. {
            if self.sim.step().map_err(|error| Failure::new(error.to_string()))? {
                break;
            }
            if begun_ms.is_none() && self.shared.has_begun.get() {
                begun_ms = Some(now_ms);
            }
            let Some(load_age_ms) = begun_ms.map(|begun| now_ms - begun) else { continue };
            while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= load_age_ms) {
                self.strike(*fault);
            }
            if load_age_ms >= load_ms && faults.peek().is_none() && !self.shared.has_ended.get() {
                trace::line(format_args!("faults are over, no new requests"));
                self.shared.has_ended.set(true);
            }
        }
        Ok(self.sim.elapsed())
    }

    /// What the clients know.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    fn strike(&mut self, fault: Fault) {
        trace::line(format_args!("fault: {fault:?}"));
        match fault {
            Fault::Split(node) => {
                self.others(node).for_each(|other| self.sim.partition(node_name(node), node_name(other)))
            }
            Fault::Heal(node) => self.others(node).for_each(|other| self.sim.repair(node_name(node), node_name(other))),
            Fault::Crash(node) => {
                self.sim.crash(node_name(node));
                // The next life opens the disk anew.
                drop(self.disks[&node].crash());
            }
            Fault::Restart(node) => self.sim.bounce(node_name(node)),
        }
    }

    fn others(&self, node: u64) -> impl Iterator<Item = u64> + use<> {
        (1..=self.nodes).filter(move |other| *other != node)
    }
}

fn add_node(sim: &mut Sim<'_>, number: u64, seed: u64, disk: SimulatedDisk, start: StartNode) {
    let name = node_name(number);
    let life = Rc::new(Cell::new(0u64));
    sim.host(name.clone(), move || {
        life.set(life.get() + 1);
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(number * 1000 + life.get());
        let clock_ahead_ms = (seed % 401).cast_signed() - 200;
        let node = NodeStart {
            environment: environment(&name, disk.reopen(), seed, clock_ahead_ms),
            name: name.clone(),
            http_address: format!("{name}:{HTTP_PORT}"),
            cluster_address: format!("{name}:{CLUSTER_PORT}"),
            join: if number == 1 { Vec::new() } else { vec![format!("{}:{CLUSTER_PORT}", node_name(1))] },
        };
        let (name, life) = (name.clone(), life.get());
        let run = start(node);
        // Simulated time stands in the host's runtime only: out here a restarted host would read the machine's clock.
        async move {
            trace::line(format_args!("{name} starts, life {life}"));
            let end = run.await;
            trace::line(format_args!("{name} ended: {end:?}"));
            end.map_err(Into::into)
        }
    });
}

fn add_clients(sim: &mut Sim<'_>, options: &Options, shared: &Rc<Shared>) {
    let (nodes, seed) = (options.nodes, options.seed);
    shared.running.set(usize::try_from(PRODUCERS).expect("few producers") + 1);
    for number in 1..=PRODUCERS {
        let producer = workload::producer(shared.clone(), number, nodes, seed);
        sim.client(format!("producer-{number}"), async move {
            producer.await;
            Ok(())
        });
    }
    let careless = workload::careless(shared.clone(), nodes, seed);
    sim.client("careless", async move {
        careless.await;
        Ok(())
    });
    let shared = shared.clone();
    sim.client("judge", async move {
        workload::whole_cluster(nodes).await?;
        shared.has_begun.set(true);
        while shared.running.get() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        invariants::replicas_agree(nodes).await?;
        // No client runs any more: what they know is final.
        let oracle = shared.oracle.take();
        shared.acked_events.set(oracle.acked_events());
        invariants::exactly_once(&oracle, nodes).await?;
        Ok(())
    });
}
