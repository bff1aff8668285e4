//! The operator: has nodes drained, lets them go, and forces lost ones away, through the public HTTP API.

use super::Actor;
use crate::coverage;
use crate::invariants::Violation;
use crate::node_name;
use serde_json::Value;
use std::time::Duration;
use tokio::time::sleep;

/// What an operator is to do. Nodes by the numbers that the plan gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Have everything that a node holds moved to others.
    Drain(u64),
    /// Let it take its share again.
    Undrain(u64),
    /// Drain it and let it go for good.
    Remove(u64),
    /// It is lost: force it away.
    ForceAway(u64),
}

/// How often is looked how far a node is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs until all orders are carried out and none can come any more.
pub(super) async fn run(mut actor: Actor) {
    actor.shared.begun().await;
    loop {
        let order = actor.shared.orders.borrow_mut().pop_front();
        match order {
            Some(order) => carry_out(&mut actor, order).await,
            None if actor.shared.is_calm.get() => return,
            None => sleep(LOOK_EVERY).await,
        }
    }
}

async fn carry_out(actor: &mut Actor, order: Order) {
    match order {
        Order::Drain(number) => {
            let Some(id) = id_of(actor, number).await else { return };
            told(actor, "PUT", &format!("/v1/nodes/{id}/drain")).await;
            coverage::reached("node_drained");
        }
        Order::Undrain(number) => {
            let Some(id) = id_of(actor, number).await else { return };
            told(actor, "DELETE", &format!("/v1/nodes/{id}/drain")).await;
        }
        Order::Remove(number) => {
            let Some(id) = id_of(actor, number).await else { return };
            told(actor, "PUT", &format!("/v1/nodes/{id}/drain")).await;
            // From here on it may stop at any time: the order may have got through without an answer.
            actor.shared.leaving.borrow_mut().insert(number);
            while told(actor, "DELETE", &format!("/v1/nodes/{id}")).await != 200 {
                sleep(LOOK_EVERY).await;
            }
            coverage::reached("node_removed");
            actor.shared.lost.borrow_mut().push(number);
        }
        Order::ForceAway(number) => {
            let Some(id) = id_of(actor, number).await else { return };
            told(actor, "DELETE", &format!("/v1/nodes/{id}?force=true")).await;
            coverage::reached("node_forced_away");
        }
    }
}

/// The cluster's number of a node; `None` if it is no member.
async fn id_of(actor: &mut Actor, number: u64) -> Option<u64> {
    loop {
        let host = actor.any_host();
        if let Ok(answer) = actor.client.get(&host, "/v1/cluster").await
            && answer.status == 200
        {
            let nodes = answer.body["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            return nodes.iter().find(|node| node["name"] == node_name(number)).and_then(|node| node["id"].as_u64());
        }
        actor.back_off().await;
    }
}

/// Gives an order until a node has decided it or refuses it for good; returns the status.
async fn told(actor: &mut Actor, method: &str, path: &str) -> u16 {
    loop {
        let host = actor.any_host();
        match actor.client.send(&host, method, path, &[], String::new()).await {
            Ok(answer) if matches!(answer.status, 200 | 404 | 409) => {
                super::told(&actor.client, "order", || {
                    format!("{method} {path} {} {}", answer.status, code(&answer.body))
                });
                return answer.status;
            }
            Ok(answer) if !super::may_try_again(answer.status) => {
                let detail = format!("{method} {path} is answered {} {}", answer.status, answer.body);
                actor.shared.must(Err(Violation::new("serves-again", detail)));
                actor.back_off().await;
            }
            _ => actor.back_off().await,
        }
    }
}

fn code(body: &Value) -> &str {
    body["code"].as_str().unwrap_or_default()
}
