//! In the end every acked event is counted exactly once, an unknown one once or not at all, and nothing else is there.
//!
//! Source: docs/guarantees.md, "An ack" and "Exactly once". Asked of every node.

use super::Violation;
use super::exact::exact;
use super::fresh_reads::fresh_marked;
use super::quantiles::quantiles_bounded;
use crate::client::Client;
use crate::oracle::{Key, Ledger, Markers};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Holds everything that a node answers against the ledger. Returns how many acked events are missing, which is 0 unless
/// `may_miss`: in runs in which entries are set aside.
pub async fn counted_once(client: &Client, host: &str, ledger: &Ledger, may_miss: bool) -> Result<u64, Violation> {
    let mut found = BTreeMap::new();
    for app in apps(client, host).await? {
        if !ledger.apps().contains(app.as_str()) {
            return Err(Violation::new("nothing-unsent", format!("{host} has events of {app}, which nobody sent")));
        }
        for hour in client.settled_hours(host, &app).await.map_err(unanswered)? {
            found.insert((app.clone(), hour.hour), hour);
        }
    }
    let mut missing = 0;
    for (key, account) in &ledger.shared {
        let place = place(host, key);
        let answer = found.remove(key);
        let count = answer.as_ref().map_or(0, |answer| answer.count);
        if may_miss && count < account.acked.count {
            missing += account.acked.count - count;
            continue;
        }
        match answer {
            None if account.acked.count == 0 => {}
            None => {
                let detail = format!("{place}: {} acked events are lost", account.acked.count);
                return Err(Violation::new("counted-once", detail));
            }
            Some(answer) => {
                if answer.count != account.acked.count {
                    let detail = format!("{place}: count is {}, acked were {}", answer.count, account.acked.count);
                    return Err(Violation::new("counted-once", detail));
                }
                exact(&place, &answer, &account.acked)?;
                let mut sorted = account.values.clone();
                sorted.sort_unstable();
                quantiles_bounded(&place, &answer, &sorted)?;
            }
        }
    }
    if !may_miss {
        ranges_merge(client, host, ledger).await?;
    }
    for (key, markers) in &ledger.markers {
        let answer = found.remove(key);
        let before = if may_miss { &Markers::default() } else { markers };
        fresh_marked(&place(host, key), answer.as_ref(), before, markers)?;
    }
    match found.first_key_value() {
        Some((key, _)) => Err(Violation::new("nothing-unsent", format!("{} was never sent", place(host, key)))),
        None => Ok(missing),
    }
}

/// All hours of an app together, as a node merges them, hold what the hours hold.
async fn ranges_merge(client: &Client, host: &str, ledger: &Ledger) -> Result<(), Violation> {
    let apps: BTreeSet<&str> = ledger.shared.keys().map(|(app, _)| app.as_str()).collect();
    for app in apps {
        let mut whole = ledger.whole(app);
        if whole.values.is_empty() {
            continue;
        }
        let place = format!("{host}, {app}, all hours");
        let answer = client.settled_summary(host, app).await.map_err(unanswered)?;
        exact(&place, &answer.whole, &whole.acked)?;
        let hours = ledger.hours_acked(app);
        if answer.hours != hours {
            let detail = format!("{place}: {} hours have events, must be {hours}", answer.hours);
            return Err(Violation::new("exact-numbers", detail));
        }
        whole.values.sort_unstable();
        quantiles_bounded(&place, &answer.whole, &whole.values)?;
    }
    Ok(())
}

/// All apps that a node knows.
async fn apps(client: &Client, host: &str) -> Result<Vec<String>, Violation> {
    let (mut apps, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/apps?limit=500{cursor}");
        let answer = client.settled(host, &path).await.map_err(unanswered)?;
        let page = answer["apps"].as_array().map(Vec::as_slice).unwrap_or_default();
        apps.extend(page.iter().filter_map(|app| app["app_id"].as_str()).map(str::to_owned));
        match &answer["next"] {
            Value::String(next) => cursor = format!("&cursor={next}"),
            _ => return Ok(apps),
        }
    }
}

fn place(host: &str, (app, hour): &Key) -> String {
    format!("{host}, {app} {}", crate::answer::hour_text(*hour))
}

fn unanswered(error: String) -> Violation {
    Violation::new("serves-again", error)
}
