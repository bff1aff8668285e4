//! One request: a shortcut or the router, always an answer.

use super::drain::Lent;
use super::server::Site;
use super::{Problem, Routes};
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use futures::FutureExt;
use futures::future::Either;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The answer to one request: there always is one, also when a handler panics or takes too long.
pub(super) fn answer(
    site: Arc<Site>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let routes = site.routes.read().unwrap_or_else(PoisonError::into_inner).clone();
    let request_timeout = site.limits.request_timeout;
    // A flaw in a shortcut costs its speed alone.
    let shortcut = catch_unwind(AssertUnwindSafe(|| routes.shortcut(&request))).unwrap_or_else(|_| {
        tracing::error!("http: a shortcut panicked; the router answers");
        None
    });
    let response = match shortcut {
        Some(answer) => Either::Left(within(request_timeout, answer)),
        // On the heap: it is large, and what a connection holds for each request stays small.
        None => Either::Right(routed(site.clone(), routes, request).boxed()),
    };
    response.map(move |response| Ok(dated(response, &site)))
}

/// One request through the router.
async fn routed(site: Arc<Site>, routes: Routes, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = Lent::new(body, &head.headers);
    let handled = routes.route(Request::from_parts(head, Body::new(body.clone())));
    let response = within(site.limits.request_timeout, handled.map(|Ok(response)| response)).await;
    // Whoever took too long has had its time.
    if response.status() != StatusCode::REQUEST_TIMEOUT {
        body.drain(site.limits.drain_bytes_max, site.limits.drain_timeout).await;
    }
    response
}

/// What a handler answers, or why it does not.
async fn within(request_timeout: Duration, handled: impl Future<Output = Response<Body>>) -> Response<Body> {
    match tokio::time::timeout(request_timeout, AssertUnwindSafe(handled).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("http: a handler panicked");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request could not be handled")
                .into_response()
        }
        Err(_) => {
            let detail = format!("the request took longer than {} s", request_timeout.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail).into_response()
        }
    }
}

/// Sets `Date` from the node's own clock; hyper would read the operating system's.
pub(super) fn dated(mut response: Response<Body>, site: &Site) -> Response<Body> {
    response.headers_mut().insert(header::DATE, site.dates.now(&*site.environment.clock));
    response
}
