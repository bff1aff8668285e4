//! Letting nodes go: what they hold is moved to others first.

use super::{Admin, RETRY_AFTER};
use crate::admin::{NodeChange, Standing};
use crate::http::Problem;
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use cluster::NodeId;
use serde::Deserialize;

/// How a node is let go.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Removal {
    force: bool,
}

/// Has everything that a node holds moved to others.
///
/// It goes on serving meanwhile, and stays a member. `GET /v1/cluster` shows how far it is: the node has gone from every
/// partition's `voters` and `learners`.
#[utoipa::path(put, path = "/v1/nodes/{id}/drain", tag = "operation",
    params(("id" = u64, Path, description = "The node's number")),
    responses(
        (status = 200, description = "Decided: nothing is placed on it any more", body = NodeChange),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_node`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`last_node`: nobody else could hold anything", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: no majority", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn drain(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<NodeChange>, Problem> {
    set_draining(&admin, node(path)?, true).await
}

/// Lets a node take its share again.
#[utoipa::path(delete, path = "/v1/nodes/{id}/drain", tag = "operation",
    params(("id" = u64, Path, description = "The node's number")),
    responses(
        (status = 200, description = "Decided: it takes its share", body = NodeChange),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_node`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: no majority", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn undrain(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<NodeChange>, Problem> {
    set_draining(&admin, node(path)?, false).await
}

/// Lets a node go for good: it stops, and its data directory never enters the cluster again.
///
/// A node that holds anything is refused unless `force=true`: its replicas are then made anew from the others', so never
/// force away more nodes of a partition than a minority.
#[utoipa::path(delete, path = "/v1/nodes/{id}", tag = "operation",
    params(
        ("id" = u64, Path, description = "The node's number"),
        ("force" = Option<bool>, Query, description = "Also if it still holds something")
    ),
    responses(
        (status = 200, description = "Decided: it has left, or had left before", body = NodeChange),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_node`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`holds_partitions`: drain it first; `last_node`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: no majority", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn remove(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Removal>, QueryRejection>,
) -> Result<Json<NodeChange>, Problem> {
    let id = node(path)?;
    let Query(removal) = query.map_err(|error| Problem::bad_parameter("force", error.body_text()))?;
    let status = admin.source.status();
    let holds = |partition: &&cluster::PartitionStatus| {
        partition.leader.is_none() || partition.voters.contains(&id) || partition.learners.contains(&id)
    };
    let held = status.partitions.iter().filter(holds).count();
    let is_member = status.nodes.iter().any(|node| node.id == id);
    if is_member && held > 0 && !removal.force {
        let detail = format!(
            "node {id} holds, or may hold, {held} of {} partitions: drain it first (hourmark drain {id}), or force it away \
             if it is lost",
            status.partitions.len()
        );
        return Err(Problem::new(StatusCode::CONFLICT, "holds_partitions", detail));
    }
    match admin.source.remove_node(id).await {
        Ok(true) => Ok(Json(NodeChange { id: id.0, standing: Standing::Left })),
        Ok(false) if is_member => Err(last_node(id)),
        Ok(false) => Err(unknown_node(id)),
        Err(reason) => Err(Problem::unavailable(reason, RETRY_AFTER)),
    }
}

async fn set_draining(admin: &Admin, id: NodeId, drains: bool) -> Result<Json<NodeChange>, Problem> {
    if admin.source.status().nodes.iter().all(|node| node.id != id) {
        return Err(unknown_node(id));
    }
    let standing = if drains { Standing::Draining } else { Standing::Active };
    match admin.source.drain_node(id, drains).await {
        Ok(true) => Ok(Json(NodeChange { id: id.0, standing })),
        Ok(false) => Err(last_node(id)),
        Err(reason) => Err(Problem::unavailable(reason, RETRY_AFTER)),
    }
}

fn node(path: Result<Path<String>, PathRejection>) -> Result<NodeId, Problem> {
    let Path(text) = path.map_err(|error| Problem::bad_parameter("id", error.body_text()))?;
    let id = text.parse().map_err(|_| Problem::bad_parameter("id", format!("{text:?} is not a node's number")))?;
    Ok(NodeId(id))
}

fn unknown_node(id: NodeId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown_node", format!("the cluster has no node {id}"))
}

fn last_node(id: NodeId) -> Problem {
    let detail = format!("node {id} is the last one that takes partitions: let another one join first");
    Problem::new(StatusCode::CONFLICT, "last_node", detail)
}
