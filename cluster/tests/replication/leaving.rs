//! Nodes that go, for good or for a while.

use super::support::{Node, Place, agree, eventually, fully_replicated};
use super::{holds, holds_at_most};
use cluster::{NodeId, PartitionStatus, Standing};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Four nodes of which each holds its share of six partitions.
fn four_nodes(replace_after: fn(&mut cluster::Config)) -> (Vec<Place>, Vec<Node>) {
    let mut places = vec![Place::new(&[])];
    for _ in 1..4 {
        places.push(Place::new(&[&places[0]]));
    }
    places.iter_mut().for_each(|place| place.configure = replace_after);
    let nodes: Vec<Node> = places.iter().map(Place::start).collect();
    nodes.iter().for_each(|node| holds(node, 4));
    nodes.iter().for_each(|node| eventually("a share has moved", || holds_at_most(node, 5)));
    fully_replicated(&nodes[0], 3);
    (places, nodes)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Waits until every partition has three caught-up replicas, none of them this one.
fn does_without(node: &Node, gone: NodeId) {
    eventually("others hold everything", || {
        let status = node.cluster.status();
        let is_without = |partition: &PartitionStatus| {
            partition.replicas.len() == 3 && !partition.voters.contains(&gone) && !partition.learners.contains(&gone)
        };
        status.partitions.iter().all(is_without).then_some(()).ok_or(status)
    });
}

#[test]
fn a_node_that_drains_holds_nothing_and_once_removed_it_stops() {
    let (places, mut nodes) = four_nodes(|_| {});
    (0..60).for_each(|number| drop(nodes[0].append(number as u16 % 6, number).unwrap()));
    // The first node leads the metadata group: it gives that up too.
    let first = nodes[0].cluster.node_id();
    assert_eq!(nodes[1].block_on(nodes[1].cluster.drain_node(first, true, soon())), Ok(true));
    (60..120).for_each(|number| drop(nodes[0].append(number as u16 % 6, number).unwrap()));
    does_without(&nodes[1], first);
    eventually("the drained node holds nothing", || holds_at_most(&nodes[0], 0));
    let seen = nodes[0].cluster.status();
    assert_eq!(seen.nodes.iter().find(|node| node.id == first).map(|node| node.standing), Some(Standing::Draining));

    assert_eq!(nodes[1].block_on(nodes[1].cluster.remove_node(first, soon())), Ok(true));
    let reason = nodes[0].block_on(nodes[0].tasks.failed());
    assert!(reason.contains("was removed"), "{reason}");
    nodes.remove(0).kill();
    (120..180).for_each(|number| drop(nodes[0].append(number as u16 % 6, number).unwrap()));
    fully_replicated(&nodes[0], 3);
    let total: usize = (0..6).map(|partition| held_by(&nodes, partition).toy(partition).state().numbers.len()).sum();
    assert_eq!(total, 180);
    let back = places[0].try_start();
    // It knows by itself, or learns it from the others.
    if let Ok(back) = back {
        let reason = back.block_on(back.tasks.failed());
        assert!(reason.contains("was removed"), "{reason}");
    }
}

fn held_by(nodes: &[Node], partition: u16) -> &Node {
    let holds = |node: &&Node| node.cluster.replica(cluster::PartitionId(partition)).is_some();
    let leads = nodes.iter().find(|node| node.leads(partition));
    leads.or(nodes.iter().find(holds)).unwrap()
}

#[test]
fn a_node_that_shall_not_drain_any_more_takes_its_share_again() {
    let (_places, nodes) = four_nodes(|_| {});
    let last = nodes[3].cluster.node_id();
    assert_eq!(nodes[1].block_on(nodes[1].cluster.drain_node(last, true, soon())), Ok(true));
    eventually("the drained node holds nothing", || holds_at_most(&nodes[3], 0));
    assert_eq!(nodes[1].block_on(nodes[1].cluster.drain_node(last, false, soon())), Ok(true));
    holds(&nodes[3], 4);
    (0..60).for_each(|number| drop(nodes[3].append(number as u16 % 6, number).unwrap()));
    fully_replicated(&nodes[0], 3);
}

#[test]
fn the_share_of_a_silent_node_goes_to_others_until_it_is_back() {
    let (places, mut nodes) = four_nodes(|config| config.replace_after = Some(Duration::from_secs(3)));
    (0..60).for_each(|number| drop(nodes[0].append(number as u16 % 6, number).unwrap()));
    let silent = nodes[3].cluster.node_id();
    nodes.remove(3).kill();
    does_without(&nodes[0], silent);
    (60..120).for_each(|number| drop(nodes[0].append(number as u16 % 6, number).unwrap()));
    agree(&nodes.iter().collect::<Vec<_>>());
    let total: usize = (0..6).map(|partition| nodes[1].toy(partition).state().numbers.len()).sum();
    assert_eq!(total, 120);

    nodes.push(places[3].start());
    holds(&nodes[3], 4);
    fully_replicated(&nodes[3], 3);
    (120..180).for_each(|number| drop(nodes[3].append(number as u16 % 6, number).unwrap()));
    let seen = nodes[0].cluster.status();
    assert!(seen.nodes.iter().all(|node| node.standing == Standing::Active), "{seen:?}");
}

#[test]
fn a_replica_that_moves_away_and_comes_back_begins_anew() {
    let (_places, nodes) = four_nodes(|_| {});
    (0..60).for_each(|number| drop(nodes[1].append(number as u16 % 6, number).unwrap()));
    let first = nodes[0].cluster.node_id();
    let stale: Vec<_> = nodes[0].toys.machines.lock().unwrap().values().cloned().collect();
    stale.iter().for_each(|toy| toy.flush());
    assert_eq!(nodes[1].block_on(nodes[1].cluster.drain_node(first, true, soon())), Ok(true));
    eventually("the drained node holds nothing", || holds_at_most(&nodes[0], 0));
    eventually("its states are gone", || {
        let left = nodes[0].toys.machines.lock().unwrap().len();
        if left == 0 { Ok(()) } else { Err(left) }
    });
    (60..120).for_each(|number| drop(nodes[1].append(number as u16 % 6, number).unwrap()));
    assert_eq!(nodes[1].block_on(nodes[1].cluster.drain_node(first, false, soon())), Ok(true));
    holds(&nodes[0], 4);
    fully_replicated(&nodes[1], 3);
    (120..180).for_each(|number| drop(nodes[1].append(number as u16 % 6, number).unwrap()));
    let mut held = 0;
    for partition in nodes[0].cluster.partitions() {
        let mut mine = None;
        // One that moved on may still be on its way out of a node.
        eventually("three replicas are left, and agree", || {
            let state = |node: &Node| node.held_toy(partition.0).map(|toy| toy.state());
            let states: Vec<_> = nodes.iter().filter_map(state).collect();
            let positions: Vec<_> = states.iter().map(|state| state.position).collect();
            mine = state(&nodes[0]);
            (states.len() == 3 && states.iter().all(|state| *state == states[0])).then_some(()).ok_or(positions)
        });
        if let Some(mine) = mine {
            assert_eq!(mine.numbers.len(), 30);
            held += 1;
        }
    }
    assert!(held >= 4);
}

#[test]
fn replicas_whose_departure_was_cut_short_leave_at_the_next_start() {
    let (places, mut nodes) = four_nodes(|_| {});
    (0..60).for_each(|number| drop(nodes[1].append(number as u16 % 6, number).unwrap()));
    let first = nodes[0].cluster.node_id();
    // They leave one by one: the first of them never comes to its end.
    nodes[0].toys.closed.lock().unwrap().clear();
    nodes[0].toys.holds_close.store(true, Ordering::Relaxed);
    assert_eq!(nodes[1].block_on(nodes[1].cluster.drain_node(first, true, soon())), Ok(true));
    does_without(&nodes[1], first);
    eventually("the first replica leaves", || {
        let closed = nodes[0].toys.closed.lock().unwrap().clone();
        if closed.len() == 1 { Ok(()) } else { Err(closed) }
    });
    let left = nodes[0].toys.machines.lock().unwrap().len() - 1;
    assert!(left >= 2, "{left}");
    nodes.remove(0).kill();

    nodes.insert(0, places[0].start());
    eventually("the others leave", || {
        // The first one too, unless its log was dropped before the end.
        let closed = nodes[0].toys.closed.lock().unwrap().clone();
        if closed.len() >= left { Ok(()) } else { Err(closed) }
    });
    eventually("the node holds nothing", || holds_at_most(&nodes[0], 0));
    eventually("the node is ready", || nodes[0].cluster.ready());
}
