//! The judge: says when the cluster is whole and load may begin, writes through every node when the faults are over, and
//! checks everything when all is done.

use super::Actor;
use super::producer::send_until_answered;
use super::values::ndjson;
use crate::invariants::{
    Digests, Violation, conserved, counted_once, replicas_identical, serves_again, settled_bounds,
};
use crate::trace;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a cluster may take to become whole, in the beginning and after the last fault.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// How long clients may take to get their last requests answered after the last fault.
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);

/// Events to apps of which there are so many times as many as partitions reach all of these, or nearly so.
const APPS_A_PARTITION: u64 = 6;

/// How long replicas may take to agree once nothing is sent any more.
const AGREED_WITHIN: Duration = Duration::from_secs(60);

/// How long nodes may take to bring their logs below their bound then.
const PURGED_WITHIN: Duration = Duration::from_secs(60);

/// Runs from the beginning to the end.
pub(super) async fn run(mut actor: Actor) {
    let verdict = judge(&mut actor).await;
    actor.shared.must(verdict);
    actor.shared.has_begun.set(true);
    actor.shared.has_ended.set(true);
}

async fn judge(actor: &mut Actor) -> Result<(), Violation> {
    let shared = actor.shared.clone();
    serves_again(&actor.client, &shared.hosts(), WHOLE_WITHIN).await?;
    trace::line(format_args!("the cluster is whole"));
    shared.has_begun.set(true);
    let mut digests = Digests::new();
    while !shared.is_calm.get() {
        watch_replicas(actor, &mut digests).await?;
    }
    until(ANSWERED_WITHIN, "clients' last requests are not answered", || shared.running.get() == 0).await?;
    let hosts = shared.hosts();
    serves_again(&actor.client, &hosts, WHOLE_WITHIN).await?;
    for (number, host) in (1..).zip(&hosts) {
        takes_events(actor, host, number).await?;
    }
    let deadline = Instant::now() + AGREED_WITHIN;
    while !replicas_identical(&actor.client, &hosts, &mut digests).await? {
        if Instant::now() > deadline {
            return Err(Violation::new("replicas-identical", "replicas do not reach the same position"));
        }
        sleep(Duration::from_millis(500)).await;
    }
    for host in &hosts {
        until_bounds_are_kept(actor, host).await?;
    }
    // No client runs any more: what they know is final.
    let ledger = shared.ledger.take();
    shared.ledger.borrow_mut().acked_events = ledger.acked_events;
    for host in &hosts {
        let missing = counted_once(&actor.client, host, &ledger, shared.may_miss).await?;
        conserved(&actor.client, &hosts, host, missing).await?;
        trace::line(format_args!("{host} answers exactly what was acked"));
    }
    Ok(())
}

/// Sends events of many apps through a node, which must ack them: a cluster that only answers questions is not whole.
async fn takes_events(actor: &mut Actor, host: &str, sequence: u64) -> Result<(), Violation> {
    let apps = APPS_A_PARTITION * u64::from(actor.shared.plan.partitions);
    let now_ms = actor.shared.now_ms();
    let events: Vec<_> = (0..apps).map(|app| (format!("after-{app}"), now_ms, app * 1_000_000)).collect();
    actor.shared.ledger.borrow_mut().sent(&events);
    let body = ndjson(&events);
    let sent = send_until_answered(actor, Some(host), "judge", sequence, apps, &body);
    if tokio::time::timeout(ANSWERED_WITHIN, sent).await.is_err() {
        let detail = format!("{host} takes no events {} s after the last fault", ANSWERED_WITHIN.as_secs());
        return Err(Violation::new("serves-again", detail));
    }
    actor.shared.ledger.borrow_mut().acked(&events);
    Ok(())
}

/// Compares replicas now and then while the load runs.
async fn watch_replicas(actor: &Actor, digests: &mut Digests) -> Result<(), Violation> {
    for _ in 0..100 {
        if actor.shared.is_calm.get() {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    replicas_identical(&actor.client, &actor.shared.hosts(), digests).await.map(drop)
}

async fn until_bounds_are_kept(actor: &Actor, host: &str) -> Result<(), Violation> {
    let deadline = Instant::now() + PURGED_WITHIN;
    let bytes_max = actor.shared.plan.world.log_bytes_max();
    loop {
        let metrics = actor.client.settled(host, "/metrics").await;
        let metrics = metrics.map_err(|error| Violation::new("serves-again", error))?;
        let checked = settled_bounds(host, metrics.as_str().unwrap_or_default(), bytes_max);
        if checked.is_ok() || Instant::now() > deadline {
            return checked;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn until(within: Duration, otherwise: &str, is_so: impl Fn() -> bool) -> Result<(), Violation> {
    let deadline = Instant::now() + within;
    while !is_so() {
        if Instant::now() > deadline {
            return Err(Violation::new(
                "serves-again",
                format!("{otherwise} {} s after the last fault", within.as_secs()),
            ));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
