//! What clients see: every answer and every refusal, through the router.

use super::message::{Answer, AnswerRow, encode_answer};
use super::testing::{Fake, LATENESS, Mood, app};
use super::*;
use crate::domain::{Hour, MS_PER_HOUR, ResponseTime, Rollup, SketchConfig};
use crate::http::Routes;
use crate::http::testing::{Seen, ask, send};
use axum::body::Body;
use axum::http::{Request, header};
use bytes::Bytes;
use cluster::PartitionId;
use futures::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// 2026-11-22T20.
const HOUR: u32 = 498_716;
const MS: u64 = 1_000_000;

async fn ask_with_tag(router: &Routes, path: &str, tag: &str) -> Seen {
    let request = Request::get(path).header(header::IF_NONE_MATCH, tag).body(Body::empty()).unwrap();
    send(router, request).await
}

fn tag(seen: &Seen) -> String {
    seen.headers[header::ETAG].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_running_hour_is_answered_with_all_that_is_known() {
    let fake = Fake::new(3);
    fake.record("checkout", HOUR, 12 * MS);
    fake.record("checkout", HOUR, 750_000);
    fake.checkpoint();
    fake.record("checkout", HOUR, 812_003_000);
    let seen = ask(&fake.router(), "/v1/apps/checkout/hours/2026-11-22T20?q=0,1").await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.headers[header::CACHE_CONTROL], "no-cache");
    assert_eq!(
        seen.json(),
        json!({
            "app_id": "checkout", "hour": "2026-11-22T20:00:00Z", "state": "open", "revision": 1, "count": 3, "late": 0,
            "average_ms": 824.753 / 3.0, "min_ms": 0.75, "max_ms": 812.003, "median_ms": 12.0, "sum_ms": 824.753,
            "quantiles": [
                {"q": 0.0, "value_ms": 0.75, "low_ms": 0.75, "high_ms": 0.75},
                {"q": 1.0, "value_ms": 812.003, "low_ms": 812.003, "high_ms": 812.003}
            ],
            "relative_accuracy": 0.01
        })
    );
    let default = ask(&fake.router(), "/v1/apps/checkout/hours/2026-11-22T20").await.json();
    let quantiles: Vec<&Value> = default["quantiles"].as_array().unwrap().iter().map(|one| &one["q"]).collect();
    assert_eq!(quantiles, [0.5, 0.9, 0.95, 0.99]);
}

#[tokio::test]
async fn an_hour_is_sealed_by_the_watermark_and_amended_by_a_late_event() {
    let fake = Fake::new(1);
    let state = async || ask(&fake.router(), "/v1/apps/a/hours/2026-11-22T20").await.json()["state"].clone();
    fake.record("a", HOUR, MS);
    assert_eq!(state().await, "open");
    fake.set_watermark(u64::from(HOUR + 1) * MS_PER_HOUR + u64::try_from(LATENESS.as_millis()).unwrap());
    assert_eq!(state().await, "sealed");
    fake.record("a", HOUR, MS);
    assert_eq!(state().await, "amended");
}

#[tokio::test]
async fn an_unknown_app_and_an_empty_hour_are_told_apart() {
    let fake = Fake::new(3);
    fake.record("a", HOUR, MS);
    let router = fake.router();
    let unknown = (404, "unknown_app".to_owned());
    let none = (404, "no_events".to_owned());
    assert_eq!(ask(&router, "/v1/apps/b/hours/2026-11-22T20").await.refusal(), unknown);
    assert_eq!(ask(&router, "/v1/apps/b/hours").await.refusal(), unknown);
    assert_eq!(ask(&router, "/v1/apps/b/summary").await.refusal(), unknown);
    for _ in 0..2 {
        assert_eq!(ask(&router, "/v1/apps/a/hours/2026-11-22T21").await.refusal(), none);
        assert_eq!(ask(&router, "/v1/apps/a/summary?to=2026-11-22").await.refusal(), none);
        let empty = ask(&router, "/v1/apps/a/hours?to=2026-11-22").await.json();
        assert_eq!(empty, json!({"app_id": "a", "hours": [], "next": null}));
        fake.checkpoint();
    }
}

#[tokio::test]
async fn every_bad_parameter_is_refused_by_name() {
    let fake = Fake::new(3);
    fake.record("a", HOUR, MS);
    let router = fake.router();
    for (path, name) in [
        ("/v1/apps/a/hours/2026-11-22T24", "hour"),
        ("/v1/apps/a/hours/yesterday", "hour"),
        ("/v1/apps/a%0A/hours/2026-11-22T20", "app_id"),
        ("/v1/apps/%FF/hours/2026-11-22T20", "app_id"),
        ("/v1/apps/%FF/summary", "app_id"),
        ("/v1/apps/a/hours/2026-11-22T20?q=2", "q"),
        ("/v1/apps/a/hours/2026-11-22T20?q=0.5&q=0.9", "q"),
        ("/v1/apps/a/hours/2026-11-22T20?quantiles=0.5", "quantiles"),
        ("/v1/apps/a/hours/2026-11-22T20?consistency=eventual", "consistency"),
        ("/v1/apps/a/hours/2026-11-22T20?after=soon", "after"),
        ("/v1/apps/a/hours/2026-11-22T20?consistency=local&after=9.1", "after"),
        ("/v1/apps/a/hours?from=x", "from"),
        ("/v1/apps/a/hours?to=x", "to"),
        ("/v1/apps/a/hours?from=2026-11-23&to=2026-11-22", "to"),
        ("/v1/apps/a/hours?limit=0", "limit"),
        ("/v1/apps/a/hours?limit=10001", "limit"),
        ("/v1/apps/a/hours?cursor=x", "cursor"),
        ("/v1/apps/a/summary?q=x", "q"),
        ("/v1/apps/a/summary?limit=3", "limit"),
        ("/v1/apps?limit=1001", "limit"),
        ("/v1/apps?cursor=x", "cursor"),
        ("/v1/apps?from=2026-11-22", "from"),
    ] {
        let seen = ask(&router, path).await;
        assert_eq!(seen.refusal(), (400, "bad_parameter".to_owned()), "{path}");
        assert_eq!(seen.json()["parameter"], name, "{path}");
    }
    let long = format!("/v1/apps/{}/hours/2026-11-22T20", "x".repeat(257));
    assert_eq!(ask(&router, &long).await.json()["parameter"], "app_id");
}

#[tokio::test]
async fn any_app_id_survives_the_way_through_the_url() {
    let fake = Fake::new(3);
    for (name, encoded) in [
        ("a/b", "a%2Fb"),
        ("what?", "what%3F"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("a b+c", "a%20b+c"),
        ("zürich", "z%C3%BCrich"),
        ("#;&=", "%23;&="),
    ] {
        fake.record(name, HOUR, MS);
        let seen = ask(&fake.router(), &format!("/v1/apps/{encoded}/hours/2026-11-22T20")).await;
        assert_eq!(seen.json()["app_id"], name);
    }
}

#[tokio::test]
async fn a_tag_stands_until_the_numbers_change() {
    let fake = Fake::new(1);
    let router = fake.router();
    fake.record("a", HOUR, MS);
    for path in ["/v1/apps/a/hours/2026-11-22T20", "/v1/apps/a/hours", "/v1/apps/a/summary"] {
        let first = tag(&ask(&router, path).await);
        for shown in [first.clone(), format!("\"other\", {first}"), format!("W/{first}"), "*".to_owned()] {
            let seen = ask_with_tag(&router, path, &shown).await;
            assert_eq!((seen.status.as_u16(), seen.body.len()), (304, 0), "{path} {shown}");
            assert_eq!(tag(&seen), first);
        }
        fake.record("a", HOUR, MS);
        let seen = ask_with_tag(&router, path, &first).await;
        assert_eq!(seen.status, 200);
        assert_ne!(tag(&seen), first);
    }
    let (default, other) = ("/v1/apps/a/hours/2026-11-22T20", "/v1/apps/a/hours/2026-11-22T20?q=0.1");
    assert_ne!(tag(&ask(&router, default).await), tag(&ask(&router, other).await));
    assert_eq!(fake.metrics.query.not_modified.get(), 12);
}

#[tokio::test]
async fn a_held_rollup_does_not_travel_and_is_never_stale() {
    let fake = Fake::new(1);
    let router = fake.router();
    let path = "/v1/apps/a/hours/2026-11-22T20";
    (0..1000).for_each(|value| fake.record("a", HOUR, value * value * MS));
    fake.checkpoint();
    let first = ask(&router, path).await;
    let whole_bytes = fake.answered_bytes();
    let second = ask(&router, path).await;
    assert_eq!(first.body, second.body);
    assert!(fake.answered_bytes() * 10 < whole_bytes, "{} of {whole_bytes}", fake.answered_bytes());
    assert_eq!((fake.metrics.query.cache_hits.get(), fake.metrics.query.cache_misses.get()), (1, 1));

    fake.record("a", HOUR, 1);
    assert_eq!(ask(&router, path).await.json()["count"], 1001);
    fake.checkpoint();
    assert_eq!(ask(&router, path).await.json()["revision"], 2);
    assert_eq!((fake.metrics.query.cache_hits.get(), fake.metrics.query.cache_misses.get()), (1, 3));
}

#[tokio::test]
async fn a_range_comes_in_pages_oldest_first() {
    let fake = Fake::new(1);
    (0..2500).for_each(|hour| fake.record("a", HOUR + hour, MS));
    fake.checkpoint();
    fake.record("a", HOUR + 1, MS);
    let router = fake.router();
    let mut seen_hours = Vec::new();
    let mut path = "/v1/apps/a/hours?limit=1100".to_owned();
    loop {
        let page = ask(&router, &path).await.json();
        let hours = page["hours"].as_array().unwrap();
        seen_hours.extend(hours.iter().map(|hour| (hour["hour"].as_str().unwrap().to_owned(), hour["count"].clone())));
        let Some(next) = page["next"].as_str() else { break };
        assert_eq!(hours.len(), 1100);
        path = format!("/v1/apps/a/hours?limit=1100&cursor={next}");
    }
    assert_eq!(seen_hours.len(), 2500);
    assert!(seen_hours.is_sorted_by_key(|(hour, _)| hour.clone()));
    assert_eq!(seen_hours[0], ("2026-11-22T20:00:00Z".to_owned(), json!(1)));
    assert_eq!(seen_hours[1].1, 2);

    let part = ask(&router, "/v1/apps/a/hours?from=2026-11-22T21&to=2026-11-22T23:00:00Z").await.json();
    let part: Vec<&Value> = part["hours"].as_array().unwrap().iter().map(|hour| &hour["hour"]).collect();
    assert_eq!(part, ["2026-11-22T21:00:00Z", "2026-11-22T22:00:00Z"]);
}

#[tokio::test]
async fn an_answer_that_would_be_too_large_is_fetched_in_parts() {
    let fake = Fake::new(1);
    let sketch = SketchConfig::default();
    let mut wide = Rollup::default();
    (0..1900).for_each(|step| wide.record(ResponseTime(1.0202f64.powi(step) as u64), false, &sketch));
    for _ in 0..20 {
        wide.merge(&wide.clone(), &sketch);
    }
    fake.store("a", HOUR, 3000, &wide);
    let page = ask(&fake.router(), "/v1/apps/a/hours?limit=3000").await.json();
    assert_eq!(page["hours"].as_array().unwrap().len(), 3000);
    assert_eq!(page["next"], Value::Null);
    assert!(fake.answers() > 3, "3000 rows fit into {} answers", fake.answers());
}

#[tokio::test]
async fn a_summary_is_the_rollup_of_all_events_in_the_range() {
    let fake = Fake::new(2);
    let (mut all, sketch) = (Rollup::default(), SketchConfig::default());
    for value in 0..1500u64 {
        fake.record("a", HOUR + u32::try_from(value % 30).unwrap(), value * 977_123);
        all.record(ResponseTime(value * 977_123), false, &sketch);
        if value == 700 {
            fake.checkpoint();
        }
    }
    let path = "/v1/apps/a/summary?from=2026-11-22T20&to=2026-12-01&q=0.25";
    let summary = ask(&fake.router(), path).await.json();
    let quantiles = [crate::domain::Quantile::new(0.25).unwrap()];
    let numbers = Numbers::new(&all, &quantiles, &sketch);
    let mut expected = serde_json::to_value(numbers).unwrap();
    expected["app_id"] = json!("a");
    expected["from"] = json!("2026-11-22T20:00:00Z");
    expected["to"] = json!("2026-12-01T00:00:00Z");
    expected["hours"] = json!(30);
    assert_eq!(summary, expected);
}

#[tokio::test]
async fn a_summary_of_too_many_hours_is_refused() {
    let mut fake = Fake::new(1);
    fake.settings.summary_hours_max = 9;
    (0..10).for_each(|hour| fake.record("a", HOUR + hour, MS));
    let router = fake.router();
    assert_eq!(ask(&router, "/v1/apps/a/summary").await.refusal(), (400, "bad_parameter".to_owned()));
    assert_eq!(ask(&router, "/v1/apps/a/summary?from=2026-11-22T21").await.json()["hours"], 9);
    fake.checkpoint();
    assert_eq!(ask(&router, "/v1/apps/a/summary?consistency=local").await.refusal().0, 400);
}

#[tokio::test]
async fn apps_of_all_partitions_come_sorted_in_pages() {
    let fake = Fake::new(5);
    for number in 0..40 {
        fake.record(&format!("app-{number:02}"), HOUR + number, MS);
        if number == 20 {
            fake.checkpoint();
        }
    }
    fake.record("app-07", HOUR - 3, MS);
    fake.record("other/ü", HOUR, MS);
    let router = fake.router();
    let mut seen = Vec::new();
    let mut path = "/v1/apps?prefix=app-&limit=7".to_owned();
    loop {
        let page = ask(&router, &path).await.json();
        seen.extend(page["apps"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/apps?prefix=app-&limit=7&cursor={next}");
    }
    assert_eq!(seen.len(), 40);
    assert!(seen.is_sorted_by_key(|app| app["app_id"].as_str().unwrap().to_owned()));
    let expected =
        json!({"app_id": "app-07", "first_hour": "2026-11-22T17:00:00Z", "last_hour": "2026-11-23T03:00:00Z"});
    assert_eq!(seen[7], expected);
    let all = ask(&router, "/v1/apps").await.json();
    assert_eq!((all["apps"].as_array().unwrap().len(), &all["next"]), (41, &Value::Null));
    assert_eq!(ask(&router, "/v1/apps?prefix=none").await.json(), json!({"apps": [], "next": null}));
}

#[tokio::test(start_paused = true)]
async fn a_local_answer_is_what_is_stored_and_needs_no_leader() {
    let fake = Fake::new(1);
    fake.record("a", HOUR, MS);
    fake.checkpoint();
    fake.record("a", HOUR, MS);
    fake.set_mood(Mood::NoLeader);
    let router = fake.router();
    let as_of = json!({"partition": 0, "offset": 0, "age_ms": 250});
    for path in ["/v1/apps/a/hours/2026-11-22T20", "/v1/apps/a/summary"] {
        let seen = ask(&router, &format!("{path}?consistency=local")).await;
        assert_eq!((&seen.json()["count"], &seen.json()["as_of"]), (&json!(1), &as_of), "{path}");
        assert!(tag(&seen).starts_with("W/"));
        assert_eq!(ask_with_tag(&router, &format!("{path}?consistency=local"), &tag(&seen)).await.status, 304);
    }
    let hours = ask(&router, "/v1/apps/a/hours?consistency=local").await.json();
    assert_eq!((hours["hours"].as_array().unwrap().len(), &hours["as_of"]), (1, &as_of));
    assert_eq!(ask(&router, "/v1/apps?consistency=local").await.json()["as_of"], json!([as_of]));
    let unknown = ask(&router, "/v1/apps/b/hours/2026-11-22T20?consistency=local").await;
    assert_eq!(unknown.refusal().1, "unknown_app");
}

#[tokio::test(start_paused = true)]
async fn after_waits_until_the_write_is_in_the_answer() {
    let fake = Fake::new(1);
    fake.record("a", HOUR, MS);
    let router = fake.router();
    let path = "/v1/apps/a/hours/2026-11-22T20?consistency=local&after=0.1";
    let begin = Instant::now();
    let checkpoints = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            fake.checkpoint();
        }
    };
    let (seen, ()) = tokio::join!(ask(&router, path), checkpoints);
    assert_eq!((&seen.json()["count"], &seen.json()["as_of"]["offset"]), (&json!(1), &json!(1)));
    assert_eq!(begin.elapsed().as_secs(), 4);

    let never = ask(&router, "/v1/apps/a/hours/2026-11-22T20?consistency=local&after=0.2").await;
    assert_eq!(never.refusal(), (503, "unavailable".to_owned()));
    assert_eq!(never.headers[header::RETRY_AFTER], "1");
    assert_eq!(begin.elapsed().as_secs(), 14);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_the_refusal_comes_in_bounded_time() {
    let fake = Fake::new(2);
    fake.set_mood(Mood::NoLeader);
    let router = fake.router();
    for path in ["/v1/apps/a/hours/2026-11-22T20", "/v1/apps/a/hours", "/v1/apps/a/summary", "/v1/apps"] {
        let begin = Instant::now();
        let seen = ask(&router, path).await;
        assert_eq!(seen.refusal(), (503, "unavailable".to_owned()));
        assert_eq!(seen.headers[header::RETRY_AFTER], "1");
        assert!(begin.elapsed() <= fake.settings.read_timeout);
    }
    assert_eq!(fake.metrics.query.unavailable.get(), 4);
}

#[tokio::test]
async fn many_who_ask_for_an_hour_at_once_share_a_read() {
    let fake = Fake::new(1);
    fake.record("a", HOUR, MS);
    let router = fake.router();
    let path = |hour: u32| format!("/v1/apps/a/hours/2026-11-22T{hour}");
    for seen in join_all((0..64).map(async |_| ask(&router, &path(20)).await)).await {
        assert_eq!(seen.json()["count"], 1);
    }
    assert_eq!(fake.answers(), 2, "the first one's read, and the next one for all others");
    for seen in join_all((0..64).map(async |_| ask(&router, &path(21)).await)).await {
        assert_eq!(seen.refusal(), (404, "no_events".to_owned()));
    }
    assert_eq!(fake.answers(), 4);
}

#[tokio::test(start_paused = true)]
async fn while_a_leader_is_missing_nobody_waits_longer_for_others_and_later_not_at_all() {
    let fake = Fake::new(1);
    fake.record("a", HOUR, MS);
    fake.set_mood(Mood::NoLeader);
    let (router, timeout) = (fake.router(), fake.settings.read_timeout);
    let comes_back = Duration::from_secs(6);
    let asked_at = async |after: Duration| {
        tokio::time::sleep(after).await;
        let begin = Instant::now();
        let seen = ask(&router, "/v1/apps/a/hours/2026-11-22T20").await;
        let (is_answered, waited) = (seen.status == 200, begin.elapsed());
        if after > comes_back {
            assert!(is_answered && waited < timeout / 10, "asked after {after:?}: {}, {waited:?}", seen.status);
        }
        assert!(waited <= timeout, "asked after {after:?}: {waited:?}");
        is_answered
    };
    let returns = async {
        tokio::time::sleep(comes_back).await;
        // Longer than from one question to the next: who always let the oldest read would fail for good.
        fake.set_mood(Mood::Slow(Duration::from_millis(30)));
    };
    let asks = (0..400).map(|ask| asked_at(Duration::from_millis(25 * ask + 7)));
    let ((), answered) = tokio::join!(returns, join_all(asks));
    assert!(!answered[0]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_leaders_is_waited_out() {
    let fake = Fake::new(1);
    fake.record("a", HOUR, MS);
    fake.set_mood(Mood::NotLeader(5));
    assert_eq!(ask(&fake.router(), "/v1/apps/a/hours/2026-11-22T20").await.status, 200);
}

#[tokio::test]
async fn a_node_without_the_replica_says_so() {
    let fake = Fake::new(1);
    fake.lose_replica();
    for tail in ["", "&after=0.1"] {
        let seen = ask(&fake.router(), &format!("/v1/apps/a/hours/2026-11-22T20?consistency=local{tail}")).await;
        assert_eq!(seen.refusal(), (503, "unavailable".to_owned()));
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_not_passed_on() {
    let fake = Fake::new(1);
    let row = AnswerRow { hour: Hour(HOUR), version: version(), row: None };
    let damaged = AnswerRow { row: Some(Bytes::from_static(b"no row")), ..row.clone() };
    for bytes in [
        Bytes::from_static(b"\x01zzz"),
        Bytes::new(),
        encode_answer(&Ok(Answer::TooManyHours)),
        encode_answer(&Ok(Answer::Hours { is_known: true, rows: vec![row], has_more: false })),
        encode_answer(&Ok(Answer::Hours { is_known: true, rows: vec![damaged], has_more: false })),
        encode_answer(&Err(ReadError::Failed("a row's checksum does not fit".to_owned()))),
    ] {
        fake.set_mood(Mood::Says(bytes));
        let seen = ask(&fake.router(), "/v1/apps/a/hours/2026-11-22T20").await;
        assert_eq!(seen.refusal(), (500, "internal".to_owned()));
    }
}

fn version() -> Version {
    Version { revision: 1, count: 1, late: 0, state: HourState::Open }
}

#[tokio::test]
async fn a_checkpoint_between_the_two_reads_is_seen() {
    let fake = Fake::new(1);
    fake.record("a", HOUR, MS);
    fake.checkpoint_between();
    let deadline = Instant::now() + Duration::from_secs(1);
    let page = fake.leader().hours(PartitionId(0), &app("a"), Hour(0)..Hour(u32::MAX), 10, deadline).await.unwrap();
    assert_eq!((page.rows[0].version.count, page.rows[0].version.revision), (1, 1));
}

#[tokio::test]
async fn every_answer_is_described() {
    let api = ask(&Fake::new(1).router(), "/openapi.json").await.json();
    for (path, schema) in [
        ("/v1/apps/{app_id}/hours/{hour}", "HourAnswer"),
        ("/v1/apps/{app_id}/hours", "HoursAnswer"),
        ("/v1/apps/{app_id}/summary", "SummaryAnswer"),
        ("/v1/apps", "AppsAnswer"),
    ] {
        let responses = &api["paths"][path]["get"]["responses"];
        let body = &responses["200"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(body, &format!("#/components/schemas/{schema}"));
        assert!(responses["503"]["content"]["application/problem+json"].is_object());
        assert!(api["components"]["schemas"][schema].is_object());
    }
}

#[tokio::test(start_paused = true)]
async fn progress_is_this_nodes_or_else_the_leaders() {
    let fake = Fake::new(1);
    fake.record("a", HOUR, MS);
    fake.checkpoint();
    fake.record("a", HOUR, MS);
    let expected = Progress { consumed: Some(cluster::Offset(0)), lag_events: 1 };
    assert_eq!(fake.query().progress(PartitionId(0)).await, Some(expected));
    assert!(fake.answers() == 0);

    fake.lose_replica();
    fake.set_mood(Mood::Says(encode_answer(&Ok(Answer::Progress(expected)))));
    assert_eq!(fake.query().progress(PartitionId(0)).await, Some(expected));
    fake.set_mood(Mood::NoLeader);
    assert_eq!(fake.query().progress(PartitionId(0)).await, None);
}
