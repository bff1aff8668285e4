//! `GET /v1/apps/…`: the questions over HTTP.
//!
//! Every answer has an `ETag` made of its bytes, and a client that shows it again gets `304`. It is made of the numbers
//! and not of a time, so it changes exactly when they do, also by a late event. Local answers carry their age, so theirs is
//! a weak tag of everything else.

mod shortcut;

use super::answer::{AppAnswer, AppsAnswer, AsOf, HourAnswer, HoursAnswer, SummaryAnswer};
use super::execute::{Error, Query};
use super::finished::{Finished, HourKey};
use super::reads::AppSelection;
use super::request::{self, AppsParameters, Consistency, HourParameters, RangeParameters, SummaryParameters};
use crate::domain::{AppId, Hour};
use crate::format::Token;
use crate::http::{Problem, Room, description};
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query as QueryString, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use shortcut::HourShortcut;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::OpenApi;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// When to ask again after `503`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The routes of this room.
pub fn room(query: Query) -> Room {
    let routes = Router::new()
        .route("/v1/apps", get(apps))
        .route("/v1/apps/{app_id}/hours", get(hours))
        .route("/v1/apps/{app_id}/hours/{hour}", get(hour))
        .route("/v1/apps/{app_id}/summary", get(summary))
        .route("/v1/hours", get(hours))
        .route("/v1/hours/{hour}", get(hour))
        .route("/v1/summary", get(summary))
        .with_state(query.clone());
    let shortcut = Arc::new(HourShortcut(query));
    let mut openapi = Api::openapi();
    describe_apps_by_parameter(&mut openapi);
    describe_tags(&mut openapi);
    Room { routes, openapi, shortcut: Some(shortcut) }
}

/// Describes the paths that take the app as a parameter. They are for ids that do not survive in a path: to most clients
/// the segments `.` and `..` are directions, however they are encoded.
fn describe_apps_by_parameter(openapi: &mut utoipa::openapi::OpenApi) {
    let all = std::mem::take(&mut openapi.paths.paths);
    let by_parameter = all.iter().filter_map(|(path, item)| {
        let path = path.strip_prefix("/v1/apps/{app_id}")?;
        let mut item = item.clone();
        let asked = item.get.as_mut()?;
        asked.operation_id = asked.operation_id.as_ref().map(|id| format!("{id}_by_parameter"));
        let app_id = asked.parameters.iter_mut().flatten().find_map(|parameter| match parameter {
            RefOr::T(parameter) if parameter.name == "app_id" => Some(parameter),
            _ => None,
        })?;
        app_id.parameter_in = ParameterIn::Query;
        app_id.description = Some("The app, percent-encoded; any id, also `.` and `..`".to_owned());
        Some((format!("/v1{path}"), item))
    });
    let by_parameter: Vec<_> = by_parameter.collect();
    openapi.paths.paths = all.into_iter().chain(by_parameter).collect();
}

/// Describes how an answer is recognised.
fn describe_tags(openapi: &mut utoipa::openapi::OpenApi) {
    let if_none_match = ParameterBuilder::new()
        .name("If-None-Match")
        .parameter_in(ParameterIn::Header)
        .description(Some("`ETag`s that the client has the answers of: `304` if one of them is still right"))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build();
    let tag = description::header(Type::String, "Equal as long as the answer is; weak where `as_of` is told");
    let cache = description::header(Type::String, "`no-cache`: keep it, and ask with `If-None-Match`");
    for operation in description::operations(openapi) {
        operation.parameters.get_or_insert_default().push(RefOr::T(if_none_match.clone()));
        for answer in description::answers(operation, &["200", "304"]) {
            answer.headers.insert("ETag".to_owned(), tag.clone());
            answer.headers.insert("Cache-Control".to_owned(), cache.clone());
        }
    }
}

/// The app that a path names, if it names one.
#[derive(Debug, Default, Deserialize)]
struct AppPath {
    app_id: Option<String>,
}

/// The hour that a path names, and its app, if it names one.
#[derive(Debug, Deserialize)]
struct HourPath {
    app_id: Option<String>,
    hour: String,
}

/// The app that path and parameters name between them.
fn app(path: Option<String>, parameter: Option<String>) -> Result<AppId, Problem> {
    match (path, parameter) {
        (Some(app), None) | (None, Some(app)) => request::parse_app(&app),
        (None, None) => Err(Problem::bad_parameter("app_id", "is missing")),
        (Some(_), Some(_)) => Err(Problem::bad_parameter("app_id", "stands in the path already")),
    }
}

fn app_path(path: PathOf<AppPath>) -> Result<Option<String>, Problem> {
    match path {
        Ok(Path(path)) => Ok(path.app_id),
        Err(PathRejection::MissingPathParams(_)) => Ok(None),
        Err(error) => Err(unreadable_path(&error)),
    }
}

#[derive(OpenApi)]
#[openapi(
    paths(apps, hours, hour, summary),
    components(schemas(HourAnswer, HoursAnswer, SummaryAnswer, AppsAnswer)),
    tags((name = "query", description = "Rollups of apps and hours"))
)]
struct Api;

type PathOf<T> = Result<Path<T>, PathRejection>;
type Parameters<T> = Result<QueryString<T>, QueryRejection>;

/// The rollup of one app and hour.
#[utoipa::path(
    get,
    path = "/v1/apps/{app_id}/hours/{hour}",
    tag = "query",
    params(
        ("app_id" = String, Path, description = "The app, percent-encoded", example = "checkout"),
        ("hour" = String, Path, description = "The hour, UTC", example = "2026-11-22T20"),
        HourParameters
    ),
    responses(
        (status = 200, description = "The rollup", body = HourAnswer),
        (status = 304, description = "The rollup is still the one of If-None-Match"),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_app` or `no_events`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: no majority, or no answer in time", body = Problem, content_type = "application/problem+json")
    )
)]
async fn hour(
    State(query): State<Query>,
    path: PathOf<HourPath>,
    parameters: Parameters<HourParameters>,
    headers: HeaderMap,
) -> Response {
    let parse = || {
        let Path(path) = path.map_err(|error| unreadable_path(&error))?;
        let QueryString(parameters) = parameters.map_err(|error| Problem::unreadable_query(&error))?;
        let (app, hour) = (app(path.app_id, parameters.app_id)?, request::parse_hour(&path.hour)?);
        request::parse_quantiles(parameters.q.as_deref())?;
        let consistency = consistency(&query, parameters.consistency.as_deref(), parameters.after.as_deref())?;
        Ok((app, hour, parameters.q, consistency))
    };
    match parse() {
        Ok((app, hour, quantiles, consistency)) => {
            answer_hour(&query, &headers, app, hour, quantiles, &consistency).await
        }
        Err(problem) => Asked::begin(&query, &headers).finish(Err(problem)),
    }
}

/// The answer to a question for one hour, however it was read. `quantiles`: as they were given.
async fn answer_hour(
    query: &Query,
    headers: &HeaderMap,
    app: AppId,
    hour: Hour,
    quantiles: Option<String>,
    consistency: &Consistency,
) -> Response {
    let asked = Asked::begin(query, headers);
    let answer = async {
        let (row, located) = query.hour(&app, hour, consistency).await.map_err(|error| refusal(&error, &app))?;
        let key = HourKey { app, hour, quantiles };
        let finished = match query.finished().get(&key, row.version) {
            Some(finished) => finished,
            None => {
                let (sketch, rollup) = (&query.settings().sketch, &row.stored.rollup);
                let quantiles = request::parse_quantiles(key.quantiles.as_deref())?;
                let finished = Finished::of(&HourAnswer::new(&key.app, hour, row.version, rollup, &quantiles, sketch));
                query.finished().put(key, row.version, &finished);
                finished
            }
        };
        let as_of = located.map(|(partition, at)| AsOf::new(partition, &at));
        Ok(asked.respond(&finished, as_of.as_ref()))
    };
    asked.finish(answer.await)
}

/// The rollups of an app's hours in a range, oldest first, page by page.
///
/// Hours without events are left out.
#[utoipa::path(
    get,
    path = "/v1/apps/{app_id}/hours",
    tag = "query",
    params(("app_id" = String, Path, description = "The app, percent-encoded", example = "checkout"), RangeParameters),
    responses(
        (status = 200, description = "A page of rollups", body = HoursAnswer),
        (status = 304, description = "The page is still the one of If-None-Match"),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_app`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: no majority, or no answer in time", body = Problem, content_type = "application/problem+json")
    )
)]
async fn hours(
    State(query): State<Query>,
    path: PathOf<AppPath>,
    parameters: Parameters<RangeParameters>,
    headers: HeaderMap,
) -> Response {
    let asked = Asked::begin(&query, &headers);
    let answer = async {
        let QueryString(parameters) = parameters.map_err(|error| Problem::unreadable_query(&error))?;
        let app = app(app_path(path)?, parameters.app_id)?;
        let mut range = request::parse_range(parameters.from.as_deref(), parameters.to.as_deref())?;
        if let Some(cursor) = &parameters.cursor {
            range.start = range.start.max(request::parse_hour_cursor(cursor)?);
        }
        let limit = request::parse_limit(parameters.limit.as_deref(), request::HOURS_DEFAULT, request::HOURS_MAX)?;
        let quantiles = request::parse_quantiles(parameters.q.as_deref())?;
        let consistency = consistency(&query, parameters.consistency.as_deref(), parameters.after.as_deref())?;
        let sketch = &query.settings().sketch;
        let mut hours = Vec::new();
        let page = query.hours(&app, range, limit, &consistency, |row| {
            hours.push(HourAnswer::new(&app, row.hour, row.version, &row.stored.rollup, &quantiles, sketch));
        });
        let (next, located) = page.await.map_err(|error| refusal(&error, &app))?;
        let answer = HoursAnswer { app_id: app.to_string(), hours, next: next.map(request::hour_cursor), as_of: None };
        let as_of = located.map(|(partition, at)| AsOf::new(partition, &at));
        Ok(asked.respond(&Finished::of(&answer), as_of.as_ref()))
    };
    asked.finish(answer.await)
}

/// One rollup of all of an app's events in a range of hours.
#[utoipa::path(
    get,
    path = "/v1/apps/{app_id}/summary",
    tag = "query",
    params(("app_id" = String, Path, description = "The app, percent-encoded", example = "checkout"), SummaryParameters),
    responses(
        (status = 200, description = "The rollup of the range", body = SummaryAnswer),
        (status = 304, description = "The rollup is still the one of If-None-Match"),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_app` or `no_events`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: no majority, or no answer in time", body = Problem, content_type = "application/problem+json")
    )
)]
async fn summary(
    State(query): State<Query>,
    path: PathOf<AppPath>,
    parameters: Parameters<SummaryParameters>,
    headers: HeaderMap,
) -> Response {
    let asked = Asked::begin(&query, &headers);
    let answer = async {
        let QueryString(parameters) = parameters.map_err(|error| Problem::unreadable_query(&error))?;
        let app = app(app_path(path)?, parameters.app_id)?;
        let range = request::parse_range(parameters.from.as_deref(), parameters.to.as_deref())?;
        let quantiles = request::parse_quantiles(parameters.q.as_deref())?;
        let consistency = consistency(&query, parameters.consistency.as_deref(), parameters.after.as_deref())?;
        let found = query.summary(&app, range.clone(), &consistency).await;
        let (summary, located) = found.map_err(|error| refusal(&error, &app))?;
        let sketch = &query.settings().sketch;
        let answer = SummaryAnswer::new(&app, &range, summary.hours, &summary.rollup, &quantiles, sketch);
        let as_of = located.map(|(partition, at)| AsOf::new(partition, &at));
        Ok(asked.respond(&Finished::of(&answer), as_of.as_ref()))
    };
    asked.finish(answer.await)
}

/// The apps that have events, by name, page by page.
#[utoipa::path(
    get,
    path = "/v1/apps",
    tag = "query",
    params(AppsParameters),
    responses(
        (status = 200, description = "A page of apps", body = AppsAnswer),
        (status = 304, description = "The page is still the one of If-None-Match"),
        (status = 400, description = "`bad_parameter`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`: no majority, or no answer in time", body = Problem, content_type = "application/problem+json")
    )
)]
async fn apps(State(query): State<Query>, parameters: Parameters<AppsParameters>, headers: HeaderMap) -> Response {
    let asked = Asked::begin(&query, &headers);
    let answer = async {
        let QueryString(parameters) = parameters.map_err(|error| Problem::unreadable_query(&error))?;
        let apps_max = request::parse_limit(parameters.limit.as_deref(), request::APPS_DEFAULT, request::APPS_MAX)?;
        let after = parameters.cursor.as_deref().map(request::parse_app_cursor).transpose()?;
        let consistency = consistency(&query, parameters.consistency.as_deref(), parameters.after.as_deref())?;
        let selection = AppSelection { prefix: parameters.prefix.unwrap_or_default(), after, apps_max };
        let found = query.apps(&selection, &consistency).await;
        let (apps, has_more, located) = found.map_err(|error| refusal_of_any(&error))?;
        let next = apps.last().filter(|_| has_more).map(|last| request::app_cursor(&last.app));
        let answer = AppsAnswer { apps: apps.iter().map(AppAnswer::from).collect(), next, as_of: None };
        let as_of = matches!(consistency, Consistency::Local(_))
            .then(|| located.iter().map(|(partition, at)| AsOf::new(*partition, at)).collect::<Vec<_>>());
        Ok(asked.respond(&Finished::of(&answer), as_of.as_ref()))
    };
    asked.finish(answer.await)
}

/// A question under way: what is counted of it, and what the client holds already.
struct Asked<'a> {
    query: &'a Query,
    begin: Instant,
    if_none_match: Vec<&'a str>,
}

impl<'a> Asked<'a> {
    fn begin(query: &'a Query, headers: &'a HeaderMap) -> Asked<'a> {
        query.metrics().requests.inc();
        let tags = headers.get_all(header::IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
        Asked {
            query,
            begin: Instant::now(),
            if_none_match: tags.flat_map(|tags| tags.split(',')).map(str::trim).collect(),
        }
    }

    /// `200` with the answer, or `304` where the client shows its tag. `as_of` is not part of the tag.
    fn respond(&self, finished: &Finished, as_of: Option<&impl Serialize>) -> Response {
        let strong = finished.tag();
        let is_known = |tag: &&str| *tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == strong;
        let is_not_modified = self.if_none_match.iter().any(is_known);
        let body = match as_of {
            _ if is_not_modified => Body::empty(),
            Some(as_of) => finished.body_with(as_of).into(),
            None => finished.body().into(),
        };
        let mut response = Response::new(body);
        let tag = if as_of.is_some() { finished.weak_tag() } else { strong };
        let headers = response.headers_mut();
        // Room for `Date`, too.
        headers.reserve(4);
        headers
            .insert(header::ETAG, HeaderValue::from_maybe_shared(tag.clone()).expect("hexadecimal digits in quotes"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if is_not_modified {
            self.query.metrics().not_modified.inc();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        response
    }

    fn finish(&self, answer: Result<Response, Problem>) -> Response {
        self.query.metrics().answer_seconds.observe(self.begin.elapsed().as_secs_f64());
        let response = answer.unwrap_or_else(Problem::into_response);
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            self.query.metrics().unavailable.inc();
        }
        response
    }
}

fn consistency(query: &Query, consistency: Option<&str>, after: Option<&str>) -> Result<Consistency, Problem> {
    let parsed = Consistency::parse(consistency, after)?;
    let token: Option<Token> = after.and_then(|text| text.parse().ok());
    match token.and_then(|token| query.foreign_partition(&token)) {
        Some(partition) => Err(Problem::bad_parameter(
            "after",
            format!("partition {partition} is not in this cluster: a token of another one"),
        )),
        None => Ok(parsed),
    }
}

fn unreadable_path(rejection: &PathRejection) -> Problem {
    Problem::bad_parameter("app_id", format!("the path is not percent-encoded UTF-8: {}", rejection.body_text()))
}

fn refusal(error: &Error, app: &AppId) -> Problem {
    match error {
        Error::UnknownApp => {
            let detail = format!("no event of the app {:?} has been taken", app.as_str());
            Problem::new(StatusCode::NOT_FOUND, "unknown_app", detail)
        }
        Error::NoEvents => {
            let detail = format!("the app {:?} has no events there", app.as_str());
            Problem::new(StatusCode::NOT_FOUND, "no_events", detail)
        }
        other => refusal_of_any(other),
    }
}

fn refusal_of_any(error: &Error) -> Problem {
    match error {
        Error::TooManyHours(_) => Problem::bad_parameter("to", format!("{error}; ask for a shorter range")),
        Error::Unavailable(reason) => Problem::unavailable(reason.clone(), RETRY_AFTER),
        other => {
            tracing::error!(error = %other, "query: a replica failed to answer");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a replica failed to answer; its log says why")
        }
    }
}
