//! A client that sends garbage, hangs up half-way, and asks for nonsense. Nothing of it may count, and nobody else may
//! notice.

use super::{Actor, may_try_again};
use crate::coverage;
use crate::invariants::Violation;
use rand::RngExt;

/// Bodies of which no line is an event, and bodies that are not even text.
const GARBAGE: [&str; 6] = [
    "{\"app_id\":\"rude\",\"timestamp\":\"yesterday\",\"response_time_ms\":1}\n",
    "{\"app_id\":\"rude\",\"timestamp\":0,\"response_time_ms\":-1}\n",
    "{\"app_id\":\"rude\",\"timestamp\":0,\"response_time_ms\":1e400}\n",
    "{\"app_id\":\"rude\"",
    "[1,2,3]\n{}\n\"x\"\n",
    "\u{0}\u{1}\u{2}",
];

/// Questions that no node can answer.
const NONSENSE: [&str; 4] =
    ["/v1/apps/x/hours/never", "/v1/apps/x/hours/2026-11-22T20?q=2", "/v1/apps/%ff/hours?from=1", "/v1/quarantine/x/y"];

/// Runs until the load ends.
pub(super) async fn run(mut actor: Actor) {
    actor.shared.begun().await;
    while !actor.shared.has_ended.get() {
        let host = actor.any_host();
        match actor.random.random_range(0..4) {
            0 => hang_up(&mut actor, &host).await,
            1 => {
                let path = NONSENSE[actor.random.random_range(0..NONSENSE.len())];
                let answer = actor.client.get(&host, path).await;
                must_be_refused(&actor, answer.map(|answer| answer.status), path);
            }
            _ => {
                let body = GARBAGE[actor.random.random_range(0..GARBAGE.len())];
                let answer = actor.client.post(&host, None, body.to_owned()).await;
                must_be_refused(&actor, answer.map(|answer| answer.status), body);
            }
        }
        actor.pause().await;
    }
}

/// A request that is cut off before its end, or is none.
async fn hang_up(actor: &mut Actor, host: &str) {
    let now_ms = actor.shared.now_ms();
    let line = format!("{{\"app_id\":\"rude\",\"timestamp\":{now_ms},\"response_time_ms\":1}}\n");
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n";
    let bytes = match actor.random.random_range(0..4) {
        0 => format!("{head}content-length: 1000000\r\n\r\n{line}"),
        1 => format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{line}", line.len()),
        2 => format!("{head}content-le"),
        _ => "\u{16}\u{3}\u{1}".to_owned(),
    };
    actor.client.hang_up_after(host, bytes.as_bytes()).await;
}

fn must_be_refused(actor: &Actor, status: Result<u16, String>, what: &str) {
    match status {
        Ok(200) => {
            let detail = format!("{what:?} was accepted");
            actor.shared.must(Err(Violation::new("nothing-unsent", detail)));
        }
        Ok(status) if (400..500).contains(&status) => coverage::reached("garbage_refused"),
        Ok(status) if !may_try_again(status) => {
            let detail = format!("{what:?} is answered {status}");
            actor.shared.must(Err(Violation::new("receipts-stable", detail)));
        }
        _ => {}
    }
}
