//! What must hold when the faults are over, one function each. Sources: `docs/guarantees.md`.

use crate::http;
use crate::oracle::{Key, Oracle};
use crate::{node_name, trace};
use std::time::Duration;

/// How long the cluster may take to serve again and to agree once the faults are over.
const CONVERGED_WITHIN: Duration = Duration::from_secs(60);

/// Every acked event is counted exactly once, with exact sums and extremes and quantiles within their bound; an unknown
/// request is counted once or not at all. Asked of every node.
pub async fn exactly_once(oracle: &Oracle, nodes: u64) -> Result<(), String> {
    for node in 1..=nodes {
        let host = node_name(node);
        for (key, truth) in oracle.acked_truths() {
            let answer = hour(&host, key).await?.ok_or_else(|| format!("{host} lost {key:?}"))?;
            truth.check(&answer).map_err(|difference| format!("{host}, {key:?}: {difference}"))?;
        }
        for (key, truth) in oracle.unknown_truths() {
            if let Some(answer) = hour(&host, key).await? {
                truth.check(&answer).map_err(|difference| format!("{host}, unknown {key:?}: {difference}"))?;
            }
        }
        trace::line(format_args!("{host} answers exactly what was acked"));
    }
    Ok(())
}

/// All replicas reach the same state: equal digests of every partition at equal positions.
pub async fn replicas_agree(nodes: u64) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + CONVERGED_WITHIN;
    loop {
        let mut digests = Vec::new();
        for node in 1..=nodes {
            if let Ok(answer) = http::get(&node_name(node), "/v1/digest").await
                && answer.status == 200
            {
                digests.push(answer.body["partitions"].clone());
            }
        }
        if digests.len() as u64 == nodes && digests.iter().all(|digest| *digest == digests[0]) {
            trace::line(format_args!("all replicas have the digest {}", digests[0]));
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(format!("replicas do not agree: {digests:?}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One hour of an app, `None` if there is nothing. Retried while the cluster has no leader for it.
async fn hour(host: &str, (app, hour): &Key) -> Result<Option<serde_json::Value>, String> {
    let path = format!("/v1/apps/{app}/hours/{}?q=0.5,0.9,0.99", hour_text(*hour));
    let deadline = tokio::time::Instant::now() + CONVERGED_WITHIN;
    loop {
        let last = match http::get(host, &path).await {
            Ok(answer) if answer.status == 200 => return Ok(Some(answer.body)),
            Ok(answer) if answer.status == 404 => return Ok(None),
            Ok(answer) => answer.body.to_string(),
            Err(error) => error,
        };
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{host} does not answer {path}: {last}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `2026-11-22T20` of the hours since the epoch; simulated time stays in one month.
fn hour_text(hour: u64) -> String {
    let since_month = hour - crate::MONTH_START_HOUR;
    format!("2026-11-{:02}T{:02}", since_month / 24 + 1, since_month % 24)
}
