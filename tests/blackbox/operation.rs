//! What operators see of a node: while it starts, while something is amiss, in its figures.

use crate::support::{Node, event, eventually, free_address, hourmark, request, single, three};
use serde_json::Value;

const T: &str = "2026-03-01T10:15:03.123Z";

#[test]
fn a_node_that_waits_for_its_cluster_answers_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = free_address();
    let mut node = Node::new(directory.path(), "n1", Some(&nobody), &[]);
    node.launch();
    let ready = eventually("the reason", || {
        let ready = node.get("/readyz")?;
        assert_eq!((ready.refusal(), ready.header("retry-after")), ((503, "not_ready"), Some("1")));
        ready.body["detail"].as_str()?.contains(&nobody).then_some(ready)
    });
    assert!(ready.body["detail"].as_str().unwrap().contains("member to join"), "{ready:?}");
    assert_eq!(node.get("/healthz").unwrap().status, 200);
    assert_eq!(node.get("/metrics").unwrap().status, 200);
    assert_eq!(node.post(&[], event("checkout", T, "1")).unwrap().refusal(), (503, "not_ready"));
    assert_eq!(node.signal("TERM").code(), Some(0));
}

#[test]
fn figures_are_prometheus_text_unless_open_metrics_is_wanted() {
    let cluster = single(&[]);
    let node = &cluster.nodes[0];
    assert_eq!(node.post(&[], event("checkout", T, "1")).unwrap().status, 200);
    let figures = node.get("/metrics").unwrap();
    assert_eq!(figures.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = figures.body.as_str().unwrap();
    assert!(
        text.contains(
            "# TYPE hourmark_ingest_events_accepted_total counter\nhourmark_ingest_events_accepted_total 1\n"
        )
    );
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    let accept = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let figures = request(&node.http, "GET", "/metrics", &accept, &[]).unwrap();
    assert!(figures.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(figures.body.as_str().unwrap().ends_with("# EOF\n"));
}

#[test]
fn status_shows_disk_and_replication_and_says_when_there_is_no_majority() {
    let mut cluster = three();
    assert_eq!(cluster.nodes[0].post(&[], event("checkout", T, "1")).unwrap().status, 200);
    let servers = cluster.nodes.iter().map(|node| format!("http://{}", node.http)).collect::<Vec<_>>().join(",");
    let status = || hourmark(&["status", "-o", "json", "--server", &servers]);
    // A leader that has just been handed a partition is heard of within a second.
    eventually("disk and replication of every node and partition", || {
        let output = status();
        let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
        let has_disk = |node: &Value| node["disk_used_bytes"].as_u64() > Some(0);
        let is_whole = shown["nodes"].as_array()?.iter().all(has_disk)
            && shown["partitions"].as_array()?.iter().all(|partition| partition["behind"].is_u64());
        (output.status.code() == Some(0) && is_whole).then_some(())
    });
    let view = cluster.nodes[0].get("/v1/cluster").unwrap().body;
    assert_eq!((&view["settings"]["replication_factor"], &view["settings"]["partitions"]), (&3.into(), &3.into()));
    let figures = cluster.nodes[0].get("/metrics").unwrap().body.as_str().unwrap().to_owned();
    let figure = |name: &str| {
        let line =
            figures.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(figure("hourmark_log_fsyncs_total") > 0.0 && figure("hourmark_log_fsync_seconds_total") > 0.0);

    cluster.nodes[1].signal("KILL");
    cluster.nodes[2].signal("KILL");
    eventually("a cluster without leaders", || {
        let view = cluster.nodes[0].get("/v1/cluster")?.body;
        view["partitions"].as_array()?.iter().all(|partition| partition["leader"].is_null()).then_some(())
    });
    let ready = cluster.nodes[0].get("/readyz").unwrap();
    assert_eq!(ready.refusal(), (503, "not_ready"));
    let output = status();
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["nodes"].as_array().unwrap().len(), 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains("majority"));
}

/// Runs a node on a small disk of its own, a file system in a namespace of its own. `None` where that is not allowed.
fn on_a_small_disk(directory: &std::path::Path, bytes: &str) -> Option<Node> {
    let disk = directory.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let disk = disk.display().to_string();
    let script = "mount -t tmpfs -o size=$1 none $0 && shift && exec \"$@\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, &disk, bytes];
    let allowed = std::process::Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").status();
    allowed.is_ok_and(|status| status.success()).then(|| {
        let extra = ["--partitions", "1", "--segment-bytes", "56mib", "--write-out-interval", "1s"];
        Node::new(directory, "disk/n1", None, &extra).wrapped(&wrapper)
    })
}

/// Writes to a file until the disk is full.
fn fill(path: &std::path::Path) {
    let mut file = std::fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 1 << 16]).is_ok() {}
}

#[test]
fn a_full_disk_refuses_writes_at_once_serves_reads_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut node) = on_a_small_disk(directory.path(), "160m") else {
        eprintln!("not run: no file system of its own allowed here");
        return;
    };
    node.start();
    // Long names: some megabytes of log for each request.
    let name = |i: u32| format!("app-{i:0>200}");
    let body = (0..15_000).map(|i| event(&name(i), T, &format!("{i}.123456"))).collect::<String>();
    assert_eq!(node.post(&[], &body).unwrap().status, 200);
    let ballast = node.inside("disk/ballast");
    fill(&ballast);
    let refused = eventually("a full disk", || {
        let begin = std::time::Instant::now();
        let answer = node.post(&[], &body)?;
        assert!(matches!(answer.refusal(), (200, _) | (503, "disk_full")), "{answer:?}");
        // Well before a write that nobody takes is given up, ten seconds.
        let is_late = begin.elapsed() > std::time::Duration::from_secs(8);
        assert!(answer.status == 200 || !is_late, "refused late: {:?}", begin.elapsed());
        (answer.status == 503).then_some(answer)
    });
    assert!(refused.header("retry-after").is_some());
    let ready = node.get("/readyz").unwrap();
    assert!(ready.status == 503 && ready.body["detail"].as_str().unwrap().contains("disk is full"), "{ready:?}");
    assert_eq!(node.get(&format!("/v1/apps/{}/hours/2026-03-01T10", name(7))).unwrap().status, 200);
    let figures = node.get("/metrics").unwrap().body.as_str().unwrap().to_owned();
    assert!(figures.contains("hourmark_aggregate_restarts_total 0\n"), "{figures}");

    std::fs::remove_file(&ballast).unwrap();
    eventually("room again", || node.post(&[], event("checkout", T, "1")).filter(|answer| answer.status == 200));
    eventually("readiness", || node.get("/readyz").filter(|answer| answer.status == 200));
    assert_eq!(node.signal("TERM").code(), Some(0));
}
