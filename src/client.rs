//! The HTTP client of the command line and of tests: one cluster, several servers, safe retries.
//!
//! A request goes to one server. Where that one does not answer or says "later" (408, 429, 5xx), the next is tried; a server
//! that failed rests for a while, longer after each failure and at least as long as its `Retry-After` says. Everything that
//! is sent may be sent twice: questions change nothing, and events carry a producer and a sequence. So a failed attempt is
//! never reported as long as there is time to try again.

mod servers;

use crate::format::Token;
use bytes::{Bytes, BytesMut};
use reqwest::{RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use servers::Servers;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A server that does not take a connection within this time is taken for dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is kept of the patience for one more attempt, whatever the servers' rests.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

/// Longest time of one attempt: half as long again as a node lets a request wait by default.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// How much longer than the patience an attempt may take that was begun in time: a node that was given the same time says
/// at its end why it has no answer, and that is worth hearing.
const GRACE: Duration = Duration::from_secs(1);

/// After how long without an answer that is told, see [`Client::telling`].
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Largest answer that is read, in bytes: a page of a thousand hours with a hundred quantiles each is a tenth of it.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// A client of one cluster.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    servers: Servers,
    /// Who is told, and whether that was done since the last answer.
    tell: Option<fn(&str)>,
    has_told: AtomicBool,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server's address that is none: fix it.
    #[error("server {address:?}: {why}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// A server understood the request and refused it for good: asking again gives the same answer.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// No server gave an answer in time; whether the request had an effect is unknown.
    #[error("no answer within {} from {servers}; last: {last}", in_seconds(*waited))]
    Unavailable {
        /// Who was asked.
        servers: String,
        /// For how long.
        waited: Duration,
        /// What the last attempt met.
        last: String,
        /// Whether any server took the request, even if it had no answer.
        was_reached: bool,
    },
    /// Something that is not Hourmark answered.
    #[error("{server} gave no answer of Hourmark: {why}")]
    Foreign {
        /// Who answered.
        server: String,
        /// What is wrong with the answer.
        why: String,
    },
}

/// A refusal, as RFC 9457 `application/problem+json` tells it.
#[derive(Debug, thiserror::Error)]
#[error("{server} refused with {status} {code}: {detail}")]
pub struct Refusal {
    /// Who refused.
    pub server: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable word for it, such as `unknown_app`; `http_<status>` where the answer was no problem document.
    pub code: String,
    /// The sentence for people.
    pub detail: String,
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Problem {
    code: String,
    #[serde(default)]
    detail: String,
}

/// How a server is told to do something; both may be said twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Let it be so.
    Put,
    /// Let it be so no more.
    Delete,
}

/// Events to send, as one request.
#[derive(Debug, Clone)]
pub struct Events<'a> {
    /// The events, written as `media_type` says, compressed if `encoding` says so.
    pub body: Bytes,
    /// `application/x-ndjson` or another one that nodes take.
    pub media_type: &'static str,
    /// `gzip` or `zstd`.
    pub encoding: Option<&'static str>,
    /// Together with `sequence` what makes a retry safe.
    pub producer: &'a str,
    /// The request's number; the same one only ever with the same body.
    pub sequence: u64,
    /// How many rejected lines the answer may list.
    pub errors_max: usize,
}

/// The answer to events: they are on disk on a majority.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Receipt {
    /// Events that count from now on.
    pub accepted: u64,
    /// Events that counted before.
    pub duplicate: u64,
    /// Lines that are no events.
    pub rejected: u64,
    /// Why, line by line; may list fewer than `rejected`.
    #[serde(default)]
    pub errors: Vec<LineError>,
    /// Makes a read include these events.
    #[serde(default)]
    pub token: Option<String>,
}

/// Why a line is no event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct LineError {
    /// From 1, in the body.
    pub line: u64,
    /// The stable word for the reason.
    pub code: String,
    /// The sentence for people.
    pub message: String,
}

/// An answer that is worth reading: neither a failure of transport nor "later".
struct Reply {
    server: String,
    status: StatusCode,
    body: Bytes,
}

impl Client {
    /// A client of the cluster whose nodes serve at `addresses`: `http://host:port` or `host:port`, at least one.
    pub fn new(addresses: &[String]) -> Result<Client, Error> {
        let servers = Servers::new(addresses)?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .expect("a client without TLS and proxies needs nothing that could be missing");
        Ok(Client { http, servers, tell: None, has_told: AtomicBool::new(false) })
    }

    /// Has `tell` called with a line for people when a request has had no answer for a second; not again before there was one.
    pub fn telling(self, tell: fn(&str)) -> Client {
        Client { tell: Some(tell), ..self }
    }

    /// Asks `path` (with its query) of any server and reads the JSON answer.
    ///
    /// `patience`: how long to go on trying; an attempt is cut off when it is over.
    pub async fn ask<T: DeserializeOwned>(&self, path: &str, patience: Duration) -> Result<T, Error> {
        self.exchange(reqwest::Method::GET, path, patience).await
    }

    /// Has any server do what `path` names, and reads the JSON answer. It may be done more than once.
    pub async fn order<T: DeserializeOwned>(&self, method: Method, path: &str, patience: Duration) -> Result<T, Error> {
        let method = match method {
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
        };
        self.exchange(method, path, patience).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        patience: Duration,
    ) -> Result<T, Error> {
        let give_up = Instant::now() + patience;
        let build = |http: &reqwest::Client, base: &str| http.request(method.clone(), format!("{base}{path}"));
        let reply = self.persist(0, build, || give_up).await?;
        if !reply.status.is_success() {
            return Err(reply.refusal());
        }
        reply.json()
    }

    /// Sends events until a server has answered for them.
    ///
    /// `give_up`: asked before and after each attempt for the moment at which to stop trying; it may move. Servers are tried in
    /// turn from one that depends on the sequence, so that parallel requests spread over all.
    pub async fn send(&self, events: &Events<'_>, give_up: impl Fn() -> Instant) -> Result<Receipt, Error> {
        let build = |http: &reqwest::Client, base: &str| {
            let request = http
                .post(format!("{base}/v1/events?errors_max={}", events.errors_max))
                .header(header::CONTENT_TYPE, events.media_type)
                .header("Hourmark-Producer", events.producer)
                .header("Hourmark-Sequence", events.sequence)
                .body(events.body.clone());
            match events.encoding {
                Some(encoding) => request.header(header::CONTENT_ENCODING, encoding),
                None => request,
            }
        };
        let first = usize::try_from(events.sequence % self.servers.count() as u64).expect("below a usize");
        let reply = self.persist(first, build, give_up).await?;
        match reply.status {
            // A body without a single event is refused with the fields of a receipt.
            StatusCode::OK => reply.json(),
            StatusCode::BAD_REQUEST => reply.json().map_err(|_: Error| reply.refusal()),
            _ => Err(reply.refusal()),
        }
    }

    /// Tries server after server until one gives a [`Reply`] or `give_up` has come.
    async fn persist(
        &self,
        first: usize,
        build: impl Fn(&reqwest::Client, &str) -> RequestBuilder,
        give_up: impl Fn() -> Instant,
    ) -> Result<Reply, Error> {
        let started = Instant::now();
        let mut last = String::new();
        let mut was_reached = false;
        loop {
            // No rest outlasts the patience: its end is for one more attempt, at whoever has rested longest.
            let (server, rested_at) = self.servers.choose(first);
            let gives_up = give_up();
            let is_last = rested_at + LAST_ATTEMPT >= gives_up;
            let begins = if is_last { gives_up.checked_sub(LAST_ATTEMPT).unwrap_or(gives_up) } else { rested_at };
            let tells_at = started + TELL_AFTER;
            if !last.is_empty() && begins > tells_at {
                tokio::time::sleep_until(tells_at).await;
                self.tell(&last, gives_up);
            }
            tokio::time::sleep_until(begins).await;
            let base = self.servers.base(server);
            let time_left = give_up().saturating_duration_since(Instant::now());
            let request = build(&self.http, base).timeout((time_left + GRACE).min(ATTEMPT_TIMEOUT));
            match attempt(base, request).await {
                Ok(reply) => {
                    self.has_told.store(false, Ordering::Relaxed);
                    self.servers.succeeded(server);
                    return Ok(reply);
                }
                Err(failed) => {
                    tracing::debug!(server = base, why = %failed.why, "attempt failed");
                    self.servers.failed(server, failed.rest);
                    was_reached |= failed.was_reached;
                    // An attempt that was cut short says less than what was met before it.
                    if last.is_empty() || !(failed.is_timeout && time_left < ATTEMPT_TIMEOUT) {
                        last = format!("{base}: {}", failed.why);
                    }
                }
            }
            if is_last {
                tokio::time::sleep_until(gives_up).await;
            }
            if Instant::now() >= give_up() {
                break;
            }
        }
        Err(Error::Unavailable { servers: self.servers.to_string(), waited: started.elapsed(), last, was_reached })
    }

    /// Tells why there is no answer yet, unless that was done.
    fn tell(&self, last: &str, gives_up: Instant) {
        if let Some(tell) = self.tell
            && !self.has_told.swap(true, Ordering::Relaxed)
        {
            let left = in_seconds(gives_up.saturating_duration_since(Instant::now()));
            tell(&format!("no answer yet from {last}; trying for {left} more"));
        }
    }
}

/// An attempt without an answer.
struct Failed {
    why: String,
    /// What `Retry-After` asked for.
    rest: Duration,
    /// The time for the attempt was over.
    is_timeout: bool,
    /// The server took the request.
    was_reached: bool,
}

/// One attempt at one server.
async fn attempt(base: &str, request: RequestBuilder) -> Result<Reply, Failed> {
    let failed = |error: reqwest::Error| Failed {
        why: innermost(&error),
        rest: Duration::ZERO,
        is_timeout: error.is_timeout(),
        was_reached: !error.is_connect(),
    };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    let rest = retry_after(&response);
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            let why = format!("an answer over {ANSWER_BYTES_MAX} bytes");
            return Err(Failed { why, rest, is_timeout: false, was_reached: true });
        }
        body.extend_from_slice(&chunk);
    }
    let reply = Reply { server: base.to_owned(), status, body: body.freeze() };
    let is_later =
        status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    let why = || reply.refused().to_string();
    if is_later { Err(Failed { why: why(), rest, is_timeout: false, was_reached: true }) } else { Ok(reply) }
}

/// `Retry-After` in seconds; its other form, a date, is never sent by a node.
fn retry_after(response: &reqwest::Response) -> Duration {
    let header = response.headers().get(header::RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds)
}

impl Reply {
    fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Foreign { server: self.server.clone(), why: error.to_string() })
    }

    fn refused(&self) -> Refusal {
        let status = self.status.as_u16();
        let problem = serde_json::from_slice(&self.body).unwrap_or_else(|_| Problem {
            code: format!("http_{status}"),
            detail: String::from_utf8_lossy(&self.body).chars().take(200).collect(),
        });
        Refusal { server: self.server.clone(), status, code: problem.code, detail: problem.detail }
    }

    fn refusal(&self) -> Error {
        Error::Refused(Box::new(self.refused()))
    }
}

/// A time for people: whole seconds, with a tenth where that matters.
fn in_seconds(time: Duration) -> String {
    let tenths = (time.as_millis() + 50) / 100;
    if tenths.is_multiple_of(10) { format!("{} s", tenths / 10) } else { format!("{}.{} s", tenths / 10, tenths % 10) }
}

/// The cause at the end of the chain: the one that says "connection refused".
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Percent-encodes a text for one segment of a path or one value of a query.
pub fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

/// Joins the tokens of several receipts: a read that includes the result includes them all. What is no token is left out.
pub fn join_tokens<'a>(tokens: impl Iterator<Item = &'a str>) -> String {
    let mut joined = Token::default();
    for token in tokens.filter_map(|token| token.parse::<Token>().ok()) {
        for (partition, offset) in token.offsets() {
            joined.add(partition, offset);
        }
    }
    joined.to_string()
}

#[cfg(test)]
mod tests;
