//! What operators see of a node: while it starts, while something is amiss, in its figures.

use crate::support::{Node, event, eventually, free_address, request, single};

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
