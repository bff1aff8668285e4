//! A client inside the simulated world: one connection per request, a deadline on each.

use crate::answer::{Hour, Summary, hour_text};
use crate::trace;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use turmoil::net::TcpStream;

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(12);

/// How long a cluster may take to answer a question once all faults are over.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Hours that one question asks for: all of a month and the days around it.
const FROM_TO: &str = "from=2026-10-01&to=2026-12-31";

/// The month in which all events lie.
const MONTH: &str = "from=2026-11-01&to=2026-12-01";

/// A client.
#[derive(Clone)]
pub struct Client {
    name: String,
    /// Nodes whose disk has failed or rotted at any time.
    sick: Rc<RefCell<BTreeSet<String>>>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body, as JSON where it is JSON.
    pub body: Value,
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum NoHour {
    /// None came, or the node could not give one.
    Unanswered,
    /// The node says that it cannot answer now.
    Unavailable,
    /// An answer that no node should give.
    Strange(String),
}

impl Client {
    /// A client; `sick` are the nodes that may answer that their disk cannot be read.
    pub fn new(name: &str, sick: &Rc<RefCell<BTreeSet<String>>>) -> Client {
        Client { name: name.to_owned(), sick: Rc::clone(sick) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request to `host` and waits for the answer; an error says why there is none.
    pub async fn send(
        &self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Answer, String> {
        let exchange = self.exchange(host, method, path, headers, body);
        let answer = match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let name = &self.name;
        match &answer {
            Ok(answer) => {
                trace::line(format_args!(
                    "{name}: {method} {host}{path} {} {}",
                    answer.status,
                    shortened(&answer.body)
                ));
            }
            Err(error) => trace::line(format_args!("{name}: {method} {host}{path} failed: {error}")),
        }
        answer
    }

    /// [`Client::send`] of a GET.
    pub async fn get(&self, host: &str, path: &str) -> Result<Answer, String> {
        self.send(host, "GET", path, &[], String::new()).await
    }

    /// [`Client::send`] of events under an identity, or without one.
    pub async fn post(&self, host: &str, identity: Option<(&str, u64)>, body: String) -> Result<Answer, String> {
        let mut headers = vec![("content-type", "application/x-ndjson")];
        let number = identity.map(|(_, sequence)| sequence.to_string());
        if let (Some((producer, _)), Some(sequence)) = (identity, &number) {
            headers.extend([("hourmark-producer", producer), ("hourmark-sequence", sequence.as_str())]);
        }
        self.send(host, "POST", "/v1/events", &headers, body).await
    }

    /// Writes bytes to `host` and hangs up.
    pub async fn hang_up_after(&self, host: &str, bytes: &[u8]) {
        let connected = tokio::time::timeout(TIMEOUT, TcpStream::connect((host, crate::HTTP_PORT)));
        if let Ok(Ok(mut stream)) = connected.await {
            // Whether the bytes get through is the network's affair.
            let _ = stream.write_all(bytes).await;
        }
        trace::line(format_args!("{}: hung up on {host}", self.name));
    }

    /// One hour of an app; `Ok(None)` if there are no events.
    pub async fn hour(&self, host: &str, app: &str, hour: u64, more: &str) -> Result<Option<Hour>, NoHour> {
        let path = format!("/v1/apps/{app}/hours/{}?q=0.5,0.9,0.99{more}", hour_text(hour));
        self.numbers(host, &path, Hour::read).await
    }

    /// All events of an app together; `Ok(None)` if there are none.
    pub async fn summary(&self, host: &str, app: &str) -> Result<Option<Hour>, NoHour> {
        let path = format!("/v1/apps/{app}/summary?{MONTH}&q=0.5,0.9,0.99");
        self.numbers(host, &path, Hour::read_summary).await
    }

    async fn numbers(
        &self,
        host: &str,
        path: &str,
        read: fn(&Value) -> Result<Hour, String>,
    ) -> Result<Option<Hour>, NoHour> {
        let answer = self.get(host, path).await.map_err(|_| NoHour::Unanswered)?;
        match answer.status {
            200 => read(&answer.body).map(Some).map_err(NoHour::Strange),
            404 => Ok(None),
            503 => Err(NoHour::Unavailable),
            500 if self.is_about_disk(host, &answer) => Err(NoHour::Unanswered),
            status => Err(NoHour::Strange(format!("{status} {}", answer.body))),
        }
    }

    /// All hours of an app, asked for until there is an answer: for when all faults are over.
    pub async fn settled_hours(&self, host: &str, app: &str) -> Result<Vec<Hour>, String> {
        let path = format!("/v1/apps/{app}/hours?{FROM_TO}&q=0,0.5,0.9,0.99,1&limit=1000");
        let answer = self.settled(host, &path).await?;
        answer["hours"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(Hour::read).collect()
    }

    /// All events of an app together, asked for until there is an answer.
    pub async fn settled_summary(&self, host: &str, app: &str) -> Result<Summary, String> {
        let path = format!("/v1/apps/{app}/summary?{MONTH}&q=0,0.5,0.9,0.99,1");
        Summary::read(&self.settled(host, &path).await?)
    }

    /// The answer to a question, asked again until there is one.
    pub async fn settled(&self, host: &str, path: &str) -> Result<Value, String> {
        let deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
        loop {
            let last = match self.get(host, path).await {
                Ok(answer) if answer.status == 200 => return Ok(answer.body),
                Ok(answer) if answer.status == 500 && !self.is_about_disk(host, &answer) => {
                    return Err(format!("{host} answers {path}: 500 {}", answer.body));
                }
                Ok(answer) => answer.body.to_string(),
                Err(error) => error,
            };
            if tokio::time::Instant::now() > deadline {
                return Err(format!("{host} does not answer {path}: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether a node says that it could not read its disk, and has a reason to.
    fn is_about_disk(&self, host: &str, answer: &Answer) -> bool {
        answer.body["code"] == "internal" && self.sick.borrow().contains(host)
    }

    async fn exchange(
        &self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Answer, String> {
        let stream = TcpStream::connect((host, crate::HTTP_PORT)).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        // The connection is driven next to the request, so that dropping this future ends both.
        let answered = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            let body = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            Ok(Answer { status, body })
        };
        tokio::pin!(answered, connection);
        tokio::select! {
            biased;
            answer = &mut answered => answer,
            ended = &mut connection => match ended {
                Ok(()) => answered.await,
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

fn shortened(body: &Value) -> String {
    let text = body.to_string();
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
