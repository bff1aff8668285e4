//! What each fault does.

use super::undo::Undo;
use super::{EXCUSED_FOR, World};
use crate::environment::{Cut, DiskFault, SimulatedDisk};
use crate::kernel::{Quality, time};
use crate::schedule::{Fault, Operation, Place, Who};
use crate::workload::Order;
use crate::{coverage, node_name, observe, timeline, trace};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Files of the log that a node keeps ready at most.
const LOG_SPARES_MAX: usize = 4;

/// A way from one machine to another.
type Way = (String, String);

impl World {
    /// Lets a fault strike.
    pub(super) fn strike(&mut self, fault: &Fault) {
        let node = fault.who().map_or(0, |who| self.resolve(who));
        trace::line(format_args!("fault: {fault:?}{}", if node == 0 { String::new() } else { format!(" at n{node}") }));
        timeline::mark("faults", "fault", || match node {
            0 => format!("{fault:?}"),
            node => format!("n{node}: {fault:?}"),
        });
        match *fault {
            Fault::Split { .. } | Fault::CutOff { .. } | Fault::Mute { .. } | Fault::Deaf { .. } => {
                self.split(fault, node);
            }
            Fault::Halves { .. } | Fault::Bridge { .. } | Fault::Flap { .. } => self.split(fault, node),
            Fault::Loss { permille, ms } => {
                let quality = Quality { loss_permille: permille, ..self.network.quality() };
                self.worsen(self.all_ways(|_, _| true), quality, ms);
            }
            Fault::SlowLink { latency_ms, ms, .. } => {
                let usual = self.network.quality();
                let quality = Quality { latency_ms: (latency_ms, latency_ms * 2), ..usual };
                self.worsen(self.all_ways(|from, to| from == node || to == node), quality, ms);
            }
            Fault::PowerCut { down_ms, .. } => self.cut_power(node, down_ms),
            Fault::PowerCutIn { operation, down_ms, .. } => self.cut_power_in(node, operation, down_ms),
            Fault::PowerCutAll { down_ms } => self.cut_all_power(down_ms),
            Fault::Kill { down_ms, .. } => self.kill(node, down_ms),
            Fault::Stop { down_ms, .. } => self.stop(node, down_ms),
            Fault::RestartLoop { times, every_ms, .. } => self.undo(Undo::Loop { node, times, every_ms }),
            Fault::Pause { ms, .. } => self.pause(node, ms),
            Fault::FailReads { count, .. } => self.fail_disk(node, DiskFault::Reads(count)),
            Fault::FailWrites { count, .. } => self.fail_disk(node, DiskFault::Writes(count)),
            Fault::FailSync { .. } => self.fail_disk(node, DiskFault::Syncs(1)),
            Fault::FullDisk { ms, .. } => {
                let disk = self.node(node).hardware.disk.clone();
                disk.set_capacity(Some(disk.used_bytes()));
                self.later(ms, Undo::Room(node));
            }
            Fault::SlowDisk { extra_ms, ms, .. } => {
                self.node(node).hardware.pace.set_extra_ms(extra_ms);
                self.later(ms, Undo::Faster(node));
            }
            Fault::FlipBit { place, draw, down_ms, .. } => self.flip_bit(node, place, draw, down_ms),
            Fault::ClockJump { by_ms, ms, .. } => {
                self.node(node).set_clock(by_ms);
                self.later(ms, Undo::ClockBack(node));
            }
            Fault::Join => self.join(),
            Fault::Drain { ms, .. } => {
                self.order(Order::Drain(node));
                self.later(ms, Undo::Undrain(node));
            }
            Fault::Remove { .. } => self.order(Order::Remove(node)),
            Fault::Lose { .. } => self.lose(node),
            Fault::AggregatorPanics { times } => observe::panic_aggregators(times, None),
            Fault::AggregatorsHang { ms, .. } => {
                // Those that run are woken: each begins anew with its next entry.
                self.node(node).hardware.aggregator_tasks.hang(true);
                observe::panic_aggregators(u64::from(self.plan.partitions), Some(&node_name(node)));
                self.later(ms, Undo::Awake(node));
            }
            Fault::PoisonEntry => observe::poison_next_entry(),
        }
    }

    fn resolve(&self, who: Who) -> u64 {
        let leader = match who {
            Who::Node(node) => Some(node.min(self.shared.nodes.get())),
            Who::Leader { leader_of } => {
                let watch = self.watch.borrow();
                let name = watch.leader(u64::from(leader_of) + 1).map(str::to_owned);
                name.and_then(|name| (1..=self.shared.nodes.get()).find(|node| node_name(*node) == name))
            }
        };
        leader.unwrap_or(1)
    }

    fn all_ways(&self, takes: impl Fn(u64, u64) -> bool) -> Vec<Way> {
        let count = self.shared.nodes.get();
        let pairs = (1..=count).flat_map(|from| (1..=count).map(move |to| (from, to)));
        let taken = pairs.filter(|(from, to)| from != to && takes(*from, *to));
        taken.map(|(from, to)| (node_name(from), node_name(to))).collect()
    }

    fn split(&mut self, fault: &Fault, node: u64) {
        match *fault {
            Fault::Split { ms, .. } => self.split_ways(self.all_ways(|from, to| from == node || to == node), ms),
            Fault::Mute { ms, .. } => self.split_ways(self.all_ways(|from, _| from == node), ms),
            Fault::Deaf { ms, .. } => self.split_ways(self.all_ways(|_, to| to == node), ms),
            Fault::Halves { nodes, ms } => {
                self.split_ways(self.all_ways(|from, to| (from <= nodes) != (to <= nodes)), ms)
            }
            Fault::Bridge { ms, .. } => self.split_ways(self.all_ways(|from, to| from != node && to != node), ms),
            Fault::CutOff { ms, .. } => {
                let mut ways = self.all_ways(|from, to| from == node || to == node);
                let clients = self.network.names().into_iter().filter(|name| !name.starts_with('n'));
                for client in clients {
                    ways.extend([(client.clone(), node_name(node)), (node_name(node), client)]);
                }
                self.split_ways(ways, ms);
            }
            Fault::Flap { every_ms, ms, .. } => {
                let ways = self.all_ways(|from, to| from == node || to == node);
                let until_ms = self.now_ms() + ms;
                self.note_split_leaders(&ways);
                self.undo(Undo::Flap { ways, is_cut: false, every_ms: every_ms.max(10), until_ms });
            }
            _ => {}
        }
    }

    fn split_ways(&mut self, ways: Vec<Way>, ms: u64) {
        self.note_split_leaders(&ways);
        self.cut(ways, ms);
    }

    /// Whether a leader can reach no majority, both ways, once these ways are cut.
    fn note_split_leaders(&self, ways: &[Way]) {
        let names: Vec<_> = (1..=self.shared.nodes.get()).map(node_name).collect();
        let cut: BTreeSet<(&str, &str)> = ways.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        let watch = self.watch.borrow();
        let is_split_off = |leader: &&String| {
            let is_reached =
                |other: &&String| !cut.contains(&(leader.as_str(), other)) && !cut.contains(&(other, leader.as_str()));
            // It reaches itself.
            names.iter().filter(is_reached).count() <= names.len() / 2
        };
        if names.iter().filter(|name| watch.is_leading(name)).any(|leader| is_split_off(&leader)) {
            coverage::reached("leader_split");
        }
    }

    fn cut_power(&mut self, node: u64, down_ms: u64) {
        if self.node(node).machine.is_on() {
            let (network, watch) = (self.network.clone(), self.watch.clone());
            self.node(node).cut_power(&network, &watch);
            self.later(down_ms, Undo::Start(node));
        }
    }

    /// The node is never seen again.
    pub(super) fn lose(&mut self, node: u64) {
        let (network, watch) = (self.network.clone(), self.watch.clone());
        self.node(node).cut_power(&network, &watch);
        self.gone.insert(node);
        self.shared.lost.borrow_mut().push(node);
        self.order(Order::ForceAway(node));
    }

    fn cut_all_power(&mut self, down_ms: u64) {
        coverage::reached("all_down");
        for node in 1..=self.shared.nodes.get() {
            // They do not come back at the same moment.
            self.cut_power(node, down_ms + node * 37 % 500);
        }
    }

    fn cut_power_in(&mut self, node: u64, operation: Operation, down_ms: u64) {
        let (name, situation, cut) = match operation {
            Operation::Write => (node_name(node), "power_cut_in_write", Cut::Write),
            Operation::Sync => (node_name(node), "power_cut_in_sync", Cut::Sync),
            Operation::Rename => (node_name(node), "power_cut_in_rename", Cut::Rename),
        };
        let (power_off, flag) = (self.network.power_off_within(&name), Arc::clone(&self.node(node).has_lost_power));
        let then = move || {
            coverage::reached(situation);
            power_off();
            flag.store(true, Ordering::Relaxed);
        };
        self.node(node).hardware.disk.cut_power_at(cut, Box::new(then));
        self.node(node).down_ms = down_ms;
    }

    fn kill(&mut self, node: u64, down_ms: u64) {
        if self.node(node).machine.is_on() {
            let watch = self.watch.clone();
            self.node(node).kill(&watch);
            self.later(down_ms, Undo::Start(node));
        }
    }

    fn stop(&mut self, node: u64, down_ms: u64) {
        if self.node(node).machine.is_on() {
            self.node(node).excused_until = Some(Duration::MAX);
            self.node(node).down_ms = down_ms;
            self.node(node).ask_to_stop();
        }
    }

    fn pause(&mut self, node: u64, ms: u64) {
        if self.watch.borrow().is_leading(&node_name(node)) {
            coverage::reached("leader_paused");
        }
        timeline::mark(&node_name(node), "pause", String::new);
        self.node(node).pause();
        self.later(ms, Undo::Resume(node));
    }

    fn fail_disk(&mut self, node: u64, fault: DiskFault) {
        self.shared.sick.borrow_mut().insert(node_name(node));
        self.node(node).hardware.disk.fail(fault);
    }

    /// The node is without power, a bit turns over, and it is started again.
    fn flip_bit(&mut self, node: u64, place: Place, draw: u64, down_ms: u64) {
        self.cut_power(node, down_ms);
        let disk = self.node(node).hardware.disk.clone();
        let files = files_of(&disk, place);
        let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64 * 8).sum();
        let Some(mut bit) = draw.checked_rem(total) else { return };
        for (path, bytes) in files {
            let bits = bytes.len() as u64 * 8;
            if bit < bits {
                match place {
                    Place::Log => drop(self.rotten.insert(node)),
                    Place::Store => self.watch.borrow_mut().rots(&node_name(node)),
                }
                self.shared.sick.borrow_mut().insert(node_name(node));
                self.node(node).excused_until = Some(time::now() + Duration::from_millis(down_ms) + EXCUSED_FOR);
                trace::line(format_args!("bit {bit} of n{node}'s {} turns over", path.display()));
                return disk.flip_bit(&path, bit);
            }
            bit -= bits;
        }
    }

    fn join(&mut self) {
        let number = self.shared.nodes.get() + 1;
        if self.nodes.contains_key(&number) {
            self.shared.nodes.set(number);
            self.start(number);
        }
    }
}

/// The files of which one suffers, with their bytes.
///
/// Of the log all but the newest, which are the current one and the spares, and of each the first half: a node cannot tell
/// damage in the last bytes that it wrote from a write that the power interrupted, and behind its last record a file of the
/// log may hold what means nothing any more.
fn files_of(disk: &SimulatedDisk, place: Place) -> Vec<(PathBuf, Vec<u8>)> {
    let (directory, spared) = match place {
        Place::Log => ("log", 1 + LOG_SPARES_MAX),
        Place::Store => ("rollups", 0),
    };
    let files = disk.files().into_iter().filter(|(path, bytes)| path.starts_with(directory) && !bytes.is_empty());
    let mut files: Vec<_> = files.collect();
    files.truncate(files.len().saturating_sub(spared));
    if place == Place::Log {
        files.iter_mut().for_each(|(_, bytes)| bytes.truncate(bytes.len() / 2));
    }
    files
}
