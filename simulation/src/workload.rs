//! Clients of the simulated cluster: producers that send until they are answered, and one that gives up.

use crate::http;
use crate::oracle::{Events, Oracle};
use crate::trace;
use crate::{EPOCH_S, node_name};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// What the clients of one run share. The simulated world has one thread.
#[derive(Default)]
pub struct Shared {
    /// What they know.
    pub oracle: RefCell<Oracle>,
    /// Set when the cluster is whole and load may begin.
    pub has_begun: Cell<bool>,
    /// Set when producers are to send no new requests.
    pub has_ended: Cell<bool>,
    /// Producers that still have a request to get answered.
    pub running: Cell<usize>,
    /// Requests whose first answer was not the final one.
    pub retried: Cell<u64>,
    /// Events that were acked in the whole run.
    pub acked_events: Cell<u64>,
}

/// Apps that the producers share.
const APPS: u32 = 12;

/// Events of one request at most.
const EVENTS_MAX: usize = 40;

/// Sends requests under one identity, each again and again until it is answered. Several producers run side by side.
pub async fn producer(shared: Rc<Shared>, number: u64, nodes: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    begun(&shared).await;
    let mut sequence = 0u64;
    while !shared.has_ended.get() {
        sequence += 1;
        let events = draw_events(&mut rng, None);
        let body = ndjson(&events);
        loop {
            let host = node_name(rng.random_range(1..=nodes));
            let headers = [
                ("content-type", "application/x-ndjson".to_owned()),
                ("hourmark-producer", format!("producer-{number}")),
                ("hourmark-sequence", sequence.to_string()),
            ];
            match http::send(&host, "POST", "/v1/events", &headers, body.clone()).await {
                Ok(answer) if answer.status == 200 => break,
                Ok(answer) if [400, 409, 413, 415].contains(&answer.status) => {
                    panic!("a good request was refused: {} {}", answer.status, answer.body)
                }
                _ => shared.retried.set(shared.retried.get() + 1),
            }
            pause(&mut rng, 20, 300).await;
        }
        shared.oracle.borrow_mut().acked(&events);
        pause(&mut rng, 1, 120).await;
    }
    shared.running.set(shared.running.get() - 1);
}

/// Sends each request once, without identity: what is not answered is unknown for ever.
pub async fn careless(shared: Rc<Shared>, nodes: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xCA4E_1E55);
    begun(&shared).await;
    let mut number = 0u64;
    while !shared.has_ended.get() {
        number += 1;
        let events = draw_events(&mut rng, Some(&format!("once-{number}")));
        let host = node_name(rng.random_range(1..=nodes));
        let headers = [("content-type", "application/x-ndjson".to_owned())];
        let answer = http::send(&host, "POST", "/v1/events", &headers, ndjson(&events)).await;
        match answer {
            Ok(answer) if answer.status == 200 => shared.oracle.borrow_mut().acked(&events),
            _ => shared.oracle.borrow_mut().unknown(&events),
        }
        pause(&mut rng, 50, 400).await;
    }
    shared.running.set(shared.running.get() - 1);
}

async fn begun(shared: &Shared) {
    while !shared.has_begun.get() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn pause(rng: &mut StdRng, least_ms: u64, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(least_ms..=most_ms))).await;
}

/// Events of the last three hours, of apps that all producers share or of the one given.
fn draw_events(rng: &mut StdRng, app: Option<&str>) -> Events {
    let count = rng.random_range(1..=EVENTS_MAX);
    (0..count)
        .map(|_| {
            let app = app.map_or_else(|| format!("app-{}", rng.random_range(0..APPS)), str::to_owned);
            let time = EPOCH_S * 1000 - rng.random_range(0..3 * 3_600_000u64);
            (app, time, rng.random_range(0..5_000_000_000u64))
        })
        .collect()
}

fn ndjson(events: &Events) -> String {
    let mut body = String::with_capacity(events.len() * 80);
    for (app, time, ns) in events {
        let (whole, fraction) = (ns / 1_000_000, ns % 1_000_000);
        body += &format!("{{\"app_id\":\"{app}\",\"timestamp\":{time},\"response_time_ms\":{whole}.{fraction:06}}}\n");
    }
    body
}

/// Waits until `count` nodes form a whole cluster: all alive, each partition led and replicated on all of them.
pub async fn whole_cluster(count: u64) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..600 {
        match http::get(&node_name(1), "/v1/cluster").await {
            Ok(answer) if answer.status == 200 && is_whole(&answer.body, count) => {
                trace::line(format_args!("the cluster is whole"));
                return Ok(());
            }
            Ok(answer) => last = answer.body.to_string(),
            Err(error) => last = error,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("the cluster did not become whole: {last}"))
}

fn is_whole(cluster: &serde_json::Value, count: u64) -> bool {
    let nodes = cluster["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let partitions = cluster["partitions"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.len() as u64 == count
        && nodes.iter().all(|node| node["alive"] == true)
        && !partitions.is_empty()
        && partitions.iter().all(|partition| {
            !partition["leader"].is_null()
                && partition["replicas"].as_array().is_some_and(|replicas| replicas.len() as u64 == count)
        })
}
