//! What a client asks: parameters read, checked and bounded. Everything refused here is refused by name.

use crate::domain::{AppId, EventTime, Hour, Quantile};
use crate::format::Token;
use crate::http::Problem;
use serde::Deserialize;
use std::ops::Range;
use utoipa::IntoParams;

/// Quantiles of one question.
pub const QUANTILES_MAX: usize = 32;

/// The quantiles of a question that names none.
pub const QUANTILES_DEFAULT: [f64; 4] = [0.5, 0.9, 0.95, 0.99];

/// Hours of one page, and how many there are if the question does not say.
pub const HOURS_MAX: usize = 10_000;
/// Hours of a page of which the question does not say.
pub const HOURS_DEFAULT: usize = 1_000;

/// Apps of one page.
pub const APPS_MAX: usize = 1_000;
/// Apps of a page of which the question does not say.
pub const APPS_DEFAULT: usize = 1_000;

/// How an hour is asked for.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HourParameters {
    /// The app, where the path does not name it.
    #[param(ignore)]
    pub app_id: Option<String>,
    /// Quantiles, 0 to 1, separated by commas; at most 32. Default `0.5,0.9,0.95,0.99`.
    #[param(example = "0.5,0.99")]
    pub q: Option<String>,
    /// `linearizable` (default): the answer holds every event acknowledged before the question. `local`: what the asked
    /// node's replica has, at once, also without a majority; `as_of` says how far that is.
    #[param(example = "local")]
    pub consistency: Option<String>,
    /// The `token` of a write's answer: with `consistency=local`, waits until the answer holds that write.
    pub after: Option<String>,
}

/// How a range of hours is asked for.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RangeParameters {
    /// The app, where the path does not name it.
    #[param(ignore)]
    pub app_id: Option<String>,
    /// Hours that begin at this moment or later: RFC 3339, `YYYY-MM-DD` or `YYYY-MM-DDThh`, UTC. Default: all.
    #[param(example = "2026-11-22")]
    pub from: Option<String>,
    /// Hours that begin before this moment. Default: all.
    #[param(example = "2026-11-23T00")]
    pub to: Option<String>,
    /// Hours of a page, 1 to 10000. Default 1000.
    pub limit: Option<String>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
    /// Quantiles, 0 to 1, separated by commas; at most 32. Default `0.5,0.9,0.95,0.99`.
    #[param(example = "0.5,0.99")]
    pub q: Option<String>,
    /// `linearizable` (default) or `local`.
    pub consistency: Option<String>,
    /// The `token` of a write's answer: with `consistency=local`, waits until the answer holds that write.
    pub after: Option<String>,
}

/// How a summary is asked for.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SummaryParameters {
    /// The app, where the path does not name it.
    #[param(ignore)]
    pub app_id: Option<String>,
    /// Hours that begin at this moment or later: RFC 3339, `YYYY-MM-DD` or `YYYY-MM-DDThh`, UTC. Default: all.
    #[param(example = "2026-11-22")]
    pub from: Option<String>,
    /// Hours that begin before this moment. Default: all.
    #[param(example = "2026-11-23T00")]
    pub to: Option<String>,
    /// Quantiles, 0 to 1, separated by commas; at most 32. Default `0.5,0.9,0.95,0.99`.
    #[param(example = "0.5,0.99")]
    pub q: Option<String>,
    /// `linearizable` (default) or `local`.
    pub consistency: Option<String>,
    /// The `token` of a write's answer: with `consistency=local`, waits until the answer holds that write.
    pub after: Option<String>,
}

/// How apps are asked for.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AppsParameters {
    /// Only apps whose names begin so.
    pub prefix: Option<String>,
    /// Apps of a page, 1 to 1000. Default 1000.
    pub limit: Option<String>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
    /// `linearizable` (default) or `local`.
    pub consistency: Option<String>,
    /// The `token` of a write's answer: with `consistency=local`, waits until the answer holds that write.
    pub after: Option<String>,
}

/// Which events an answer must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consistency {
    /// Every event acknowledged before the question.
    Linearizable,
    /// What this node's replica has, but at least what the token names.
    Local(Token),
}

impl Consistency {
    /// Reads `consistency` and `after`. A linearizable answer holds every acknowledged write, so there the token is only
    /// checked.
    pub fn parse(consistency: Option<&str>, after: Option<&str>) -> Result<Consistency, Problem> {
        let token: Token = match after {
            Some(text) => text.parse().map_err(|error| Problem::bad_parameter("after", error))?,
            None => Token::default(),
        };
        match consistency {
            None | Some("linearizable") => Ok(Consistency::Linearizable),
            Some("local") => Ok(Consistency::Local(token)),
            Some(other) => {
                Err(Problem::bad_parameter("consistency", format!("{other:?} is neither linearizable nor local")))
            }
        }
    }
}

/// Reads an app id that was percent-decoded from the path.
pub fn parse_app(text: &str) -> Result<AppId, Problem> {
    AppId::new(text).map_err(|error| Problem::bad_parameter("app_id", error))
}

/// Reads an hour: `2026-11-22T20`, or the form that answers have, `2026-11-22T20:00:00Z`.
pub fn parse_hour(text: &str) -> Result<Hour, Problem> {
    let border = Hour::parse_border(text).filter(|time| time.hour().start() == *time && text.contains(['T', 't']));
    let hour = border.filter(|time| *time < EventTime::end()).map(EventTime::hour);
    hour.ok_or_else(|| Problem::bad_parameter("hour", format!("{text:?} is not an hour such as 2026-11-22T20 (UTC)")))
}

/// Reads `from` and `to`: the hours that begin in `[from, to)`.
pub fn parse_range(from: Option<&str>, to: Option<&str>) -> Result<Range<Hour>, Problem> {
    let start = parse_border("from", from)?.unwrap_or_default();
    let end = parse_border("to", to)?.unwrap_or_else(EventTime::end);
    if end < start {
        return Err(Problem::bad_parameter("to", "lies before from"));
    }
    Ok(Hour::between(start.min(EventTime::end()), end.min(EventTime::end())))
}

fn parse_border(name: &'static str, text: Option<&str>) -> Result<Option<EventTime>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let time = Hour::parse_border(text);
    let refusal = || {
        let forms = "2026-11-22, 2026-11-22T20 or 2026-11-22T20:00:00Z, from 1970 on";
        Problem::bad_parameter(name, format!("{text:?} is not a time such as {forms}"))
    };
    time.map(Some).ok_or_else(refusal)
}

/// Reads `q`.
pub fn parse_quantiles(text: Option<&str>) -> Result<Vec<Quantile>, Problem> {
    let Some(text) = text else {
        return Ok(QUANTILES_DEFAULT.into_iter().filter_map(Quantile::new).collect());
    };
    let quantile = |part: &str| {
        let number = part.parse::<f64>().ok().and_then(Quantile::new);
        number.ok_or_else(|| Problem::bad_parameter("q", format!("{part:?} is not a number from 0 to 1")))
    };
    if text.split(',').count() > QUANTILES_MAX {
        return Err(Problem::bad_parameter("q", format!("more than {QUANTILES_MAX} quantiles")));
    }
    text.split(',').map(quantile).collect()
}

/// Reads `limit`.
pub fn parse_limit(text: Option<&str>, default: usize, max: usize) -> Result<usize, Problem> {
    let Some(text) = text else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| Problem::bad_parameter("limit", format!("{text:?} is not a whole number from 1 to {max}")))
}

/// The cursor of a page of hours that goes on with `hour`.
pub fn hour_cursor(hour: Hour) -> String {
    hour.to_string()[..13].to_owned()
}

/// Reads a cursor of [`hour_cursor`].
pub fn parse_hour_cursor(text: &str) -> Result<Hour, Problem> {
    Hour::parse(text).ok_or_else(|| Problem::bad_parameter("cursor", "not the next of a page before"))
}

/// The cursor of a page of apps that goes on behind `app`: its bytes in hexadecimal, which no URL has to escape.
pub fn app_cursor(app: &AppId) -> String {
    app.as_str().bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a cursor of [`app_cursor`].
pub fn parse_app_cursor(text: &str) -> Result<String, Problem> {
    let refusal = || Problem::bad_parameter("cursor", "not the next of a page before");
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2 && !pair.starts_with('+'));
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    let bytes: Vec<u8> = digits.collect::<Option<_>>().ok_or_else(refusal)?;
    let app = String::from_utf8(bytes).map_err(|_| refusal())?;
    AppId::check(&app).map_err(|_| refusal())?;
    Ok(app)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The parameter that a refusal names.
    fn named<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        let problem = result.unwrap_err();
        assert_eq!(problem.code, "bad_parameter");
        problem.parameter.unwrap().into_string()
    }

    #[test]
    fn hours_have_two_forms() {
        let hour = Hour::parse("2026-11-22T20").unwrap();
        assert_eq!(parse_hour("2026-11-22T20").unwrap(), hour);
        assert_eq!(parse_hour("2026-11-22T20:00:00Z").unwrap(), hour);
        for text in
            ["2026-11-22T24", "2026-11-22T20:30:00Z", "2026-11-22", "2026-11-22T2", "now", "", "2300-01-01T00:00:00Z"]
        {
            assert_eq!(named(parse_hour(text)), "hour", "{text}");
        }
    }

    #[test]
    fn a_range_holds_the_hours_that_begin_in_it() {
        let hour = |text| Hour::parse(text).unwrap();
        let day = parse_range(Some("2026-11-22"), Some("2026-11-23")).unwrap();
        assert_eq!(day, hour("2026-11-22T00")..hour("2026-11-23T00"));
        let part = parse_range(Some("2026-11-22T20:30:00+01:00"), Some("2026-11-22T22:00:00.001Z")).unwrap();
        assert_eq!(part, hour("2026-11-22T20")..hour("2026-11-22T23"));
        assert_eq!(parse_range(None, None).unwrap(), Hour(0)..EventTime::end().hour());
        assert!(parse_range(Some("2026-11-22"), Some("2026-11-22")).unwrap().is_empty());
        assert!(parse_range(Some("2262-01-01"), None).unwrap().is_empty());
    }

    #[test]
    fn a_bad_border_is_named() {
        assert_eq!(named(parse_range(Some("yesterday"), None)), "from");
        assert_eq!(named(parse_range(None, Some("2026-13-01"))), "to");
        assert_eq!(named(parse_range(Some("2026-11-23"), Some("2026-11-22"))), "to");
        assert_eq!(named(parse_range(Some("1969-12-31T00:00:00Z"), None)), "from");
    }

    #[test]
    fn quantiles_are_bounded_in_value_and_number() {
        let values = |text| parse_quantiles(text).unwrap().into_iter().map(Quantile::value).collect::<Vec<_>>();
        assert_eq!(values(None), QUANTILES_DEFAULT);
        assert_eq!(values(Some("0,1,0.5,0.5")), [0.0, 1.0, 0.5, 0.5]);
        for text in ["", "1.5", "-0.1", "NaN", "inf", "0.5,", "half", "0.5;0.9"] {
            assert_eq!(named(parse_quantiles(Some(text))), "q", "{text}");
        }
        assert_eq!(values(Some(&["0.5"; QUANTILES_MAX].join(","))).len(), QUANTILES_MAX);
        assert_eq!(named(parse_quantiles(Some(&["0.5"; QUANTILES_MAX + 1].join(",")))), "q");
    }

    #[test]
    fn consistency_and_token_are_checked() {
        assert_eq!(Consistency::parse(None, Some("0.3")).unwrap(), Consistency::Linearizable);
        assert_eq!(Consistency::parse(Some("local"), Some("0.3")).unwrap(), Consistency::Local("0.3".parse().unwrap()));
        assert_eq!(named(Consistency::parse(Some("eventual"), None)), "consistency");
        assert_eq!(named(Consistency::parse(None, Some("zzz"))), "after");
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(parse_limit(None, 7, 9).unwrap(), 7);
        assert_eq!(parse_limit(Some("9"), 7, 9).unwrap(), 9);
        for text in ["0", "10", "-1", "1.0", "many", ""] {
            assert_eq!(named(parse_limit(Some(text), 7, 9)), "limit", "{text}");
        }
    }

    #[test]
    fn a_cursor_is_only_what_a_page_gave() {
        let hour = Hour::parse("2026-11-22T20").unwrap();
        assert_eq!(parse_hour_cursor(&hour_cursor(hour)).unwrap(), hour);
        for text in ["", "zz", "+1", "0", "ff", "00", "0a"] {
            assert_eq!(named(parse_app_cursor(text)), "cursor", "{text}");
        }
        assert_eq!(named(parse_hour_cursor("next")), "cursor");
    }

    proptest! {
        #[test]
        fn app_cursors_round_trip(name in "[^\\x00-\\x1f\\x7f]{1,40}") {
            let app = AppId::new(&name).unwrap();
            prop_assert_eq!(parse_app_cursor(&app_cursor(&app)).unwrap(), name);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = (parse_hour(&text), parse_range(Some(&text), Some(&text)), parse_quantiles(Some(&text)));
            let _ = (parse_hour_cursor(&text), parse_app_cursor(&text), Consistency::parse(Some(&text), Some(&text)));
        }
    }
}
