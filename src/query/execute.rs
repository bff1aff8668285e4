//! Finds the replica, reads, and goes on reading until the page is full.

use super::cache::Cache;
use super::finished::FinishedHours;
use super::leader::{Summary, merge_apps};
use super::message::{ANSWER_HOURS_MAX, Answer, HoursQuestion, Question, Request, decode_answer};
use super::partitions::Partitions;
use super::reads::{AppHours, AppSelection, Progress, ReadError, StoredAt, StoredReads};
use super::request::Consistency;
use super::serve::{ROWS_PER_TURN, SUMMARY_HOURS_PER_READ};
use super::shared::SharedReads;
use super::state::Version;
use crate::domain::{AppId, Hour, SketchConfig};
use crate::format::{StoredRollup, Token};
use crate::metrics::QueryMetrics;
use cluster::{Offset, PartitionId};
use futures::future::try_join_all;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// The bounds of questions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How sketches divide values; the cluster's, fixed at its creation.
    pub sketch: SketchConfig,
    /// How long after its end an hour is kept open; as the aggregation has it.
    pub lateness: Duration,
    /// After so long without an answer of the leader the client gets `503`. Default 5 s: above an election (2 s) and the
    /// start of an aggregator.
    pub read_timeout: Duration,
    /// How long `after` waits for the write. Default 10 s: five checkpoint intervals.
    pub after_timeout: Duration,
    /// Hours with events that one summary may cover. Default 100,000: eleven years of one app.
    pub summary_hours_max: u64,
    /// Questions for more than one hour that are worked on at a time; more wait. Default 32: each may hold 1,000 rows, some 1 to 4 MiB.
    pub ranges_max: usize,
    /// Bytes of cached rollups and finished answers. Default 64 MiB.
    pub cache_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            sketch: SketchConfig::default(),
            lateness: Duration::ZERO,
            read_timeout: Duration::from_secs(5),
            after_timeout: Duration::from_secs(10),
            summary_hours_max: 100_000,
            ranges_max: 32,
            cache_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// The share of the cache's bytes that finished answers have: one is a tenth of its rollup.
const FINISHED_SHARE: usize = 4;

/// Pause before a leader that could not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long a leader is asked how far it is: whoever looks at a cluster in trouble must not wait for it.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No event of that app was ever taken.
    #[error("no event of this app has been taken")]
    UnknownApp,
    /// The app has no event in that hour or range.
    #[error("the app has no events there")]
    NoEvents,
    /// The range holds more hours than one summary may cover.
    #[error("the range holds more than {0} hours with events")]
    TooManyHours(u64),
    /// Asking again later is safe and may help.
    #[error("{0}")]
    Unavailable(String),
    /// A replica is at fault.
    #[error("{0}")]
    Failed(String),
}

/// Answers questions at this node. Cheap to clone.
#[derive(Clone)]
pub struct Query {
    inner: Arc<Inner>,
}

struct Inner {
    partitions: Arc<dyn Partitions>,
    stored: Arc<dyn StoredReads>,
    settings: Settings,
    cache: Cache,
    finished: FinishedHours,
    /// Linearizable questions that come while the same hour is read share its next read.
    shared_hours: SharedReads<(AppId, Hour), OneHour>,
    ranges: Semaphore,
    metrics: QueryMetrics,
}

/// What is known of one hour.
#[derive(Clone)]
struct OneHour {
    row: Option<Row>,
    /// Whether the app has events at all.
    is_known: bool,
    at: Option<StoredAt>,
}

/// One hour with its numbers.
#[derive(Clone)]
pub(super) struct Row {
    pub hour: Hour,
    pub version: Version,
    pub stored: Arc<StoredRollup>,
}

/// Hours of one read, oldest first.
struct Page {
    rows: Vec<Row>,
    has_more: bool,
    is_known: bool,
    at: Option<StoredAt>,
}

/// Where a replica was when a local answer was read from it; nothing for a linearizable one.
pub(super) type Located = Option<(PartitionId, StoredAt)>;

impl Query {
    /// A room that finds leaders by `partitions` and this node's rows in `stored`.
    pub fn new(
        partitions: Arc<dyn Partitions>,
        stored: Arc<dyn StoredReads>,
        settings: Settings,
        metrics: QueryMetrics,
    ) -> Query {
        let finished_bytes_max = settings.cache_bytes_max / FINISHED_SHARE;
        let cache = Cache::new(settings.cache_bytes_max - finished_bytes_max, metrics.clone());
        let finished = FinishedHours::new(finished_bytes_max);
        let ranges = Semaphore::new(settings.ranges_max);
        let shared_hours = SharedReads::default();
        let inner = Inner { partitions, stored, settings, cache, finished, shared_hours, ranges, metrics };
        Query { inner: Arc::new(inner) }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(super) fn finished(&self) -> &FinishedHours {
        &self.inner.finished
    }

    pub(super) fn metrics(&self) -> &QueryMetrics {
        &self.inner.metrics
    }

    /// One hour of an app.
    pub(super) async fn hour(
        &self,
        app: &AppId,
        hour: Hour,
        consistency: &Consistency,
    ) -> Result<(Row, Located), Error> {
        let place = self.place(app, consistency).await?;
        // In a place of its own: it is large, and most questions need none.
        let read = || {
            Box::pin(async {
                let page = self.page(&place, app, hour..Hour(hour.0.saturating_add(1)), 1).await?;
                Ok::<_, Error>(OneHour { row: page.rows.into_iter().next(), is_known: page.is_known, at: page.at })
            })
        };
        let found = match place.is_local {
            true => read().await?,
            false => self.inner.shared_hours.get(&(app.clone(), hour), read).await?,
        };
        let located = found.at.map(|at| (place.partition, at));
        match found.row {
            Some(row) => Ok((row, located)),
            None if found.is_known => Err(Error::NoEvents),
            None => Err(Error::UnknownApp),
        }
    }

    /// At most `hours_max` hours of a range, each given to `each`, oldest first. Returns the hour that the next page begins
    /// with.
    pub(super) async fn hours(
        &self,
        app: &AppId,
        range: Range<Hour>,
        hours_max: usize,
        consistency: &Consistency,
        mut each: impl FnMut(Row) + Send,
    ) -> Result<(Option<Hour>, Located), Error> {
        let place = self.place(app, consistency).await?;
        let _permit = self.range_permit(place.deadline).await?;
        let (mut from, mut found, mut located) = (range.start, 0, None);
        loop {
            let page = self.page(&place, app, from..range.end, (hours_max - found).min(ANSWER_HOURS_MAX)).await?;
            if !page.is_known {
                return Err(Error::UnknownApp);
            }
            // The first page stands furthest back, so what it says holds for the whole answer.
            located = located.or(page.at.map(|at| (place.partition, at)));
            found += page.rows.len();
            from = page.rows.last().map_or(from, |last| Hour(last.hour.0 + 1));
            let is_end = page.rows.is_empty() || !page.has_more;
            for (index, row) in page.rows.into_iter().enumerate() {
                each(row);
                take_turns(index).await;
            }
            if is_end {
                return Ok((None, located));
            }
            if found >= hours_max {
                return Ok((Some(from), located));
            }
        }
    }

    /// One rollup of a range.
    pub(super) async fn summary(
        &self,
        app: &AppId,
        range: Range<Hour>,
        consistency: &Consistency,
    ) -> Result<(Summary, Located), Error> {
        let place = self.place(app, consistency).await?;
        let _permit = self.range_permit(place.deadline).await?;
        let (summary, is_known, located) = match consistency {
            Consistency::Linearizable => {
                let (summary, is_known) = self.ask_summary(&place, app, range).await?;
                (summary, is_known, None)
            }
            Consistency::Local(_) => self.local_summary(&place, app, range).await?,
        };
        match summary.hours {
            0 if is_known => Err(Error::NoEvents),
            0 => Err(Error::UnknownApp),
            _ => Ok((summary, located)),
        }
    }

    /// Apps of all partitions, in the order of their names. Returns whether there are more.
    pub(super) async fn apps(
        &self,
        selection: &AppSelection,
        consistency: &Consistency,
    ) -> Result<(Vec<AppHours>, bool, Vec<(PartitionId, StoredAt)>), Error> {
        let begin = Instant::now();
        let _permit = self.range_permit(begin + self.inner.settings.read_timeout).await?;
        let partitions = self.inner.partitions.all();
        let parts = try_join_all(partitions.into_iter().map(|id| self.apps_of(id, selection, consistency))).await?;
        let mut has_more = false;
        let (mut apps, mut located) = (Vec::new(), Vec::new());
        for (part, part_has_more, at) in parts {
            has_more |= part_has_more;
            apps.extend(part);
            located.extend(at);
        }
        let page = merge_apps(apps.into_iter(), selection.apps_max);
        Ok((page.apps, page.has_more || has_more, located))
    }

    /// How far a partition's events are folded: by this node's replica, else by the leader's if it answers soon.
    pub async fn progress(&self, partition: PartitionId) -> Option<Progress> {
        if let Some(progress) = self.inner.stored.progress(partition) {
            return Some(progress);
        }
        match self.ask(partition, Question::Progress, Instant::now() + PROGRESS_TIMEOUT).await {
            Ok(Answer::Progress(progress)) => Some(progress),
            _ => None,
        }
    }

    async fn apps_of(
        &self,
        partition: PartitionId,
        selection: &AppSelection,
        consistency: &Consistency,
    ) -> Result<(Vec<AppHours>, bool, Located), Error> {
        let deadline = Instant::now() + self.inner.settings.read_timeout;
        match consistency {
            Consistency::Local(token) => {
                self.wait_for(partition, token.offset(partition)).await?;
                let stored = self.inner.stored.apps(partition, selection).await?;
                Ok((stored.apps, stored.has_more, Some((partition, stored.at))))
            }
            Consistency::Linearizable => {
                match self.ask(partition, Question::Apps(selection.clone()), deadline).await? {
                    Answer::Apps { apps, has_more } => Ok((apps, has_more, None)),
                    other => Err(mismatch(&other)),
                }
            }
        }
    }

    /// Where an app is read, once that holds the write that the token names.
    async fn place(&self, app: &AppId, consistency: &Consistency) -> Result<Place, Error> {
        let partition = self.inner.partitions.of_slot(app.slot());
        if let Consistency::Local(token) = consistency {
            self.wait_for(partition, token.offset(partition)).await?;
        }
        let deadline = Instant::now() + self.inner.settings.read_timeout;
        Ok(Place { partition, is_local: matches!(consistency, Consistency::Local(_)), deadline })
    }

    /// Waits until this node's stored rows hold `offset`.
    async fn wait_for(&self, partition: PartitionId, offset: Option<Offset>) -> Result<(), Error> {
        let Some(offset) = offset else { return Ok(()) };
        let deadline = Instant::now() + self.inner.settings.after_timeout;
        if self.inner.stored.wait_consumed(partition, offset, deadline).await? {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "this node's replica of partition {partition} does not hold offset {offset} yet; ask again or another node"
        )))
    }

    async fn range_permit(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Error> {
        match timeout_at(deadline, self.inner.ranges.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::Unavailable("this node works on as many large questions as it can".to_owned())),
        }
    }

    async fn page(&self, place: &Place, app: &AppId, range: Range<Hour>, hours_max: usize) -> Result<Page, Error> {
        if place.is_local {
            return self.local_page(place.partition, app, range, hours_max).await;
        }
        let held = self.inner.cache.held(app, range.clone(), hours_max);
        let question = Question::Hours(HoursQuestion {
            app: app.clone(),
            from: range.start,
            to: range.end,
            hours_max,
            held: held.iter().map(|held| (held.hour, held.version)).collect(),
        });
        let answer = self.ask(place.partition, question, place.deadline).await?;
        let Answer::Hours { is_known, rows, has_more } = answer else { return Err(mismatch(&answer)) };
        let held: BTreeMap<Hour, Arc<StoredRollup>> = held.into_iter().map(|held| (held.hour, held.stored)).collect();
        let mut page = Page { rows: Vec::with_capacity(rows.len()), has_more, is_known, at: None };
        for (index, row) in rows.into_iter().enumerate() {
            take_turns(index).await;
            let stored = match (row.row, held.get(&row.hour)) {
                (Some(bytes), _) => {
                    let stored = StoredRollup::decode(&bytes).map_err(|error| Error::Failed(error.to_string()))?;
                    let stored = Arc::new(stored);
                    self.inner.cache.put(app, row.hour, row.version, Arc::clone(&stored));
                    stored
                }
                (None, Some(stored)) => {
                    self.inner.cache.hit(app, row.hour);
                    Arc::clone(stored)
                }
                (None, None) => {
                    return Err(Error::Failed("the leader left out a rollup that is not held here".to_owned()));
                }
            };
            page.rows.push(Row { hour: row.hour, version: row.version, stored });
        }
        Ok(page)
    }

    async fn local_page(
        &self,
        partition: PartitionId,
        app: &AppId,
        range: Range<Hour>,
        hours_max: usize,
    ) -> Result<Page, Error> {
        let stored = self.inner.stored.hours(partition, app, range, hours_max).await?;
        let lateness = self.inner.settings.lateness;
        let rows = stored.rows.into_iter().map(|(hour, row)| {
            let version = Version::of(hour, &row, stored.at.watermark_ms, lateness);
            Row { hour, version, stored: row }
        });
        Ok(Page { rows: rows.collect(), has_more: stored.has_more, is_known: stored.is_known, at: Some(stored.at) })
    }

    async fn ask_summary(&self, place: &Place, app: &AppId, range: Range<Hour>) -> Result<(Summary, bool), Error> {
        let hours_max = self.inner.settings.summary_hours_max;
        let question = Question::Summary { app: app.clone(), from: range.start, to: range.end, hours_max };
        match self.ask(place.partition, question, place.deadline).await? {
            Answer::Summary { is_known, hours, row } => {
                let rollup = StoredRollup::decode(&row).map_err(|error| Error::Failed(error.to_string()))?.rollup;
                Ok((Summary { hours, rollup }, is_known))
            }
            Answer::TooManyHours => Err(Error::TooManyHours(hours_max)),
            other => Err(mismatch(&other)),
        }
    }

    async fn local_summary(
        &self,
        place: &Place,
        app: &AppId,
        range: Range<Hour>,
    ) -> Result<(Summary, bool, Located), Error> {
        let hours_max = self.inner.settings.summary_hours_max;
        let (mut summary, mut from, mut located) = (Summary::default(), range.start, None);
        loop {
            let hours = from..range.end;
            let page = self.inner.stored.summary(place.partition, app, hours, SUMMARY_HOURS_PER_READ).await?;
            located = located.or(Some((place.partition, page.at)));
            summary.add(page.hours.len() as u64, &page.rollup, &self.inner.settings.sketch);
            if summary.hours > hours_max {
                return Err(Error::TooManyHours(hours_max));
            }
            match page.hours.last() {
                Some(last) if page.has_more => from = Hour(last.0 + 1),
                _ => return Ok((summary, page.is_known, located)),
            }
        }
    }

    /// Asks the leader until it answers or the deadline comes: leaders change, and a new one's aggregation has to start.
    async fn ask(&self, partition: PartitionId, question: Question, deadline: Instant) -> Result<Answer, Error> {
        loop {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let request = Request { timeout_ms, question: question.clone() };
            let reason = match self.inner.partitions.ask_leader(partition, request.encode(), deadline).await {
                Ok(bytes) => match decode_answer(&bytes) {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(ReadError::Failed(reason))) => return Err(Error::Failed(reason)),
                    Ok(Err(error)) => error.to_string(),
                    Err(unreadable) => return Err(Error::Failed(unreadable.to_string())),
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(Error::Unavailable(format!(
                    "the leader of partition {partition} does not answer: {reason}"
                )));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Partitions that a token names and this cluster does not have: the token is of another cluster.
    pub(super) fn foreign_partition(&self, token: &Token) -> Option<PartitionId> {
        let partitions = self.inner.partitions.all();
        token.offsets().map(|(partition, _)| partition).find(|partition| !partitions.contains(partition))
    }
}

/// Where a question is read.
struct Place {
    partition: PartitionId,
    is_local: bool,
    deadline: Instant,
}

/// Lets other tasks run after every [`ROWS_PER_TURN`] rows.
async fn take_turns(index: usize) {
    if index % ROWS_PER_TURN == ROWS_PER_TURN - 1 {
        tokio::task::yield_now().await;
    }
}

fn mismatch(answer: &Answer) -> Error {
    let kind = match answer {
        Answer::Hours { .. } => "hours",
        Answer::Summary { .. } | Answer::TooManyHours => "a summary",
        Answer::Apps { .. } => "apps",
        Answer::Progress(_) => "progress",
    };
    Error::Failed(format!("the leader answered another question, with {kind}"))
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Error {
        match error {
            ReadError::Failed(reason) => Error::Failed(reason),
            ReadError::NoReplica => {
                Error::Unavailable("this node holds no replica of the partition; ask another node".to_owned())
            }
            other => Error::Unavailable(other.to_string()),
        }
    }
}
