//! Three nodes: growth, kills, lost majorities.

use crate::support::{Answer, event, eventually, four, hourmark, three};
use std::time::{Duration, Instant};

const T: &str = "2026-03-01T10:15:03.123Z";
const APPS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn everyone() -> String {
    APPS.map(|app| event(app, T, "1.5")).concat()
}

fn hour(app: &str) -> String {
    format!("/v1/apps/{app}/hours/2026-03-01T10")
}

fn whole(answer: Option<Answer>) -> Option<Answer> {
    answer.filter(|answer| answer.status == 200)
}

#[test]
fn an_event_taken_at_one_node_is_answered_at_every_other() {
    let cluster = three();
    for (turn, node) in cluster.nodes.iter().enumerate() {
        node.post_surely("p", turn as u64, &everyone());
        for other in &cluster.nodes {
            for app in APPS {
                let answer = eventually("an answer", || whole(other.get(&hour(app))));
                assert_eq!(answer.body["count"], turn as u64 + 1);
            }
        }
    }
    cluster.wait_identical();
}

#[test]
fn killed_nodes_lose_nothing_and_double_nothing() {
    let mut cluster = three();
    let mut sequence = 0;
    for victim in 0..3 {
        for step in 0..12 {
            let node = &cluster.nodes[(victim + 1 + step % 2) % 3];
            node.post_surely("p", sequence, &everyone());
            sequence += 1;
            if step == 3 {
                cluster.nodes[victim].signal("KILL");
            }
        }
        cluster.nodes[victim].start();
        cluster.wait_whole(3);
    }
    for app in APPS {
        let answer = eventually("an answer", || whole(cluster.nodes[0].get(&hour(app))));
        assert_eq!(answer.body["count"], sequence);
        assert_eq!(answer.body["sum_ms"], 1.5 * sequence as f64);
    }
    cluster.wait_identical();
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything() {
    let mut cluster = three();
    for sequence in 0..10 {
        cluster.nodes[0].post_surely("p", sequence, &everyone());
    }
    for node in &mut cluster.nodes {
        node.signal("KILL");
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    for app in APPS {
        let answer = eventually("an answer", || whole(cluster.nodes[1].get(&hour(app))));
        assert_eq!(answer.body["count"], 10);
    }
    cluster.wait_identical();
}

#[test]
fn without_a_majority_writes_are_refused_in_time_and_local_reads_go_on() {
    let mut cluster = three();
    cluster.nodes[0].post_surely("p", 1, &everyone());
    cluster.wait_identical();
    cluster.nodes[1].signal("KILL");
    cluster.nodes[2].signal("KILL");
    let begun = Instant::now();
    let refused = cluster.nodes[0].post(&[], everyone()).unwrap();
    assert_eq!(refused.refusal(), (503, "unavailable"));
    assert!(refused.header("retry-after").is_some());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(cluster.nodes[0].get(&hour("a")).unwrap().status, 503);
    let local = cluster.nodes[0].get(&format!("{}?consistency=local", hour("a"))).unwrap();
    assert_eq!((local.status, &local.body["count"]), (200, &1.into()));
    let told = |arguments: &[&str]| {
        let output = hourmark(&[arguments, &["--server", &cluster.nodes[0].http]].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = told(&["status"]);
    assert!(code == Some(4) && message.contains("no leader with a majority"), "{code:?}: {message}");
    let (code, message) = told(&["query", "a", "--timeout", "5s"]);
    assert!(code == Some(4) && message.contains("503 unavailable"), "{code:?}: {message}");
    assert!(!message.contains("Is a node running?"), "{message}");
    cluster.nodes[1].start();
    cluster.nodes[0].post_surely("p", 2, &everyone());
}

#[test]
fn a_node_is_drained_and_removed_and_nothing_is_lost() {
    let mut cluster = three();
    cluster.nodes[0].post_surely("p", 1, &everyone());
    let server = cluster.nodes[0].http.clone();
    let told = |command: &str| {
        let output = hourmark(&[command, "n3", "--server", &server]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = told("remove");
    assert!(code == Some(1) && message.contains("drain it first"), "{message}");
    let (code, message) = told("drain");
    assert!(code == Some(0) && message.contains("holds nothing"), "{message}");
    // It still takes events and answers, for those who hold them.
    cluster.nodes[2].post_surely("p", 2, &everyone());
    let (code, message) = told("remove");
    assert_eq!(code, Some(0), "{message}");
    assert!(cluster.nodes[2].ended().contains("was removed"));
    cluster.nodes.pop();
    cluster.wait_whole(2);
    for app in APPS {
        let answer = eventually("an answer", || whole(cluster.nodes[1].get(&hour(app))));
        assert_eq!(answer.body["count"], 2);
    }
    cluster.wait_identical();
}

#[test]
fn a_node_told_to_stop_hands_over_and_exits_cleanly() {
    let mut cluster = three();
    cluster.nodes[0].post_surely("p", 1, &everyone());
    assert_eq!(cluster.nodes[0].signal("TERM").code(), Some(0));
    let begun = Instant::now();
    cluster.nodes[1].post_surely("p", 2, &everyone());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let answer = eventually("an answer", || whole(cluster.nodes[2].get(&hour("a"))));
    assert_eq!(answer.body["count"], 2);
}

#[test]
fn the_replicas_of_a_node_that_stays_silent_are_made_anew_and_it_begins_anew_when_it_is_back() {
    let mut cluster = four(&["--replace-after", "5s"]);
    let mut sequence = 0;
    let mut send = |node: &crate::support::Node| {
        sequence += 1;
        node.post_surely("p", sequence, &everyone());
        sequence
    };
    for _ in 0..5 {
        send(&cluster.nodes[0]);
    }
    cluster.nodes[1].signal("KILL");
    for _ in 0..5 {
        send(&cluster.nodes[0]);
    }
    cluster.wait_replicated(&[1, 3, 4]);
    for _ in 0..5 {
        send(&cluster.nodes[2]);
    }

    // What it holds is of another time: it has to let go of it before it holds anything again.
    cluster.nodes[1].start();
    cluster.wait_replicated(&[1, 2, 3, 4]);
    let sent = send(&cluster.nodes[1]);
    for node in &cluster.nodes {
        for app in APPS {
            let answer = eventually("an answer", || whole(node.get(&hour(app))));
            assert_eq!(answer.body["count"], sent);
        }
    }
}
