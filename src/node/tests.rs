//! A whole node in this process, with settings that no setting allows.

use super::*;
use std::path::Path;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A node that runs until it is dropped.
struct Running {
    http: String,
    _stop: oneshot::Sender<()>,
}

async fn start(directory: &Path, config: Config) -> Running {
    let environment = Environment::system(directory).unwrap();
    let (stop, stopped) = oneshot::channel();
    let (sender, ready) = oneshot::channel();
    let tasks = environment.tasks.clone();
    tasks.spawn("node", async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        run(config, environment, Engine::Journal, shutdown, |ready| drop(sender.send(ready.clone()))).await.unwrap();
    });
    let ready = ready.await.expect("the node starts");
    Running { http: ready.http_address, _stop: stop }
}

/// Events of one app, some twelve bytes each in the log.
fn body(round: u64, events: u64) -> String {
    let event = |number: u64| {
        let scattered = (round * events + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (time, value) = (1_700_000_000_000 + scattered % 3_600_000, scattered % 10_000_000_000);
        format!("{{\"app_id\":\"a\",\"timestamp\":{time},\"response_time_ms\":{value}}}\n")
    };
    (0..events).map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_within_its_bound_although_one_partition_is_idle() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: directory.path().display().to_string(),
        http_addr: "127.0.0.1:0".into(),
        cluster_addr: "127.0.0.1:0".into(),
        node_name: "n".into(),
        partitions: 2,
        segment_bytes: 256 << 10,
        log_bytes_max: 1 << 20,
        checkpoint_interval: Duration::from_millis(100),
        write_out_interval: Duration::from_secs(3600),
        ..Config::default()
    };
    let node = start(directory.path(), config).await;
    let client = reqwest::Client::new();
    for round in 0..150 {
        let post = client.post(format!("http://{}/v1/events", node.http)).body(body(round, 2000));
        let answer = post.header("content-type", "application/x-ndjson").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let segments = || std::fs::read_dir(directory.path().join("log")).unwrap().count();
    let deadline = Instant::now() + Duration::from_secs(30);
    // Four in use, four to spare.
    while segments() > 8 {
        assert!(Instant::now() < deadline, "{} segments", segments());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let summary = format!("http://{}/v1/apps/a/summary?from=2023-11-14&to=2023-11-16", node.http);
    let summary: serde_json::Value = client.get(summary).send().await.unwrap().json().await.unwrap();
    assert_eq!(summary["count"], 300_000);
}
