//! Data directories that lack a file, or hold one of another node.

use super::support::{Node, Place, fully_replicated};
use cluster::Error;
use std::sync::atomic::Ordering;

fn refusal(place: &Place) -> Error {
    place.try_start().map(|_| ()).unwrap_err()
}

#[test]
fn a_nodes_data_without_its_identity_neither_founds_nor_joins() {
    let (mut place, other) = (Place::new(&[]), Place::new(&[]));
    let node = place.start();
    node.append(0, 1).unwrap();
    node.toy(0).flush();
    node.shut_down();
    let others = other.start();
    std::fs::remove_file(place.path().join("identity")).unwrap();
    for held in ["log/", "toys/", "metadata"] {
        for join in [Vec::new(), vec![other.address.clone()]] {
            place.join = join;
            assert!(matches!(refusal(&place), Error::IdentityMissing { held: named } if named == held), "{held}");
            assert!(!place.path().join("identity").exists());
        }
        let path = place.path().join(held);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    assert_eq!(others.cluster.status().nodes.len(), 1, "nobody entered");
    let fresh = place.start();
    assert_eq!(fresh.cluster.cluster_id(), others.cluster.cluster_id());
}

#[test]
fn an_identity_that_does_not_belong_to_the_rest_is_refused() {
    let (first, other) = (Place::new(&[]), Place::new(&[]));
    let second = Place::new(&[&first]);
    let nodes = [first.start(), second.start()];
    fully_replicated(&nodes[1], 2);
    nodes.into_iter().for_each(Node::shut_down);
    other.start().shut_down();
    let own = std::fs::read(second.path().join("identity")).unwrap();
    for foreign in [&first, &other] {
        std::fs::copy(foreign.path().join("identity"), second.path().join("identity")).unwrap();
        let error = refusal(&second);
        assert!(matches!(error, Error::Mixed { .. }), "{error}");
    }
    std::fs::write(second.path().join("identity"), own).unwrap();
    let _nodes = [first.start(), second.start()];
}

#[test]
fn a_damaged_identity_says_what_to_do() {
    let place = Place::new(&[]);
    place.start().shut_down();
    let path = place.path().join("identity");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[21] ^= 1;
    for (bytes, what) in [(&whole[..7], "too short"), (&flipped[..], "damaged"), (&[][..], "too short")] {
        std::fs::write(&path, bytes).unwrap();
        let error = refusal(&place);
        assert!(matches!(error, Error::IdentityDamaged(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("restore the file") && text.contains("--join"), "{text}");
    }
}

/// Starts a node on a disk that fails after so many changes of names, more each time until it no longer fails, and after
/// each failure once more on a disk that works.
fn fails_after_each_step(joins: bool) {
    for changes in 0.. {
        let first = joins.then(|| Place::new(&[]));
        let _first_node = first.as_ref().map(Place::start);
        let place = Place::new(&first.iter().collect::<Vec<_>>());
        place.changes_left.store(changes, Ordering::Relaxed);
        let failed = place.try_start().map(Node::kill).is_err();
        place.changes_left.store(usize::MAX, Ordering::Relaxed);
        place.start().append(0, 1).unwrap();
        if !failed {
            assert!(changes > 3, "only {changes} steps were seen");
            return;
        }
    }
}

#[test]
fn founding_goes_on_after_a_failure_at_each_step() {
    fails_after_each_step(false);
}

#[test]
fn joining_goes_on_after_a_failure_at_each_step() {
    fails_after_each_step(true);
}
