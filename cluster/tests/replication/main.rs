//! Nodes over real sockets and files: append anywhere, grow, fail, come back, rebuild.

#![allow(clippy::disallowed_methods, reason = "the tests are outside of the simulated world")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod directory;
mod leaving;
mod space;
mod support;

use bytes::Bytes;
use cluster::{Error, PartitionId, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Counts, Node, Place, agree, append, eventually, fully_replicated};

fn three_nodes() -> (Vec<Place>, Vec<Node>) {
    let first = Place::new(&[]);
    let (second, third) = (Place::new(&[&first]), Place::new(&[&first]));
    let nodes = vec![first.start(), second.start(), third.start()];
    nodes.iter().for_each(|node| fully_replicated(node, 3));
    (vec![first, second, third], nodes)
}

#[test]
fn a_single_node_keeps_what_it_acknowledged_through_a_kill() {
    let place = Place::new(&[]);
    let node = place.start();
    let offsets: Vec<u64> = (0..20).map(|number| node.append(0, number).unwrap().offset.0).collect();
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{offsets:?}");
    let before = node.toy(0).state();
    let (cluster_id, settings) = (node.cluster.cluster_id(), node.cluster.settings());
    node.kill();

    let node = place.start();
    assert_eq!((node.cluster.cluster_id(), node.cluster.settings()), (cluster_id, settings));
    let appended = node.append(0, 99).unwrap();
    assert!(appended.offset.0 > offsets[19]);
    assert_eq!(appended.answer[..], 1u64.to_le_bytes());
    let after = node.toy(0).state();
    assert!(before.numbers.iter().all(|(number, count)| after.numbers[number] == *count));
    assert_eq!(after.numbers.len(), before.numbers.len() + 1);
}

#[test]
fn a_single_node_starts_again_from_what_is_durable_and_a_purged_log() {
    let place = Place::new(&[]);
    let node = place.start();
    (0..300).for_each(|number| drop(node.append(0, number).unwrap()));
    flush_and_purge(&node, 0);
    node.append(0, 1000).unwrap();
    let before = node.toy(0).state();
    node.kill();

    let node = place.start();
    node.append(0, 1001).unwrap();
    let mut after = node.toy(0).state().numbers;
    assert_eq!(after.remove(&1001), Some(1));
    assert_eq!(after, before.numbers);
}

/// Makes a replica's state durable and waits until its log no longer begins at the beginning, durably: a purge is durable
/// with the next append, whose number is 9999.
fn flush_and_purge(node: &Node, partition: u16) {
    node.toy(partition).flush();
    let replica = node.cluster.replica(PartitionId(partition)).unwrap();
    replica.durable_moved();
    eventually("the log is purged", || match node.block_on(replica.tail(cluster::Offset(0), 1)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Err(other.map(|entries| entries.len())),
    });
    node.append(partition, 9999).unwrap();
    eventually("the append has arrived", || node.toy(partition).state().numbers.get(&9999).map(|_| ()).ok_or(()));
}

#[test]
fn three_nodes_agree_on_what_was_appended_at_any_of_them() {
    let (_places, nodes) = three_nodes();
    for number in 0..60u64 {
        let node = &nodes[number as usize % 3];
        node.append(number as u16 % 6, number).unwrap();
    }
    agree(&nodes.iter().collect::<Vec<_>>());
    let total: usize = (0..6).map(|partition| nodes[2].toy(partition).state().numbers.len()).sum();
    assert_eq!(total, 60);
}

#[test]
fn leaders_spread_over_the_nodes() {
    let (_places, nodes) = three_nodes();
    eventually("each node leads two partitions", || {
        let led: Vec<usize> = nodes.iter().map(|node| node.cluster.leaderships().borrow().len()).collect();
        if led == [2, 2, 2] { Ok(()) } else { Err(led) }
    });
}

#[test]
fn calls_are_served_at_the_leader_and_locally_from_any_node() {
    let (_places, nodes) = three_nodes();
    for node in &nodes {
        for target in [Target::Leader, Target::Local] {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            let call = node.cluster.call(PartitionId(4), target, Bytes::from_static(b"ping"), deadline);
            assert_eq!(node.block_on(call).unwrap(), "4:ping");
        }
    }
}

#[test]
fn a_killed_leader_is_replaced_and_catches_up_when_it_comes_back() {
    let (places, mut nodes) = three_nodes();
    (0..30).for_each(|number| drop(nodes[0].append(0, number).unwrap()));
    let leader = eventual_leader(&nodes, 0);
    let killed = nodes.remove(leader);
    killed.kill();
    let start = Instant::now();
    nodes[0].append(0, 100).unwrap();
    let failover = start.elapsed();
    assert!(failover < Duration::from_secs(5), "took {failover:?}");
    println!("failover took {failover:?}");
    (101..130).for_each(|number| drop(nodes[1].append(0, number).unwrap()));

    nodes.insert(leader, places[leader].start());
    agree(&nodes.iter().collect::<Vec<_>>());
    assert_eq!(nodes[leader].toy(0).state().numbers.len(), 60);
}

fn eventual_leader(nodes: &[Node], partition: u16) -> usize {
    let mut leader = None;
    eventually("there is a leader", || {
        leader = nodes.iter().position(|node| node.leads(partition));
        leader.map(|_| ()).ok_or("no leader")
    });
    leader.unwrap()
}

#[test]
fn a_leader_that_shuts_down_hands_over_at_once() {
    let (_places, mut nodes) = three_nodes();
    (0..6).for_each(|partition| drop(nodes[1].append(partition, 1).unwrap()));
    let leaving = nodes.remove(0);
    leaving.shut_down();
    let start = Instant::now();
    (0..6).for_each(|partition| drop(nodes[1].append(partition, 2).unwrap()));
    let handover = start.elapsed();
    println!("handover took {handover:?}");
    assert!(handover < Duration::from_millis(1500), "took {handover:?}, as long as an election");
}

#[test]
fn reads_behind_a_barrier_see_what_was_acknowledged_anywhere() {
    let (_places, nodes) = three_nodes();
    let barriers = |leader: usize| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let replica = nodes[leader].cluster.replica(PartitionId(3)).unwrap();
        let callers = (0..8).map(|_| replica.read_barrier(deadline));
        nodes[leader].block_on(futures::future::join_all(callers)).into_iter().collect::<Result<Vec<_>, _>>()
    };
    for number in 0..20 {
        let appended = nodes[number as usize % 3].append(3, number).unwrap();
        // The steward may move leaders meanwhile; whoever passes the barrier has it all.
        let (leader, offsets) = loop {
            let leader = eventual_leader(&nodes, 3);
            match barriers(leader) {
                Ok(offsets) => break (leader, offsets),
                Err(error) => assert_eq!(error, cluster::ReadError::NotLeader),
            }
        };
        assert!(offsets.iter().all(|offset| *offset >= appended.offset));
        assert_eq!(nodes[leader].toy(3).state().numbers[&number], 1);
    }
    eventually("a follower is refused", || {
        let follower = (eventual_leader(&nodes, 3) + 1) % 3;
        let refused = barriers(follower);
        if refused == Err(cluster::ReadError::NotLeader) { Ok(()) } else { Err(refused) }
    });
}

#[test]
fn a_proposal_of_an_ended_leadership_is_refused() {
    let node = Place::new(&[]).start();
    eventual_leader(std::slice::from_ref(&node), 0);
    let replica = node.cluster.replica(PartitionId(0)).unwrap();
    let term = replica.leading().unwrap();
    let payload = || Bytes::copy_from_slice(&7u64.to_le_bytes());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    assert!(node.block_on(replica.propose(term, payload(), deadline)).is_ok());
    let other = cluster::Term(term.0 + 1);
    let refused = node.block_on(replica.propose(other, payload(), deadline));
    assert_eq!(refused, Err(cluster::AppendError::NotLeading));
    assert_eq!(node.toy(0).state().numbers[&7], 1);
}

#[test]
fn what_the_leader_does_not_admit_is_refused_at_once_at_any_node() {
    let (_places, nodes) = three_nodes();
    eventual_leader(&nodes, 0);
    for node in &nodes {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let append = |number: u64| {
            let payload = Bytes::copy_from_slice(&number.to_le_bytes());
            node.block_on(node.cluster.append(PartitionId(0), payload, deadline))
        };
        let begin = std::time::Instant::now();
        assert_eq!(append(support::NOT_ADMITTED), Err(cluster::AppendError::NotAdmitted));
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(append(7).is_ok());
    }
}

#[test]
fn an_oversized_payload_is_refused() {
    let node = Place::new(&[]).start();
    let append = |bytes: usize| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        node.block_on(node.cluster.append(PartitionId(0), Bytes::from(vec![0; bytes]), deadline))
    };
    assert_eq!(append(8 * 1024 * 1024 + 1), Err(cluster::AppendError::TooLarge));
    // The segments of these tests hold records of up to a quarter of a mebibyte.
    assert_eq!(append(300_000), Err(cluster::AppendError::TooLarge));
    assert!(append(200_000).is_ok());
}

#[test]
fn a_node_that_joins_after_the_log_was_purged_gets_a_snapshot() {
    let first = Place::new(&[]);
    let node = first.start();
    (0..500).for_each(|number| drop(node.append(0, number).unwrap()));
    flush_and_purge(&node, 0);
    let second = Place::new(&[&first]);
    let joined = second.start();
    fully_replicated(&node, 2);
    agree(&[&node, &joined]);
    assert_eq!(joined.toy(0).state().numbers.len(), 501);
}

#[test]
fn a_replica_that_lost_its_store_is_rebuilt_from_another() {
    let (places, mut nodes) = three_nodes();
    (0..300).for_each(|number| drop(nodes[0].append(2, number).unwrap()));
    agree(&nodes.iter().collect::<Vec<_>>());
    flush_and_purge(&nodes[2], 2);
    nodes.pop().unwrap().kill();
    std::fs::remove_dir_all(places[2].store_path()).unwrap();
    nodes[0].append(2, 1000).unwrap();

    nodes.push(places[2].start());
    eventually("the replica is rebuilt", || nodes[2].cluster.ready());
    agree(&nodes.iter().collect::<Vec<_>>());
    assert_eq!(nodes[2].toy(2).state().numbers.len(), 302);
}

#[test]
fn a_single_node_that_lost_its_store_or_part_of_it_says_so() {
    let place = Place::new(&[]);
    let node = place.start();
    (0..10).for_each(|number| drop(node.append(0, number).unwrap()));
    node.toy(0).flush();
    let store = place.store_path().join("partition-0");
    let older = std::fs::read(&store).unwrap();
    (10..300).for_each(|number| drop(node.append(0, number).unwrap()));
    flush_and_purge(&node, 0);
    node.kill();

    std::fs::remove_file(&store).unwrap();
    let refused = place.try_start().map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::StoreLost { partition: PartitionId(0) }), "{refused:?}");
    std::fs::write(&store, older).unwrap();
    let refused = place.try_start().map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::StoreLost { partition: PartitionId(0) }), "{refused:?}");
}

#[test]
fn nothing_acknowledged_is_lost_while_a_cluster_grows_under_load() {
    let first = Place::new(&[]);
    let node = first.start();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4u64)
        .map(|writer| {
            let (cluster, stop) = (node.cluster.clone(), stop.clone());
            node.spawn(async move {
                let mut acknowledged = Vec::new();
                for sequence in 0.. {
                    let (partition, number) = ((sequence % 6) as u16, writer << 32 | sequence);
                    append(&cluster, partition, number).await.unwrap();
                    acknowledged.push((partition, number));
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                acknowledged
            })
        })
        .collect();
    let second = Place::new(&[&first]);
    let joined = second.start();
    fully_replicated(&node, 2);
    let third = Place::new(&[&second]);
    let last = third.start();
    fully_replicated(&node, 3);
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<_> = writers.into_iter().flat_map(|writer| node.block_on(writer).unwrap()).collect();
    agree(&[&node, &joined, &last]);
    let states: Vec<Counts> = (0..6).map(|partition| last.toy(partition).state()).collect();
    for (partition, number) in &acknowledged {
        assert!(states[usize::from(*partition)].numbers.contains_key(number), "{partition} has lost {number:x}");
    }
    println!("{} appends while growing", acknowledged.len());
}

#[test]
fn a_fourth_node_takes_its_share_and_the_cluster_goes_on_without_the_first() {
    let (places, mut nodes) = three_nodes();
    (0..60).for_each(|number| drop(nodes[0].append(number as u16 % 6, number).unwrap()));
    let fourth = Place::new(&[&places[1]]);
    nodes.push(fourth.start());
    holds(&nodes[3], 4);
    fully_replicated(&nodes[3], 3);
    nodes[..3].iter().for_each(|node| eventually("a replica has moved away", || holds_at_most(node, 5)));
    (60..120).for_each(|number| drop(nodes[3].append(number as u16 % 6, number).unwrap()));

    let first = nodes[0].cluster.node_id();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    assert_eq!(nodes[1].block_on(nodes[1].cluster.remove_node(first, deadline)), Ok(true));
    eventually("the first node holds nothing", || holds_at_most(&nodes[0], 0));
    nodes.remove(0).kill();
    fully_replicated(&nodes[2], 3);
    (120..180).for_each(|number| drop(nodes[0].append(number as u16 % 6, number).unwrap()));
    agree(&nodes.iter().collect::<Vec<_>>());
    let total: usize = (0..6).map(|partition| nodes[1].toy(partition).state().numbers.len()).sum();
    assert_eq!(total, 180);
    let refused = places[0].try_start().map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused:?}");
}

fn held(node: &Node) -> usize {
    node.cluster.partitions().into_iter().filter(|partition| node.cluster.replica(*partition).is_some()).count()
}

fn holds(node: &Node, replicas: usize) {
    eventually("the node holds its replicas", || (held(node) >= replicas).then_some(()).ok_or(held(node)));
}

fn holds_at_most(node: &Node, replicas: usize) -> Result<(), usize> {
    if held(node) <= replicas { Ok(()) } else { Err(held(node)) }
}

#[test]
fn all_nodes_killed_at_once_come_back_with_what_they_acknowledged() {
    let (places, nodes) = three_nodes();
    (0..60).for_each(|number| drop(nodes[number as usize % 3].append(number as u16 % 6, number).unwrap()));
    nodes.into_iter().for_each(Node::kill);
    let nodes: Vec<Node> = places.iter().map(Place::start).collect();
    (0..6).for_each(|partition| drop(nodes[0].append(partition, 100).unwrap()));
    agree(&nodes.iter().collect::<Vec<_>>());
    let total: usize = (0..6).map(|partition| nodes[1].toy(partition).state().numbers.len()).sum();
    assert_eq!(total, 66);
}

#[test]
fn a_directory_of_another_cluster_does_not_join() {
    let (mut mine, other) = (Place::new(&[]), Place::new(&[]));
    let others = other.start();
    mine.start().kill();
    mine.join = vec![other.address.clone()];
    let refused = mine.try_start().map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, Error::OtherCluster { other, .. } if *other == others.cluster.cluster_id()),
        "{refused}"
    );
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let place = Place::new(&[]);
    let _node = place.start();
    assert!(matches!(place.try_start().map(|_| ()).unwrap_err(), Error::InUse));
}

#[test]
fn a_node_that_moved_is_found_at_its_new_address() {
    let (mut places, mut nodes) = three_nodes();
    nodes.pop().unwrap().kill();
    let moved = Place::new(&[&places[0]]);
    places[2].address = moved.address;
    nodes.push(places[2].start());
    assert_eq!(nodes[2].cluster.cluster_address(), places[2].address, "at once, not when the cluster has decided");
    let id = nodes[2].cluster.node_id();
    eventually("the new address is known", || {
        let status = nodes[1].cluster.status();
        let known = status.nodes.into_iter().find(|node| node.id == id).unwrap();
        if known.cluster_address == places[2].address && known.alive { Ok(()) } else { Err(known) }
    });
    nodes[0].append(0, 1).unwrap();
    agree(&nodes.iter().collect::<Vec<_>>());
}

#[test]
fn a_node_keeps_its_name_unless_it_is_given_another() {
    let mut place = Place::new(&[]);
    let first = place.start();
    let name = first.cluster.node_name();
    first.shut_down();
    place.configure = |config| (config.node_name, config.keeps_name) = ("another".to_owned(), true);
    let kept = place.start();
    assert_eq!(kept.cluster.node_name(), name);
    kept.shut_down();
    place.configure = |config| config.node_name = "another".to_owned();
    let renamed = place.start();
    assert_eq!(renamed.cluster.node_name(), "another");
    eventually("the cluster knows the new name", || {
        let known = renamed.cluster.status().nodes.remove(0).name;
        if known == "another" { Ok(()) } else { Err(known) }
    });
}

#[test]
fn the_tail_gives_every_applied_entry_once_and_in_order() {
    let node = Place::new(&[]).start();
    let last = (0..50).map(|number| node.append(0, number).unwrap().offset).last().unwrap();
    let replica = node.cluster.replica(PartitionId(0)).unwrap();
    assert_eq!(*replica.applied().borrow(), Some(last), "what was answered is applied");
    let mut entries = Vec::new();
    let mut next = cluster::Offset(0);
    loop {
        let read = node.block_on(replica.tail(next, 64)).unwrap();
        assert!(read.len() <= 10, "eight 8-byte payloads, and entries without one");
        let Some(newest) = read.last() else { break };
        next = newest.position.offset.next();
        entries.extend(read);
    }
    let offsets: Vec<u64> = entries.iter().map(|entry| entry.position.offset.0).collect();
    assert_eq!(offsets, (0..=last.0).collect::<Vec<_>>());
    let numbers = entries.iter().filter_map(|entry| match &entry.payload {
        cluster::Payload::Data(bytes) => Some(u64::from_le_bytes(bytes[..].try_into().unwrap())),
        _ => None,
    });
    assert_eq!(numbers.collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
}
