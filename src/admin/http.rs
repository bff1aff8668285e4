//! The operators' routes.

mod nodes;
pub mod starting;

use super::{ClusterAnswer, DigestAnswer, NodeAnswer, PartitionAnswer, Progress, QuarantineAnswer, Source};
use crate::http::{Problem, Room};
use crate::metrics::{Exposition, Metrics};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{delete, get, put};
use axum::{Json, Router};
use cluster::{NodeId, PartitionId, PartitionStatus};
use futures::future::join_all;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::{OpenApi, ToSchema};

/// When to ask again whether a node is ready.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Quarantined entries of one answer.
const ENTRIES_MAX: usize = 1000;

const INDEX: &str = include_str!("index.html");

/// The routes of this room.
pub fn room(source: Arc<dyn Source>, metrics: Metrics) -> Room {
    let routes = Router::new()
        .route("/", get(index))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics_text))
        .route("/v1/cluster", get(cluster))
        .route("/v1/digest", get(digest))
        .route("/v1/quarantine", get(quarantine))
        .route("/v1/quarantine/{partition}/{offset}", get(quarantined_entry))
        .route("/v1/nodes/{id}", delete(nodes::remove))
        .route("/v1/nodes/{id}/drain", put(nodes::drain).delete(nodes::undrain))
        .with_state(Admin { source, metrics });
    Room { routes, openapi: Api::openapi(), shortcut: None }
}

#[derive(OpenApi)]
#[openapi(
    paths(index, health, readiness, metrics_text, cluster, digest, quarantine, quarantined_entry,
        nodes::remove, nodes::drain, nodes::undrain),
    tags((name = "operation", description = "What operators ask of a node"))
)]
struct Api;

#[derive(Clone)]
pub(super) struct Admin {
    pub(super) source: Arc<dyn Source>,
    metrics: Metrics,
}

/// In a word.
#[derive(Debug, Serialize, ToSchema)]
struct StateAnswer {
    /// `ok` or `ready`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// A page that says what this is.
#[utoipa::path(get, path = "/", tag = "operation", responses(
    (status = 200, description = "A page for people", body = String, content_type = "text/html")
))]
async fn index() -> Html<&'static str> {
    Html(INDEX)
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses(
    (status = 200, description = "It does", body = StateAnswer)
))]
async fn health() -> Json<StateAnswer> {
    Json(StateAnswer { status: "ok" })
}

/// Whether this node serves reads and writes.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "It does", body = StateAnswer),
    (status = 503, description = "`not_ready`, with the reason", body = Problem, content_type = "application/problem+json")
))]
async fn readiness(State(admin): State<Admin>) -> Result<Json<StateAnswer>, Problem> {
    match admin.source.ready() {
        Ok(()) => Ok(Json(StateAnswer { status: "ready" })),
        Err(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reason).retry_after(RETRY_AFTER)),
    }
}

/// All figures of this node, as Prometheus text, or as OpenMetrics text where `Accept` prefers it.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "Prometheus text 0.0.4 or OpenMetrics 1.0", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text")
    ))
))]
async fn metrics_text(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    admin.metrics.board.show(admin.source.figures().await);
    metrics_answer(&headers, &admin.metrics)
}

fn metrics_answer(headers: &HeaderMap, metrics: &Metrics) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::wanted(accept);
    let headers = [(header::CONTENT_TYPE, exposition.media_type()), (header::VARY, "accept")];
    (headers, metrics.text(exposition)).into_response()
}

/// The cluster as this node knows it.
#[utoipa::path(get, path = "/v1/cluster", tag = "operation", responses(
    (status = 200, description = "Nodes, partitions and settings", body = ClusterAnswer)
))]
async fn cluster(State(admin): State<Admin>) -> Json<ClusterAnswer> {
    let status = admin.source.status();
    let progress = join_all(status.partitions.iter().map(|partition| admin.source.progress(partition.id))).await;
    let partitions = status.partitions.into_iter().zip(progress).map(|(status, progress)| partition(status, progress));
    let nodes = status.nodes.into_iter().map(|node| NodeAnswer {
        id: node.id.0,
        name: node.name,
        http_addr: node.http_address,
        cluster_addr: node.cluster_address,
        alive: node.alive,
        standing: node.standing.into(),
    });
    Json(ClusterAnswer {
        cluster_id: status.cluster_id.to_string(),
        node_id: status.node.0,
        nodes: nodes.collect(),
        partitions: partitions.collect(),
        settings: admin.source.settings(),
        disk_used_bytes: admin.source.disk_used_bytes().await,
    })
}

fn partition(status: PartitionStatus, progress: Option<Progress>) -> PartitionAnswer {
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    PartitionAnswer {
        id: status.id.0,
        leader: status.leader.map(|node| node.0),
        replicas: ids(status.replicas),
        voters: ids(status.voters),
        learners: ids(status.learners),
        term: status.term.0,
        commit_offset: status.commit_offset.map(|offset| offset.0),
        applied_offset: status.applied_offset.map(|offset| offset.0),
        consumed_offset: progress.and_then(|progress| progress.consumed_offset),
        lag_events: progress.map(|progress| progress.lag_events),
        log_bytes: status.log_bytes,
    }
}

/// What this node's replicas hold, in one number a partition.
///
/// Replicas with the same consumed offset must have the same digest.
#[utoipa::path(get, path = "/v1/digest", tag = "operation", responses(
    (status = 200, description = "By partition", body = DigestAnswer),
    (status = 500, description = "`internal`: a replica cannot be read", body = Problem, content_type = "application/problem+json")
))]
async fn digest(State(admin): State<Admin>) -> Result<Json<DigestAnswer>, Problem> {
    let partitions = admin.source.digests().await.map_err(unreadable)?;
    Ok(Json(DigestAnswer { node_id: admin.source.status().node.0, partitions }))
}

/// The entries that could not be folded.
#[utoipa::path(get, path = "/v1/quarantine", tag = "operation", responses(
    (status = 200, description = "By partition and offset", body = QuarantineAnswer),
    (status = 500, description = "`internal`: a replica cannot be read", body = Problem, content_type = "application/problem+json")
))]
async fn quarantine(State(admin): State<Admin>) -> Result<Json<QuarantineAnswer>, Problem> {
    let entries = admin.source.quarantined(ENTRIES_MAX).await.map_err(unreadable)?;
    Ok(Json(QuarantineAnswer { entries }))
}

/// The bytes of an entry that could not be folded.
#[utoipa::path(get, path = "/v1/quarantine/{partition}/{offset}", tag = "operation",
    params(
        ("partition" = u16, Path, description = "The partition"),
        ("offset" = u64, Path, description = "Where it stood in the log")
    ),
    responses(
        (status = 200, description = "The entry as it stood in the log", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "`internal`: a replica cannot be read", body = Problem, content_type = "application/problem+json")
    )
)]
async fn quarantined_entry(
    State(admin): State<Admin>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Problem> {
    let Path((partition, offset)) = path.map_err(|error| Problem::bad_parameter("partition", error.body_text()))?;
    let not_a_number = |name, text: &str| Problem::bad_parameter(name, format!("{text:?} is not its number"));
    let id = partition.parse().map(PartitionId).map_err(|_| not_a_number("partition", &partition))?;
    let place = offset.parse().map_err(|_| not_a_number("offset", &offset))?;
    match admin.source.quarantined_payload(id, place).await.map_err(unreadable)? {
        Some(bytes) => Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()),
        None => {
            let detail = format!("this node has set aside no entry at offset {place} of partition {id}");
            Err(Problem::new(StatusCode::NOT_FOUND, "not_found", detail))
        }
    }
}

fn unreadable(reason: String) -> Problem {
    tracing::error!(%reason, "admin: a replica cannot be read");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a replica cannot be read; the log says why")
}

#[cfg(test)]
mod tests {
    use super::super::{Digest, QuarantinedEntry, SettingsAnswer};
    use super::*;
    use crate::http::testing::{ask, send};
    use crate::http::{Routes, assemble};
    use crate::metrics::Figures;
    use async_trait::async_trait;
    use axum::body::Body;
    use axum::http::Request;
    use bytes::Bytes;
    use cluster::{ClusterId, NodeStatus, Offset, Status, Term};
    use serde_json::json;

    /// A node of one partition that is ready or not.
    struct Fake {
        unready: Option<&'static str>,
    }

    #[async_trait]
    impl Source for Fake {
        fn status(&self) -> Status {
            let node = NodeStatus {
                id: NodeId(1),
                name: "one".to_owned(),
                http_address: "127.0.0.1:3600".to_owned(),
                cluster_address: "127.0.0.1:3601".to_owned(),
                alive: true,
                standing: cluster::Standing::Active,
            };
            let partition = |id, leader| PartitionStatus {
                id: PartitionId(id),
                leader,
                replicas: vec![NodeId(1)],
                voters: vec![NodeId(1)],
                learners: Vec::new(),
                term: Term(4),
                commit_offset: Some(Offset(9)),
                applied_offset: Some(Offset(9)),
                log_bytes: 77,
            };
            Status {
                cluster_id: ClusterId(0xabc),
                node: NodeId(1),
                nodes: vec![node],
                partitions: vec![partition(0, Some(NodeId(1))), partition(1, None)],
                metadata_leader: Some(NodeId(1)),
            }
        }

        fn settings(&self) -> SettingsAnswer {
            SettingsAnswer { relative_accuracy: 0.01, lateness_ms: 5, partitions: 2, replication_factor: 3 }
        }

        async fn disk_used_bytes(&self) -> Option<u64> {
            Some(8192)
        }

        fn ready(&self) -> Result<(), String> {
            self.unready.map_or(Ok(()), |reason| Err(reason.to_owned()))
        }

        async fn progress(&self, partition: PartitionId) -> Option<Progress> {
            (partition.0 == 0).then_some(Progress { consumed_offset: Some(7), lag_events: 12 })
        }

        async fn digests(&self) -> Result<Vec<Digest>, String> {
            match self.unready {
                None => Ok(vec![Digest {
                    partition: 0,
                    consumed_offset: Some(7),
                    digest: "beef".to_owned(),
                    events: 10,
                    counted: 3,
                    duplicate: 2,
                    quarantined: 1,
                    pending: 4,
                }]),
                Some(reason) => Err(reason.to_owned()),
            }
        }

        async fn quarantined(&self, _: usize) -> Result<Vec<QuarantinedEntry>, String> {
            let reason = "the batch does not decode".to_owned();
            Ok(vec![QuarantinedEntry { partition: 0, offset: 5, events: 3, bytes: 2, reason }])
        }

        async fn quarantined_payload(&self, partition: PartitionId, offset: u64) -> Result<Option<Bytes>, String> {
            Ok((partition.0 == 0 && offset == 5).then_some(Bytes::from_static(b"\x01\xff")))
        }

        async fn drain_node(&self, _: NodeId, drains: bool) -> Result<bool, String> {
            Ok(!drains)
        }

        async fn remove_node(&self, node: NodeId) -> Result<bool, String> {
            if node == NodeId(7) { Ok(true) } else { Err("no majority".to_owned()) }
        }

        async fn figures(&self) -> Figures {
            Figures { log_bytes: 4242, ..Figures::default() }
        }
    }

    fn router(unready: Option<&'static str>) -> Routes {
        assemble([room(Arc::new(Fake { unready }), Metrics::new())])
    }

    #[tokio::test]
    async fn the_cluster_has_the_fields_of_the_contract() {
        let seen = ask(&router(None), "/v1/cluster").await.json();
        let partition = |id: u16, leader: Option<u64>, consumed: Option<u64>, lag: Option<u64>| {
            json!({
                "id": id, "leader": leader, "replicas": [1], "voters": [1], "learners": [], "term": 4, "commit_offset": 9,
                "applied_offset": 9, "consumed_offset": consumed, "lag_events": lag, "log_bytes": 77
            })
        };
        assert_eq!(
            seen,
            json!({
                "cluster_id": "00000000000000000000000000000abc",
                "node_id": 1,
                "nodes": [{
                    "id": 1, "name": "one", "http_addr": "127.0.0.1:3600", "cluster_addr": "127.0.0.1:3601", "alive": true,
                    "standing": "active"
                }],
                "partitions": [partition(0, Some(1), Some(7), Some(12)), partition(1, None, None, None)],
                "settings": {"relative_accuracy": 0.01, "lateness_ms": 5, "partitions": 2, "replication_factor": 3},
                "disk_used_bytes": 8192
            })
        );
    }

    #[tokio::test]
    async fn nodes_are_let_go_only_when_that_is_right() {
        async fn order(method: &str, path: &str) -> crate::http::testing::Seen {
            send(&router(None), Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
        }
        assert_eq!(order("DELETE", "/v1/nodes/1").await.refusal(), (409, "holds_partitions".to_owned()));
        assert_eq!(order("DELETE", "/v1/nodes/1?force=true").await.refusal(), (503, "unavailable".to_owned()));
        assert_eq!(order("DELETE", "/v1/nodes/1?force=yes").await.refusal(), (400, "bad_parameter".to_owned()));
        assert_eq!(order("DELETE", "/v1/nodes/7").await.json(), json!({"id": 7, "standing": "left"}));
        assert_eq!(order("PUT", "/v1/nodes/7/drain").await.refusal(), (404, "unknown_node".to_owned()));
        assert_eq!(order("PUT", "/v1/nodes/1/drain").await.refusal(), (409, "last_node".to_owned()));
        assert_eq!(order("PUT", "/v1/nodes/first/drain").await.refusal(), (400, "bad_parameter".to_owned()));
        assert_eq!(order("DELETE", "/v1/nodes/1/drain").await.json(), json!({"id": 1, "standing": "active"}));
    }

    #[tokio::test]
    async fn a_node_lives_before_it_is_ready() {
        assert_eq!(ask(&router(None), "/readyz").await.json(), json!({"status": "ready"}));
        let unready = router(Some("partition 1 has no leader"));
        assert_eq!(ask(&unready, "/healthz").await.json(), json!({"status": "ok"}));
        let seen = ask(&unready, "/readyz").await;
        assert_eq!(seen.refusal(), (503, "not_ready".to_owned()));
        assert_eq!(seen.json()["detail"], "partition 1 has no leader");
        assert_eq!(seen.headers[header::RETRY_AFTER], "1");
    }

    #[tokio::test]
    async fn figures_are_taken_when_metrics_are_asked_for() {
        let seen = ask(&router(None), "/metrics").await;
        assert_eq!(seen.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
        assert!(String::from_utf8_lossy(&seen.body).contains("hourmark_log_bytes 4242\n"));
        let request = Request::get("/metrics").header(header::ACCEPT, "application/openmetrics-text; version=1.0.0");
        let seen = send(&router(None), request.body(Body::empty()).unwrap()).await;
        assert_eq!(seen.headers[header::CONTENT_TYPE], "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(seen.body.ends_with(b"# EOF\n"));
    }

    #[tokio::test]
    async fn replicas_show_their_digests_and_say_when_they_cannot() {
        let expected = json!({"node_id": 1, "partitions": [{
            "partition": 0, "consumed_offset": 7, "digest": "beef",
            "events": 10, "counted": 3, "duplicate": 2, "quarantined": 1, "pending": 4,
        }]});
        assert_eq!(ask(&router(None), "/v1/digest").await.json(), expected);
        let seen = ask(&router(Some("a secret path")), "/v1/digest").await;
        assert_eq!(seen.refusal(), (500, "internal".to_owned()));
        assert!(!String::from_utf8_lossy(&seen.body).contains("secret"));
    }

    #[tokio::test]
    async fn what_was_set_aside_stays_readable() {
        let router = router(None);
        let entry = &ask(&router, "/v1/quarantine").await.json()["entries"][0];
        assert_eq!((&entry["offset"], &entry["events"]), (&json!(5), &json!(3)));
        assert_eq!(&ask(&router, "/v1/quarantine/0/5").await.body[..], b"\x01\xff");
        assert_eq!(ask(&router, "/v1/quarantine/0/6").await.refusal(), (404, "not_found".to_owned()));
        for (path, name) in [("/v1/quarantine/x/5", "partition"), ("/v1/quarantine/0/-1", "offset")] {
            assert_eq!(ask(&router, path).await.json()["parameter"], name);
        }
    }

    #[tokio::test]
    async fn the_page_names_every_described_path() {
        let router = router(None);
        let page = ask(&router, "/").await;
        assert_eq!(page.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let page = String::from_utf8_lossy(&page.body).into_owned();
        for path in ask(&router, "/openapi.json").await.json()["paths"].as_object().unwrap().keys() {
            let path = path.split("/{").next().unwrap();
            assert!(page.contains(path), "{path} is not on the page");
        }
    }
}
