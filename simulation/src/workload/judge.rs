//! The judge: says when the cluster is whole and load may begin, and checks everything when all is over.

use super::Actor;
use crate::invariants::{Violation, conserved, counted_once, log_bounded, replicas_identical, serves_again};
use crate::trace;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a cluster may take to become whole, in the beginning and after the last fault.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// How long clients may take to get their last requests answered after the last fault.
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);

/// How long replicas may take to agree once nothing is sent any more.
const AGREED_WITHIN: Duration = Duration::from_secs(60);

/// How long nodes may take to bring their logs below their bound then.
const PURGED_WITHIN: Duration = Duration::from_secs(60);

/// Runs from the beginning to the end.
pub(super) async fn run(actor: Actor) {
    let verdict = judge(&actor).await;
    actor.shared.must(verdict);
    actor.shared.has_begun.set(true);
    actor.shared.has_ended.set(true);
}

async fn judge(actor: &Actor) -> Result<(), Violation> {
    let shared = &actor.shared;
    serves_again(&actor.client, &shared.hosts(), WHOLE_WITHIN).await?;
    trace::line(format_args!("the cluster is whole"));
    shared.has_begun.set(true);
    while !shared.is_calm.get() {
        watch_replicas(actor).await?;
    }
    until(ANSWERED_WITHIN, "clients' last requests are not answered", || shared.running.get() == 0).await?;
    let hosts = shared.hosts();
    serves_again(&actor.client, &hosts, WHOLE_WITHIN).await?;
    let deadline = Instant::now() + AGREED_WITHIN;
    while !replicas_identical(&actor.client, &hosts).await? {
        if Instant::now() > deadline {
            return Err(Violation::new("replicas-identical", "replicas do not reach the same position"));
        }
        sleep(Duration::from_millis(500)).await;
    }
    for host in &hosts {
        until_log_is_bounded(actor, host).await?;
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

/// Compares replicas now and then while the load runs.
async fn watch_replicas(actor: &Actor) -> Result<(), Violation> {
    for _ in 0..100 {
        if actor.shared.is_calm.get() {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    replicas_identical(&actor.client, &actor.shared.hosts()).await.map(drop)
}

async fn until_log_is_bounded(actor: &Actor, host: &str) -> Result<(), Violation> {
    let deadline = Instant::now() + PURGED_WITHIN;
    let bytes_max = actor.shared.plan.world.log_bytes_max();
    loop {
        let metrics = actor.client.settled(host, "/metrics").await;
        let metrics = metrics.map_err(|error| Violation::new("serves-again", error))?;
        let checked = log_bounded(host, metrics.as_str().unwrap_or_default(), bytes_max);
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
