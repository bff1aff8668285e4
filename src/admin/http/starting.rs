//! What a node answers before its rooms exist: that it lives, and what it waits for.

use super::{RETRY_AFTER, health, index, metrics_answer};
use crate::http::Problem;
use crate::metrics::Metrics;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};

/// What a node that starts waits for. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Starting(Arc<Mutex<String>>);

impl Default for Starting {
    fn default() -> Starting {
        Starting(Arc::new(Mutex::new("opening its files".to_owned())))
    }
}

impl Starting {
    /// Notes what it waits for now, in words that continue "the node is starting: ".
    pub fn waits_for(&self, what: &str) {
        what.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn problem(&self) -> Problem {
        let what = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let detail = format!("the node is starting: {what}");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail).retry_after(RETRY_AFTER)
    }

    /// The routes until the rooms' own are there: `/`, `/healthz` and `/metrics` answer, all others, `/readyz` among them,
    /// say what the node waits for.
    pub fn routes(self, metrics: Metrics) -> Router {
        let figures = move |headers: HeaderMap| ready(metrics_answer(&headers, &metrics));
        Router::new()
            .route("/", get(index))
            .route("/healthz", get(health))
            .route("/metrics", get(figures))
            .fallback(move || ready(self.problem()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::ask;
    use axum::http::header;

    #[tokio::test]
    async fn a_node_that_starts_lives_and_says_what_it_waits_for() {
        let starting = Starting::default();
        let router = starting.clone().routes(Metrics::new());
        starting.waits_for("no answer from 10.0.0.1:3601");
        assert_eq!(ask(&router, "/healthz").await.json()["status"], "ok");
        assert_eq!(ask(&router, "/").await.status, StatusCode::OK);
        assert_eq!(ask(&router, "/metrics").await.status, StatusCode::OK);
        for path in ["/readyz", "/v1/cluster", "/v1/apps", "/nowhere"] {
            let seen = ask(&router, path).await;
            assert_eq!(seen.refusal(), (503, "not_ready".to_owned()), "{path}");
            assert_eq!(seen.json()["detail"], "the node is starting: no answer from 10.0.0.1:3601");
            assert_eq!(seen.headers[header::RETRY_AFTER], "1");
        }
    }
}
