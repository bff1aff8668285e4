//! The question that comes most often, for one hour of one app, past the router.
//!
//! With hours that are answered from memory, what the router does for any request costs more than the answer.

use super::answer_hour;
use crate::domain::{AppId, Hour};
use crate::format::Token;
use crate::http::Shortcut;
use crate::query::execute::Query;
use crate::query::request::{Consistency, parse_app};
use axum::body::Body;
use axum::http::{HeaderMap, Response, Uri, header};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Takes `/v1/apps/{app_id}/hours/{hour}`, plainly written, with no other parameter than `consistency`.
pub struct HourShortcut(pub Query);

impl Shortcut for HourShortcut {
    fn get(&self, uri: &Uri, headers: &HeaderMap) -> Option<BoxFuture<'static, Response<Body>>> {
        let (app, hour, consistency) = parse(uri.path(), uri.query())?;
        if headers.contains_key(header::IF_NONE_MATCH) {
            return None;
        }
        let query = self.0.clone();
        Some(async move { answer_hour(&query, &HeaderMap::new(), app, hour, None, &consistency).await }.boxed())
    }
}

fn parse(path: &str, parameters: Option<&str>) -> Option<(AppId, Hour, Consistency)> {
    let (app, hour) = path.strip_prefix("/v1/apps/")?.split_once("/hours/")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let app = app.bytes().all(is_plain).then(|| parse_app(app).ok())??;
    let consistency = match parameters {
        None | Some("consistency=linearizable") => Consistency::Linearizable,
        Some("consistency=local") => Consistency::Local(Token::default()),
        Some(_) => return None,
    };
    Some((app, Hour::parse(hour)?, consistency))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{Seen, ask, ask_router};
    use crate::query::testing::Fake;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_plainly_written_is_taken() {
        let hour = Hour::parse("2026-11-22T20").unwrap();
        let app = |name| AppId::new(name).unwrap();
        let path = "/v1/apps/check-out.eu/hours/2026-11-22T20";
        assert_eq!(parse(path, None), Some((app("check-out.eu"), hour, Consistency::Linearizable)));
        let local = Some((app("check-out.eu"), hour, Consistency::Local(Token::default())));
        assert_eq!(parse(path, Some("consistency=local")), local);
        for (path, parameters) in [
            (path, Some("")),
            (path, Some("q=0.5")),
            (path, Some("consistency=local&after=0.7")),
            (path, Some("consistency=loca%6C")),
            ("/v1/apps/check%20out/hours/2026-11-22T20", None),
            ("/v1/apps//hours/2026-11-22T20", None),
            ("/v1/apps/a/hours/2026-11-22T20/", None),
            ("/v1/apps/a/hours/2026-11-22T20:00:00Z", None),
            ("/v1/apps/a/b/hours/2026-11-22T20", None),
            ("/v1/apps/a/hours", None),
            ("/v1/hours/2026-11-22T20", None),
        ] {
            assert_eq!(parse(path, parameters), None, "{path} {parameters:?}");
        }
    }

    /// What a client can tell answers apart by.
    fn seen(seen: Seen) -> (u16, Vec<(String, Vec<u8>)>, bytes::Bytes) {
        let headers = seen.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let mut headers: Vec<_> = headers.filter(|(name, _)| name != "content-length").collect();
        headers.sort();
        (seen.status.as_u16(), headers, seen.body)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_shortcut_answers_as_the_router_does(
            app in prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("silent".to_owned()), "[a-b.%~+ -]{0,3}"],
            hour in prop_oneof![Just("2026-11-22T20".to_owned()), Just("2026-11-22T21".to_owned()), "20[0-9T:Z-]{5,12}"],
            parameters in prop_oneof![
                Just(String::new()),
                Just("?consistency=local".to_owned()),
                Just("?consistency=linearizable".to_owned()),
                "[?](consistency=(local|eventual)|q=0[.]5|&|after=0[.]1){0,3}",
            ],
        ) {
            let fake = Fake::new(1);
            let recorded = Hour::parse("2026-11-22T20").unwrap().0;
            fake.record("a", recorded, 7);
            fake.record("b", recorded, 8);
            fake.record("silent", recorded - 5, 9);
            let app = app.replace(' ', "%20");
            let path = format!("/v1/apps/{app}/hours/{hour}{parameters}");
            prop_assume!(path.parse::<Uri>().is_ok());
            let routes = fake.router();
            let uri: Uri = path.parse().unwrap();
            let request = axum::http::Request::get(&path).body(Body::empty()).unwrap();
            prop_assert_eq!(routes.shortcut(&request).is_some(), parse(uri.path(), uri.query()).is_some());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let (by_shortcut, by_router) = runtime.block_on(async {
                (ask(&routes, &path).await, ask_router(&routes, &path).await)
            });
            prop_assert_eq!(seen(by_shortcut), seen(by_router), "{}", path);
        }
    }
}
