//! A client without identity: sends each request once. What is not answered stays unknown.

use super::values::ndjson;
use super::{Actor, refused, told};
use crate::coverage;
use crate::invariants::Violation;
use crate::oracle::{Key, Outcome, hour_of};
use rand::RngExt;

/// Runs until the load ends.
pub(super) async fn run(mut actor: Actor) {
    actor.shared.begun().await;
    let mut group = 0u64;
    let mut key = next_app(&actor, group);
    while !actor.shared.has_ended.get() {
        if !has_room(&actor, &key) {
            group += 1;
            key = next_app(&actor, group);
        }
        send(&mut actor, &key).await;
        actor.pause().await;
    }
}

/// All requests to one app fall into one hour: that of the first.
fn next_app(actor: &Actor, group: u64) -> Key {
    let key = (format!("once-{}-{group}", actor.number), hour_of(actor.shared.now_ms()));
    actor.shared.ledger.borrow_mut().markers.entry(key.clone()).or_default();
    key
}

fn has_room(actor: &Actor, key: &Key) -> bool {
    actor.shared.ledger.borrow().markers[key].has_room()
}

async fn send(actor: &mut Actor, key: &Key) {
    let events = actor.random.random_range(1..=3u64);
    let learn = |actor: &Actor, number, outcome| {
        let mut ledger = actor.shared.ledger.borrow_mut();
        ledger.markers.get_mut(key).expect("it was made before the first request").learn(number, outcome);
    };
    let (number, value) =
        actor.shared.ledger.borrow_mut().markers.get_mut(key).expect("it was made before").send(events);
    let now_ms = actor.shared.now_ms();
    let time = if hour_of(now_ms) == key.1 { now_ms } else { key.1 * 3_600_000 + 3_599_999 };
    let body = ndjson(&vec![(key.0.clone(), time, value); events as usize]);
    let host = actor.any_host();
    match actor.client.post(&host, None, body).await {
        Ok(answer) if answer.status == 200 => {
            learn(actor, number, Outcome::Acked);
            actor.shared.ledger.borrow_mut().acked_events += events;
            told(&actor.client, "ack", || format!("{events} events"));
        }
        Ok(answer) if answer.status == 400 => {
            learn(actor, number, Outcome::Refused);
            let detail = format!("a good request is refused: {}", answer.body);
            actor.shared.must(Err(Violation::new("counted-once", detail)));
        }
        Ok(answer) => {
            refused(answer.status);
            coverage::reached("outcome_unknown");
            told(&actor.client, "unknown", || format!("{} by {host}", answer.status));
        }
        Err(error) => {
            coverage::reached("outcome_unknown");
            told(&actor.client, "unknown", || format!("{error} at {host}"));
        }
    }
}
