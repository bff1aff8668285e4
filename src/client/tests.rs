use super::*;
use axum::Router;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Serves `router` on a free port until the runtime ends; returns its address.
async fn serve(router: Router) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tasks = cluster::environment::Tasks::new(Arc::new(cluster::environment::ThreadPool::default()));
    tasks.spawn("fake node", async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// An address where nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn problem(status: u16, code: &str) -> Response {
    problem_after(status, code, 0)
}

fn problem_after(status: u16, code: &str, seconds: u64) -> Response {
    let body = format!(r#"{{"type":"about:blank","title":"t","status":{status},"detail":"because","code":"{code}"}}"#);
    (StatusCode::from_u16(status).unwrap(), [("retry-after", seconds.to_string())], body).into_response()
}

fn events(body: &str) -> Events<'static> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    Events { body, media_type: "application/x-ndjson", encoding: None, producer: "p", sequence: 7, errors_max: 100 }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn fails_over_from_a_dead_server_to_a_living_one() {
    let living = serve(Router::new().route("/x", get(async || "[1, 2]"))).await;
    let client = Client::new(&[nobody(), living]).unwrap();
    let answer: Vec<u64> = client.ask("/x", Duration::from_secs(20)).await.unwrap();
    assert_eq!(answer, [1, 2]);
}

#[tokio::test]
async fn gives_up_when_patience_is_over_and_says_what_the_last_attempt_met() {
    let client = Client::new(&[nobody()]).unwrap();
    let error = client.ask::<u64>("/x", Duration::from_millis(150)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_left_when_patience_is_over() {
    let silent = serve(Router::new().route("/x", get(std::future::pending::<()>))).await;
    let client = Client::new(&[silent]).unwrap();
    let error = client.ask::<u64>("/x", Duration::from_millis(150)).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { last, .. } if last.contains("no answer in time")), "{error}");
}

#[tokio::test]
async fn a_wait_is_told_once_after_a_second_with_its_cause_and_its_end() {
    static TOLD: std::sync::Mutex<Vec<(String, Instant)>> = std::sync::Mutex::new(Vec::new());
    let server = nobody();
    let client = Client::new(std::slice::from_ref(&server)).unwrap();
    let client = client.telling(|line| TOLD.lock().unwrap().push((line.to_owned(), Instant::now())));
    let begin = Instant::now();
    client.ask::<u64>("/x", Duration::from_millis(500)).await.unwrap_err();
    assert!(TOLD.lock().unwrap().is_empty(), "a short wait is not worth a line");
    let error = client.ask::<u64>("/x", Duration::from_secs(4)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { was_reached: false, .. }), "{error}");
    let told = TOLD.lock().unwrap();
    let [(line, at)] = told.as_slice() else { panic!("{told:?}") };
    assert!(line.contains(&server) && line.to_lowercase().contains("refused"), "{line}");
    assert!(line.ends_with("; trying for 3 s more") || line.ends_with("; trying for 2.9 s more"), "{line}");
    assert!(*at - begin < Duration::from_secs(3), "{:?}", *at - begin);
}

#[tokio::test]
async fn a_node_that_answers_at_the_end_of_the_patience_is_heard() {
    let refuse = get(async || {
        tokio::time::sleep(Duration::from_millis(600)).await;
        problem_after(503, "unavailable", 1)
    });
    let client = Client::new(&[serve(Router::new().route("/x", refuse)).await]).unwrap();
    let error = client.ask::<u64>("/x", Duration::from_millis(550)).await.unwrap_err();
    let Error::Unavailable { last, was_reached: true, .. } = error else { panic!("{error}") };
    assert!(last.contains("503 unavailable: because"), "{last}");
}

#[tokio::test]
async fn a_refusal_is_typed_and_not_repeated() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let refuse = get(async move || {
        counter.fetch_add(1, Ordering::Relaxed);
        problem(404, "unknown_app")
    });
    let server = serve(Router::new().route("/x", refuse)).await;
    let error = Client::new(&[server]).unwrap().ask::<u64>("/x", Duration::from_secs(20)).await.unwrap_err();
    let Error::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!((refusal.status, refusal.code.as_str(), refusal.detail.as_str()), (404, "unknown_app", "because"));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn events_are_sent_again_unchanged_until_they_are_answered() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = seen.clone();
    let handler = post(async move |headers: HeaderMap, body: Bytes| {
        let mut seen = record.lock().unwrap();
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        seen.push((header("hourmark-producer"), header("hourmark-sequence"), header("content-type"), body));
        match seen.len() {
            1 => problem(503, "unavailable"),
            2 => problem(429, "busy"),
            _ => r#"{"accepted":1,"duplicate":0,"rejected":0,"errors":[],"token":"0.1"}"#.into_response(),
        }
    });
    let server = serve(Router::new().route("/v1/events", handler)).await;
    let receipt = Client::new(&[server]).unwrap().send(&events("{}\n"), soon).await.unwrap();
    assert_eq!((receipt.accepted, receipt.token.as_deref()), (1, Some("0.1")));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| *request == seen[0]));
    assert_eq!(seen[0].0, "p");
    assert_eq!(seen[0].1, "7");
    assert_eq!(seen[0].2, "application/x-ndjson");
}

#[tokio::test]
async fn a_body_of_bad_lines_only_is_a_receipt_but_another_400_is_a_refusal() {
    let bad_lines = post(async || {
        let errors =
            r#"{"accepted":0,"duplicate":0,"rejected":1,"errors":[{"line":1,"code":"invalid_json","message":"m"}]}"#;
        (StatusCode::BAD_REQUEST, errors)
    });
    let server = serve(Router::new().route("/v1/events", bad_lines)).await;
    let receipt = Client::new(&[server]).unwrap().send(&events("x\n"), soon).await.unwrap();
    assert_eq!((receipt.rejected, receipt.errors[0].line), (1, 1));

    let refusing = serve(Router::new().route("/v1/events", post(async || problem(400, "bad_parameter")))).await;
    let error = Client::new(&[refusing]).unwrap().send(&events("x\n"), soon).await.unwrap_err();
    assert!(matches!(error, Error::Refused(refusal) if refusal.code == "bad_parameter"));
}

#[tokio::test]
async fn an_answer_that_is_not_ours_is_called_foreign() {
    let server = serve(Router::new().route("/x", get(async || "<html>"))).await;
    let error = Client::new(&[server]).unwrap().ask::<u64>("/x", Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
}

#[test]
fn any_app_id_becomes_one_segment() {
    assert_eq!(encode("checkout-1.v_2~"), "checkout-1.v_2~");
    assert_eq!(encode("a/b?c%d e#f+ü"), "a%2Fb%3Fc%25d%20e%23f%2B%C3%BC");
}

#[test]
fn joined_tokens_include_every_write() {
    assert_eq!(join_tokens(["0.3-2.9", "nonsense", "2.4-5.1"].into_iter()), "0.3-2.9-5.1");
    assert_eq!(join_tokens(std::iter::empty()), "-");
}

#[tokio::test]
async fn a_rest_that_outlasts_the_patience_is_cut_for_one_more_attempt() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let later = move || {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                ([("retry-after", "30")], StatusCode::SERVICE_UNAVAILABLE).into_response()
            } else {
                "7".into_response()
            }
        }
    };
    let client = Client::new(&[serve(Router::new().route("/x", get(later))).await]).unwrap();
    assert_eq!(client.ask::<u64>("/x", Duration::from_millis(900)).await.unwrap(), 7);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn patience_is_used_to_its_end_and_the_reason_is_the_one_that_says_most() {
    let refuses = || async { problem_after(503, "unavailable", 30) };
    let client = Client::new(&[serve(Router::new().route("/x", get(refuses))).await]).unwrap();
    let begin = Instant::now();
    let error = client.ask::<u64>("/x", Duration::from_millis(1200)).await.unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(1200), "{:?}", begin.elapsed());
    let text = error.to_string();
    assert!(text.starts_with("no answer within 1.") && text.contains("503 unavailable: because"), "{text}");
}

#[test]
fn times_are_told_as_they_were() {
    for (ms, text) in [(0, "0 s"), (150, "0.2 s"), (999, "1 s"), (9990, "10 s"), (10_049, "10 s"), (60_300, "60.3 s")] {
        assert_eq!(in_seconds(Duration::from_millis(ms)), text);
    }
}
