//! Both ways of reading a line, side by side.

use super::*;
use crate::ingest::Field;
use proptest::prelude::*;

const GOOD: &str = r#"{"app_id":"a","timestamp":"2024-02-29T12:00:00Z","response_time_ms":12.5}"#;
const NOON: EventTime = EventTime(1_709_208_000_000);

fn read(line: &[u8]) -> Result<Option<Event<'_>>, Reason> {
    Parser::new(TimeLimits::NONE).line(line)
}

fn event(app_id: &str) -> Result<Option<Event<'static>>, Reason> {
    Ok(Some(Event { app_id: Cow::Owned(app_id.to_owned()), time: NOON, response_time: ResponseTime(12_500_000) }))
}

/// The good line with its fields replaced.
fn line(app_id: &str, timestamp: &str, response_time: &str) -> String {
    format!(r#"{{"app_id":{app_id},"timestamp":{timestamp},"response_time_ms":{response_time}}}"#)
}

#[test]
fn a_line_is_one_event() {
    for text in [
        GOOD.to_owned(),
        format!("{GOOD}\r"),
        format!(" \t{GOOD}  "),
        line("\"a\"", "1709208000000", "1.25E+1"),
        line(r#""\u0061""#, "\"2024-02-29T13:00:00.000+01:00\"", "12.5000000000000000000001"),
        GOOD.replace("app_id", r"app\u005fid"),
        GOOD.replace('}', r#","n":{"app_id":1,"app_id":2},"z":1,"z":2,"\ud800":"\ud800","t":"	"}"#)
            .replace('\t', r"\t"),
        GOOD.replace('}', &format!(",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000))),
    ] {
        assert_eq!(read(text.as_bytes()), event("a"), "{}", &text[..text.len().min(200)]);
    }
    let odd = "/a b?c=d&e#f%2Fg+h \u{1f680}\u{85}";
    assert_eq!(read(GOOD.replace(r#""a""#, &format!("{odd:?}").replace("\\u{85}", "\u{85}")).as_bytes()), event(odd));
    assert_eq!(read(GOOD.replace(r#""a""#, r#""\ud83d\ude80""#).as_bytes()), event("\u{1f680}"));
}

#[test]
fn blank_lines_are_neither_events_nor_errors() {
    for text in ["", "  \t ", "\r", " \r\r"] {
        assert_eq!(read(text.as_bytes()), Ok(None), "{text:?}");
    }
}

#[test]
fn each_broken_rule_has_its_reason() {
    let time = "\"2024-02-29T12:00:00Z\"";
    for (text, reason) in [
        (format!("\u{feff}{GOOD}"), Reason::InvalidJson),
        (format!("{GOOD}{GOOD}"), Reason::InvalidJson),
        (format!("{GOOD} // x"), Reason::InvalidJson),
        (GOOD.replace('}', ",}"), Reason::InvalidJson),
        (GOOD.replace('}', r#","x":"	"}"#), Reason::InvalidJson),
        (GOOD[..30].to_owned(), Reason::InvalidJson),
        (format!("{{\"a\":{}", "{\"a\":".repeat(100_000)), Reason::InvalidJson),
        (line("\"a\"", time, "NaN"), Reason::InvalidJson),
        (line("\"a\"", time, "012"), Reason::InvalidJson),
        (line("\"a\"", time, "5."), Reason::InvalidJson),
        (format!("[{GOOD}]"), Reason::NotAnObject),
        ("17".to_owned(), Reason::NotAnObject),
        (GOOD.replace('}', r#","app_id":"b"}"#), Reason::DuplicateField(Field::AppId)),
        (GOOD.replace('}', r#","response_time_ms":1} x"#), Reason::DuplicateField(Field::ResponseTime)),
        (GOOD.replace("app_id", "App_Id"), Reason::MissingField(Field::AppId)),
        ("{}".to_owned(), Reason::MissingField(Field::AppId)),
        (GOOD.replace("timestamp", "time"), Reason::MissingField(Field::Timestamp)),
        (GOOD.replace("response_time_ms", "ms"), Reason::MissingField(Field::ResponseTime)),
        (line("17", "null", "null"), Reason::BadAppId),
        (line("\"\"", time, "1"), Reason::BadAppId),
        (line(&format!("\"{}\"", "x".repeat(257)), time, "1"), Reason::BadAppId),
        (line(r#""a\u0000""#, time, "1"), Reason::BadAppId),
        (line(r#""a\ud800""#, time, "1"), Reason::BadAppId),
        (line("\"a\u{7f}\"", time, "1"), Reason::BadAppId),
        (line("\"a\"", "null", "null"), Reason::BadTimestamp),
        (line("\"a\"", "\"1709208000\"", "1"), Reason::BadTimestamp),
        (line("\"a\"", "1.709208e12", "1"), Reason::BadTimestamp),
        (line("\"a\"", r#""\ud800""#, "1"), Reason::BadTimestamp),
        (line("\"a\"", "\"1969-12-31T23:59:59Z\"", "\"\""), Reason::TimestampOutOfRange),
        (line("\"a\"", "-1", "1"), Reason::TimestampOutOfRange),
        (line("\"a\"", time, "\"12.5\""), Reason::BadResponseTime),
        (line("\"a\"", time, "[12.5]"), Reason::BadResponseTime),
        (line("\"a\"", time, "1e400"), Reason::ResponseTimeOutOfRange),
        (line("\"a\"", time, "-1e400"), Reason::ResponseTimeOutOfRange),
        (line("\"a\"", time, &"9".repeat(400)), Reason::ResponseTimeOutOfRange),
        (line("\"a\"", time, "-0.001"), Reason::Negative),
    ] {
        assert_eq!(read(text.as_bytes()), Err(reason), "{}", &text[..text.len().min(200)]);
    }
    assert_eq!(read(b"{\"app_id\":\"\xff\"}"), Err(Reason::InvalidUtf8));
    assert_eq!(read(&[0x80; 64]), Err(Reason::InvalidUtf8));
}

#[test]
fn a_line_may_have_one_mebibyte_and_no_more() {
    for padded in [
        |bytes| format!("{}{GOOD}", " ".repeat(bytes)),
        |bytes| GOOD.replace('}', &format!(",\"x\":[\"{}\"]}}", "p".repeat(bytes - 9))),
    ] {
        let room = LINE_BYTES_MAX - GOOD.len();
        assert_eq!(read(padded(room).as_bytes()), event("a"));
        assert_eq!(read(format!("{}\r", padded(room)).as_bytes()), event("a"));
        assert_eq!(read(padded(room + 1).as_bytes()), Err(Reason::LineTooLong));
    }
}

#[test]
fn time_limits_are_inclusive() {
    let read = |earliest, latest| {
        let limits = TimeLimits { earliest: EventTime(earliest), latest: EventTime(latest) };
        let usual = Parser::new(limits).line(GOOD.as_bytes()).map(|_| ());
        assert_eq!(exact::event(GOOD.as_bytes(), &limits).map(|_| ()), usual);
        usual
    };
    assert_eq!(read(NOON.0, NOON.0), Ok(()));
    assert_eq!(read(NOON.0 + 1, u64::MAX), Err(Reason::TimestampOutOfRange));
    assert_eq!(read(0, NOON.0 - 1), Err(Reason::TimestampInFuture));
}

#[test]
fn a_body_is_read_line_by_line() {
    let body = format!("{GOOD}\n\n{GOOD}\r\nx\n  \n\"{}\"\n{GOOD}", "y".repeat(LINE_BYTES_MAX));
    let mut parser = Parser::new(TimeLimits::NONE);
    let (mut rest, mut verdicts) = (body.as_bytes(), Vec::new());
    while !rest.is_empty() {
        let (line, next) = parser.first_line(rest);
        verdicts.push(line.map(|event| event.is_some()));
        rest = next;
    }
    let (event, blank) = (Ok(true), Ok(false));
    let (bad, long) = (Err(Reason::InvalidJson), Err(Reason::LineTooLong));
    assert_eq!(verdicts, [event, blank, event, bad, blank, long, event]);
}

/// Lines near the usual form: fields in any order, odd spaces, values from good to hopeless.
fn near_usual() -> impl Strategy<Value = String> {
    let space = || "[ \t\r]{0,2}";
    let value = prop_oneof![
        4 => r#""[a-zäé /\\"]{0,4}""#,
        4 => r#""20(24|23)-0[12]-(29|30)[Tt ]1[29]:59:(00|59|60)(\.[0-9]{0,4})?(Z|z|[+-]0[01]:30)""#,
        4 => "-?(0|[1-9][0-9]{0,12})(\\.[0-9]{0,9})?([eE][+-]?[0-9]{1,2})?",
        1 => prop::sample::select(vec!["null", "true", "[1]", "{\"app_id\":1}", "\"\\u0041\"", "\"\\ud800\"", "1e400", "00"])
            .prop_map(str::to_owned),
    ];
    let name = prop::sample::select(vec!["app_id", "timestamp", "response_time_ms", "region", "app\\u005fid"]);
    let field = (space(), name, space(), space(), value, space())
        .prop_map(|(a, name, b, c, value, d)| format!("{a}\"{name}\"{b}:{c}{value}{d}"));
    (prop::collection::vec(field, 0..5), space()).prop_map(|(fields, end)| format!("{{{}}}{end}", fields.join(",")))
}

/// Usual lines, so that the short way is taken often.
fn usual_line() -> impl Strategy<Value = String> {
    let time = prop_oneof![
        r#""20(24|23)-(0[1-9]|1[0-2])-(0[1-9]|2[0-9])T1[0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]0[01]:30)""#,
        "[1-9][0-9]{11,12}",
    ];
    ("\"[a-zäé /-]{1,6}\"", time, "(0|[1-9][0-9]{0,11})(\\.[0-9]{1,7})?", 0..6_usize).prop_map(
        |(app_id, time, value, order)| {
            let mut fields = vec![
                format!("\"app_id\":{app_id}"),
                format!("\"timestamp\":{time}"),
                format!("\"response_time_ms\":{value}"),
            ];
            let first = fields.remove(order % 3);
            fields.insert(order / 3, first);
            format!("{{{}}}", fields.join(","))
        },
    )
}

/// Both ways on one line; true if the short one was taken.
fn agree(line: &[u8]) -> Result<bool, TestCaseError> {
    let mut parser = Parser::new(TimeLimits::NONE);
    let usual = parser.usual(line).filter(|(_, _, rest)| rest.is_empty());
    let is_usual = usual.is_some();
    if let Some((event, _, _)) = usual {
        prop_assert_eq!(parser.exact(line), Ok(Some(event)), "{}", String::from_utf8_lossy(line));
    }
    Ok(is_usual)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn both_ways_agree_on_usual_lines(line in usual_line()) {
        let is_usual = agree(line.as_bytes())?;
        let is_good = read(line.as_bytes()).is_ok();
        prop_assert_eq!(is_usual, is_good, "{}", line);
    }

    #[test]
    fn both_ways_agree_on_nearly_usual_lines(line in near_usual()) {
        agree(line.as_bytes())?;
    }

    #[test]
    fn both_ways_agree_on_spoiled_lines(
        line in prop_oneof![usual_line(), near_usual()],
        spoils in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(),
            prop::sample::select(b"\"\\{}[]:,.-+eE0159 \t\r\n\x7f".to_vec()),
        ], 0..3_u8), 1..4),
    ) {
        let mut line = line.into_bytes();
        for (place, byte, how) in spoils {
            let place = place.index(line.len());
            match how {
                0 => line[place] = byte,
                1 => line.insert(place, byte),
                _ => { line.remove(place); }
            }
            if line.is_empty() { break; }
        }
        agree(&line)?;
    }

    #[test]
    fn any_bytes_have_a_verdict(line: Vec<u8>) {
        let _ = read(&line);
    }
}
