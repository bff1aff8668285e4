//! What nodes ask each other's leaders, and what they answer.
//!
//! | message | bytes |
//! |---|---|
//! | request | version (1), then a [`Request`] in postcard |
//! | answer | version (1), then a `Result` of [`Answer`] or [`ReadError`] in postcard |
//!
//! Rollups travel as the rows they are stored as (`format::rollup`), checksum included; a rollup that the asker holds
//! already does not travel at all. The frame around a message is checksummed by the transport.

use super::reads::{AppHours, AppSelection, Progress, ReadError};
use super::state::Version;
use crate::domain::{AppId, Hour};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of both layouts.
const VERSION: u8 = 1;

/// Hours that one answer carries at most.
pub const ANSWER_HOURS_MAX: usize = 1000;

/// Bytes of rollups after which an answer ends and the rest must be asked for: answers share a connection with heartbeats,
/// which 1 MiB holds up for some 10 ms at 1 Gbit/s.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// A question to the leader of a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// How long the asker waits for the answer, in ms.
    pub timeout_ms: u64,
    /// What it asks.
    pub question: Question,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Hours of an app.
    Hours(HoursQuestion),
    /// One rollup of a range of hours.
    Summary {
        /// The app.
        app: AppId,
        /// The first hour.
        from: Hour,
        /// The first hour behind the range.
        to: Hour,
        /// With more hours than this the answer is [`Answer::TooManyHours`].
        hours_max: u64,
    },
    /// Apps by name.
    Apps(AppSelection),
    /// How far the events are folded.
    Progress,
}

/// Which hours of an app, and which of them the asker holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HoursQuestion {
    /// The app.
    pub app: AppId,
    /// The first hour.
    pub from: Hour,
    /// The first hour behind the range.
    pub to: Hour,
    /// At most so many hours with events; never more than [`ANSWER_HOURS_MAX`] are answered.
    pub hours_max: usize,
    /// Rollups that the asker holds, ascending by hour; those that are still the newest do not travel.
    pub held: Vec<(Hour, Version)>,
}

/// What the leader answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Hours`].
    Hours {
        /// Whether the app has events at all.
        is_known: bool,
        /// Oldest first.
        rows: Vec<AnswerRow>,
        /// Whether there are further ones behind the last row.
        has_more: bool,
    },
    /// To [`Question::Summary`].
    Summary {
        /// Whether the app has events at all.
        is_known: bool,
        /// Hours with events.
        hours: u64,
        /// Their rollup, as a row.
        row: Bytes,
    },
    /// To [`Question::Summary`]: the range holds too many hours.
    TooManyHours,
    /// To [`Question::Apps`].
    Apps {
        /// In the order of their names.
        apps: Vec<AppHours>,
        /// Whether there are further ones behind the last.
        has_more: bool,
    },
    /// To [`Question::Progress`].
    Progress(Progress),
}

/// One hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Which hour.
    pub hour: Hour,
    /// Which state of it.
    pub version: Version,
    /// Its rollup as a row; nothing if the asker holds this version.
    pub row: Option<Bytes>,
}

/// Bytes that are no message of a known version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {0} of a version this build knows")]
pub struct Unreadable(&'static str);

impl Request {
    /// Writes it.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Request, Unreadable> {
        decode(bytes).ok_or(Unreadable("read request"))
    }
}

/// Writes an answer.
pub fn encode_answer(answer: &Result<Answer, ReadError>) -> Bytes {
    encode(answer)
}

/// Reads an answer.
pub fn decode_answer(bytes: &[u8]) -> Result<Result<Answer, ReadError>, Unreadable> {
    decode(bytes).ok_or(Unreadable("read answer"))
}

fn encode(message: &impl Serialize) -> Bytes {
    let bytes = postcard::to_extend(message, vec![VERSION]);
    bytes.expect("a Vec takes any number of bytes").into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let (message, rest) = postcard::take_from_bytes(rest).ok()?;
    rest.is_empty().then_some(message)
}

#[cfg(test)]
mod tests {
    use super::super::state::HourState;
    use super::*;
    use crate::format::golden;
    use cluster::Offset;
    use proptest::prelude::*;

    fn app() -> AppId {
        AppId::new("checkout/ü").unwrap()
    }

    const VERSION_OF_ROW: Version = Version { revision: 7, count: 1234, late: 2, state: HourState::Amended };

    fn requests() -> Vec<(&'static str, Request)> {
        let held = vec![(Hour(498_740), VERSION_OF_ROW)];
        let hours = HoursQuestion { app: app(), from: Hour(498_740), to: Hour(498_764), hours_max: 24, held };
        let apps = AppSelection { prefix: "ch".to_owned(), after: Some("checkin".to_owned()), apps_max: 100 };
        vec![
            ("read-hours-v1", Question::Hours(hours)),
            ("read-summary-v1", Question::Summary { app: app(), from: Hour(0), to: Hour(9), hours_max: 1_000 }),
            ("read-apps-v1", Question::Apps(apps)),
            ("read-progress-v1", Question::Progress),
        ]
        .into_iter()
        .map(|(name, question)| (name, Request { timeout_ms: 9_999, question }))
        .collect()
    }

    fn answers() -> Vec<(&'static str, Result<Answer, ReadError>)> {
        let row = |hour, row| AnswerRow { hour: Hour(hour), version: VERSION_OF_ROW, row };
        let rows = vec![row(498_740, None), row(498_741, Some(Bytes::from_static(b"row")))];
        let apps = vec![AppHours { app: app(), first: Hour(3), last: Hour(498_740) }];
        vec![
            ("answer-hours-v1", Ok(Answer::Hours { is_known: true, rows, has_more: true })),
            ("answer-summary-v1", Ok(Answer::Summary { is_known: true, hours: 9, row: Bytes::from_static(b"row") })),
            ("answer-too-many-hours-v1", Ok(Answer::TooManyHours)),
            ("answer-apps-v1", Ok(Answer::Apps { apps, has_more: false })),
            ("answer-progress-v1", Ok(Answer::Progress(Progress { consumed: Some(Offset(7)), lag_events: 12 }))),
            ("answer-not-leader-v1", Err(ReadError::NotLeader)),
            ("answer-unavailable-v1", Err(ReadError::Unavailable("no majority".to_owned()))),
        ]
    }

    #[test]
    fn layouts_never_change() {
        for (name, request) in requests() {
            golden::check(name, &request.encode());
            assert_eq!(Request::decode(&golden::read(name)), Ok(request));
        }
        for (name, answer) in answers() {
            golden::check(name, &encode_answer(&answer));
            assert_eq!(decode_answer(&golden::read(name)), Ok(answer));
        }
    }

    #[test]
    fn a_newer_version_and_trailing_bytes_are_refused() {
        let mut bytes = requests()[0].1.encode().to_vec();
        bytes.push(0);
        assert!(Request::decode(&bytes).is_err());
        bytes.pop();
        bytes[0] = 2;
        assert!(Request::decode(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes: Vec<u8>) {
            bytes.insert(0, VERSION);
            let _ = Request::decode(&bytes);
            let _ = decode_answer(&bytes);
        }

        #[test]
        fn requests_round_trip(name in "[^\\x00-\\x1f\\x7f]{1,20}", from: u32, to: u32, hours_max in 0usize..5000, revision: u64, count: u64, late: u64) {
            let version = Version { revision, count, late, state: HourState::Open };
            let question = HoursQuestion { app: AppId::new(&name).unwrap(), from: Hour(from), to: Hour(to), hours_max, held: vec![(Hour(from), version); 3] };
            let request = Request { timeout_ms: count, question: Question::Hours(question) };
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }
}
