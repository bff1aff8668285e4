//! A producer with an identity: sends each request until it is answered, and sometimes once more.

use super::values::ndjson;
use super::{Actor, may_try_again, refused, told};
use crate::client::Answer;
use crate::coverage;
use crate::invariants::{Violation, repeated, reused};
use crate::oracle::Receipt;
use rand::RngExt;
use std::collections::VecDeque;

/// After one ack in so many, a request that was acked is sent again.
const REPEAT_ONE_IN: u32 = 12;

/// Acked requests that are remembered for that: far fewer than the product remembers.
const REPEATED_OF: usize = 64;

/// A request that was acked.
struct Acked {
    sequence: u64,
    events: u64,
    body: String,
}

/// Runs until the load ends and the last request is answered.
pub(super) async fn run(mut actor: Actor) {
    actor.shared.begun().await;
    let producer = format!("producer-{}", actor.number);
    let mut sequence = 0u64;
    let mut acked = VecDeque::new();
    while !actor.shared.has_ended.get() {
        sequence += 1;
        let events = actor.draw_events();
        let body = ndjson(&events);
        let holds = actor.shared.ledger.borrow().up_to(&events);
        actor.shared.ledger.borrow_mut().sent(&events);
        let count = events.len() as u64;
        let token = send_until_answered(&mut actor, None, &producer, sequence, count, &body).await;
        actor.shared.ledger.borrow_mut().acked(&events);
        actor.shared.ledger.borrow_mut().keep(Receipt { token, holds });
        acked.push_back(Acked { sequence, events: count, body });
        if acked.len() > REPEATED_OF {
            acked.pop_front();
        }
        if actor.random.random_range(0..REPEAT_ONE_IN) == 0 {
            send_again(&mut actor, &producer, &acked).await;
        }
        actor.pause().await;
    }
}

/// Sends a good request to one node, or to any, until it is acked; returns the receipt's token.
pub(super) async fn send_until_answered(
    actor: &mut Actor,
    host: Option<&str>,
    producer: &str,
    sequence: u64,
    count: u64,
    body: &str,
) -> String {
    let mut attempts = 0;
    let takeovers = actor.shared.takeovers.get();
    loop {
        let host = host.map_or_else(|| actor.any_host(), str::to_owned);
        let answer = actor.client.post(&host, Some((producer, sequence)), body.to_owned()).await;
        match answer {
            Ok(answer) if answer.status == 200 => {
                check_receipt(actor, &answer, count, attempts);
                told(&actor.client, "ack", || format!("{count} events"));
                if attempts > 0 && actor.shared.takeovers.get() > takeovers {
                    coverage::reached("retry_after_leader_change");
                }
                return answer.body["token"].as_str().unwrap_or_default().to_owned();
            }
            Ok(answer) if !may_try_again(answer.status) => {
                let detail = format!("a good request is answered {} {}", answer.status, answer.body);
                actor.shared.must(Err(Violation::new("receipts-stable", detail)));
                return String::new();
            }
            Ok(answer) => {
                refused(answer.status);
                told(&actor.client, "refused", || format!("{} by {host}", answer.status));
            }
            Err(error) => told(&actor.client, "unknown", || format!("{error} at {host}")),
        }
        attempts += 1;
        actor.shared.retried.update(|retried| retried + 1);
        actor.back_off().await;
    }
}

/// All events are in the receipt, and none is a duplicate unless the request was sent before.
fn check_receipt(actor: &Actor, answer: &Answer, count: u64, attempts: u64) {
    let number = |name: &str| answer.body[name].as_u64().unwrap_or(u64::MAX);
    let (accepted, duplicate) = (number("accepted"), number("duplicate"));
    if duplicate > 0 && attempts > 0 {
        coverage::reached("retry_was_duplicate");
    }
    let is_right = accepted.saturating_add(duplicate) == count && number("rejected") == 0;
    if !is_right || (attempts == 0 && duplicate > 0) {
        let detail = format!("a request of {count} events, attempt {attempts}, is answered {}", answer.body);
        actor.shared.must(Err(Violation::new("receipts-stable", detail)));
    }
}

/// Sends an acked request once more, the last one or an older one, or another body in its place: neither may count.
async fn send_again(actor: &mut Actor, producer: &str, acked: &VecDeque<Acked>) {
    let host = actor.any_host();
    let (is_last, is_same) = (actor.random.random_bool(0.5), actor.random.random_bool(0.7));
    let which = if is_last { acked.len() - 1 } else { actor.random.random_range(0..acked.len()) };
    let Acked { sequence, events: count, body } = &acked[which];
    let (sequence, count) = (*sequence, *count);
    let body = if is_same { body.clone() } else { body.replacen("\"app-", "\"not-app-", 1) };
    let Ok(answer) = actor.client.post(&host, Some((producer, sequence)), body).await else { return };
    match answer.status {
        status if may_try_again(status) => {}
        200 if is_same => actor.shared.must(repeated(count, &answer.body)),
        status if !is_same => actor.shared.must(reused(status, &answer.body)),
        status => {
            let detail = format!("a repeated request is answered {status} {}", answer.body);
            actor.shared.must(Err(Violation::new("receipts-stable", detail)));
        }
    }
}
