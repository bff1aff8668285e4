//! The one HTTP server; rooms bring routes.
//!
//! ```text
//!   Door::listen ──▶ Door::serve ── few routes, rooms are built ──▶ Server::switch(assemble(rooms)) ──▶ Server::shutdown
//! ```
//!
//! A room hands over a [`Room`]: its routes and their description. [`assemble`] joins them, serves the joined description
//! as `/openapi.json`, and gives every path and method that no room knows the same [`Problem`] shape as every refusal.

mod answer;
mod date;
pub mod description;
mod drain;
mod error;
mod routes;
mod server;
mod stall;

pub use error::{PROBLEM_MEDIA_TYPE, Problem};
pub use routes::{Routes, Shortcut};
pub use server::{Door, Limits, Server};

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use std::sync::Arc;
use utoipa::OpenApi;

/// What a room brings to the server.
pub struct Room {
    /// Its routes, with their full paths and their state inside.
    pub routes: Router,
    /// The description of those routes, from the handlers' own types.
    pub openapi: utoipa::openapi::OpenApi,
    /// What goes past them.
    pub shortcut: Option<Arc<dyn Shortcut>>,
}

/// The description that the rooms' parts are merged into.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hourmark",
        description = "Counts, averages, extremes and quantiles of response times per app and UTC hour. Any node takes \
                       any request. Every refusal is `application/problem+json` with a stable `code`."
    ),
    components(schemas(Problem))
)]
struct Api;

/// Joins the rooms into one.
pub fn assemble(rooms: impl IntoIterator<Item = Room>) -> Routes {
    let mut api = Api::openapi();
    let (mut router, mut shortcuts) = (Router::new(), Vec::new());
    for room in rooms {
        shortcuts.extend(room.shortcut);
        api.merge(room.openapi);
        router = router.merge(room.routes);
    }
    description::complete(&mut api);
    let description = Bytes::from(api.to_json().expect("a description of strings always serializes"));
    let openapi = move || {
        let json = [(header::CONTENT_TYPE, "application/json")];
        std::future::ready((json, description.clone()))
    };
    let router = router.route("/openapi.json", get(openapi));
    Routes::new(router.fallback(no_such_path).method_not_allowed_fallback(no_such_method), shortcuts)
}

async fn no_such_path(uri: Uri) -> impl IntoResponse {
    let detail = format!("there is nothing at {}; /openapi.json lists what there is", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

async fn no_such_method(method: Method, uri: Uri) -> impl IntoResponse {
    let detail = format!("{} does not take {method}; the Allow header says what it takes", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

#[cfg(test)]
pub mod testing {
    //! Asks a router as a client would, without a socket.

    use super::*;
    use axum::body::Body;
    use axum::http::{HeaderMap, Request, Response};
    use http_body_util::BodyExt;

    /// What a client saw.
    #[derive(Debug)]
    pub struct Seen {
        /// The status.
        pub status: StatusCode,
        /// All headers.
        pub headers: HeaderMap,
        /// The whole body.
        pub body: Bytes,
    }

    impl Seen {
        /// The body as JSON.
        pub fn json(&self) -> serde_json::Value {
            serde_json::from_slice(&self.body).unwrap()
        }

        /// Status and code of a refusal, which must have the right media type.
        pub fn refusal(&self) -> (u16, String) {
            assert_eq!(self.headers[header::CONTENT_TYPE], PROBLEM_MEDIA_TYPE, "{self:?}");
            let problem: Problem = serde_json::from_slice(&self.body).unwrap();
            assert_eq!(problem.status, self.status.as_u16());
            (problem.status, problem.code.into_owned())
        }
    }

    /// Sends one request.
    pub async fn send(routes: &(impl Clone + Into<Routes>), request: Request<Body>) -> Seen {
        let routes: Routes = routes.clone().into();
        match routes.shortcut(&request) {
            Some(answer) => seen(answer.await).await,
            None => seen(routes.route(request).await.unwrap()).await,
        }
    }

    async fn seen(response: Response<Body>) -> Seen {
        let (parts, body) = response.into_parts();
        Seen { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    /// Gets a path.
    pub async fn ask(routes: &(impl Clone + Into<Routes>), path: &str) -> Seen {
        send(routes, Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Gets a path, without shortcuts.
    pub async fn ask_router(routes: &Routes, path: &str) -> Seen {
        seen(routes.route(Request::get(path).body(Body::empty()).unwrap()).await.unwrap()).await
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ask, send};
    use super::*;
    use axum::body::Body;
    use axum::http::Request;

    fn router() -> Routes {
        let routes = Router::new().route("/there", get(|| async { "here" }));
        assemble([Room { routes, openapi: Api::openapi(), shortcut: None }])
    }

    #[tokio::test]
    async fn an_unknown_path_and_an_unknown_method_are_problems() {
        assert_eq!(ask(&router(), "/nowhere").await.refusal(), (404, "not_found".to_owned()));
        let seen = send(&router(), Request::delete("/there").body(Body::empty()).unwrap()).await;
        assert_eq!(seen.refusal(), (405, "method_not_allowed".to_owned()));
        assert_eq!(seen.headers[header::ALLOW], "GET,HEAD");
    }

    #[tokio::test]
    async fn the_description_is_openapi_3_1() {
        let api = ask(&router(), "/openapi.json").await.json();
        assert_eq!(api["openapi"], "3.1.0");
        assert_eq!(api["info"]["title"], "Hourmark");
        assert!(api["components"]["schemas"]["Problem"]["properties"]["code"].is_object());
    }

    #[test]
    fn every_operation_says_what_any_path_may_answer() {
        #[utoipa::path(get, path = "/there", responses((status = 503, description = "later", body = Problem)))]
        #[allow(dead_code, reason = "only its description is looked at")]
        fn there() {}
        #[derive(OpenApi)]
        #[openapi(paths(there))]
        struct There;
        let mut api = There::openapi();
        description::complete(&mut api);
        let answers = &serde_json::to_value(api).unwrap()["paths"]["/there"]["get"]["responses"];
        assert!(answers["503"]["headers"]["Retry-After"]["schema"].is_object(), "{answers}");
        assert!(answers["default"]["content"][PROBLEM_MEDIA_TYPE].is_object(), "{answers}");
    }
}
