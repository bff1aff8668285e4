//! One node: what goes in, what comes out, what is refused.

use crate::support::{Node, event, eventually, request, single};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Read, Write};

const T: &str = "2026-03-01T10:15:03.123Z";
const HOUR: &str = "/v1/apps/checkout/hours/2026-03-01T10";

#[test]
fn an_acked_event_is_in_every_later_answer() {
    let cluster = single(&[]);
    let node = &cluster.nodes[0];
    for count in 1..=5u64 {
        let answer = node.post(&[], event("checkout", T, &format!("{count}.25"))).unwrap();
        assert_eq!((answer.status, &answer.body["accepted"]), (200, &1.into()));
        let hour = node.get(HOUR).unwrap();
        assert_eq!((hour.status, &hour.body["count"]), (200, &count.into()));
    }
    let hour = node.get(&format!("{HOUR}?q=0,0.5,1")).unwrap().body;
    assert_eq!(hour["hour"], "2026-03-01T10:00:00Z");
    assert_eq!((&hour["state"], &hour["late"]), (&"open".into(), &0.into()));
    assert_eq!((&hour["min_ms"], &hour["max_ms"]), (&1.25.into(), &5.25.into()));
    assert_eq!((&hour["average_ms"], &hour["sum_ms"]), (&3.25.into(), &16.25.into()));
    assert_eq!((&hour["median_ms"], &hour["relative_accuracy"]), (&3.25.into(), &0.01.into()));
    assert_eq!(hour["quantiles"][1]["value_ms"], 3.25);
    assert!(hour["revision"].is_u64());
}

#[test]
fn a_bad_line_is_refused_alone_with_its_number_and_reason() {
    let cluster = single(&[]);
    let body = [
        event("checkout", T, "1"),
        "\n".to_owned(),
        "{broken\n".to_owned(),
        event("checkout", "yesterday", "1"),
        event("checkout", T, "-1"),
        "{\"app_id\":\"checkout\"}\n".to_owned(),
        event("checkout", T, "2"),
    ];
    let answer = cluster.nodes[0].post(&[], body.concat()).unwrap();
    assert_eq!((answer.status, &answer.body["accepted"], &answer.body["rejected"]), (200, &2.into(), &4.into()));
    let errors: Vec<(u64, &str)> = answer.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["line"].as_u64().unwrap(), error["code"].as_str().unwrap()))
        .collect();
    assert_eq!(errors, [(3, "invalid_json"), (4, "bad_timestamp"), (5, "negative"), (6, "missing_timestamp")]);
    let all_bad = cluster.nodes[0].post(&[], "{broken\n").unwrap();
    assert_eq!(all_bad.refusal(), (400, "all_lines_rejected"));
    assert_eq!((all_bad.status, &all_bad.body["rejected"]), (400, &1.into()));
    let empty = cluster.nodes[0].post(&[], "").unwrap();
    assert_eq!((empty.status, &empty.body["accepted"]), (200, &0.into()));
}

#[test]
fn bodies_come_in_all_their_forms_and_within_their_bounds() {
    let cluster = single(&["--body-bytes-max", "2mib"]);
    let node = &cluster.nodes[0];
    let line = event("checkout", T, "1");
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let json = ("content-type", "application/json");
    let array = format!("[{},{}]", line.trim(), line.trim());
    let accepted = |answer: Option<crate::support::Answer>| answer.unwrap().body["accepted"].as_u64();
    assert_eq!(accepted(node.post(&[json], line.trim())), Some(1));
    assert_eq!(accepted(node.post(&[json], array)), Some(2));
    assert_eq!(accepted(node.post(&[("content-encoding", "gzip")], gzip(line.as_bytes()))), Some(1));
    let zstd = zstd::encode_all(line.as_bytes(), 1).unwrap();
    assert_eq!(accepted(node.post(&[("content-encoding", "zstd")], zstd)), Some(1));
    let refusal = |headers: &[(&str, &str)], body: Vec<u8>| node.post(headers, body).unwrap().status;
    assert_eq!(refusal(&[("content-type", "text/csv")], line.clone().into()), 415);
    assert_eq!(refusal(&[("content-encoding", "br")], line.clone().into()), 415);
    assert_eq!(refusal(&[], vec![b' '; (2 << 20) + 1]), 413);
    assert_eq!(refusal(&[("content-encoding", "gzip")], gzip(&vec![b' '; 64 << 20])), 413);
    assert_eq!(node.get(HOUR).unwrap().body["count"], 5);
}

#[test]
fn who_sends_everything_before_it_reads_sees_that_it_was_too_much() {
    let cluster = single(&[]);
    let node = &cluster.nodes[0];
    for (path, length, status) in [("/v1/events", (16 << 20) + 1, "413"), ("/nowhere", 17 << 20, "404")] {
        let mut stream = std::net::TcpStream::connect(&node.http).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
            .unwrap();
        stream.write_all(&vec![b' '; length]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[test]
fn a_repeated_request_counts_once_and_a_reused_sequence_is_refused() {
    let cluster = single(&[]);
    let node = &cluster.nodes[0];
    let body = [event("checkout", T, "1"), event("search", T, "2")].concat();
    let send = |sequence: &str, body: &str| {
        node.post(&[("hourmark-producer", "p"), ("hourmark-sequence", sequence)], body).unwrap()
    };
    assert_eq!(send("7", &body).body["accepted"], 2);
    let again = send("7", &body);
    assert_eq!((again.status, &again.body["accepted"], &again.body["duplicate"]), (200, &0.into(), &2.into()));
    assert_eq!(send("7", &event("other", T, "1")).refusal(), (409, "sequence_reused"));
    assert_eq!(node.get("/v1/apps/other/hours/2026-03-01T10").unwrap().refusal(), (404, "unknown_app"));
    assert_eq!(send("3", &body).body["accepted"], 2, "sequences come in any order");
    assert_eq!(node.get(HOUR).unwrap().body["count"], 2);
    let half = node.post(&[("hourmark-producer", "p")], &body).unwrap();
    assert_eq!(half.refusal(), (400, "bad_parameter"));
    assert!(half.body["detail"].as_str().unwrap().to_lowercase().contains("hourmark-sequence"));
}

#[test]
fn a_sequence_below_what_is_remembered_is_refused() {
    let cluster = single(&["--partitions", "1"]);
    let address = cluster.nodes[0].http.clone();
    let send = |sequence: u64| {
        let sequence = sequence.to_string();
        let headers = [("hourmark-producer", "p"), ("hourmark-sequence", sequence.as_str())];
        request(&address, "POST", "/v1/events", &headers, event("checkout", T, "1").as_bytes())
    };
    assert_eq!(send(0).unwrap().status, 200);
    std::thread::scope(|scope| {
        for worker in 0..16u64 {
            let send = &send;
            scope.spawn(move || {
                for sequence in (0..4200u64).filter(|sequence| sequence % 16 == worker) {
                    eventually("an ack", || send(100 + sequence).filter(|answer| answer.status == 200));
                }
            });
        }
    });
    assert_eq!(send(0).unwrap().refusal(), (409, "sequence_expired"));
    assert_eq!(send(100 + 4199).unwrap().body["duplicate"], 1);
    assert_eq!(cluster.nodes[0].get(HOUR).unwrap().body["count"], 4201);
}

#[test]
fn questions_are_answered_or_refused_to_the_letter() {
    let cluster = single(&[]);
    let node = &cluster.nodes[0];
    let odd = "a b/ü?%";
    let lines: String = (0..4).map(|hour| event(odd, &format!("2026-03-01T{:02}:00:00Z", 9 + hour), "2")).collect();
    let token = node.post(&[], lines + &event("checkout", T, "1")).unwrap().body["token"].as_str().unwrap().to_owned();
    let odd = "a%20b%2F%C3%BC%3F%25";
    let page = node.get(&format!("/v1/apps/{odd}/hours?from=2026-03-01&to=2026-03-02&limit=3")).unwrap().body;
    assert_eq!(page["hours"].as_array().unwrap().len(), 3);
    let cursor = page["next"].as_str().unwrap();
    let rest =
        node.get(&format!("/v1/apps/{odd}/hours?from=2026-03-01&to=2026-03-02&limit=3&cursor={cursor}")).unwrap();
    assert_eq!((rest.body["hours"].as_array().unwrap().len(), &rest.body["next"]), (1, &serde_json::Value::Null));
    let summary = node.get(&format!("/v1/apps/{odd}/summary?from=2026-03-01T10&to=2026-03-01T12:00:00Z")).unwrap().body;
    assert_eq!((&summary["hours"], &summary["count"], &summary["sum_ms"]), (&2.into(), &2.into(), &4.0.into()));
    let apps = node.get("/v1/apps?prefix=a").unwrap().body;
    assert_eq!(apps["apps"].as_array().unwrap().len(), 1);
    assert_eq!(apps["apps"][0]["last_hour"], "2026-03-01T12:00:00Z");
    let next = |path: &str| node.get(path).unwrap().body["next"].clone();
    assert_eq!(next("/v1/apps?prefix=a&limit=1"), serde_json::Value::Null, "there is no other one, open hours or not");
    assert!(next("/v1/apps?limit=1").is_string());
    let refusal = |path: &str| {
        let answer = node.get(path).unwrap();
        let (status, code) = answer.refusal();
        (status, code.to_owned())
    };
    assert_eq!(refusal("/v1/apps/nobody/hours/2026-03-01T10"), (404, "unknown_app".to_owned()));
    assert_eq!(refusal("/v1/apps/checkout/hours/2026-03-01T11"), (404, "no_events".to_owned()));
    for path in
        ["/v1/apps/checkout/hours/2026-03-01", "/v1/apps/checkout/hours/2026-03-01T10?q=1.5", "/v1/apps?limit=many"]
    {
        assert_eq!(refusal(path), (400, "bad_parameter".to_owned()), "{path}");
    }
    let local = node.get(&format!("{HOUR}?consistency=local&after={token}")).unwrap();
    assert_eq!((local.status, &local.body["count"]), (200, &1.into()));
    assert!(local.body["as_of"]["offset"].is_u64());
    let tag = node.get(HOUR).unwrap().header("etag").unwrap().to_owned();
    let unchanged = request(&node.http, "GET", HOUR, &[("if-none-match", &tag)], &[]).unwrap();
    assert_eq!(unchanged.status, 304);
    node.post(&[], event("checkout", T, "9")).unwrap();
    let changed = request(&node.http, "GET", HOUR, &[("if-none-match", &tag)], &[]).unwrap();
    assert_eq!((changed.status, &changed.body["count"]), (200, &2.into()));
}

#[test]
fn a_late_event_amends_and_a_far_future_event_seals_nothing() {
    let cluster = single(&["--max-future", "off"]);
    let node = &cluster.nodes[0];
    node.post(&[], event("checkout", T, "1") + &event("future", "2200-01-01T00:00:00Z", "1")).unwrap();
    assert_eq!(node.get(HOUR).unwrap().body["state"], "open");
    node.post(&[], event("checkout", "2026-03-05T00:00:00Z", "1")).unwrap();
    assert_eq!(node.get(HOUR).unwrap().body["state"], "sealed");
    node.post(&[], event("checkout", T, "3")).unwrap();
    let amended = node.get(HOUR).unwrap().body;
    assert_eq!((&amended["state"], &amended["count"], &amended["late"]), (&"amended".into(), &2.into(), &1.into()));
}

#[test]
fn a_future_event_is_refused_by_default() {
    let cluster = single(&[]);
    let answer = cluster.nodes[0].post(&[], event("checkout", "2200-01-01T00:00:00Z", "1")).unwrap();
    assert_eq!((answer.status, &answer.body["errors"][0]["code"]), (400, &"timestamp_in_future".into()));
}

#[test]
fn a_node_tells_about_itself() {
    let cluster = single(&[]);
    let node = &cluster.nodes[0];
    assert_eq!(node.get("/healthz").unwrap().status, 200);
    eventually("readiness", || node.get("/readyz").filter(|answer| answer.status == 200));
    let openapi = node.get("/openapi.json").unwrap().body;
    for path in ["/v1/events", "/v1/apps/{app_id}/hours/{hour}", "/v1/cluster"] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
    assert!(node.get("/metrics").unwrap().body.as_str().unwrap().contains("hourmark_ingest_requests_total"));
    assert!(node.get("/").unwrap().body.as_str().unwrap().contains("Hourmark"));
    assert_eq!(node.get("/nothing").unwrap().refusal(), (404, "not_found"));
}

#[test]
fn a_restarted_node_has_everything() {
    let mut cluster = single(&[]);
    let node: &mut Node = &mut cluster.nodes[0];
    for sequence in 0..20 {
        node.post_surely("p", sequence, &event("checkout", T, "1"));
        if sequence % 5 == 4 {
            node.signal(if sequence % 2 == 0 { "KILL" } else { "TERM" });
            node.start();
        }
    }
    let hour = eventually("an answer", || node.get(HOUR).filter(|answer| answer.status == 200));
    assert_eq!(hour.body["count"], 20);
}

#[test]
fn every_app_id_can_be_asked_for() {
    let cluster = single(&[]);
    let node = &cluster.nodes[0];
    let server = format!("http://{}", node.http);
    for (app, encoded) in [(".", "%2e"), ("..", "%2E%2E"), ("a/b?c#d %", "a%2Fb%3Fc%23d%20%25"), ("-", "-")] {
        assert_eq!(node.post(&[], event(app, T, "7")).unwrap().status, 200);
        for path in [
            format!("/v1/apps/{encoded}/hours/2026-03-01T10"),
            format!("/v1/apps/{encoded}/summary"),
            format!("/v1/hours/2026-03-01T10?app_id={encoded}"),
            format!("/v1/summary?app_id={encoded}"),
        ] {
            let answer = node.get(&path).unwrap();
            assert_eq!((answer.status, &answer.body["app_id"], &answer.body["count"]), (200, &app.into(), &1.into()));
        }
        let hours = node.get(&format!("/v1/hours?app_id={encoded}")).unwrap().body;
        assert_eq!(hours["hours"].as_array().unwrap().len(), 1);
        let output = crate::support::hourmark(&["query", app, "-o", "json", "--server", &server]);
        assert_eq!(output.status.code(), Some(0), "{app}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(node.get("/v1/hours").unwrap().refusal(), (400, "bad_parameter"));
    assert_eq!(node.get("/v1/apps/a/hours?app_id=a").unwrap().refusal(), (400, "bad_parameter"));
}
