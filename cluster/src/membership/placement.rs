//! Which nodes should hold which partitions, and who should lead them. Pure.
//!
//! Balanced: the numbers of replicas that nodes hold differ by at most one. Least moved: what holds a partition already
//! keeps it, unless that would leave another node short.

use crate::{NodeId, PartitionId};
use std::collections::{BTreeMap, BTreeSet};

/// Which nodes hold each partition.
pub type Placement = BTreeMap<PartitionId, Vec<NodeId>>;

/// The placement that follows from `current` for these nodes.
///
/// `replicas`: how many a partition should have; fewer where there are fewer nodes. At least one node.
pub fn plan(current: &Placement, nodes: &BTreeSet<NodeId>, replicas: usize) -> Placement {
    assert!(!nodes.is_empty(), "a cluster has at least one node");
    let replicas = replicas.clamp(1, nodes.len());
    let mut next: Placement = current.clone();
    for holders in next.values_mut() {
        holders.retain(|holder| nodes.contains(holder));
        holders.truncate(replicas);
    }
    let mut load: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for holder in next.values().flatten() {
        *load.entry(*holder).or_default() += 1;
    }
    for holders in next.values_mut() {
        while holders.len() < replicas {
            let node = least_loaded(&load, holders).expect("there are at least as many nodes as replicas");
            holders.push(node);
            *load.entry(node).or_default() += 1;
        }
    }
    while let Some((partition, from, to)) = next_move(&next, &load) {
        let holders = next.entry(partition).or_default();
        holders.retain(|holder| *holder != from);
        holders.push(to);
        *load.entry(from).or_default() -= 1;
        *load.entry(to).or_default() += 1;
    }
    next
}

/// The node with the fewest replicas that does not hold this partition.
fn least_loaded(load: &BTreeMap<NodeId, usize>, holders: &[NodeId]) -> Option<NodeId> {
    let free = load.iter().filter(|(node, _)| !holders.contains(node));
    free.min_by_key(|(node, replicas)| (**replicas, **node)).map(|(node, _)| *node)
}

/// A replica to move from a node that holds two or more above another.
fn next_move(placement: &Placement, load: &BTreeMap<NodeId, usize>) -> Option<(PartitionId, NodeId, NodeId)> {
    let (least, fewest) = load.iter().min_by_key(|(node, replicas)| (**replicas, **node))?;
    let crowded = load.iter().filter(|(_, replicas)| **replicas >= fewest + 2);
    let (most, _) = crowded.max_by_key(|(node, replicas)| (**replicas, **node))?;
    let moves = |holders: &Vec<NodeId>| holders.contains(most) && !holders.contains(least);
    let (partition, _) = placement.iter().find(|(_, holders)| moves(holders))?;
    Some((*partition, *most, *least))
}

/// One partition as its leader reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    /// Who leads.
    pub leader: NodeId,
    /// Who could take over at once: voters that are caught up and alive, the leader among them.
    pub ready: BTreeSet<NodeId>,
}

/// The handovers, `most` of them at most, that make leaders more even, each of another partition.
pub fn handovers(mut led: BTreeMap<PartitionId, Led>, most: usize) -> Vec<(PartitionId, NodeId, NodeId)> {
    let mut handovers: Vec<(PartitionId, NodeId, NodeId)> = Vec::new();
    while handovers.len() < most
        && let Some((partition, from, to)) = next_handover(&led)
        && handovers.iter().all(|(earlier, _, _)| *earlier != partition)
    {
        handovers.push((partition, from, to));
        led.entry(partition).and_modify(|led| led.leader = to);
    }
    handovers
}

/// From a node that leads two or more above another that could take over.
fn next_handover(led: &BTreeMap<PartitionId, Led>) -> Option<(PartitionId, NodeId, NodeId)> {
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    for partition in led.values() {
        for node in &partition.ready {
            load.entry(*node).or_default();
        }
        *load.entry(partition.leader).or_default() += 1;
    }
    let gain = |from: NodeId, to: NodeId| load.get(&from)?.checked_sub(*load.get(&to)?).filter(|gain| *gain >= 2);
    let candidates = led.iter().flat_map(|(id, partition)| {
        let takers = partition.ready.iter().filter(|node| **node != partition.leader);
        takers.filter_map(|to| gain(partition.leader, *to).map(|gain| (gain, *id, partition.leader, *to)))
    });
    let best = candidates.max_by_key(|(gain, id, _, to)| (*gain, std::cmp::Reverse((*id, *to))));
    best.map(|(_, id, from, to)| (id, from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    fn first(partitions: u16) -> Placement {
        (0..partitions).map(|id| (PartitionId(id), vec![NodeId(1)])).collect()
    }

    fn moved(before: &Placement, after: &Placement) -> usize {
        let kept = |id: &PartitionId, node: &NodeId| after[id].contains(node);
        before.iter().flat_map(|(id, holders)| holders.iter().filter(move |node| !kept(id, node))).count()
    }

    #[test]
    fn growing_to_three_nodes_puts_every_partition_on_all_of_them_and_moves_nothing_away() {
        let two = plan(&first(6), &nodes([1, 2]), 3);
        assert!(two.values().all(|holders| *holders == [NodeId(1), NodeId(2)]));
        let three = plan(&two, &nodes([1, 2, 3]), 3);
        assert!(three.values().all(|holders| *holders == [NodeId(1), NodeId(2), NodeId(3)]));
    }

    #[test]
    fn a_fourth_node_takes_its_share_and_no_more() {
        let three = plan(&first(6), &nodes([1, 2, 3]), 3);
        let four = plan(&three, &nodes([1, 2, 3, 4]), 3);
        let held = four.values().flatten().filter(|node| **node == NodeId(4)).count();
        assert_eq!((held, moved(&three, &four)), (4, 4));
    }

    #[test]
    fn a_node_that_left_is_replaced() {
        let four = plan(&first(6), &nodes([1, 2, 3, 4]), 3);
        let after = plan(&four, &nodes([1, 3, 4]), 3);
        assert!(after.values().all(|holders| holders.len() == 3 && !holders.contains(&NodeId(2))));
    }

    fn led(partitions: &[(u16, u64, &[u64])]) -> BTreeMap<PartitionId, Led> {
        let led = |(id, leader, ready): &(u16, u64, &[u64])| {
            (PartitionId(*id), Led { leader: NodeId(*leader), ready: nodes(ready.iter().copied()) })
        };
        partitions.iter().map(led).collect()
    }

    #[test]
    fn leaders_move_to_the_node_that_leads_least() {
        let all: &[u64] = &[1, 2, 3];
        let now = led(&[(0, 1, all), (1, 1, all), (2, 1, all), (3, 2, all)]);
        assert_eq!(next_handover(&now), Some((PartitionId(0), NodeId(1), NodeId(3))));
    }

    #[test]
    fn leaders_that_differ_by_one_stay() {
        let all: &[u64] = &[1, 2, 3];
        assert_eq!(next_handover(&led(&[(0, 1, all), (1, 2, all), (2, 3, all), (3, 1, all)])), None);
    }

    #[test]
    fn nobody_takes_over_who_is_not_ready() {
        assert_eq!(next_handover(&led(&[(0, 1, &[1]), (1, 1, &[1]), (2, 1, &[1])])), None);
    }

    #[test]
    fn leaders_are_made_even_at_once_but_for_the_bound() {
        let all: &[u64] = &[1, 2, 3];
        let now = led(&[(0, 1, all), (1, 1, all), (2, 1, all), (3, 1, all), (4, 1, all), (5, 1, all)]);
        let asked = handovers(now.clone(), 8);
        let to = |node| asked.iter().filter(|(_, from, to)| (*from, *to) == (NodeId(1), NodeId(node))).count();
        assert_eq!((asked.len(), to(2), to(3)), (4, 2, 2));
        assert_eq!(handovers(now, 3), asked[..3]);
    }

    proptest! {
        #[test]
        fn any_history_of_nodes_stays_balanced_and_settles(
            histories in proptest::collection::vec(proptest::collection::btree_set(1u64..8, 1..7), 1..6),
            partitions in 1u16..32,
            replicas in 1usize..5,
        ) {
            let mut placement = first(partitions);
            for ids in histories {
                let nodes = nodes(ids);
                placement = plan(&placement, &nodes, replicas);
                let mut load: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
                for holders in placement.values() {
                    let distinct: BTreeSet<_> = holders.iter().copied().collect();
                    prop_assert_eq!(distinct.len(), replicas.min(nodes.len()));
                    prop_assert!(distinct.is_subset(&nodes));
                    for holder in distinct {
                        *load.entry(holder).or_default() += 1;
                    }
                }
                let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
                prop_assert!(most - least <= 1, "{:?}", load);
                prop_assert_eq!(&plan(&placement, &nodes, replicas), &placement);
            }
        }

        #[test]
        fn handovers_come_to_an_end(leaders in proptest::collection::vec(1u64..4, 1..24)) {
            let all: &[u64] = &[1, 2, 3];
            let partitions: Vec<_> = leaders.iter().enumerate().map(|(id, leader)| (id as u16, *leader, all)).collect();
            let mut now = led(&partitions);
            for _ in 0..leaders.len() {
                let asked = handovers(now.clone(), 3);
                let partitions: BTreeSet<_> = asked.iter().map(|(id, _, _)| *id).collect();
                prop_assert_eq!(partitions.len(), asked.len());
                asked.into_iter().for_each(|(id, _, to)| now.get_mut(&id).unwrap().leader = to);
            }
            prop_assert_eq!(handovers(now, 3), []);
        }
    }
}
