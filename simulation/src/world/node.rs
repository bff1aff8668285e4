//! A node of the simulated cluster: its machine, what it keeps through power cuts, and whether it may stop.

use crate::environment::{AggregatorTasks, DiskPace, Hardware, SimulatedClock, SimulatedDisk, SimulatedNetwork};
use crate::invariants::Watch;
use crate::kernel::{Machine, SharedNetwork, time};
use crate::schedule::Plan;
use crate::{CLUSTER_PORT, HTTP_PORT, NodeStart, StartNode, node_name, timeline, trace};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A node.
pub struct Node {
    /// Its number, from 1.
    pub number: u64,
    /// Its name, which is its machine's on the network.
    pub name: String,
    /// What runs.
    pub machine: Machine,
    /// What its doors open onto.
    pub hardware: Hardware,
    /// How often it has been started.
    pub life: u64,
    /// Until when it may stop by itself, because something was done to it after which it must.
    pub excused_until: Option<Duration>,
    /// Its power went within an operation on its disk, and the world has not noticed yet.
    pub has_lost_power: Arc<AtomicBool>,
    /// After how long it is started again when it ends because of that, or because it was told to stop, in ms.
    pub down_ms: u64,
    skew_ms: i64,
    stop: Rc<Notify>,
}

impl Node {
    /// A node that was never started.
    pub fn new(number: u64, plan: &Plan, network: &SharedNetwork) -> Node {
        let name = node_name(number);
        let seed = plan.seed.wrapping_mul(31).wrapping_add(number);
        let skew_ms = skew_ms(seed, plan.world.skew_ms);
        let clock = SimulatedClock::new(plan.began_ms);
        clock.set_ahead_ms(skew_ms);
        let (quick_ms, slow_ms) = plan.world.disk_ms;
        Node {
            number,
            machine: Machine::new(network, &name),
            hardware: Hardware {
                network: Arc::new(SimulatedNetwork::new(&name)),
                disk: SimulatedDisk::new(seed),
                pace: DiskPace::new(quick_ms, slow_ms),
                aggregator_tasks: AggregatorTasks::default(),
                clock,
            },
            name,
            life: 0,
            excused_until: None,
            has_lost_power: Arc::default(),
            down_ms: super::RESTART_MS,
            skew_ms,
            stop: Rc::default(),
        }
    }

    /// Starts a life.
    pub fn start(&mut self, plan: &Plan, network: &SharedNetwork, watch: &Rc<RefCell<Watch>>, start: &StartNode) {
        self.life += 1;
        network.power_on(&self.name);
        watch.borrow_mut().begins(&self.name, self.life);
        self.has_lost_power.store(false, Ordering::Relaxed);
        self.stop = Rc::default();
        let seed = plan.seed.wrapping_mul(1_000_003).wrapping_add(self.number * 1000 + self.life);
        let others = (1..=plan.nodes).filter(|other| *other != self.number);
        let join = match self.number {
            1 => Vec::new(),
            _ => others.map(|other| format!("{}:{CLUSTER_PORT}", node_name(other))).collect(),
        };
        let stop = self.stop.clone();
        let node = NodeStart {
            environment: self.hardware.environment(seed),
            name: self.name.clone(),
            http_address: format!("{}:{HTTP_PORT}", self.name),
            cluster_address: format!("{}:{CLUSTER_PORT}", self.name),
            join,
            partitions: plan.partitions,
            segment_bytes: plan.world.segment_kib << 10,
            log_bytes_max: plan.world.log_bytes_max(),
            checkpoint_interval: Duration::from_millis(plan.world.checkpoint_ms),
            write_out_interval: Duration::from_millis(plan.world.write_out_ms),
            replace_after: Duration::from_millis(plan.world.replace_after_ms),
            shutdown: Box::pin(async move { stop.notified().await }),
        };
        trace::line(format_args!("{} starts, life {}", self.name, self.life));
        timeline::mark(&self.name, "start", || format!("life {}", self.life));
        let start = start.clone();
        self.machine.start(move || start(node));
    }

    /// Takes the power away: memory and what was not synced is gone.
    pub fn cut_power(&mut self, network: &SharedNetwork, watch: &Rc<RefCell<Watch>>) {
        network.power_off(&self.name);
        drop(self.hardware.disk.crash());
        self.machine.stop();
        self.has_lost_power.store(false, Ordering::Relaxed);
        self.is_down("without power", watch);
    }

    /// Ends the process; what it wrote is there, and its connections are closed.
    pub fn kill(&mut self, watch: &Rc<RefCell<Watch>>) {
        drop(self.hardware.disk.kill());
        self.machine.stop();
        self.is_down("killed", watch);
    }

    /// Tells the process to stop in order.
    pub fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    /// The process has ended.
    pub fn has_ended(&mut self, watch: &Rc<RefCell<Watch>>) {
        drop(self.hardware.disk.kill());
        self.is_down("ended", watch);
    }

    /// Holds what its network and its disk do.
    pub fn pause(&mut self) {
        self.machine.pause();
        self.hardware.pace.hold(true);
    }

    /// Lets them go on.
    pub fn resume(&mut self) {
        self.machine.resume();
        self.hardware.pace.hold(false);
    }

    /// Sets the wall clock so far off.
    pub fn set_clock(&self, off_ms: i64) {
        self.hardware.clock.set_ahead_ms(self.skew_ms + off_ms);
    }

    /// Takes back everything that was done to it, except that it is down.
    pub fn mend(&mut self) {
        self.resume();
        self.hardware.disk.mend();
        self.hardware.pace.set_extra_ms(0);
        self.hardware.aggregator_tasks.hang(false);
        self.set_clock(0);
    }

    /// Whether it may stop by itself now, once.
    pub fn take_excuse(&mut self) -> bool {
        self.excused_until.take().is_some_and(|until| time::now() <= until)
    }

    fn is_down(&mut self, why: &str, watch: &Rc<RefCell<Watch>>) {
        self.resume();
        watch.borrow_mut().ends(&self.name);
        timeline::mark(&self.name, "down", || why.to_owned());
    }
}

/// How far ahead a node's wall clock is, or behind: each draws its own.
fn skew_ms(seed: u64, most_ms: u64) -> i64 {
    let most_ms = most_ms.cast_signed();
    StdRng::seed_from_u64(seed ^ 0x434C_4F43).random_range(-most_ms..=most_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_off_each_in_its_own_way() {
        let skews: Vec<_> = (1..=100).map(|seed| skew_ms(seed, 5000)).collect();
        assert!(skews.iter().all(|skew| skew.abs() <= 5000));
        let far_apart = skews.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 1000).count();
        assert!(far_apart > 60, "{far_apart} of 99 neighbours are more than a second apart");
    }
}
