//! A small HTTP client inside the simulated world: one connection per request, a deadline on each.

use crate::trace;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use turmoil::net::TcpStream;

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(12);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body, as JSON where it is JSON.
    pub body: serde_json::Value,
}

/// Sends a request to `host` (its HTTP port) and waits for the answer; an error says why there is none.
pub async fn send(
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: String,
) -> Result<Answer, String> {
    let answer = match tokio::time::timeout(TIMEOUT, exchange(host, method, path, headers, body)).await {
        Ok(answer) => answer,
        Err(_) => Err("no answer in time".to_owned()),
    };
    match &answer {
        Ok(answer) => trace::line(format_args!("{method} {host}{path} {} {}", answer.status, shortened(&answer.body))),
        Err(error) => trace::line(format_args!("{method} {host}{path} failed: {error}")),
    }
    answer
}

/// [`send`] of a GET.
pub async fn get(host: &str, path: &str) -> Result<Answer, String> {
    send(host, "GET", path, &[], String::new()).await
}

async fn exchange(
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: String,
) -> Result<Answer, String> {
    let stream = TcpStream::connect((host, crate::HTTP_PORT)).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
    // The connection is driven next to the request, so that dropping this future ends both.
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(&bytes).into_owned()));
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

fn shortened(body: &serde_json::Value) -> String {
    let text = body.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
