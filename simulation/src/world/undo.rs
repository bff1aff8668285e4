//! How faults end.

use super::World;
use crate::kernel::Quality;
use crate::workload::Order;
use crate::{timeline, trace};

/// Something that happens later because of a fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Undo {
    /// Ways from one machine to another are open again.
    Mend(Vec<(String, String)>),
    /// Ways are as good as they were.
    Better(Vec<(String, String)>),
    /// A node is started, if it is down.
    Start(u64),
    /// A node's process goes on.
    Resume(u64),
    /// There is room on a node's disk.
    Room(u64),
    /// A node's disk is as fast as it was.
    Faster(u64),
    /// A node's aggregators are woken again.
    Awake(u64),
    /// A node's wall clock is set right.
    ClockBack(u64),
    /// A node takes its share again.
    Undrain(u64),
    /// Ways are cut or open by turns.
    Flap { ways: Vec<(String, String)>, is_cut: bool, every_ms: u64, until_ms: u64 },
    /// A node is killed and started, so many times more.
    Loop { node: u64, times: u64, every_ms: u64 },
}

impl World {
    /// Does what was put off.
    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Flap { ways, is_cut, every_ms, until_ms } => {
                let is_over = self.now_ms() >= until_ms;
                match (is_cut, is_over) {
                    (true, _) => ways.iter().for_each(|(from, to)| self.network.mend(from, to)),
                    (false, false) => ways.iter().for_each(|(from, to)| self.network.cut(from, to)),
                    (false, true) => {}
                }
                if !is_over {
                    self.later(every_ms, Undo::Flap { ways, is_cut: !is_cut, every_ms, until_ms });
                }
            }
            Undo::Loop { node, times, every_ms } => {
                let watch = self.watch.clone();
                if self.node(node).machine.is_on() {
                    self.node(node).kill(&watch);
                }
                self.start(node);
                if times > 1 {
                    self.later(every_ms, Undo::Loop { node, times: times - 1, every_ms });
                }
            }
            other => self.undo_for_good(other),
        }
    }

    /// Ends a fault, whatever it would still have done.
    pub(super) fn undo_for_good(&mut self, undo: Undo) {
        trace::line(format_args!("ends: {undo:?}"));
        timeline::mark("faults", "end", || format!("{undo:?}"));
        match undo {
            Undo::Mend(ways) | Undo::Flap { ways, is_cut: true, .. } => {
                ways.iter().for_each(|(from, to)| self.network.mend(from, to));
            }
            Undo::Better(ways) => ways.iter().for_each(|(from, to)| self.network.set_quality(from, to, None)),
            Undo::Start(node) | Undo::Loop { node, .. } if !self.node(node).machine.is_on() => self.start(node),
            Undo::Resume(node) => {
                self.node(node).resume();
                let name = self.node(node).name.clone();
                timeline::mark(&name, "resume", String::new);
            }
            Undo::Room(node) => self.node(node).hardware.disk.set_capacity(None),
            Undo::Faster(node) => self.node(node).hardware.pace.set_extra_ms(0),
            Undo::Awake(node) => self.node(node).hardware.aggregator_tasks.hang(false),
            Undo::ClockBack(node) => self.node(node).set_clock(0),
            Undo::Undrain(node) => self.order(Order::Undrain(node)),
            Undo::Flap { .. } | Undo::Start(_) | Undo::Loop { .. } => {}
        }
    }

    /// Makes ways worse for so long.
    pub(super) fn worsen(&mut self, ways: Vec<(String, String)>, quality: Quality, ms: u64) {
        ways.iter().for_each(|(from, to)| self.network.set_quality(from, to, Some(quality)));
        self.later(ms, Undo::Better(ways));
    }

    /// Cuts ways for so long.
    pub(super) fn cut(&mut self, ways: Vec<(String, String)>, ms: u64) {
        ways.iter().for_each(|(from, to)| self.network.cut(from, to));
        self.later(ms, Undo::Mend(ways));
    }
}
