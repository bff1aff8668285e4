//! A reader: asks any node at each level of consistency, and holds the answer against what is known.

use super::{Actor, told};
use crate::answer::{Hour, hour_text};
use crate::client::NoHour;
use crate::coverage;
use crate::invariants::{Floor, Violation, bounded, fresh_local, fresh_marked, fresh_shared};
use crate::oracle::{Key, Markers, Tally};
use futures::future::join_all;
use rand::RngExt;
use rand::seq::IteratorRandom;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Runs until all is over.
pub(super) async fn run(mut actor: Actor) {
    actor.shared.begun().await;
    while !actor.shared.has_ended.get() {
        match actor.random.random_range(0..13) {
            0..=4 => linearizable(&mut actor).await,
            5 | 6 => marked(&mut actor).await,
            7 | 8 => local(&mut actor).await,
            9 | 10 => own_write(&mut actor).await,
            11 => summary(&mut actor).await,
            _ => figures(&mut actor).await,
        }
        actor.pause().await;
    }
}

/// How often an hour is asked for many times at once, as by many who look at the same chart.
const CROWDED: f64 = 0.1;

/// How many such questions there are, and within how many ms they come: while others are read.
const CROWD: RangeInclusive<u64> = 3..=8;
const CROWD_MS: u64 = 20;

async fn linearizable(actor: &mut Actor) {
    let Some(key) = any_key(actor, |ledger| ledger.shared.keys().cloned().collect()) else { return };
    let host = actor.any_host();
    let crowd = if actor.random.random_bool(CROWDED) { actor.random.random_range(CROWD) } else { 0 };
    let waits: Vec<u64> = (0..crowd).map(|_| actor.random.random_range(0..CROWD_MS)).collect();
    let actor = &*actor;
    let others = waits.into_iter().map(async |wait| {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        linearizable_now(actor, &host, &key).await;
    });
    tokio::join!(linearizable_now(actor, &host, &key), join_all(others));
}

async fn linearizable_now(actor: &Actor, host: &str, key: &Key) {
    let may_miss = actor.shared.may_miss;
    let floor = match may_miss {
        true => Floor::none(),
        false => Floor::of(actor.shared.ledger.borrow().shared.get(key)),
    };
    if let Some(answer) = ask(actor, host, key, "").await {
        if answer.as_ref().is_some_and(|answer| answer.late > 0) {
            coverage::reached("late_event");
        }
        let place = format!("{host}, {} {}", key.0, hour_text(key.1));
        told(&actor.client, "read", || place.clone());
        let mut ledger = actor.shared.ledger.borrow_mut();
        let account = ledger.shared.get_mut(key).expect("keys stay");
        let checked = fresh_shared(&place, answer.as_ref(), &floor, account);
        drop(ledger);
        actor.shared.must(checked);
    }
}

/// Asks for all hours of an app together.
async fn summary(actor: &mut Actor) {
    let Some((app, _)) = any_key(actor, |ledger| ledger.shared.keys().cloned().collect()) else { return };
    let host = actor.any_host();
    let acked = match actor.shared.may_miss {
        true => Tally::default(),
        false => actor.shared.ledger.borrow().whole(&app).acked,
    };
    let place = format!("{host}, {app}, all hours");
    let answer = actor.client.summary(&host, &app).await;
    if let Some(answer) = answered(actor, &place, answer) {
        let checked = fresh_local(&place, answer.as_ref(), &acked, &actor.shared.ledger.borrow().whole(&app));
        actor.shared.must(checked);
    }
}

/// An hour (`Some(None)`: it has no events), or nothing if there is no answer now.
async fn ask(actor: &Actor, host: &str, key: &Key, more: &str) -> Option<Option<Hour>> {
    let answer = actor.client.hour(host, &key.0, key.1, more).await;
    answered(actor, &format!("{host}, {} {}{more}", key.0, hour_text(key.1)), answer)
}

/// An answer, if there is one now. One that no node should give is a violation.
fn answered(actor: &Actor, place: &str, answer: Result<Option<Hour>, NoHour>) -> Option<Option<Hour>> {
    match answer {
        Ok(answer) => return Some(answer),
        Err(NoHour::Unanswered) => {}
        Err(NoHour::Unavailable) => coverage::reached("read_unavailable"),
        Err(NoHour::Strange(what)) => {
            actor.shared.must(Err(Violation::new("fresh-reads", format!("{place}: {what}"))));
        }
    }
    None
}

async fn marked(actor: &mut Actor) {
    let Some(key) = any_key(actor, |ledger| ledger.markers.keys().cloned().collect()) else { return };
    let host = actor.any_host();
    let before = match actor.shared.may_miss {
        true => Markers::default(),
        false => actor.shared.ledger.borrow().markers[&key].known(),
    };
    if let Some(answer) = ask(actor, &host, &key, "").await {
        let now = actor.shared.ledger.borrow().markers[&key].known();
        let place = format!("{host}, {} {}", key.0, hour_text(key.1));
        actor.shared.must(fresh_marked(&place, answer.as_ref(), &before, &now));
    }
}

async fn local(actor: &mut Actor) {
    let Some(key) = any_key(actor, |ledger| ledger.shared.keys().cloned().collect()) else { return };
    let host = actor.any_host();
    let acked = actor.shared.ledger.borrow().shared[&key].acked.count;
    if let Some(answer) = ask(actor, &host, &key, "&consistency=local").await {
        if answer.as_ref().map_or(0, |answer| answer.count) < acked {
            coverage::reached("local_read_behind");
        }
        let place = format!("{host} locally, {} {}", key.0, hour_text(key.1));
        let ledger = actor.shared.ledger.borrow();
        let checked = fresh_local(&place, answer.as_ref(), &Tally::default(), &ledger.shared[&key]);
        drop(ledger);
        actor.shared.must(checked);
    }
}

/// Asks any node for what a producer was just told counts, with the token of that ack.
async fn own_write(actor: &mut Actor) {
    let receipt = actor.shared.ledger.borrow().receipts.iter().choose(&mut actor.random).cloned();
    let Some(receipt) = receipt.filter(|receipt| !receipt.token.is_empty()) else { return };
    let (key, own) = receipt.holds.iter().choose(&mut actor.random).expect("a request has events");
    let own = if actor.shared.may_miss { Tally::default() } else { *own };
    let (host, is_local) = (actor.any_host(), actor.random.random_bool(0.7));
    let level = if is_local { "local" } else { "linearizable" };
    let more = format!("&consistency={level}&after={}", receipt.token);
    let has_floor = !is_local && !actor.shared.may_miss;
    let floor = if has_floor { Floor::of(actor.shared.ledger.borrow().shared.get(key)) } else { Floor::none() };
    if let Some(answer) = ask(actor, &host, key, &more).await {
        coverage::reached("own_write_read");
        let place = format!("{host} after {}, {} {}", receipt.token, key.0, hour_text(key.1));
        let mut ledger = actor.shared.ledger.borrow_mut();
        let account = ledger.shared.get_mut(key).expect("keys stay");
        let mut checked = fresh_local(&place, answer.as_ref(), &own, account);
        if !is_local {
            checked = checked.and_then(|()| fresh_shared(&place, answer.as_ref(), &floor, account));
        }
        drop(ledger);
        actor.shared.must(checked);
    }
}

async fn figures(actor: &mut Actor) {
    let host = actor.any_host();
    if let Ok(answer) = actor.client.get(&host, "/metrics").await
        && answer.status == 200
    {
        actor.shared.must(bounded(&host, answer.body.as_str().unwrap_or_default()));
    }
}

fn any_key(actor: &mut Actor, keys: impl FnOnce(&crate::oracle::Ledger) -> Vec<Key>) -> Option<Key> {
    let keys = keys(&actor.shared.ledger.borrow());
    keys.into_iter().choose(&mut actor.random)
}
