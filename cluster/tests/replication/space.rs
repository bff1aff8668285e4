//! The log stays within its bound, whoever is idle, slow or a follower.

use crate::support::{Node, Place, agree, eventually, fully_replicated};
use bytes::Bytes;
use cluster::{AppendError, Appended, Config, PartitionId};
use std::sync::atomic::Ordering;
use std::time::Duration;

const SEGMENT_BYTES: u64 = 64 << 10;

fn small(config: &mut Config) {
    config.partitions = 2;
    config.log.segment_bytes = SEGMENT_BYTES;
    config.log.bytes_max = 4 * SEGMENT_BYTES;
}

/// Appends a payload of some size.
pub fn append_large(node: &Node, partition: u16, number: u64) -> Result<Appended, AppendError> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut payload = vec![0; 8 << 10];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    node.block_on(node.cluster.append(PartitionId(partition), Bytes::from(payload), deadline))
}

/// Files in the log's directory.
fn segments(place: &Place) -> usize {
    std::fs::read_dir(place.path().join("log")).unwrap().count()
}

#[test]
fn idle_groups_let_go_of_old_entries() {
    let mut place = Place::new(&[]);
    place.configure = small;
    let node = place.start();
    // Neither the metadata nor partition 1 ever comes to the number of entries that is usually kept.
    append_large(&node, 1, 1).unwrap();
    for number in 0..400 {
        append_large(&node, 0, number).unwrap();
    }
    assert!(segments(&place) > 40, "{} segments", segments(&place));
    eventually("the log has shrunk", || {
        node.cluster.unwanted().keys().for_each(|partition| node.toy(partition.0).flush());
        // Four in use and four to spare.
        if segments(&place) <= 8 { Ok(()) } else { Err(segments(&place)) }
    });
    let before = node.toy(0).state().numbers;
    node.kill();
    let node = place.start();
    assert_eq!(node.toy(0).state().numbers, before);
    assert_eq!(node.toy(1).state().numbers.len(), 1);
}

#[test]
fn a_node_whose_disk_is_full_refuses_entries_and_catches_up_when_there_is_room() {
    let first = Place::new(&[]);
    let mut places = [first, Place::new(&[]), Place::new(&[])];
    let join = places[0].address.clone();
    places[1..].iter_mut().for_each(|place| place.join = vec![join.clone()]);
    places.iter_mut().for_each(|place| place.configure = |config| config.log.segment_bytes = 256 << 10);
    let nodes: Vec<Node> = places.iter().map(Place::start).collect();
    nodes.iter().for_each(|node| fully_replicated(node, 3));
    places[2].is_full.store(true, Ordering::Relaxed);
    for number in 0..300 {
        // Until the steward has relieved it, the full node may lead, and refuses.
        eventually("an append", || append_large(&nodes[0], (number % 6) as u16, number).map(drop));
    }
    assert!(nodes[2].cluster.ready().unwrap_err().contains("disk is full"));
    eventually("the full node leads nothing", || {
        let led = nodes[2].cluster.leaderships().borrow().clone();
        if led.is_empty() { Ok(()) } else { Err(led) }
    });
    places[2].is_full.store(false, Ordering::Relaxed);
    agree(&nodes.iter().collect::<Vec<_>>());
    eventually("the node is ready again", || nodes[2].cluster.ready());
    let total: usize = (0..6).map(|partition| nodes[2].toy(partition).state().numbers.len()).sum();
    assert_eq!(total, 300);
}

#[test]
fn a_leader_hears_what_is_in_the_way_at_a_follower() {
    let first = Place::new(&[]);
    let mut second = Place::new(&[&first]);
    second.configure = small;
    let nodes = [first.start(), second.start()];
    fully_replicated(&nodes[0], 2);
    for number in 0..60 {
        append_large(&nodes[0], (number % 6) as u16, number).unwrap();
    }
    eventually("the leader is told", || {
        let led: Vec<PartitionId> = nodes[0].cluster.leaderships().borrow().keys().copied().collect();
        let unwanted = nodes[0].cluster.unwanted();
        if !led.is_empty() && led.iter().all(|partition| unwanted.contains_key(partition)) {
            return Ok(());
        }
        Err((led, unwanted))
    });
}
