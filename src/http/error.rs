//! What a refused request is told: RFC 9457 `application/problem+json`.
//!
//! Every refusal of every room is a [`Problem`], so clients have one shape to read: the status says who has to act, `code`
//! is the stable word for programs, `detail` the sentence for people. `type` is `about:blank`: the code names the problem,
//! so `title` is the status's own phrase, as the RFC asks of that type.

use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// The media type of a refusal's body.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// A refusal, as clients read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A URI for the kind of problem; always `about:blank`: `code` tells kinds apart.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "about:blank")]
    pub kind: Cow<'static, str>,
    /// The status's phrase.
    #[schema(value_type = String, example = "Bad Request")]
    pub title: Cow<'static, str>,
    /// The HTTP status, again in the body.
    #[schema(minimum = 400, maximum = 599, example = 400)]
    pub status: u16,
    /// What is wrong in this request and what to do about it.
    #[schema(value_type = String, example = "parameter q: 1.5 is not between 0 and 1")]
    pub detail: Box<str>,
    /// The stable word for this problem, snake_case.
    #[schema(value_type = String, example = "bad_parameter")]
    pub code: Cow<'static, str>,
    /// The parameter at fault, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub parameter: Option<Box<str>>,
    /// Sent as `Retry-After`, in seconds.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

impl Problem {
    /// A refusal with `status` (4xx or 5xx), the stable word `code` and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        let detail: String = detail.into();
        Problem {
            kind: Cow::Borrowed("about:blank"),
            title: Cow::Borrowed(status.canonical_reason().unwrap_or("Error")),
            status: status.as_u16(),
            detail: detail.into(),
            code: Cow::Borrowed(code),
            parameter: None,
            retry_after: None,
        }
    }

    /// `400` `bad_parameter`: the parameter `name` (of path, query or header) is at fault.
    pub fn bad_parameter(name: &str, why: impl std::fmt::Display) -> Problem {
        let mut problem = Problem::new(StatusCode::BAD_REQUEST, "bad_parameter", format!("parameter {name}: {why}"));
        problem.parameter = Some(name.into());
        problem
    }

    /// `400` `bad_parameter`: the query string cannot be read. The parameter at fault is named as the refusal names it: in
    /// backticks (an unknown one, one given twice).
    pub fn unreadable_query(refusal: &QueryRejection) -> Problem {
        let text = refusal.body_text();
        match text.split('`').nth(1) {
            Some(name) if text.contains("unknown field") => Problem::bad_parameter(name, "is not known here"),
            Some(name) if text.contains("duplicate field") => Problem::bad_parameter(name, "is given more than once"),
            Some(name) => Problem::bad_parameter(name, text.clone()),
            None => Problem::bad_parameter("query", "the query string is not well formed"),
        }
    }

    /// `503` `unavailable`: no leader, no majority or no answer in time. Always safe to ask again after `retry_after`.
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(retry_after)
    }

    /// The same refusal with a `Retry-After` header, rounded up to whole seconds.
    pub fn retry_after(mut self, after: Duration) -> Problem {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.retry_after = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("strings and a number always serialize");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_five_members_and_no_more() {
        let json = serde_json::to_value(Problem::new(StatusCode::NOT_FOUND, "no_events", "none")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": "none", "code": "no_events"})
        );
    }

    #[test]
    fn a_bad_parameter_is_named() {
        let problem = Problem::bad_parameter("q", "1.5 is not between 0 and 1");
        assert_eq!((problem.status, problem.parameter.as_deref()), (400, Some("q")));
        assert!(problem.detail.starts_with("parameter q:"));
    }

    #[test]
    fn retry_after_is_rounded_up_to_seconds() {
        let response = Problem::unavailable("no leader", Duration::from_millis(1200)).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_MEDIA_TYPE);
    }
}
