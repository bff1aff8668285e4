//! The metadata group's state: a pure function of its entries.
//!
//! Invariants:
//! - node ids are given in order from 1 and never again, also not after a node has left;
//! - every slot belongs to a partition that exists; slots and partitions are fixed at creation;
//! - a placement names only nodes that have not left, each at most once per partition, at least one.

use super::command::{Command, NodeAddress, Outcome};
use crate::{ClusterId, NodeId, PartitionId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How many slots keys are hashed into. Partitions own slots, so that a key's slot never changes.
pub const SLOTS: usize = 1024;

/// All that the metadata group knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The cluster, once its first entry is applied.
    pub cluster: Option<ClusterInfo>,
    /// All nodes that ever entered.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Which partition owns each slot.
    pub slots: Vec<PartitionId>,
    /// Which nodes should hold each partition, in order of joining it.
    pub placement: BTreeMap<PartitionId, Vec<NodeId>>,
    /// How often the placement has changed.
    pub placement_version: u64,
}

/// What is fixed when a cluster is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Its identity.
    pub id: ClusterId,
    /// Product settings, opaque.
    pub settings: Bytes,
    /// How many replicas a partition should have, as far as there are nodes.
    pub replication_factor: u8,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where it is.
    pub address: NodeAddress,
    /// The number it entered under; 0 for the first.
    pub entry: u128,
    /// Whether it belongs, and whether it should hold anything.
    pub standing: Standing,
}

/// How a node stands to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It takes its share.
    Active,
    /// It has been silent for so long that its share went to others; it takes one again when it returns.
    Away,
    /// An operator wants its share to go to others.
    Draining,
    /// It has left for good.
    Left,
}

impl State {
    /// Applies one command.
    pub fn apply(&mut self, command: Command) -> Outcome {
        match command {
            Command::Create { cluster, settings, partitions, replication_factor, node } => {
                let info = ClusterInfo { id: cluster, settings, replication_factor };
                self.create(info, partitions, node)
            }
            Command::AddNode { entry, node } => self.add_node(entry, node),
            Command::UpdateNode { id, node } => match self.nodes.get_mut(&id) {
                Some(known) if known.standing != Standing::Left => {
                    known.address = node;
                    Outcome::Done
                }
                _ => Outcome::Refused,
            },
            Command::SetStanding { id, from, to } => self.set_standing(id, from, to),
            Command::RemoveNode { id } => self.remove_node(id),
            Command::Place { base, placement } => self.place(base, placement),
        }
    }

    /// The nodes that have not left.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.standing != Standing::Left).map(|(id, _)| *id).collect()
    }

    /// The nodes that should hold partitions: those that are active; all that have not left if none is.
    pub fn takers(&self) -> BTreeSet<NodeId> {
        let active = self.nodes.iter().filter(|(_, node)| node.standing == Standing::Active);
        let active: BTreeSet<NodeId> = active.map(|(id, _)| *id).collect();
        if active.is_empty() { self.members() } else { active }
    }

    /// How a node stands to the cluster; a stranger has left.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.nodes.get(&node).map_or(Standing::Left, |node| node.standing)
    }

    /// The partitions that a node should hold: none once it has left, whatever the placement still says.
    pub fn placed_on(&self, node: NodeId) -> Vec<PartitionId> {
        let is_member = self.standing(node) != Standing::Left;
        let placed = self.placement.iter().filter(|(_, nodes)| is_member && nodes.contains(&node));
        placed.map(|(partition, _)| *partition).collect()
    }

    fn create(&mut self, info: ClusterInfo, partitions: u16, node: NodeAddress) -> Outcome {
        if let Some(known) = &self.cluster {
            return if known.id == info.id { Outcome::Done } else { Outcome::Refused };
        }
        if partitions == 0 || usize::from(partitions) > SLOTS {
            return Outcome::Refused;
        }
        let first = NodeId(1);
        self.cluster = Some(info);
        self.nodes.insert(first, Node { address: node, entry: 0, standing: Standing::Active });
        self.slots = (0..SLOTS).map(|slot| PartitionId((slot % usize::from(partitions)) as u16)).collect();
        self.placement = (0..partitions).map(|partition| (PartitionId(partition), vec![first])).collect();
        self.placement_version = 1;
        Outcome::Done
    }

    fn add_node(&mut self, entry: u128, address: NodeAddress) -> Outcome {
        if self.cluster.is_none() || entry == 0 {
            return Outcome::Refused;
        }
        if let Some((id, known)) = self.nodes.iter_mut().find(|(_, node)| node.entry == entry) {
            if known.standing == Standing::Left {
                return Outcome::Refused;
            }
            known.address = address;
            return Outcome::Node(*id);
        }
        let last = self.nodes.last_key_value().map_or(0, |(id, _)| id.0);
        let id = NodeId(last + 1);
        self.nodes.insert(id, Node { address, entry, standing: Standing::Active });
        Outcome::Node(id)
    }

    fn remove_node(&mut self, id: NodeId) -> Outcome {
        let is_last = self.members() == BTreeSet::from([id]);
        match self.nodes.get_mut(&id) {
            Some(node) if !is_last => {
                node.standing = Standing::Left;
                Outcome::Done
            }
            _ => Outcome::Refused,
        }
    }

    fn set_standing(&mut self, id: NodeId, from: Standing, to: Standing) -> Outcome {
        let is_last = self.takers() == BTreeSet::from([id]) && to != Standing::Active;
        let is_for_good = from == Standing::Left || to == Standing::Left;
        match self.nodes.get_mut(&id) {
            Some(node) if !is_for_good && node.standing == to => Outcome::Done,
            Some(node) if !is_for_good && node.standing == from && !is_last => {
                node.standing = to;
                Outcome::Done
            }
            _ => Outcome::Refused,
        }
    }

    fn place(&mut self, base: u64, placement: BTreeMap<PartitionId, Vec<NodeId>>) -> Outcome {
        let members = self.members();
        let is_sound = |nodes: &Vec<NodeId>| {
            let distinct: BTreeSet<NodeId> = nodes.iter().copied().collect();
            !nodes.is_empty() && distinct.len() == nodes.len() && distinct.is_subset(&members)
        };
        let is_complete = placement.keys().eq(self.placement.keys());
        if base != self.placement_version || !is_complete || !placement.values().all(is_sound) {
            return Outcome::Refused;
        }
        self.placement = placement;
        self.placement_version += 1;
        Outcome::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn address(name: &str) -> NodeAddress {
        NodeAddress { name: name.into(), http: format!("{name}:3600"), cluster: format!("{name}:3601") }
    }

    fn created() -> State {
        let mut state = State::default();
        let settings = Bytes::from_static(b"s");
        let create = Command::Create {
            cluster: ClusterId(7),
            settings,
            partitions: 6,
            replication_factor: 3,
            node: address("a"),
        };
        assert_eq!(state.apply(create), Outcome::Done);
        state
    }

    #[test]
    fn a_new_cluster_has_one_node_that_holds_every_partition_and_all_slots_are_owned() {
        let state = created();
        assert_eq!(state.members(), BTreeSet::from([NodeId(1)]));
        assert_eq!(state.slots.len(), SLOTS);
        assert_eq!(state.placed_on(NodeId(1)).len(), 6);
        for partition in state.placement.keys() {
            let owned = state.slots.iter().filter(|owner| *owner == partition).count();
            assert!((170..=171).contains(&owned), "partition {partition} owns {owned} slots");
        }
    }

    #[test]
    fn a_second_creation_changes_nothing() {
        let mut state = created();
        let before = state.clone();
        let again = Command::Create {
            cluster: ClusterId(8),
            settings: Bytes::new(),
            partitions: 1,
            replication_factor: 1,
            node: address("b"),
        };
        assert_eq!(state.apply(again), Outcome::Refused);
        assert_eq!(state, before);
    }

    #[test]
    fn asking_to_enter_twice_gives_the_same_id() {
        let mut state = created();
        let enter = |entry| Command::AddNode { entry, node: address("b") };
        assert_eq!(state.apply(enter(5)), Outcome::Node(NodeId(2)));
        assert_eq!(state.apply(enter(5)), Outcome::Node(NodeId(2)));
        assert_eq!(state.apply(enter(6)), Outcome::Node(NodeId(3)));
    }

    #[test]
    fn an_id_is_never_given_again() {
        let mut state = created();
        state.apply(Command::AddNode { entry: 5, node: address("b") });
        assert_eq!(state.apply(Command::RemoveNode { id: NodeId(2) }), Outcome::Done);
        assert_eq!(state.apply(Command::AddNode { entry: 6, node: address("c") }), Outcome::Node(NodeId(3)));
        assert_eq!(state.apply(Command::AddNode { entry: 5, node: address("b") }), Outcome::Refused);
        assert_eq!(state.apply(Command::UpdateNode { id: NodeId(2), node: address("b") }), Outcome::Refused);
    }

    #[test]
    fn a_node_that_drains_or_is_away_takes_nothing_and_stays_a_member() {
        let mut state = created();
        state.apply(Command::AddNode { entry: 5, node: address("b") });
        let set = |id, from, to| Command::SetStanding { id: NodeId(id), from, to };
        assert_eq!(state.apply(set(1, Standing::Active, Standing::Draining)), Outcome::Done);
        assert_eq!((state.takers(), state.members().len()), (BTreeSet::from([NodeId(2)]), 2));
        // What was decided meanwhile is not overruled, and somebody has to hold the partitions.
        assert_eq!(state.apply(set(1, Standing::Away, Standing::Active)), Outcome::Refused);
        assert_eq!(state.apply(set(2, Standing::Active, Standing::Away)), Outcome::Refused);
        assert_eq!(state.apply(set(1, Standing::Draining, Standing::Active)), Outcome::Done);
        assert_eq!(state.takers().len(), 2);
    }

    #[test]
    fn nobody_leaves_or_returns_by_standing() {
        let mut state = created();
        state.apply(Command::AddNode { entry: 5, node: address("b") });
        let set = |from, to| Command::SetStanding { id: NodeId(2), from, to };
        assert_eq!(state.apply(set(Standing::Active, Standing::Left)), Outcome::Refused);
        state.apply(Command::RemoveNode { id: NodeId(2) });
        assert_eq!(state.apply(set(Standing::Left, Standing::Active)), Outcome::Refused);
        assert_eq!(state.standing(NodeId(2)), Standing::Left);
    }

    #[test]
    fn the_last_node_cannot_leave() {
        assert_eq!(created().apply(Command::RemoveNode { id: NodeId(1) }), Outcome::Refused);
    }

    #[test]
    fn a_placement_built_on_an_older_one_is_refused() {
        let mut state = created();
        state.apply(Command::AddNode { entry: 5, node: address("b") });
        let placement: BTreeMap<_, _> = state.placement.keys().map(|id| (*id, vec![NodeId(1), NodeId(2)])).collect();
        assert_eq!(state.apply(Command::Place { base: 1, placement: placement.clone() }), Outcome::Done);
        assert_eq!(state.apply(Command::Place { base: 1, placement }), Outcome::Refused);
        assert_eq!(state.placement_version, 2);
    }

    #[test]
    fn a_placement_on_strangers_or_without_replicas_is_refused() {
        let mut state = created();
        for nodes in [vec![NodeId(9)], vec![], vec![NodeId(1), NodeId(1)]] {
            let placement: BTreeMap<_, _> = state.placement.keys().map(|id| (*id, nodes.clone())).collect();
            assert_eq!(state.apply(Command::Place { base: 1, placement }), Outcome::Refused);
        }
    }
}
