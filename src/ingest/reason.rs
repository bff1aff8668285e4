//! Why a line was refused: one code per rule, stable, as clients see it.

use std::fmt;

/// A field of an event, as it is spelled in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Whose event it is.
    AppId,
    /// When it happened.
    Timestamp,
    /// How long it took.
    ResponseTime,
}

impl Field {
    /// The field's name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Field::AppId => "app_id",
            Field::Timestamp => "timestamp",
            Field::ResponseTime => "response_time_ms",
        }
    }
}

/// The rule that a refused line breaks. The first one that applies, in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The whole body is not a batch.
    InvalidBatch,
    /// Longer than [`super::ndjson::LINE_BYTES_MAX`].
    LineTooLong,
    /// Not UTF-8.
    InvalidUtf8,
    /// Not one JSON value.
    InvalidJson,
    /// JSON, but not an object.
    NotAnObject,
    /// One of the three fields stands there twice.
    DuplicateField(Field),
    /// One of the three fields is not there.
    MissingField(Field),
    /// Not a string of 1 to 256 bytes without control characters.
    BadAppId,
    /// Neither an RFC 3339 string nor an integer.
    BadTimestamp,
    /// Before 1970, after 2261, or older than the node's setting allows.
    TimestampOutOfRange,
    /// Further ahead of the node's clock than its setting allows.
    TimestampInFuture,
    /// Not a JSON number.
    BadResponseTime,
    /// Further from zero than 1e11 ms.
    ResponseTimeOutOfRange,
    /// Below zero.
    Negative,
}

impl Reason {
    /// The code that clients may act on.
    pub fn code(self) -> &'static str {
        match self {
            Reason::InvalidBatch => "invalid_batch",
            Reason::LineTooLong => "line_too_long",
            Reason::InvalidUtf8 => "invalid_utf8",
            Reason::InvalidJson => "invalid_json",
            Reason::NotAnObject => "not_an_object",
            Reason::DuplicateField(_) => "duplicate_field",
            Reason::MissingField(Field::AppId) => "missing_app_id",
            Reason::MissingField(Field::Timestamp) => "missing_timestamp",
            Reason::MissingField(Field::ResponseTime) => "missing_response_time",
            Reason::BadAppId => "bad_app_id",
            Reason::BadTimestamp => "bad_timestamp",
            Reason::TimestampOutOfRange => "timestamp_out_of_range",
            Reason::TimestampInFuture => "timestamp_in_future",
            Reason::BadResponseTime => "bad_response_time",
            Reason::ResponseTimeOutOfRange => "response_time_out_of_range",
            Reason::Negative => "negative",
        }
    }

    /// The field that the rule is about, where it is about one.
    pub fn field(self) -> Option<Field> {
        match self {
            Reason::InvalidBatch
            | Reason::LineTooLong
            | Reason::InvalidUtf8
            | Reason::InvalidJson
            | Reason::NotAnObject => None,
            Reason::DuplicateField(field) | Reason::MissingField(field) => Some(field),
            Reason::BadAppId => Some(Field::AppId),
            Reason::BadTimestamp | Reason::TimestampOutOfRange | Reason::TimestampInFuture => Some(Field::Timestamp),
            Reason::BadResponseTime | Reason::ResponseTimeOutOfRange | Reason::Negative => Some(Field::ResponseTime),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::InvalidBatch => "the body is not a batch of this version, or it is damaged",
            Reason::LineTooLong => "the line is longer than 1 MiB",
            Reason::InvalidUtf8 => "the line is not UTF-8",
            Reason::InvalidJson => "the line is not one JSON value",
            Reason::NotAnObject => "the line is not a JSON object",
            Reason::DuplicateField(field) => return write!(f, "{} stands there more than once", field.name()),
            Reason::MissingField(field) => return write!(f, "{} is missing", field.name()),
            Reason::BadAppId => "app_id must be a string of 1 to 256 bytes without control characters",
            Reason::BadTimestamp => "timestamp must be RFC 3339 with a zone, or integer milliseconds since 1970 UTC",
            Reason::TimestampOutOfRange => "timestamp must be within the years 1970 to 2261 and the configured age",
            Reason::TimestampInFuture => "timestamp is too far ahead of this node's clock",
            Reason::BadResponseTime => "response_time_ms must be a JSON number",
            Reason::ResponseTimeOutOfRange => "response_time_ms must be at most 1e11",
            Reason::Negative => "response_time_ms must not be below zero",
        })
    }
}
