//! Exit codes and messages of the command line against real nodes.

use crate::support::{event, free_address, hourmark, single};
use std::process::Output;

fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_node_that_cannot_run_says_why_in_one_line() {
    let cluster = single(&[]);
    let other = tempfile::tempdir().unwrap();
    let data = cluster.directory.path().join("n1").display().to_string();
    let fresh = other.path().join("fresh").display().to_string();
    let file = other.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (http, free) = (cluster.nodes[0].http.clone(), free_address());
    let at = |data: &str, http: &str, cluster: &str| {
        hourmark(&["start", "--data-dir", data, "--http-addr", http, "--cluster-addr", cluster])
    };
    let start = |data: &str, http: &str| at(data, http, &free_address());
    for (output, word) in [
        (start(&fresh, &http), "--http-addr"),
        (start(&data, &free), data.as_str()),
        (at(&fresh, &free, &cluster.nodes[0].cluster), "--cluster-addr"),
        (start(&file.display().to_string(), &free), "file"),
    ] {
        let (code, message) = outcome(&output);
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains(word) && message.trim().lines().count() == 1, "{word}: {message}");
    }
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let mut first = single(&[]);
    let data = first.directory.path().join("n1").display().to_string();
    first.nodes[0].signal("TERM");
    let directory = tempfile::tempdir().unwrap();
    let mut second = crate::support::Node::new(directory.path(), "other", None, &[]);
    second.start();
    let (http, cluster) = (free_address(), free_address());
    let arguments =
        ["start", "--data-dir", &data, "--http-addr", &http, "--cluster-addr", &cluster, "--join", &second.cluster];
    let (code, message) = outcome(&hourmark(&arguments));
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("another") || message.contains("belongs to cluster"), "{message}");
}

#[test]
fn a_directory_that_lost_its_identity_is_refused_and_says_the_way_on() {
    let mut cluster = single(&[]);
    cluster.nodes[0].signal("TERM");
    let data = cluster.directory.path().join("n1");
    let identity = data.join("identity");
    std::fs::write(&identity, "HMID").unwrap();
    let start = |more: &[&str]| {
        let (data, http, cluster) = (data.display().to_string(), free_address(), free_address());
        let arguments = ["start", "--data-dir", &data, "--http-addr", &http, "--cluster-addr", &cluster];
        outcome(&hourmark(&[&arguments, more].concat()))
    };
    let (code, message) = start(&[]);
    assert!(code == Some(1) && message.contains("restore the file") && message.contains("--join"), "{message}");
    std::fs::remove_file(identity).unwrap();
    for join in [&[][..], &["--join", "127.0.0.1:9"]] {
        let (code, message) = start(join);
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains("no file `identity`") && message.contains("empty directory"), "{message}");
        assert!(message.contains(&data.display().to_string()), "{message}");
    }
}

#[test]
fn a_restart_keeps_the_name_and_says_what_has_changed() {
    let mut cluster = single(&[]);
    cluster.nodes[0].signal("TERM");
    let mut moved = crate::support::Node::moved(&cluster.directory.path().join("n1"));
    moved.start();
    let log = moved.told();
    let ready = log.lines().find(|line| line.starts_with("ready ")).unwrap();
    assert_eq!(ready, format!("ready node=n1 http={} cluster={}", moved.http, moved.cluster));
    assert!(log.contains("other addresses when it last ran"), "{log}");
}

#[test]
fn exit_codes_tell_what_happened() {
    let cluster = single(&[]);
    let server = format!("http://{}", cluster.nodes[0].http);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let run = |arguments: &[&str]| hourmark(&[arguments, &["--server", &server]].concat()).status.code();
    let good = event("checkout", "2026-03-01T10:00:00Z", "1");
    assert_eq!(run(&["send", &path("empty", "")]), Some(0));
    assert_eq!(run(&["send", &path("good", &good)]), Some(0));
    assert_eq!(run(&["send", &path("bad", &(good + "{broken\n"))]), Some(1));
    assert_eq!(run(&["query", "checkout"]), Some(0));
    assert_eq!(run(&["query", "nobody"]), Some(3));
    assert_eq!(run(&["status"]), Some(0));
    assert_eq!(run(&["query"]), Some(2));
    let nobody = format!("http://{}", free_address());
    let (code, message) = outcome(&hourmark(&["status", "--timeout", "3s", "--server", &nobody]));
    assert_eq!(code, Some(4), "{message}");
    assert!(message.starts_with("no answer yet from"), "{message}");
}

#[test]
fn a_batch_is_answered_for_as_its_lines_are() {
    let cluster = single(&[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events").display().to_string();
    let mut lines: Vec<String> = (0..3000u64)
        .map(|number| event(["a", "b", "c"][(number % 3) as usize], "2026-03-01T10:00:00Z", &number.to_string()))
        .collect();
    lines[7] = "{broken\n".into();
    lines[1500] = event("b", "2261-01-01T00:00:00Z", "1");
    lines[2000] = event("a", "2261-01-01T00:00:00Z", "1");
    lines[2001] = event("b", "2026-03-01T10:00:00Z", "-1");
    std::fs::write(&path, lines.concat()).unwrap();
    let send = |format: &str, counted: &str| {
        let server = format!("http://{}", cluster.nodes[0].http);
        let flags = ["--body-bytes", "20KiB", "--producer", format, "--format", format, "-o", "csv"];
        let ran = hourmark(&[&["send", &path, "--server", &server], &flags[..]].concat());
        let sum = String::from_utf8(ran.stdout).unwrap();
        assert!(sum.lines().nth(1).unwrap().starts_with(counted), "{sum}");
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let (code, told) = send("ndjson", "2996,0,4,");
    let numbers: Vec<_> = told.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!((code, numbers), (Some(1), vec!["line 8", "line 1501", "line 2001", "line 2002"]));
    assert_eq!(send("binary", "2996,0,4,"), (code, told.clone()));
    assert_eq!(send("binary", "0,2996,4,"), (code, told), "sent again, counted once");
}
