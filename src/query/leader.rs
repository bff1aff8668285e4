//! The numbers at a partition's leader: stored rows and open windows, added up.
//!
//! What is answered contains every event that was acknowledged before the question came in.

use super::reads::{
    AppHours, AppSelection, LeaderReads, OpenSelection, OpenWindows, Progress, ReadError, StoredAt, StoredReads,
};
use super::state::Version;
use crate::domain::{AppId, Hour, Rollup, SketchConfig};
use crate::format::StoredRollup;
use cluster::PartitionId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One hour of an app, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct HourRow {
    /// Which hour.
    pub hour: Hour,
    /// Which state of it.
    pub version: Version,
    /// Its numbers.
    pub stored: Arc<StoredRollup>,
}

/// Hours of an app, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct HoursPage {
    /// Only hours with events.
    pub rows: Vec<HourRow>,
    /// Whether there are further ones in the range, behind the last row.
    pub has_more: bool,
    /// Whether the app has events at all, in the range or not.
    pub is_known: bool,
}

/// Hours of an app, merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// How many hours with events.
    pub hours: u64,
    /// Their numbers.
    pub rollup: Rollup,
}

impl Summary {
    /// Adds a rollup that brings so many hours which are not in it yet.
    pub fn add(&mut self, hours: u64, rollup: &Rollup, sketch: &SketchConfig) {
        self.hours += hours;
        self.rollup.merge(rollup, sketch);
    }
}

/// The first hours of a range, merged.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryPage {
    /// What they hold.
    pub summary: Summary,
    /// The first hour of the range that is not in it, if there are further ones.
    pub next: Option<Hour>,
    /// Whether the app has events at all, in the range or not.
    pub is_known: bool,
}

/// Apps in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct AppsPage {
    /// The apps.
    pub apps: Vec<AppHours>,
    /// Whether there are further ones in the selection, behind the last.
    pub has_more: bool,
}

/// The reads of partitions that this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Leader {
    stored: Arc<dyn StoredReads>,
    open: Arc<dyn LeaderReads>,
    sketch: SketchConfig,
    lateness: Duration,
}

/// Pause before stored rows and open windows are read again, after a checkpoint came between.
const REREAD_PAUSE: Duration = Duration::from_millis(1);

impl Leader {
    /// Reads `stored` completed by `open`; hours are sealed `lateness` after their end.
    pub fn new(
        stored: Arc<dyn StoredReads>,
        open: Arc<dyn LeaderReads>,
        sketch: SketchConfig,
        lateness: Duration,
    ) -> Leader {
        Leader { stored, open, sketch, lateness }
    }

    /// How sketches divide values.
    pub fn sketch(&self) -> &SketchConfig {
        &self.sketch
    }

    /// How far this node has folded a partition's events.
    pub fn progress(&self, partition: PartitionId) -> Option<Progress> {
        self.stored.progress(partition)
    }

    /// At most `hours_max` hours of an app.
    pub async fn hours(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
        deadline: Instant,
    ) -> Result<HoursPage, ReadError> {
        let selection = OpenSelection::Hours(app.clone(), hours.clone());
        let read = || self.stored.hours(partition, app, hours.clone(), hours_max);
        let (stored, open) = self.completed(partition, selection, deadline, read, |stored| stored.at).await?;
        let mut rows: BTreeMap<Hour, Arc<StoredRollup>> = stored.rows.into_iter().collect();
        // Behind the last stored row of a page that is not the last one, rows are missing: deltas there would be taken
        // for whole rollups.
        let end = if stored.has_more {
            rows.keys().next_back().map_or(hours.start, |last| Hour(last.0 + 1))
        } else {
            hours.end
        };
        let deltas = open.generations.iter().flat_map(|generation| &generation.deltas);
        for (hour, delta) in deltas.filter(|(hour, _)| *hour < end) {
            Arc::make_mut(rows.entry(*hour).or_default()).rollup.merge(delta, &self.sketch);
        }
        let is_known = stored.is_known || open.is_known || !rows.is_empty();
        let has_more = stored.has_more || rows.len() > hours_max;
        let rows = rows.into_iter().take(hours_max);
        let rows = rows.map(|(hour, stored)| {
            let version = Version::of(hour, &stored, open.watermark_ms, self.lateness);
            HourRow { hour, version, stored }
        });
        Ok(HoursPage { rows: rows.collect(), has_more, is_known })
    }

    /// Hours of an app, merged: some `hours_max` of them, the oldest.
    pub async fn summary(
        &self,
        partition: PartitionId,
        app: &AppId,
        hours: Range<Hour>,
        hours_max: usize,
        deadline: Instant,
    ) -> Result<SummaryPage, ReadError> {
        let selection = OpenSelection::Hours(app.clone(), hours.clone());
        let read = || self.stored.summary(partition, app, hours.clone(), hours_max);
        let (stored, open) = self.completed(partition, selection, deadline, read, |stored| stored.at).await?;
        let last = stored.hours.last().filter(|_| stored.has_more);
        let next = last.map(|last| Hour(last.0 + 1));
        let mut summary = Summary { hours: stored.hours.len() as u64, rollup: stored.rollup };
        let mut only_open = BTreeSet::new();
        let deltas = open.generations.iter().flat_map(|generation| &generation.deltas);
        // What is open behind the last stored row of a page comes with the next one.
        for (hour, delta) in deltas.filter(|(hour, _)| next.is_none_or(|next| *hour < next)) {
            let is_new = stored.hours.binary_search(hour).is_err() && only_open.insert(*hour);
            summary.add(u64::from(is_new), delta, &self.sketch);
        }
        let is_known = stored.is_known || open.is_known || summary.hours > 0;
        Ok(SummaryPage { summary, next, is_known })
    }

    /// At most `selection.apps_max` apps.
    pub async fn apps(
        &self,
        partition: PartitionId,
        selection: &AppSelection,
        deadline: Instant,
    ) -> Result<AppsPage, ReadError> {
        let open_selection = OpenSelection::Apps(selection.clone());
        let read = || self.stored.apps(partition, selection);
        let (stored, open) = self.completed(partition, open_selection, deadline, read, |stored| stored.at).await?;
        let open_apps = open.generations.iter().flat_map(|generation| generation.apps.iter().cloned());
        let page = merge_apps(stored.apps.into_iter().chain(open_apps), selection.apps_max);
        Ok(AppsPage { has_more: page.has_more || stored.has_more || open.has_more, ..page })
    }

    /// Open windows and then stored rows, which are `at`, read until no checkpoint comes between. Of the open windows come only the
    /// generations that complete the rows.
    async fn completed<T, F: Future<Output = Result<T, ReadError>>>(
        &self,
        partition: PartitionId,
        selection: OpenSelection,
        deadline: Instant,
        read: impl Fn() -> F,
        at: impl Fn(&T) -> StoredAt,
    ) -> Result<(T, OpenWindows), ReadError> {
        loop {
            let mut open = self.open.open_windows(partition, selection.clone(), deadline).await?;
            let stored = read().await?;
            let consumed = at(&stored).consumed;
            if let Some(first) = open.generations.iter().position(|generation| generation.base == consumed) {
                open.generations.drain(..first);
                return Ok((stored, open));
            }
            if Instant::now() + REREAD_PAUSE >= deadline {
                return Err(ReadError::Unavailable("checkpoints came between the reads until the deadline".to_owned()));
            }
            tokio::time::sleep(REREAD_PAUSE).await;
        }
    }
}

/// Joins apps that may be named several times; the first `apps_max` of them by name.
pub fn merge_apps(apps: impl Iterator<Item = AppHours>, apps_max: usize) -> AppsPage {
    let mut merged: BTreeMap<AppId, (Hour, Hour)> = BTreeMap::new();
    for AppHours { app, first, last } in apps {
        let known = merged.entry(app).or_insert((first, last));
        *known = (known.0.min(first), known.1.max(last));
    }
    let has_more = merged.len() > apps_max;
    let apps = merged.into_iter().take(apps_max).map(|(app, (first, last))| AppHours { app, first, last }).collect();
    AppsPage { apps, has_more }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
