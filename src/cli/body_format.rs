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
    /// Events of a request if nobody says otherwise: some 900 kB of lines, or 600 kB of a batch.
    pub fn request_events_default(self) -> u64 {
        match self {
            BodyFormat::Ndjson => 10_000,
            BodyFormat::Binary => 50_000,
        }
    }

    /// The media type of a body.
    pub fn media_type(self) -> &'static str {
        match self {
            BodyFormat::Ndjson => "application/x-ndjson",
            BodyFormat::Binary => "application/vnd.hourmark.batch",
        }
    }
}
