//! A node that remembers what it was sent and fails on demand.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cluster::environment::{Tasks, ThreadPool};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

/// A running fake.
pub struct Fake {
    /// `host:port`.
    pub address: String,
    state: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    /// Events of each producer and sequence.
    bodies: BTreeMap<(String, u64), (Bytes, u64)>,
    requests: usize,
    lose_answers: usize,
    refuse: usize,
    refuse_from: Option<usize>,
    refuse_with: u16,
    address: String,
}

type Shared = State<Arc<Mutex<Memory>>>;

impl Fake {
    /// Serves on a free port as long as the test's runtime lives.
    pub async fn start() -> Fake {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(Memory { address: address.clone(), ..Memory::default() }));
        let router = Router::new()
            .route("/v1/events", post(take))
            .route("/v1/apps/{app}/hours", get(hours))
            .route("/v1/apps/{app}/summary", get(summary))
            .route("/v1/cluster", get(cluster_view))
            .route(
                "/v1/digest",
                get(async || {
                    let partitions = json!([{
                        "partition": 0, "consumed_offset": 40, "digest": "abc",
                        "events": 12, "counted": 6, "duplicate": 2, "quarantined": 1, "pending": 3,
                    }]);
                    axum::Json(json!({"node_id": 1, "partitions": partitions}))
                }),
            )
            .with_state(state.clone());
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let tasks = Tasks::new(Arc::new(ThreadPool::default()));
        tasks.spawn("fake node", async move { axum::serve(listener, router).await.unwrap() });
        Fake { address, state }
    }

    /// Counts the next `count` requests and answers them with 503 all the same.
    pub fn lose_answers(&self, count: usize) {
        self.state.lock().unwrap().lose_answers = count;
    }

    /// Refuses the next `count` requests.
    pub fn refuse(&self, count: usize, status: u16) {
        let mut memory = self.state.lock().unwrap();
        (memory.refuse, memory.refuse_with) = (count, status);
    }

    /// Refuses all requests but the first `count`.
    pub fn refuse_from(&self, count: usize, status: u16) {
        let mut memory = self.state.lock().unwrap();
        (memory.refuse_from, memory.refuse_with) = (Some(count), status);
    }

    /// How many events counted; forgets them.
    pub fn take_events(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap().bodies).into_values().map(|(_, events)| events).sum()
    }
}

fn refusal(status: u16, code: &str, detail: &str) -> Response {
    let body = json!({"type": "about:blank", "title": "t", "status": status, "code": code, "detail": detail});
    (StatusCode::from_u16(status).unwrap(), [("retry-after", "0")], body.to_string()).into_response()
}

fn decompress(headers: &HeaderMap, body: Bytes) -> Bytes {
    match headers.get("content-encoding").map(|encoding| encoding.to_str().unwrap()) {
        Some("zstd") => zstd::decode_all(&body[..]).unwrap().into(),
        Some("gzip") => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            plain.into()
        }
        _ => body,
    }
}

async fn take(
    State(state): Shared,
    Query(parameters): Query<BTreeMap<String, usize>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let identity = (header("hourmark-producer"), header("hourmark-sequence").parse().unwrap());
    let body = decompress(&headers, body);
    let mut memory = state.lock().unwrap();
    memory.requests += 1;
    if memory.refuse > 0 || memory.refuse_from.is_some_and(|count| memory.requests > count) {
        memory.refuse = memory.refuse.saturating_sub(1);
        return refusal(memory.refuse_with, "refused", "on demand");
    }
    let mut events = 0;
    let mut errors = Vec::new();
    let is_batch = header("content-type") == "application/vnd.hourmark.batch";
    if is_batch {
        events = hourmark::format::Batch::decode(&body).unwrap().events();
    }
    let lines: &[u8] = if is_batch { b"" } else { &body };
    for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        match line.first() {
            Some(b'{') => events += 1,
            _ if line.trim_ascii().is_empty() => {}
            _ => errors.push(json!({"line": index + 1, "code": "invalid_json", "message": "not JSON"})),
        }
    }
    let known = memory.bodies.insert(identity, (body.clone(), events));
    let is_known = known.is_some_and(|(known, _)| known == body);
    if memory.lose_answers > 0 {
        memory.lose_answers -= 1;
        return refusal(503, "unavailable", "the answer is lost");
    }
    let (accepted, duplicate) = if is_known { (0, events) } else { (events, 0) };
    let rejected = errors.len();
    errors.truncate(parameters.get("errors_max").copied().unwrap_or(100));
    let status = if rejected > 0 && events == 0 { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let receipt =
        json!({"accepted": accepted, "duplicate": duplicate, "rejected": rejected, "errors": errors, "token": "-"});
    (status, receipt.to_string()).into_response()
}

fn rollup(extra: &[(&str, Value)]) -> Value {
    let mut rollup = json!({"app_id": "a", "revision": 1, "count": 1, "late": 0, "average_ms": 1.0, "min_ms": 1.0, "max_ms": 1.0,
        "median_ms": 1.0, "sum_ms": 1.0, "quantiles": [{"q": 0.5, "value_ms": 1.0, "low_ms": 1.0, "high_ms": 1.0}]});
    for (name, value) in extra {
        rollup[*name] = value.clone();
    }
    rollup
}

async fn hours(Path(app): Path<String>, Query(parameters): Query<BTreeMap<String, String>>) -> Response {
    let hour = |name: &str| rollup(&[("hour", name.into()), ("state", "open".into())]);
    let page = match (app.as_str(), parameters.get("cursor").map(String::as_str)) {
        ("check out/1", None) => {
            json!({"hours": [hour("2026-11-22T22:00:00Z"), hour("2026-11-22T23:00:00Z")], "next": "c+1"})
        }
        ("check out/1", Some("c+1")) => json!({"hours": [hour("2026-11-23T00:00:00Z")], "next": null}),
        ("idle", None) => json!({"hours": [], "next": null}),
        _ => return refusal(404, "unknown_app", &format!("no app {app:?} has events")),
    };
    page.to_string().into_response()
}

async fn summary(Path(app): Path<String>, Query(parameters): Query<BTreeMap<String, String>>) -> String {
    assert_eq!(app, "check out/1");
    let border = |name| parameters.get(name).map_or("", String::as_str);
    rollup(&[("asked", format!("{}..{}", border("from"), border("to")).into())]).to_string()
}

async fn cluster_view(State(state): Shared) -> String {
    let address = state.lock().unwrap().address.clone();
    json!({
        "cluster_id": "c", "settings": {}, "disk_used_bytes": 4711,
        "nodes": [{"id": 1, "name": "n", "http_addr": address, "cluster_addr": "c:1", "alive": true}],
        "partitions": [{"id": 0, "leader": 1, "replicas": [1], "term": 1, "commit_offset": 42, "applied_offset": 40,
            "consumed_offset": 40, "lag_events": 3}],
    })
    .to_string()
}
