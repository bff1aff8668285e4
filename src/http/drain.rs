//! Reads what is left of a refused request's body, so that its client sees the refusal.
//!
//! Most clients send all of a body before they read a byte of the answer. A server that answers early and closes makes them
//! fail in the middle of sending, with a broken pipe and no answer. So what a handler left unread is read and thrown away,
//! within bounds; beyond them the connection closes.

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// A request's body: lent to the handler, and there when the handler is done.
#[derive(Clone)]
pub struct Lent(Arc<Mutex<Inner>>);

struct Inner {
    body: Incoming,
    /// The client waits for a sign before it sends anything (`Expect: 100-continue`), and asking for the body gives it.
    is_held_back: bool,
}

impl Lent {
    /// Lends the body of a request with these headers.
    pub fn new(body: Incoming, headers: &HeaderMap) -> Lent {
        Lent(Arc::new(Mutex::new(Inner { body, is_held_back: headers.contains_key(header::EXPECT) })))
    }

    /// Throws away what is left, if anything is, unless the client holds it back, says that it is more than `bytes_max`,
    /// sends more than that or takes longer than `time_max`.
    pub async fn drain(mut self, bytes_max: u64, time_max: Duration) {
        let is_over = self.is_end_stream();
        if is_over || self.lock().is_held_back || self.size_hint().lower() > bytes_max {
            return;
        }
        let read = async {
            let mut bytes = 0;
            while let Some(Ok(frame)) = self.frame().await {
                bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if bytes > bytes_max {
                    break;
                }
            }
        };
        // Whoever is slower than this has its answer cut off.
        let _ = tokio::time::timeout(time_max, read).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut inner = self.lock();
        inner.is_held_back = false;
        Pin::new(&mut inner.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}
