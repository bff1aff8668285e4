//! `POST /v1/events`.

use super::intake::Body as EventsBody;
use super::{
    AppendError, Encoding, Error, InflateError, Intake, Kind, Overloaded, Permit, REJECTIONS_LISTED_MAX, Reason,
    Receipt,
};
use crate::domain::{ProducerId, Sequence};
use crate::http::{PROBLEM_MEDIA_TYPE, Problem, Room};
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{OpenApi, PartialSchema, ToSchema};

/// A header as its description and refusals write it, and as requests are searched for it.
struct Header {
    title: &'static str,
    name: HeaderName,
}

static PRODUCER: Header = Header { title: "Hourmark-Producer", name: HeaderName::from_static("hourmark-producer") };
static SEQUENCE: Header = Header { title: "Hourmark-Sequence", name: HeaderName::from_static("hourmark-sequence") };

/// Bodies up to this size are copied, so that their connection can use its buffer of at least 8 KiB again.
const COPIED_BYTES_MAX: usize = 1024;

/// What to do about a refusal that may have left something behind.
const RETRY_IS_SAFE: &str = "sending them again with the same Hourmark-Producer and Hourmark-Sequence is safe";

/// When to come back to a node that has its hands full, or to a partition without a leader.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// When to come back to a leader whose disk is full: others may lead in its place a moment later, or someone makes room.
const RETRY_AFTER_DISK: Duration = Duration::from_secs(2);
/// When to come back to a node whose clock is wrong: by then the client may have gone to another one.
const RETRY_AFTER_CLOCK: Duration = Duration::from_secs(10);
/// When to come back to a partition that remembers too many producers: it forgets by the hour.
const RETRY_AFTER_PRODUCERS: Duration = Duration::from_secs(60);

/// The routes of this room.
pub fn room(intake: Intake) -> Room {
    let routes = Router::new().route("/v1/events", post(post_events)).with_state(intake);
    Room { routes, openapi: Api::openapi(), shortcut: None }
}

#[derive(OpenApi)]
#[openapi(
    paths(post_events),
    components(schemas(ReceiptAnswer, LineError, AllRejected)),
    tags((name = "ingest", description = "Taking events in"))
)]
struct Api;

/// Refused lines that are listed unless a request asks for more.
const ERRORS_LISTED_DEFAULT: usize = 100;

/// The parameters of taking events in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsParameters {
    errors_max: Option<String>,
}

impl EventsParameters {
    /// Refused lines to list.
    fn errors_max(&self) -> Result<usize, Problem> {
        let Some(text) = &self.errors_max else { return Ok(ERRORS_LISTED_DEFAULT) };
        let number = text.parse().ok().filter(|number| *number <= REJECTIONS_LISTED_MAX);
        number.ok_or_else(|| {
            let why = format!("{text:?} is not a whole number from 0 to {REJECTIONS_LISTED_MAX}");
            Problem::bad_parameter("errors_max", why)
        })
    }
}

/// What became of a request.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ReceiptAnswer {
    /// Events that count from now on: fsynced on a majority.
    #[schema(example = 998)]
    accepted: u64,
    /// Events of a request that was counted before.
    #[schema(example = 0)]
    duplicate: u64,
    /// Lines that were refused.
    #[schema(example = 2)]
    rejected: u64,
    /// The first of those, 100 unless `errors_max` says otherwise.
    errors: Vec<LineError>,
    /// Show it as `after` to a question whose answer must include these events.
    #[schema(example = "0.123-3.456")]
    token: String,
}

/// A refused line.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct LineError {
    /// Its number from 1, blank lines counted; in a JSON array, the element's number.
    #[schema(minimum = 1, example = 17)]
    line: u64,
    /// The rule that it breaks.
    #[schema(example = "bad_timestamp")]
    code: &'static str,
    /// The field that the rule is about, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "timestamp")]
    field: Option<&'static str>,
    /// The rule in words.
    message: String,
}

/// The refusal of a request without a single good line: a problem and a receipt in one.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct AllRejected {
    #[serde(flatten)]
    problem: Problem,
    #[serde(flatten)]
    receipt: ReceiptAnswer,
}

/// The two shapes of a `400`: a receipt of nothing but refused lines, or a refusal of the request itself. Their codes tell
/// them apart.
enum BadRequest {}

impl PartialSchema for BadRequest {
    fn schema() -> RefOr<Schema> {
        let codes = ["bad_parameter", "invalid_encoding", "incomplete_body"];
        let of_request = ObjectBuilder::new()
            .property("code", ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes)));
        let of_lines = ObjectBuilder::new()
            .property("code", ObjectBuilder::new().schema_type(Type::String).enum_values(Some([ALL_REJECTED])));
        let named = |name: &str, more: ObjectBuilder| AllOfBuilder::new().item(Ref::from_schema_name(name)).item(more);
        let one_of = OneOfBuilder::new().item(named("AllRejected", of_lines)).item(named("Problem", of_request));
        RefOr::T(one_of.into())
    }
}

impl ToSchema for BadRequest {}

/// The code of a request without a single good line.
const ALL_REJECTED: &str = "all_lines_rejected";

/// Takes events in.
///
/// Answers once all accepted events are durable. With `Hourmark-Producer` and `Hourmark-Sequence` the same request may be
/// sent again, to any node, and counts once; without them a request whose outcome is unknown may count twice if it is sent
/// again.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "ingest",
    params(
        ("errors_max" = Option<usize>, Query, description = "How many refused lines are listed at most: 100 if not given, up to 16384"),
        ("Hourmark-Producer" = Option<String>, Header, description = "The sender's name for itself, 1 to 256 bytes"),
        ("Hourmark-Sequence" = Option<u64>, Header, description = "The request's number, used for no other body"),
        ("Content-Encoding" = Option<String>, Header, description = "gzip or zstd")
    ),
    request_body(
        description = "Events `{\"app_id\", \"timestamp\", \"response_time_ms\"}`: one a line, one object, or an array",
        content(
            (String = "application/x-ndjson", example = "{\"app_id\":\"checkout\",\"timestamp\":\"2026-11-22T20:15:03.123Z\",\"response_time_ms\":12.75}\n"),
            (serde_json::Value = "application/json"),
            (Vec<u8> = "application/vnd.hourmark.batch")
        )
    ),
    responses(
        (status = 200, description = "All good lines are durable", body = ReceiptAnswer),
        (status = 400, description = "No good line at all, a bad header, or a damaged body", body = BadRequest, content_type = "application/problem+json"),
        (status = 409, description = "`sequence_reused` or `sequence_expired`: this attempt did not count", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Too large: send it in parts", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Another media type or encoding", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "As much under way as the node may hold: come back", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not known to be durable: send it again", body = Problem, content_type = "application/problem+json")
    )
)]
async fn post_events(State(intake): State<Intake>, request: Request) -> Response {
    // Taken apart here: an extractor of headers copies them.
    let (head, body) = request.into_parts();
    let answer = match take(&intake, &head, body).await {
        Ok(receipt) => receipt.into_response(),
        Err(problem) => problem.into_response(),
    };
    intake.metrics().requests.inc();
    if matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        intake.metrics().refused.inc();
    }
    answer
}

async fn take(intake: &Intake, head: &Parts, body: Body) -> Result<Receipt, Problem> {
    let parameters = Query::<EventsParameters>::try_from_uri(&head.uri);
    let Query(parameters) = parameters.map_err(|refusal| Problem::unreadable_query(&refusal))?;
    let (errors_max, headers) = (parameters.errors_max()?, &head.headers);
    let (kind, encoding) = (kind(headers)?, encoding(headers)?);
    let producer = producer(headers)?;
    let mut permit = intake.admit().map_err(overloaded)?;
    let bytes = collect(intake, headers, body, &mut permit).await?;
    let body = EventsBody { kind, encoding, bytes };
    let mut receipt = intake.accept(body, producer, permit).await.map_err(refusal)?;
    receipt.rejections.listed.truncate(errors_max);
    Ok(receipt)
}

fn kind(headers: &HeaderMap) -> Result<Kind, Problem> {
    let Some(media_type) = headers.get(header::CONTENT_TYPE) else { return Ok(Kind::Lines) };
    media_type.to_str().ok().and_then(Kind::named).ok_or_else(|| {
        let detail = "send Content-Type: application/x-ndjson (one event a line), application/json or application/vnd.hourmark.batch";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    })
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut names = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let encoding = match (names.next(), names.next()) {
        (None, _) => Some(Encoding::Identity),
        (Some(name), None) => name.to_str().ok().and_then(Encoding::named),
        (Some(_), Some(_)) => None,
    };
    encoding.ok_or_else(|| {
        let detail = "send Content-Encoding: gzip or zstd, once, or no compression";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail)
    })
}

fn producer(headers: &HeaderMap) -> Result<Option<(ProducerId, Sequence)>, Problem> {
    let bad = |header: &Header, why: &str| Problem::bad_parameter(header.title, why);
    let (producer, sequence) = match (text(headers, &PRODUCER)?, text(headers, &SEQUENCE)?) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(bad(&SEQUENCE, "is missing: send both headers, or neither")),
        (None, Some(_)) => return Err(bad(&PRODUCER, "is missing: send both headers, or neither")),
        (Some(producer), Some(sequence)) => (producer, sequence),
    };
    let producer =
        ProducerId::new(producer).ok_or_else(|| bad(&PRODUCER, "is not 1 to 256 bytes without control characters"))?;
    let is_number = sequence.bytes().all(|byte| byte.is_ascii_digit());
    let sequence = sequence.parse().ok().filter(|_| is_number);
    let sequence = sequence.ok_or_else(|| bad(&SEQUENCE, "is not an integer from 0 to 2^64 - 1"))?;
    Ok(Some((producer, Sequence(sequence))))
}

/// The one value of a header, if it is there.
fn text<'a>(headers: &'a HeaderMap, header: &Header) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(&header.name).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_parameter(header.title, "stands there more than once"));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(Some).map_err(|_| Problem::bad_parameter(header.title, "is not UTF-8"))
}

/// Reads a body as it comes in, each piece with room from the budget.
async fn collect(intake: &Intake, headers: &HeaderMap, mut body: Body, permit: &mut Permit) -> Result<Bytes, Problem> {
    let bytes_max = intake.settings().body_bytes_max;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if let Some(bytes) = announced {
        if bytes > bytes_max {
            return Err(too_large(format!("the body has {bytes} bytes, more than {bytes_max}")));
        }
        // Only asked for, not kept: a client that announces much and sends it slowly must not shut others out.
        permit.grow(bytes).map_err(overloaded)?;
        permit.shrink(bytes);
    }
    let mut collected = intake.buffers().take(announced);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let detail = format!("the body ended before its time: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", detail)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > bytes_max {
            return Err(too_large(format!("the body has more than {bytes_max} bytes")));
        }
        permit.grow(data.len()).map_err(overloaded)?;
        if collected.is_empty() && announced == Some(data.len()) {
            // All of it in one piece, as small bodies are. A slice would keep the connection's whole buffer.
            let is_small = data.len() <= COPIED_BYTES_MAX;
            return Ok(if is_small { Bytes::copy_from_slice(&data) } else { data });
        }
        collected.extend_from_slice(&data);
    }
    Ok(intake.buffers().lend(collected))
}

fn too_large(detail: String) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("{detail}: send it as several requests"))
}

fn overloaded(error: Overloaded) -> Problem {
    let detail = format!("{error}; nothing was stored, send it again");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail).retry_after(RETRY_AFTER)
}

fn refusal(error: Error) -> Problem {
    let conflict = |code, advice: &str| Problem::new(StatusCode::CONFLICT, code, format!("{error}: {advice}"));
    match &error {
        Error::Overloaded(error) | Error::Inflate(InflateError::Overloaded(error)) => overloaded(*error),
        Error::Inflate(InflateError::TooLarge(_)) | Error::BatchTooLarge(_) | Error::Append(AppendError::TooLarge) => {
            too_large(error.to_string())
        }
        Error::Inflate(InflateError::Damaged(cause)) => {
            let detail = format!("the body is not what its Content-Encoding says: {cause}");
            Problem::new(StatusCode::BAD_REQUEST, "invalid_encoding", detail)
        }
        Error::SequenceReused => conflict("sequence_reused", "give each body a sequence of its own"),
        Error::SequenceExpired => conflict(
            "sequence_expired",
            "this attempt did not count, an earlier one may have; a new sequence counts anew",
        ),
        Error::TooManyProducers => {
            let detail = format!("{error}: some of the events may count; {RETRY_IS_SAFE}");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_producers", detail).retry_after(RETRY_AFTER_PRODUCERS)
        }
        Error::Append(AppendError::DiskFull) => {
            let detail = format!("{error}: some of the events may count; {RETRY_IS_SAFE}. Reads are served");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "disk_full", detail).retry_after(RETRY_AFTER_DISK)
        }
        Error::Append(AppendError::ClockSkew) => {
            let detail = format!("{error}: set the clocks right. Some of the events may count; {RETRY_IS_SAFE}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "clock_skew", detail).retry_after(RETRY_AFTER_CLOCK)
        }
        Error::Append(AppendError::Unavailable(_)) => {
            let detail = format!("{error}: some, all or none of the events may count; {RETRY_IS_SAFE}");
            Problem::unavailable(detail, RETRY_AFTER)
        }
    }
}

impl From<&Receipt> for ReceiptAnswer {
    fn from(receipt: &Receipt) -> ReceiptAnswer {
        let error = |(line, reason): &(u64, Reason)| LineError {
            line: *line,
            code: reason.code(),
            field: reason.field().map(|field| field.name()),
            message: reason.to_string(),
        };
        ReceiptAnswer {
            accepted: receipt.accepted,
            duplicate: receipt.duplicate,
            rejected: receipt.rejections.count,
            errors: receipt.rejections.listed.iter().map(error).collect(),
            token: receipt.token.to_string(),
        }
    }
}

impl IntoResponse for Receipt {
    fn into_response(self) -> Response {
        let receipt = ReceiptAnswer::from(&self);
        if receipt.rejected == 0 || receipt.accepted + receipt.duplicate > 0 {
            return Json(receipt).into_response();
        }
        let detail = format!("not one of {} lines is an event; errors says why", receipt.rejected);
        let problem = Problem::new(StatusCode::BAD_REQUEST, ALL_REJECTED, detail);
        let mut response = (StatusCode::BAD_REQUEST, Json(AllRejected { problem, receipt })).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        response
    }
}

#[cfg(test)]
mod tests;
