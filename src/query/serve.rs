//! Answers other nodes' questions at the leader.

use super::leader::{HourRow, Leader, Summary};
use super::message::{
    ANSWER_BYTES_MAX, ANSWER_HOURS_MAX, Answer, AnswerRow, HoursQuestion, Question, Request, encode_answer,
};
use super::reads::ReadError;
use super::state::Version;
use crate::domain::{AppId, Hour};
use crate::format::StoredRollup;
use bytes::Bytes;
use cluster::PartitionId;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// Longest that an asker may have this node work on its question.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Rollups that are encoded or decoded before other tasks get their turn: at up to 20 µs each, half a millisecond.
pub const ROWS_PER_TURN: usize = 24;

/// Hours of a summary that are read at a time: so many are as of one moment of the replica.
pub const SUMMARY_HOURS_PER_READ: usize = 1000;

impl Leader {
    /// Answers a read request of another node about a partition that this node leads; refusals are answers too.
    pub async fn serve(&self, partition: PartitionId, request: &[u8]) -> Bytes {
        let answer = match Request::decode(request) {
            Ok(request) => {
                let deadline = Instant::now() + Duration::from_millis(request.timeout_ms).min(TIMEOUT_MAX);
                self.answer(partition, request.question, deadline).await
            }
            Err(unreadable) => Err(ReadError::Failed(unreadable.to_string())),
        };
        encode_answer(&answer)
    }

    async fn answer(&self, partition: PartitionId, question: Question, deadline: Instant) -> Result<Answer, ReadError> {
        match question {
            Question::Hours(question) => self.answer_hours(partition, question, deadline).await,
            Question::Summary { app, from, to, hours_max } => {
                self.summarize(partition, &app, from..to, hours_max, deadline).await
            }
            Question::Apps(selection) => {
                let page = self.apps(partition, &selection, deadline).await?;
                Ok(Answer::Apps { apps: page.apps, has_more: page.has_more })
            }
            Question::Progress => self.progress(partition).map(Answer::Progress).ok_or(ReadError::NoReplica),
        }
    }

    async fn answer_hours(
        &self,
        partition: PartitionId,
        question: HoursQuestion,
        deadline: Instant,
    ) -> Result<Answer, ReadError> {
        let hours_max = question.hours_max.clamp(1, ANSWER_HOURS_MAX);
        let hours = question.from..question.to;
        let page = self.hours(partition, &question.app, hours, hours_max, deadline).await?;
        let held: BTreeMap<Hour, Version> = question.held.into_iter().collect();
        let (rows, is_cut) = answer_rows(page.rows, &held).await;
        Ok(Answer::Hours { is_known: page.is_known, rows, has_more: page.has_more || is_cut })
    }

    async fn summarize(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: u64,
        deadline: Instant,
    ) -> Result<Answer, ReadError> {
        let mut summary = Summary::default();
        let mut from = hours.start;
        loop {
            let page = self.summary(partition, app, from..hours.end, SUMMARY_HOURS_PER_READ, deadline).await?;
            summary.add(page.summary.hours, &page.summary.rollup, self.sketch());
            if summary.hours > hours_max {
                return Ok(Answer::TooManyHours);
            }
            match page.next {
                Some(next) => from = next,
                None => {
                    let row = StoredRollup { revision: 0, rollup: summary.rollup }.encode();
                    return Ok(Answer::Summary { is_known: page.is_known, hours: summary.hours, row });
                }
            }
        }
    }
}

/// The answer of a node that has not built its rooms yet; the asker tries again.
pub fn not_yet() -> Bytes {
    encode_answer(&Err(ReadError::Unavailable("the node is starting".to_owned())))
}

/// Rows as they travel, and whether the last ones were left out because the answer was full.
async fn answer_rows(rows: Vec<HourRow>, held: &BTreeMap<Hour, Version>) -> (Vec<AnswerRow>, bool) {
    let total = rows.len();
    let mut bytes = 0;
    let mut answer = Vec::with_capacity(total);
    for HourRow { hour, version, stored } in rows {
        if answer.len() % ROWS_PER_TURN == ROWS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        if bytes >= ANSWER_BYTES_MAX {
            break;
        }
        let is_held = held.get(&hour) == Some(&version);
        let row = (!is_held).then(|| stored.encode());
        bytes += row.as_ref().map_or(0, Bytes::len);
        answer.push(AnswerRow { hour, version, row });
    }
    let is_cut = answer.len() < total;
    (answer, is_cut)
}
