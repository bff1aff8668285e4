//! What requests are served by: the router, and shortcuts past it.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, Uri};
use futures::future::BoxFuture;
use hyper::body::Body as HttpBody;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::sync::Arc;

/// Answers requests that come so often that finding their route and taking them apart for any handler is a good part of their cost.
///
/// What it declines the router answers; what it answers the router would have answered the same.
pub trait Shortcut: Send + Sync + 'static {
    /// The answer to a `GET` without a body; `None` for whatever is not quite as usual.
    fn get(&self, uri: &Uri, headers: &HeaderMap) -> Option<BoxFuture<'static, Response<Body>>>;
}

/// All routes of a server. Cheap to clone.
#[derive(Clone)]
pub struct Routes {
    router: TowerToHyperService<Router>,
    shortcuts: Arc<[Arc<dyn Shortcut>]>,
}

impl From<Router> for Routes {
    fn from(router: Router) -> Routes {
        Routes::new(router, Vec::new())
    }
}

impl Routes {
    /// What no shortcut takes goes to `router`.
    pub fn new(router: Router, shortcuts: Vec<Arc<dyn Shortcut>>) -> Routes {
        Routes { router: TowerToHyperService::new(router), shortcuts: shortcuts.into() }
    }

    /// The answer of the first shortcut that takes the request.
    pub fn shortcut(&self, request: &Request<impl HttpBody>) -> Option<BoxFuture<'static, Response<Body>>> {
        let is_usual = request.method() == Method::GET && request.body().is_end_stream();
        let mut shortcuts = self.shortcuts.iter().filter(|_| is_usual);
        shortcuts.find_map(|shortcut| shortcut.get(request.uri(), request.headers()))
    }

    /// The router's answer.
    pub fn route(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
        self.router.call(request)
    }
}
