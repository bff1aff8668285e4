//! `hourmark query`: the rollups of an app, by hour, by day or as one.

use super::connection::{Connection, timeout};
use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Format, Output, Table, json};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hourmark::client::{Client, encode};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;

/// Days that are asked for at once.
const DAYS_AT_ONCE: usize = 8;

/// Show the rollups of an app
///
/// Count, sum, average, minimum and maximum are exact; quantiles are within the cluster's relative accuracy (1 % by default).
/// An answer contains every event that was acked before the question, whichever node is asked, the running hour included.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark query checkout                                        every hour with events
  hourmark query checkout --from 2026-11-22 --to 2026-11-23      one day (UTC), hour by hour
  hourmark query checkout --from 2026-11-01 --step day           day by day, merged on the server
  hourmark query checkout --step total --quantiles 0.5,0.999 -o json

Times are 2026-11-22, 2026-11-22T20 or RFC 3339. An hour is open (still runs), sealed, or amended
(late events came after it was sealed). Exit code 3: no such app, or no events in the range.")]
pub struct Arguments {
    /// The app
    #[arg(value_name = "APP")]
    app: String,
    /// Hours that begin at this time or later [default: all]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Hours that begin before this time [default: all]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Quantiles from 0 to 1, separated by commas [default: 0.5,0.9,0.95,0.99]
    #[arg(long, value_name = "LIST")]
    quantiles: Option<String>,
    /// One rollup per hour, per day (UTC), or for the whole range
    #[arg(long, value_enum, default_value_t = Step::Hour)]
    step: Step,
    /// linearizable: contains all acked events; local: what the asked node has, at once, even without a majority
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,
    /// With --consistency local: wait until the answer contains the write that gave this token
    #[arg(long, value_name = "TOKEN")]
    after: Option<String>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// Give up after so long without an answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = timeout)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    Hour,
    Day,
    Total,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Consistency {
    Linearizable,
    Local,
}

/// A page of hours. The rollups stay the text that the server sent: its numbers are exact, a float's need not be.
#[derive(Deserialize)]
struct Page {
    hours: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// Several rollups of an app, as they are printed.
#[derive(Serialize)]
struct Rollups<'a> {
    app_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<&'a [Box<RawValue>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<&'a [Box<RawValue>]>,
}

/// Asks and prints.
pub async fn run(arguments: &Arguments) -> Outcome {
    if arguments.app.is_empty() {
        return Err(Failure::new(Exit::Usage, "no app has an empty id; `GET /v1/apps` lists those that have events"));
    }
    let question = Question { client: arguments.connection.client()?, arguments };
    let rollups = match arguments.step {
        Step::Hour => question.hours(arguments.quantiles.as_deref()).await?,
        Step::Day => question.days().await?,
        Step::Total => vec![question.summary(arguments.from.as_deref(), arguments.to.as_deref()).await?],
    };
    output::print(&render(&arguments.app, arguments.step, &rollups, arguments.output.format())?)
}

struct Question<'a> {
    client: Client,
    arguments: &'a Arguments,
}

impl Question<'_> {
    /// Every hour with events, oldest first, page by page; at least one.
    async fn hours(&self, quantiles: Option<&str>) -> Result<Vec<Box<RawValue>>, Failure> {
        let Arguments { app, from, to, .. } = self.arguments;
        let mut hours = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let parameters =
                [("from", from.as_deref()), ("to", to.as_deref()), ("q", quantiles), ("cursor", cursor.as_deref())];
            let page: Page = self.ask("hours", &parameters).await?;
            hours.extend(page.hours);
            match page.next {
                Some(next) => cursor = Some(next),
                None if hours.is_empty() => {
                    let border = |time: &Option<String>, word| {
                        time.as_ref().map_or(String::new(), |time| format!(" {word} {time}"))
                    };
                    let message = format!("{app} has no events{}{}", border(from, "from"), border(to, "to"));
                    return Err(Failure::new(Exit::NotFound, message));
                }
                None => return Ok(hours),
            }
        }
    }

    /// One rollup per day with events, merged on the server.
    async fn days(&self) -> Result<Vec<Box<RawValue>>, Failure> {
        let mut days: Vec<Date> = Vec::new();
        for hour in self.hours(Some("0.5")).await? {
            let day = Row::read(&hour)?.day()?;
            if days.last() != Some(&day) {
                days.push(day);
            }
        }
        // The range may begin or end within a day.
        let Arguments { from, to, .. } = self.arguments;
        let (first, last) = (days[0], days[days.len() - 1]);
        let summaries = days.into_iter().map(|day| async move {
            let own_from = day.to_string();
            let own_to = day.tomorrow().map_err(|error| unreadable(&error))?.to_string();
            let from = from.as_deref().filter(|_| day == first).unwrap_or(&own_from);
            let to = to.as_deref().filter(|_| day == last).unwrap_or(&own_to);
            self.summary(Some(from), Some(to)).await
        });
        stream::iter(summaries).buffered(DAYS_AT_ONCE).try_collect().await
    }

    /// One rollup of a range.
    async fn summary(&self, from: Option<&str>, to: Option<&str>) -> Result<Box<RawValue>, Failure> {
        self.ask("summary", &[("from", from), ("to", to), ("q", self.arguments.quantiles.as_deref())]).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        parameters: &[(&str, Option<&str>)],
    ) -> Result<T, Failure> {
        let Arguments { app, consistency, after, timeout, .. } = self.arguments;
        let consistency = (*consistency == Consistency::Local).then_some("local");
        let given = parameters.iter().copied().chain([("consistency", consistency), ("after", after.as_deref())]);
        // To URL libraries the segments `.` and `..` are directions, however they are encoded.
        let is_direction = matches!(app.as_str(), "." | "..");
        let given = given.chain([("app_id", is_direction.then_some(app.as_str()))]);
        let query: Vec<_> = given.filter_map(|(name, value)| Some(format!("{name}={}", encode(value?)))).collect();
        let of_app = if is_direction { String::new() } else { format!("/apps/{}", encode(app)) };
        let path = format!("/v1{of_app}/{what}?{}", query.join("&"));
        Ok(self.client.ask(&path, *timeout).await?)
    }
}

/// A rollup as far as tables show it; numbers as the server wrote them.
#[derive(Deserialize)]
struct Row {
    hour: Option<String>,
    state: Option<String>,
    from: Option<String>,
    to: Option<String>,
    hours: Option<u64>,
    count: u64,
    #[serde(default)]
    late: u64,
    average_ms: Box<RawValue>,
    min_ms: Box<RawValue>,
    max_ms: Box<RawValue>,
    median_ms: Box<RawValue>,
    sum_ms: Box<RawValue>,
    quantiles: Vec<QuantileRow>,
}

#[derive(Deserialize)]
struct QuantileRow {
    q: f64,
    value_ms: Box<RawValue>,
}

impl Row {
    fn read(rollup: &RawValue) -> Result<Row, Failure> {
        serde_json::from_str(rollup.get()).map_err(|error| unreadable(&error))
    }

    /// The UTC day of an hour's rollup.
    fn day(&self) -> Result<Date, Failure> {
        let hour = self.hour.as_deref().unwrap_or_default();
        hour.get(..10).unwrap_or_default().parse().map_err(|error: jiff::Error| unreadable(&error))
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("the server's answer is not one of this version: {error}"))
}

fn render(app: &str, step: Step, rollups: &[Box<RawValue>], format: Format) -> Result<String, Failure> {
    if format != Format::Json {
        let rows: Vec<_> = rollups.iter().map(|rollup| Row::read(rollup)).collect::<Result<_, _>>()?;
        let table = table(step, &rows, format);
        return Ok(if format == Format::Csv { table.to_csv() } else { table.to_text() });
    }
    Ok(match step {
        Step::Hour => json(&Rollups { app_id: app, hours: Some(rollups), days: None }),
        Step::Day => json(&Rollups { app_id: app, hours: None, days: Some(rollups) }),
        Step::Total => json(&rollups[0]),
    })
}

/// CSV has every number as the server wrote it; the table for people leaves out what they rarely read, and long decimals.
fn table(step: Step, rows: &[Row], format: Format) -> Table {
    let is_csv = format == Format::Csv;
    let mut header = match step {
        Step::Hour => vec!["hour", "state"],
        Step::Day | Step::Total => vec!["from", "to", "hours"],
    };
    header.extend(["count", "late", "average_ms", "min_ms", "max_ms", "median_ms"]);
    if is_csv {
        header.push("sum_ms");
    }
    let is_shown = |quantile: &&QuantileRow| is_csv || quantile.q != 0.5;
    let mut table = Table { header: header.into_iter().map(str::to_owned).collect(), rows: Vec::new() };
    let quantiles = rows.first().map_or(&[][..], |row| &row.quantiles);
    table.header.extend(quantiles.iter().filter(is_shown).map(|quantile| format!("q{}", quantile.q)));
    for row in rows {
        let number = |raw: &RawValue| if is_csv { raw.get().to_owned() } else { short(raw.get()) };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut cells = match step {
            Step::Hour => vec![text(&row.hour), text(&row.state)],
            Step::Day | Step::Total => {
                vec![text(&row.from), text(&row.to), row.hours.map_or(String::new(), |hours| hours.to_string())]
            }
        };
        cells.extend([row.count.to_string(), row.late.to_string()]);
        cells.extend([&row.average_ms, &row.min_ms, &row.max_ms, &row.median_ms].map(|raw| number(raw)));
        if is_csv {
            cells.push(number(&row.sum_ms));
        }
        cells.extend(row.quantiles.iter().filter(is_shown).map(|quantile| number(&quantile.value_ms)));
        table.rows.push(cells);
    }
    table
}

/// A number with about six digits, for people.
fn short(number: &str) -> String {
    match number.parse::<f64>() {
        Ok(value) if number.len() > 9 && value != 0.0 => {
            let whole_digits = value.abs().log10().floor() as i32 + 1;
            let decimals = usize::try_from((6 - whole_digits).clamp(0, 9)).unwrap_or(0);
            let text = format!("{value:.decimals$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
        _ => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(name: &str) -> Box<RawValue> {
        let text = format!(
            r#"{{"app_id": "checkout", "hour": "{name}", "state": "open", "revision": 7, "count": 1234, "late": 0,
                "average_ms": 18.400000000000002, "min_ms": 0.9, "max_ms": 812.003, "median_ms": 12.75, "sum_ms": 22705.600000000000001,
                "quantiles": [{{"q": 0.5, "value_ms": 12.75, "low_ms": 12.62, "high_ms": 12.88}},
                              {{"q": 0.99, "value_ms": 700.0, "low_ms": 693.0, "high_ms": 707.0}}], "relative_accuracy": 0.01}}"#
        );
        RawValue::from_string(text.replace('\n', "")).unwrap()
    }

    fn hours() -> Vec<Box<RawValue>> {
        vec![hour("2026-11-22T20:00:00Z"), hour("2026-11-22T21:00:00Z")]
    }

    #[test]
    fn a_table_is_for_people() {
        let text = render("checkout", Step::Hour, &hours(), Format::Table).unwrap();
        assert_eq!(
            text,
            "hour                  state  count  late  average_ms  min_ms   max_ms  median_ms  q0.99\n\
             2026-11-22T20:00:00Z  open    1234     0        18.4     0.9  812.003      12.75  700.0\n\
             2026-11-22T21:00:00Z  open    1234     0        18.4     0.9  812.003      12.75  700.0\n"
        );
    }

    #[test]
    fn csv_has_every_digit() {
        let text = render("checkout", Step::Hour, &hours()[..1], Format::Csv).unwrap();
        assert_eq!(
            text,
            "hour,state,count,late,average_ms,min_ms,max_ms,median_ms,sum_ms,q0.5,q0.99\n\
             2026-11-22T20:00:00Z,open,1234,0,18.400000000000002,0.9,812.003,12.75,22705.600000000000001,12.75,700.0\n"
        );
    }

    #[test]
    fn json_is_what_the_server_sent() {
        let text = render("checkout", Step::Hour, &hours(), Format::Json).unwrap();
        assert!(text.contains("22705.600000000000001"), "{text}");
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["app_id"], "checkout");
        assert_eq!(document["hours"][1]["hour"], "2026-11-22T21:00:00Z");
        assert!(render("a", Step::Day, &hours(), Format::Json).unwrap().contains("\"days\""));
        let total: serde_json::Value =
            serde_json::from_str(&render("a", Step::Total, &hours(), Format::Json).unwrap()).unwrap();
        assert_eq!(total["count"], 1234);
    }

    #[test]
    fn long_decimals_are_shortened_and_nothing_else() {
        for (number, expected) in [
            ("12.75", "12.75"),
            ("106.72129516129033", "106.721"),
            ("0.000001234567", "0.000001235"),
            ("1111119.6000000001", "1111120"),
            ("123456789", "123456789"),
            ("100000000000", "100000000000"),
        ] {
            assert_eq!(short(number), expected);
        }
    }

    #[test]
    fn the_day_of_an_hour_is_its_date() {
        assert_eq!(Row::read(&hour("2026-11-22T20:00:00Z")).unwrap().day().unwrap().to_string(), "2026-11-22");
    }
}
