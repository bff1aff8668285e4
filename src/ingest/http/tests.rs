//! Requests as clients send them, answers as they see them.

use super::*;
use crate::http::testing::{Seen, send};
use crate::http::{Routes, assemble};
use crate::ingest::Settings;
use crate::ingest::buffers::KEPT_BYTES_MIN;
use crate::ingest::testing::{FakeLog, Fault, PARTITIONS, environment};
use crate::metrics::{IngestMetrics, Metrics};
use axum::http::Request;
use futures::stream;
use serde_json::json;
use std::io::Write;
use std::sync::Arc;

const GOOD: &str = "{\"app_id\":\"checkout\",\"timestamp\":\"2026-11-22T11:15:03.123Z\",\"response_time_ms\":12.75}\n";
const LINES: &str = "application/x-ndjson";
const PRODUCER: &str = "Hourmark-Producer";
const SEQUENCE: &str = "Hourmark-Sequence";

struct Site {
    log: Arc<FakeLog>,
    router: Routes,
    metrics: IngestMetrics,
}

impl Site {
    fn new() -> Site {
        Site::with(Settings::default())
    }

    fn with(settings: Settings) -> Site {
        let log = Arc::new(FakeLog::default());
        let metrics = Metrics::new().ingest;
        let intake = Intake::new(&environment(), log.clone(), settings, metrics.clone());
        Site { log, router: assemble([room(intake)]), metrics }
    }

    async fn post(&self, headers: &[(&str, &str)], body: impl Into<Body>) -> Seen {
        let mut request = Request::post("/v1/events");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&self.router, request.body(body.into()).unwrap()).await
    }

    async fn post_lines(&self, body: impl Into<Body>) -> Seen {
        self.post(&[("Content-Type", LINES)], body).await
    }

    async fn post_as(&self, producer: &str, sequence: &str, body: &'static str) -> Seen {
        self.post(&[("Content-Type", LINES), (PRODUCER, producer), (SEQUENCE, sequence)], body).await
    }

    fn fail(&self, fault: Fault) {
        for partition in 0..PARTITIONS {
            self.log.partition(partition, |partition| partition.faults.extend([fault; 1000]));
        }
    }
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn in_pieces(body: impl AsRef<[u8]>) -> Body {
    let pieces = body.as_ref().chunks(7).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)));
    Body::from_stream(stream::iter(pieces.collect::<Vec<_>>()))
}

fn counts(seen: &Seen) -> (u16, [u64; 3]) {
    let json = seen.json();
    (seen.status.as_u16(), ["accepted", "duplicate", "rejected"].map(|name| json[name].as_u64().unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_receipt_counts_lines_and_names_the_refused_ones() {
    let body = format!("{GOOD}\n{GOOD}{}", GOOD.replace("2026-11-22T11", "2026-11-22T25"));
    let seen = Site::new().post_lines(body).await;
    assert_eq!(seen.status, StatusCode::OK);
    let message = "timestamp must be RFC 3339 with a zone, or integer milliseconds since 1970 UTC";
    let error = json!({"line": 4, "code": "bad_timestamp", "field": "timestamp", "message": message});
    let partition = crate::domain::slot_of("checkout") % PARTITIONS;
    let token = format!("{partition}.10");
    assert_eq!(seen.json(), json!({"accepted": 2, "duplicate": 0, "rejected": 1, "errors": [error], "token": token}));
}

#[tokio::test(start_paused = true)]
async fn bodies_come_in_every_form() {
    let site = Site::new();
    let object = GOOD.trim_end();
    let array = format!("[{object},{object}]");
    for (headers, body, events) in [
        (vec![("Content-Type", LINES)], GOOD.repeat(2).into_bytes(), 2),
        (vec![], GOOD.repeat(2).into_bytes(), 2),
        (vec![("Content-Type", "application/json")], object.into(), 1),
        (vec![("Content-Type", "application/json; charset=utf-8")], array.clone().into(), 2),
        (vec![("Content-Type", LINES), ("Content-Encoding", "gzip")], gzip(&GOOD.repeat(3)), 3),
        (
            vec![("Content-Type", "application/json"), ("Content-Encoding", "zstd")],
            zstd::encode_all(array.as_bytes(), 1).unwrap(),
            2,
        ),
    ] {
        let seen = site.post(&headers, body).await;
        assert_eq!(counts(&seen), (200, [events, 0, 0]), "{headers:?} {seen:?}");
    }
    let seen = site.post_lines(in_pieces(GOOD)).await;
    assert_eq!(counts(&seen), (200, [1, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_the_same_however_its_body_comes() {
    let site = Site::new();
    let identity = [("Content-Type", LINES), (PRODUCER, "p"), (SEQUENCE, "1")];
    let compressed = [&identity[..], &[("Content-Encoding", "gzip")]].concat();
    // Large enough to be read off the async threads, from a buffer that is lent.
    let body = GOOD.repeat(2 * KEPT_BYTES_MIN / GOOD.len());
    let events = body.lines().count() as u64;
    assert_eq!(counts(&site.post(&identity, in_pieces(&body)).await), (200, [events, 0, 0]));
    assert_eq!(counts(&site.post(&identity, body.clone()).await), (200, [0, events, 0]));
    assert_eq!(counts(&site.post(&compressed, gzip(&body)).await), (200, [0, events, 0]));
    assert_eq!(counts(&site.post(&compressed, in_pieces(gzip(&body))).await), (200, [0, events, 0]));
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_is_no_events() {
    let site = Site::new();
    for body in ["", "\n\r\n  \n"] {
        let seen = site.post_lines(body).await;
        assert_eq!(seen.json(), json!({"accepted": 0, "duplicate": 0, "rejected": 0, "errors": [], "token": "-"}));
        assert_eq!(seen.status, StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_good_line_the_receipt_is_a_problem_too() {
    let seen = Site::new().post_lines("x\n".repeat(150)).await;
    assert_eq!(seen.refusal(), (400, "all_lines_rejected".to_owned()));
    assert_eq!(counts(&seen), (400, [0, 0, 150]));
    assert_eq!(seen.json()["errors"].as_array().unwrap().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn more_refused_lines_are_listed_where_that_is_asked_for() {
    let site = Site::new();
    let listed = async |errors_max: &str| {
        let request = Request::post(format!("/v1/events?errors_max={errors_max}")).body(Body::from("x\n".repeat(150)));
        send(&site.router, request.unwrap()).await
    };
    assert_eq!(listed("120").await.json()["errors"].as_array().unwrap().len(), 120);
    assert_eq!(listed("0").await.json()["errors"].as_array().unwrap().len(), 0);
    for (errors_max, name) in
        [("16385", "errors_max"), ("many", "errors_max"), ("1&errors_max=2", "errors_max"), ("1&foo=1", "foo")]
    {
        let seen = listed(errors_max).await;
        assert_eq!(seen.refusal(), (400, "bad_parameter".to_owned()), "{errors_max}");
        assert_eq!(seen.json()["parameter"], name, "{errors_max}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_sent_again_is_a_duplicate_and_a_reused_sequence_a_conflict() {
    let site = Site::new();
    assert_eq!(counts(&site.post_as("p", "18446744073709551615", GOOD).await), (200, [1, 0, 0]));
    assert_eq!(counts(&site.post_as("p", "18446744073709551615", GOOD).await), (200, [0, 1, 0]));
    let reused =
        site.post_as("p", "18446744073709551615", "{\"app_id\":\"a\",\"timestamp\":0,\"response_time_ms\":0}").await;
    assert_eq!(reused.refusal(), (409, "sequence_reused".to_owned()));
    for partition in 0..PARTITIONS {
        site.log.partition(partition, |partition| partition.sequences_from = 5);
    }
    assert_eq!(site.post_as("p", "4", GOOD).await.refusal(), (409, "sequence_expired".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn producer_and_sequence_come_together_and_well_formed() {
    let site = Site::new();
    let long = "x".repeat(257);
    for (headers, name) in [
        (vec![(PRODUCER, "p")], SEQUENCE),
        (vec![(SEQUENCE, "1")], PRODUCER),
        (vec![(PRODUCER, ""), (SEQUENCE, "1")], PRODUCER),
        (vec![(PRODUCER, &long), (SEQUENCE, "1")], PRODUCER),
        (vec![(PRODUCER, "p"), (SEQUENCE, "+1")], SEQUENCE),
        (vec![(PRODUCER, "p"), (SEQUENCE, "-1")], SEQUENCE),
        (vec![(PRODUCER, "p"), (SEQUENCE, "")], SEQUENCE),
        (vec![(PRODUCER, "p"), (SEQUENCE, "18446744073709551616")], SEQUENCE),
        (vec![(PRODUCER, "p"), (SEQUENCE, "1"), (SEQUENCE, "1")], SEQUENCE),
    ] {
        let seen = site.post(&headers, GOOD).await;
        assert_eq!(seen.refusal(), (400, "bad_parameter".to_owned()), "{headers:?}");
        assert_eq!(seen.json()["parameter"], name, "{headers:?}");
    }
    assert_eq!(site.log.appends(), 0);
}

#[tokio::test(start_paused = true)]
async fn other_media_types_and_encodings_are_refused() {
    let site = Site::new();
    for (name, value, code) in [
        ("Content-Type", "text/csv", "unsupported_media_type"),
        ("Content-Encoding", "br", "unsupported_encoding"),
        ("Content-Encoding", "gzip, gzip", "unsupported_encoding"),
    ] {
        assert_eq!(site.post(&[(name, value)], GOOD).await.refusal(), (415, code.to_owned()));
    }
    let damaged = site.post(&[("Content-Encoding", "gzip")], GOOD).await;
    assert_eq!(damaged.refusal(), (400, "invalid_encoding".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_body_over_its_bound_is_refused_however_it_comes() {
    let site = Site::with(Settings { body_bytes_max: GOOD.len() * 10, ..Settings::default() });
    let over = GOOD.repeat(11);
    let announced = [("Content-Length", "999999999"), ("Content-Type", LINES)];
    let piece = Bytes::from(GOOD);
    let pieces = stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
    for seen in [
        site.post(&announced, Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())).await,
        site.post_lines(Body::from_stream(pieces)).await,
        site.post_lines(over.clone()).await,
        site.post(&[("Content-Encoding", "gzip")], gzip(&over)).await,
    ] {
        assert_eq!(seen.refusal(), (413, "too_large".to_owned()));
    }
    assert_eq!(counts(&site.post_lines(GOOD.repeat(10)).await), (200, [10, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn over_the_budget_a_request_is_told_when_to_come_back() {
    let site = Site::with(Settings { in_flight_bytes_max: GOOD.len() as u64, ..Settings::default() });
    let length = (GOOD.len() * 2).to_string();
    let unread = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    for seen in [
        site.post(&[("Content-Length", &length)], unread).await,
        site.post_lines(GOOD.repeat(2)).await,
        site.post(&[("Content-Encoding", "gzip")], gzip(&GOOD.repeat(2))).await,
    ] {
        assert_eq!(seen.refusal(), (429, "overloaded".to_owned()));
        assert_eq!(seen.headers[header::RETRY_AFTER], "1");
    }
    assert_eq!(site.metrics.refused.get(), 3);
    assert_eq!(counts(&site.post_lines(GOOD).await), (200, [1, 0, 0]));
    let nobody = Site::with(Settings { in_flight_requests_max: 0, ..Settings::default() });
    assert_eq!(nobody.post_lines(GOOD).await.refusal(), (429, "overloaded".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_the_client_is_told_to_come_back() {
    let site = Site::new();
    site.fail(Fault::Refused);
    let seen = site.post_lines(GOOD).await;
    assert_eq!(seen.refusal(), (503, "unavailable".to_owned()));
    assert_eq!(seen.headers[header::RETRY_AFTER], "1");
    assert_eq!((site.metrics.requests.get(), site.metrics.refused.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn too_many_producers_are_told_to_come_back() {
    let site = Site::new();
    for partition in 0..PARTITIONS {
        site.log.partition(partition, |partition| partition.is_table_full = true);
    }
    let seen = site.post_as("p", "1", GOOD).await;
    assert_eq!(seen.refusal(), (429, "too_many_producers".to_owned()));
    assert!(seen.headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test(start_paused = true)]
async fn a_body_cut_short_is_not_taken() {
    let site = Site::new();
    let pieces = [Ok(Bytes::from(GOOD)), Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))];
    let seen = site.post_lines(Body::from_stream(stream::iter(pieces))).await;
    assert_eq!(seen.refusal(), (400, "incomplete_body".to_owned()));
    assert_eq!(site.log.appends(), 0);
    assert_eq!(site.metrics.in_flight_bytes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_description_names_the_path_and_its_answers() {
    let site = Site::new();
    let api = crate::http::testing::ask(&site.router, "/openapi.json").await.json();
    let responses = &api["paths"]["/v1/events"]["post"]["responses"];
    for status in ["200", "400", "409", "413", "415", "429", "503"] {
        assert!(responses[status].is_object(), "{status}: {responses}");
    }
    assert!(api["components"]["schemas"]["ReceiptAnswer"]["properties"]["token"].is_object());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_and_a_wrong_clock_are_told_at_once_with_what_to_do() {
    for (fault, code) in [(Fault::DiskFull, "disk_full"), (Fault::ClockSkew, "clock_skew")] {
        let site = Site::new();
        site.fail(fault);
        let begin = tokio::time::Instant::now();
        let seen = site.post_lines(GOOD).await;
        assert_eq!(seen.refusal(), (503, code.to_owned()));
        assert!(seen.headers.contains_key(header::RETRY_AFTER));
        assert!(seen.json()["detail"].as_str().unwrap().contains("is safe"));
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(site.metrics.clock_skew.get(), u64::from(code == "clock_skew"));
    }
}
