//! What every operation's description has in common, put in once.

use super::Problem;
use super::error::PROBLEM_MEDIA_TYPE;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Header, HeaderBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

/// A header of an answer.
pub fn header(kind: Type, description: &str) -> RefOr<Header> {
    let schema = ObjectBuilder::new().schema_type(kind);
    RefOr::T(HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build())
}

/// The answers of an operation that have one of these statuses.
pub fn answers<'a>(operation: &'a mut Operation, statuses: &'a [&str]) -> impl Iterator<Item = &'a mut Response> {
    let all = operation.responses.responses.iter_mut().filter(|(status, _)| statuses.contains(&status.as_str()));
    all.filter_map(|(_, response)| match response {
        RefOr::T(response) => Some(response),
        RefOr::Ref(_) => None,
    })
}

/// Every operation of a description.
pub fn operations(api: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    api.paths.paths.values_mut().flat_map(|item| [item.get.as_mut(), item.post.as_mut()]).flatten()
}

/// Adds the refusals that any path may give, and the header that says when to come back.
pub fn complete(api: &mut OpenApi) {
    let retry_after = header(Type::Integer, "Seconds after which to come back");
    for operation in operations(api) {
        for answer in answers(operation, &["429", "503"]) {
            answer.headers.insert("Retry-After".to_owned(), retry_after.clone());
        }
        operation.responses.responses.entry("default".to_owned()).or_insert_with(|| RefOr::T(any_refusal()));
    }
}

fn any_refusal() -> Response {
    let description = "Any request may meet `503` (`not_ready`: the node is starting, or `unavailable`: it serves as many \
                       connections as it can; with `Retry-After`), `408` (`request_timeout`) or `500` (`internal`)";
    let schema = Ref::from_schema_name(<Problem as utoipa::ToSchema>::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content(PROBLEM_MEDIA_TYPE, content).build()
}
