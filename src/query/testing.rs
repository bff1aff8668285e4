//! A cluster in a struct: rows, open windows and leaders, all under the test's control.

use super::leader::{Leader, merge_apps};
use super::reads::*;
use super::{AskError, Partitions, Query, Settings};
use crate::domain::{AppId, Hour, ResponseTime, Rollup, SketchConfig, slot_of};
use crate::format::StoredRollup;
use crate::http::{Routes, assemble};
use crate::metrics::Metrics;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Offset, PartitionId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How leaders behave.
#[derive(Debug, Clone, PartialEq)]
pub enum Mood {
    /// They answer.
    Well,
    /// They answer after so long.
    Slow(Duration),
    /// Nobody is leader.
    NoLeader,
    /// The next so many questions reach a node that does not lead.
    NotLeader(u32),
    /// They answer these bytes.
    Says(Bytes),
}

type Rows<T> = BTreeMap<(AppId, Hour), T>;

struct State {
    stored: Rows<StoredRollup>,
    /// What the checkpoint under way holds, if there is one.
    under_way: Option<Rows<Rollup>>,
    open: Rows<Rollup>,
    /// What a checkpoint that comes between the next two reads would store.
    checkpoint_between: bool,
    watermark_ms: u64,
    mood: Mood,
    has_replica: bool,
    /// Bytes of the answers so far.
    answered_bytes: Vec<usize>,
}

/// The cluster. Clones share everything.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    consumed: Arc<watch::Sender<Option<Offset>>>,
    partitions: u16,
    /// Rows that a read of stored rows returns at most, whatever it is asked for.
    pub stored_rows_max: usize,
    pub metrics: Metrics,
    pub settings: Settings,
}

pub const LATENESS: Duration = Duration::from_secs(600);

pub fn app(name: &str) -> AppId {
    AppId::new(name).unwrap()
}

impl Fake {
    pub fn new(partitions: u16) -> Fake {
        let state = State {
            stored: BTreeMap::new(),
            under_way: None,
            open: BTreeMap::new(),
            checkpoint_between: false,
            watermark_ms: 0,
            mood: Mood::Well,
            has_replica: true,
            answered_bytes: Vec::new(),
        };
        Fake {
            state: Arc::new(Mutex::new(state)),
            consumed: Arc::new(watch::channel(None).0),
            partitions,
            stored_rows_max: usize::MAX,
            metrics: Metrics::new(),
            settings: Settings { lateness: LATENESS, ..Settings::default() },
        }
    }

    pub fn query(&self) -> Query {
        let settings = self.settings.clone();
        Query::new(Arc::new(self.clone()), Arc::new(self.clone()), settings, self.metrics.query.clone())
    }

    pub fn router(&self) -> Routes {
        assemble([super::room(self.query())])
    }

    pub fn leader(&self) -> Leader {
        Leader::new(Arc::new(self.clone()), Arc::new(self.clone()), self.settings.sketch.clone(), LATENESS)
    }

    /// An event that is folded and not yet stored.
    pub fn record(&self, name: &str, hour: u32, ns: u64) {
        let is_late =
            super::HourState::of(Hour(hour), 0, self.state().watermark_ms, LATENESS) != super::HourState::Open;
        let mut state = self.state();
        let rollup = state.open.entry((app(name), Hour(hour))).or_default();
        rollup.record(ResponseTime(ns), is_late, &self.settings.sketch);
    }

    /// Begins a checkpoint of what is open.
    pub fn begin_checkpoint(&self) {
        let mut state = self.state();
        let open = std::mem::take(&mut state.open);
        assert!(state.under_way.replace(open).is_none(), "one checkpoint at a time");
    }

    /// Stores what the checkpoint under way holds, or what is open if there is none.
    pub fn checkpoint(&self) {
        self.state().checkpoint(&self.settings.sketch);
        self.consumed.send_modify(|consumed| *consumed = Some(after(*consumed)));
    }

    /// Stores the same rollup in `count` hours.
    pub fn store(&self, name: &str, hour: u32, count: u32, rollup: &Rollup) {
        let row = StoredRollup { revision: 1, rollup: rollup.clone() };
        self.state().stored.extend((0..count).map(|step| ((app(name), Hour(hour + step)), row.clone())));
    }

    pub fn set_watermark(&self, watermark_ms: u64) {
        self.state().watermark_ms = watermark_ms;
    }

    pub fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub fn lose_replica(&self) {
        self.state().has_replica = false;
    }

    /// Lets a checkpoint come between the next read of open windows and that of stored rows.
    pub fn checkpoint_between(&self) {
        self.state().checkpoint_between = true;
    }

    /// Bytes of the newest answer of a leader.
    pub fn answered_bytes(&self) -> usize {
        *self.state().answered_bytes.last().unwrap()
    }

    pub fn answers(&self) -> usize {
        self.state().answered_bytes.len()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn is_of(&self, partition: PartitionId, app: &AppId) -> bool {
        self.of_slot(slot_of(app.as_str())) == partition
    }

    fn at(&self, watermark_ms: u64) -> StoredAt {
        StoredAt { consumed: *self.consumed.borrow(), watermark_ms, age: Duration::from_millis(250) }
    }

    fn apps_of<T>(&self, rows: &Rows<T>, partition: PartitionId, selection: &AppSelection) -> (Vec<AppHours>, bool) {
        let is_selected = |app: &AppId| {
            self.is_of(partition, app)
                && app.as_str().starts_with(&selection.prefix)
                && selection.after.as_ref().is_none_or(|after| app.as_str() > after.as_str())
        };
        let apps = rows.keys().filter(|(app, _)| is_selected(app));
        let apps = apps.map(|(app, hour)| AppHours { app: app.clone(), first: *hour, last: *hour });
        let page = merge_apps(apps, selection.apps_max);
        (page.apps, page.has_more)
    }
}

fn after(consumed: Option<Offset>) -> Offset {
    consumed.map_or(Offset(0), Offset::next)
}

impl State {
    fn checkpoint(&mut self, sketch: &SketchConfig) {
        let deltas = self.under_way.take().unwrap_or_else(|| std::mem::take(&mut self.open));
        for (key, delta) in deltas {
            let row = self.stored.entry(key).or_default();
            row.rollup.merge(&delta, sketch);
            row.revision += 1;
        }
    }
}

#[async_trait]
impl StoredReads for Fake {
    async fn hours(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredHours, ReadError> {
        if !self.state().has_replica {
            return Err(ReadError::NoReplica);
        }
        assert!(self.is_of(partition, app), "{app} is not of partition {partition}");
        if std::mem::take(&mut self.state().checkpoint_between) {
            self.checkpoint();
        }
        let state = self.state();
        let mut rows = state.stored.range((app.clone(), hours.start)..(app.clone(), hours.end));
        let page = rows
            .by_ref()
            .take(hours_max.min(self.stored_rows_max))
            .map(|((_, hour), row)| (*hour, Arc::new(row.clone())))
            .collect();
        let has_more = rows.next().is_some();
        let is_known = state.stored.keys().any(|(other, _)| other == app);
        Ok(StoredHours { at: self.at(state.watermark_ms), rows: page, has_more, is_known })
    }

    async fn summary(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
    ) -> Result<StoredSummary, ReadError> {
        let StoredHours { at, rows, has_more, is_known } = self.hours(partition, app, hours, hours_max).await?;
        let mut rollup = Rollup::default();
        rows.iter().for_each(|(_, row)| rollup.merge(&row.rollup, &self.settings.sketch));
        let hours = rows.into_iter().map(|(hour, _)| hour).collect();
        Ok(StoredSummary { at, hours, rollup, has_more, is_known })
    }

    async fn apps(&self, partition: PartitionId, selection: &AppSelection) -> Result<StoredApps, ReadError> {
        let state = self.state();
        let (apps, has_more) = self.apps_of(&state.stored, partition, selection);
        Ok(StoredApps { at: self.at(state.watermark_ms), apps, has_more })
    }

    async fn wait_consumed(&self, _: PartitionId, offset: Offset, deadline: Instant) -> Result<bool, ReadError> {
        if !self.state().has_replica {
            return Err(ReadError::NoReplica);
        }
        let mut consumed = self.consumed.subscribe();
        let reached = consumed.wait_for(|consumed| *consumed >= Some(offset));
        Ok(tokio::time::timeout_at(deadline, reached).await.is_ok())
    }

    fn progress(&self, _: PartitionId) -> Option<Progress> {
        let lag_events = self.state().open.values().map(Rollup::count).sum();
        self.state().has_replica.then(|| Progress { consumed: *self.consumed.borrow(), lag_events })
    }
}

#[async_trait]
impl LeaderReads for Fake {
    async fn open_windows(
        &self,
        partition: PartitionId,
        selection: OpenSelection,
        _: Instant,
    ) -> Result<OpenWindows, ReadError> {
        let state = self.state();
        let base = *self.consumed.borrow();
        let filling = (if state.under_way.is_some() { Some(after(base)) } else { base }, &state.open);
        let all = state.under_way.iter().map(|rows| (base, rows)).chain([filling]);
        let (mut generations, mut is_known, mut has_more) = (Vec::new(), false, false);
        for (base, rows) in all {
            let mut generation = Generation { base, deltas: Vec::new(), apps: Vec::new() };
            match &selection {
                OpenSelection::Hours(app, hours) => {
                    let deltas = rows.range((app.clone(), hours.start)..(app.clone(), hours.end));
                    generation.deltas = deltas.map(|((_, hour), delta)| (*hour, delta.clone())).collect();
                    is_known |= rows.keys().any(|(other, _)| other == app);
                }
                OpenSelection::Apps(selection) => {
                    let (apps, further) = self.apps_of(rows, partition, selection);
                    generation.apps = apps;
                    has_more |= further;
                }
            }
            generations.push(generation);
        }
        Ok(OpenWindows { generations, watermark_ms: state.watermark_ms, is_known, has_more })
    }
}

#[async_trait]
impl Partitions for Fake {
    fn all(&self) -> Vec<PartitionId> {
        (0..self.partitions).map(PartitionId).collect()
    }

    fn of_slot(&self, slot: u16) -> PartitionId {
        PartitionId(slot % self.partitions)
    }

    async fn ask_leader(&self, partition: PartitionId, request: Bytes, deadline: Instant) -> Result<Bytes, AskError> {
        let mood = self.state().mood.clone();
        // Others may ask meanwhile.
        match mood {
            Mood::Slow(time) => tokio::time::sleep(time).await,
            _ => tokio::task::yield_now().await,
        }
        match mood {
            Mood::Well | Mood::Slow(_) => {
                let answer = self.leader().serve(partition, &request).await;
                self.state().answered_bytes.push(answer.len());
                Ok(answer)
            }
            Mood::NoLeader => {
                tokio::time::sleep_until(deadline).await;
                Err(AskError("no leader".to_owned()))
            }
            Mood::NotLeader(times) => {
                self.set_mood(if times <= 1 { Mood::Well } else { Mood::NotLeader(times - 1) });
                Ok(super::message::encode_answer(&Err(ReadError::NotLeader)))
            }
            Mood::Says(bytes) => Ok(bytes),
        }
    }
}
