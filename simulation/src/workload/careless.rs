//! A client without identity: sends each request once, some with lines that are no events among the good ones. What is not
//! answered stays unknown.

use super::values::ndjson;
use super::{Actor, may_try_again, refused, told};
use crate::coverage;
use crate::invariants::Violation;
use crate::oracle::{Key, Outcome, hour_of};
use rand::RngExt;

/// One request in so many says that it is of a type that no node reads.
const WRONG_TYPE_ONE_IN: u32 = 20;

/// Lines that are refused wherever they stand.
const BAD_LINES: [&str; 3] = [
    "{\"app_id\":\"\",\"timestamp\":0,\"response_time_ms\":1}\n",
    "{\"app_id\":\"once\",\"timestamp\":0,\"response_time_ms\":-1}\n",
    "no event\n",
];

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

/// Good events that say they are something else: no node may read them.
async fn send_as_another_type(actor: &Actor, host: &str, body: String) {
    let answer = actor.client.send(host, "POST", "/v1/events", &[("content-type", "text/csv")], body).await;
    if let Ok(answer) = answer
        && answer.status != 415
        && !may_try_again(answer.status)
    {
        let detail = format!("text/csv is answered {} {}", answer.status, answer.body);
        actor.shared.must(Err(Violation::new("receipts-stable", detail)));
    }
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
    let bad = if actor.random.random_bool(0.25) { actor.random.random_range(1..=3) } else { 0 };
    let mut body: String = (0..bad).map(|_| BAD_LINES[actor.random.random_range(0..BAD_LINES.len())]).collect();
    let good = ndjson(&vec![(key.0.clone(), time, value); events as usize]);
    body.insert_str(if actor.random.random_bool(0.5) { 0 } else { body.len() }, &good);
    let host = actor.any_host();
    if actor.random.random_range(0..WRONG_TYPE_ONE_IN) == 0 {
        // Whatever becomes of it: a request of a type that no node reads counts nothing.
        learn(actor, number, Outcome::Refused);
        return send_as_another_type(actor, &host, good).await;
    }
    match actor.client.post(&host, None, body).await {
        Ok(answer) if answer.status == 200 => {
            let receipt = ["accepted", "duplicate", "rejected"].map(|name| answer.body[name].as_u64());
            if receipt != [Some(events), Some(0), Some(bad)] {
                let detail = format!("{events} events and {bad} bad lines are answered {}", answer.body);
                actor.shared.must(Err(Violation::new("receipts-stable", detail)));
            }
            learn(actor, number, Outcome::Acked);
            actor.shared.ledger.borrow_mut().acked_events += events;
            told(&actor.client, "ack", || format!("{events} events"));
        }
        Ok(answer) if !may_try_again(answer.status) => {
            let detail = format!("a good request is answered {} {}", answer.status, answer.body);
            actor.shared.must(Err(Violation::new("receipts-stable", detail)));
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
