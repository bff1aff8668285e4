//! The long way, which has the last word on every line: full JSON, each rule in the order of [`Reason`].
//!
//! Values are taken as their raw text, so that numbers of any length keep all their digits, unknown fields are skipped at
//! any depth without recursion, and a string that no Unicode text can hold (a lone surrogate) spoils only its own field.

use super::{Event, TimeLimits, decimal, timestamp};
use crate::domain::{AppId, ResponseTime};
use crate::ingest::reason::{Field, Reason};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Reads one line that is neither blank nor too long.
pub(super) fn event<'a>(line: &'a [u8], limits: &TimeLimits) -> Result<Event<'a>, Reason> {
    let text = std::str::from_utf8(line).map_err(|_| Reason::InvalidUtf8)?;
    let fields = fields(text)?;
    let app_id = fields.app_id.ok_or(Reason::MissingField(Field::AppId))?;
    let timestamp = fields.timestamp.ok_or(Reason::MissingField(Field::Timestamp))?;
    let response_time = fields.response_time.ok_or(Reason::MissingField(Field::ResponseTime))?;
    let app_id = string(app_id).filter(|app_id| AppId::check(app_id).is_ok()).ok_or(Reason::BadAppId)?;
    let time = super::check_time(limits, time_ms(timestamp)?)?;
    let response_time = ResponseTime(nanoseconds(response_time)?);
    Ok(Event { app_id, time, response_time })
}

fn time_ms(raw: &str) -> Result<u64, Reason> {
    if is_number(raw) {
        return timestamp::epoch_ms(raw);
    }
    timestamp::rfc3339(string(raw).ok_or(Reason::BadTimestamp)?.as_bytes())
}

fn nanoseconds(raw: &str) -> Result<u64, Reason> {
    if is_number(raw) { decimal::nanoseconds(raw) } else { Err(Reason::BadResponseTime) }
}

fn is_number(raw: &str) -> bool {
    raw.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// The text of a JSON string; `None` for another kind of value and for text with a lone surrogate.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inside = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inside)) }
}

/// The raw JSON of the three fields.
#[derive(Default)]
struct Fields<'a> {
    app_id: Option<&'a str>,
    timestamp: Option<&'a str>,
    response_time: Option<&'a str>,
    duplicate: Option<Field>,
}

/// Reads one object and nothing behind it. A repeated field is reported before what may follow the object.
fn fields(text: &str) -> Result<Fields<'_>, Reason> {
    if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Err(Reason::NotAnObject),
            Err(_) => Err(Reason::InvalidJson),
        };
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = json.deserialize_map(FieldsVisitor).map_err(|_| Reason::InvalidJson)?;
    if let Some(field) = fields.duplicate {
        return Err(Reason::DuplicateField(field));
    }
    json.end().map_err(|_| Reason::InvalidJson)?;
    Ok(fields)
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, value)) = object.next_entry::<&'de RawValue, &'de RawValue>()? {
            let name = string(name.get());
            let (field, place) = match name.as_deref() {
                Some("app_id") => (Field::AppId, &mut fields.app_id),
                Some("timestamp") => (Field::Timestamp, &mut fields.timestamp),
                Some("response_time_ms") => (Field::ResponseTime, &mut fields.response_time),
                _ => continue,
            };
            if place.replace(value.get()).is_some() {
                fields.duplicate.get_or_insert(field);
            }
        }
        Ok(fields)
    }
}
