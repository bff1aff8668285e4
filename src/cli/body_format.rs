//! How bodies of events are written.

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyFormat {
    /// One JSON object a line.
    Ndjson,
    /// A columnar batch, application/vnd.hourmark.batch.
    Binary,
}

impl BodyFormat {
    /// The media type of a body.
    pub fn media_type(self) -> &'static str {
        match self {
            BodyFormat::Ndjson => "application/x-ndjson",
            BodyFormat::Binary => "application/vnd.hourmark.batch",
        }
    }
}
