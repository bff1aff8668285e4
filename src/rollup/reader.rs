//! Reads of stored rollups: memory over rows, all of an answer as of one `consumed`.
//!
//! Memory is read under the lock of `recent`, rows without it. What is read from rows may be newer than what was read from memory only
//! if a write-out was captured (or a snapshot installed) in between; then the read begins again. After a few times the rows
//! are read under that lock too.
//!
//! Reads block: a point read for microseconds where the row is not in memory, and any read of rows for as long as a
//! write-out's batch takes if it falls together with one (sled lets nobody in meanwhile). Ranges and lists belong on the
//! blocking lane.

use super::error::Error;
use super::keys::{self, Generation, Kind};
use super::load;
use super::quarantine;
use super::recent::Recent;
use super::recent_row::RecentRow;
use super::state::{Inner, PartitionState, Shared};
use crate::domain::{AppId, Hour, Rollup};
use crate::format::{Quarantined, StoredRollup};
use cluster::Offset;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

/// How often a read begins again without the lock before it keeps it.
const ATTEMPTS_MAX: u32 = 3;

/// Reads of one partition's stored rollups. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// Where the rows of an answer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// Everything up to and including this offset is in them; `None` before the first checkpoint.
    pub consumed: Option<Offset>,
    /// Event time reached, ms since the epoch.
    pub watermark_ms: u64,
    /// How long ago `consumed` moved, or this replica last knew of no event behind it.
    pub age: Duration,
}

/// Hours of an app.
#[derive(Debug, Clone, PartialEq)]
pub struct HoursPage {
    /// Where they stand.
    pub as_of: AsOf,
    /// Hours with events, oldest first.
    pub rows: Vec<(Hour, Arc<StoredRollup>)>,
    /// Whether there are further ones in the range.
    pub has_more: bool,
    /// Whether the app has any row at all.
    pub is_known: bool,
}

/// Hours of an app, merged.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryPage {
    /// Where they stand.
    pub as_of: AsOf,
    /// The hours that are in it, oldest first.
    pub hours: Vec<Hour>,
    /// All of their events.
    pub rollup: Rollup,
    /// Whether there are further ones in the range.
    pub has_more: bool,
    /// Whether the app has any row at all.
    pub is_known: bool,
}

/// An app with its first and last hour that has events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppHours {
    /// The app.
    pub app: AppId,
    /// Its first hour.
    pub first_hour: Hour,
    /// Its last hour.
    pub last_hour: Hour,
}

/// Apps that have rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppsPage {
    /// Where they stand.
    pub as_of: AsOf,
    /// In the order of their names.
    pub apps: Vec<AppHours>,
    /// Whether there are further ones in the selection.
    pub has_more: bool,
}

impl PartitionState {
    /// Reads of the stored rollups.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }
}

impl Reader {
    /// The rollup of an app and hour. Hours that are asked for again and again are answered from memory.
    pub fn get(&self, app: &AppId, hour: Hour) -> Result<(AsOf, Option<Arc<StoredRollup>>), Error> {
        let tail = keys::rollup(app, hour);
        let (as_of, epoch, (row, is_in_memory)) = self.consistently_in_epoch(
            |recent| recent.get(&tail).cloned(),
            |generation, recent| match recent {
                Some(row) => Ok((Some(row), true)),
                None => Ok((self.shared.read_row(generation, &tail)?, false)),
            },
        )?;
        let stored = row.as_ref().map(|row| Arc::clone(row.stored()));
        if let Some(row) = row.filter(|_| !is_in_memory) {
            let mut recent = self.shared.lock_recent();
            let is_newest = self.shared.lock().epoch == epoch;
            if is_newest {
                recent.keep_read(tail, row);
            }
        }
        Ok((as_of, stored))
    }

    /// An app's hours in a range, oldest first, at most `limit`.
    pub fn range(&self, app: &AppId, hours: Range<Hour>, limit: usize) -> Result<HoursPage, Error> {
        let add = |rows: &mut Vec<_>, hour, row| rows.push((hour, row));
        let Folded { as_of, content: rows, has_more, is_known } = self.fold(app, hours, limit, add)?;
        Ok(HoursPage { as_of, rows, has_more, is_known })
    }

    /// An app's hours in a range, merged one by one, oldest first, at most `limit`.
    pub fn summary(&self, app: &AppId, hours: Range<Hour>, limit: usize) -> Result<SummaryPage, Error> {
        let add = |(hours, rollup): &mut (Vec<Hour>, Rollup), hour, row: Arc<StoredRollup>| {
            hours.push(hour);
            rollup.merge(&row.rollup, &self.shared.sketch);
        };
        let Folded { as_of, content: (hours, rollup), has_more, is_known } = self.fold(app, hours, limit, add)?;
        Ok(SummaryPage { as_of, hours, rollup, has_more, is_known })
    }

    /// Gives `add` an app's hours in a range, oldest first, at most `limit`.
    fn fold<T: Default>(
        &self,
        app: &AppId,
        hours: Range<Hour>,
        limit: usize,
        add: impl Fn(&mut T, Hour, Arc<StoredRollup>),
    ) -> Result<Folded<T>, Error> {
        let (from, to) = (keys::rollup(app, hours.start), keys::rollup(app, hours.end));
        let app_range = (keys::app_prefix(app.as_str()), keys::app_end(app.as_str()));
        let (as_of, (content, has_more, is_known)) = self.consistently(
            |recent| {
                let rows = recent.range(&from, &to).take(limit.saturating_add(1));
                let rows: Vec<_> = rows.map(|(tail, row)| (tail.clone(), row.clone())).collect();
                (rows, recent.range(&app_range.0, &app_range.1).next().is_some())
            },
            |generation, (recent, is_recent)| {
                let (mut content, mut rows) = (T::default(), 0);
                let has_more = self.merged(generation, &from, &to, &recent, |hour, row| {
                    if rows == limit {
                        return ControlFlow::Break(());
                    }
                    rows += 1;
                    add(&mut content, hour, row);
                    ControlFlow::Continue(())
                })?;
                let is_known = is_recent || rows > 0 || self.has_row(generation, &app_range)?;
                Ok((content, has_more, is_known))
            },
        )?;
        Ok(Folded { as_of, content, has_more, is_known })
    }

    /// Apps whose names begin with `prefix` and come behind `after`, at most `limit`.
    pub fn apps(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<AppsPage, Error> {
        let from = match after {
            Some(after) if after >= prefix => keys::app_end(after),
            _ => keys::app_from(prefix),
        };
        let to = crate::rollup::rows::prefix_end(&keys::app_from(prefix));
        let wanted = limit.saturating_add(1);
        let (as_of, mut apps) = self.consistently(
            |recent| recent_apps(recent, &from, &to, wanted),
            |generation, recent| self.merged_apps(generation, &from, &to, wanted, &recent),
        )?;
        let has_more = apps.len() > limit;
        apps.truncate(limit);
        Ok(AppsPage { as_of, apps, has_more })
    }

    /// Quarantined entries from an offset on, oldest first, at most `limit`.
    pub fn quarantined(&self, from: Offset, limit: usize) -> Result<Vec<Quarantined>, Error> {
        let (_, entries) = self.consistently(
            |recent| recent.quarantined(from.0).take(limit).cloned().collect::<Vec<_>>(),
            |generation, recent| {
                let mut entries: BTreeMap<u64, Quarantined> = BTreeMap::new();
                for entry in self.stored_quarantined(generation, from, limit)?.into_iter().chain(recent) {
                    entries.insert(entry.offset, entry);
                }
                Ok(entries.into_values().take(limit).collect())
            },
        )?;
        Ok(entries)
    }

    /// Whether a read may have to wait for milliseconds, because a checkpoint is being merged or a write-out captured.
    pub fn may_wait(&self) -> bool {
        self.shared.is_held_long()
    }

    /// Reads memory under the lock and rows behind it, so that both are as of one `consumed`.
    fn consistently<M, T>(
        &self,
        memory: impl Fn(&Recent) -> M,
        rows: impl Fn(Generation, M) -> Result<T, Error>,
    ) -> Result<(AsOf, T), Error> {
        self.consistently_in_epoch(memory, rows).map(|(as_of, _, read)| (as_of, read))
    }

    /// [`Reader::consistently`], and the epoch that it is of.
    fn consistently_in_epoch<M, T>(
        &self,
        memory: impl Fn(&Recent) -> M,
        rows: impl Fn(Generation, M) -> Result<T, Error>,
    ) -> Result<(AsOf, u64, T), Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (as_of, generation, epoch, recent) = {
                let recent = self.shared.lock_recent();
                let memory = memory(&recent);
                let inner = self.shared.lock();
                (as_of(&inner), inner.generation, inner.epoch, memory)
            };
            let read = rows(generation, recent);
            if self.shared.lock().epoch == epoch {
                return Ok((as_of, epoch, read?));
            }
        }
        let _long_holder = self.shared.holds_long();
        let recent = self.shared.lock_recent();
        let (as_of, generation, epoch) = {
            let inner = self.shared.lock();
            (as_of(&inner), inner.generation, inner.epoch)
        };
        let read = rows(generation, memory(&recent))?;
        Ok((as_of, epoch, read))
    }

    /// Gives `each` the rows of a range in order, those in memory in place of those in the store. Returns whether it broke off.
    fn merged(
        &self,
        generation: Generation,
        from: &[u8],
        to: &[u8],
        recent: &[(Vec<u8>, RecentRow)],
        each: impl FnMut(Hour, Arc<StoredRollup>) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        let (from, to) = (self.shared.key(generation, from), self.shared.key(generation, to));
        let mut merge = Merge { reader: self, recent: recent.iter().peekable(), each };
        let mut step = Step::Continue(());
        self.shared.rows.visit(&from, &to, &mut |key, value| {
            step = self.tail_of(key).map_or_else(|error| Step::Break(Err(error)), |tail| merge.stored(tail, value));
            if step.is_break() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if step.is_continue() {
            step = merge.recent_below(None);
        }
        match step {
            Step::Continue(()) => Ok(false),
            Step::Break(outcome) => outcome.map(|()| true),
        }
    }

    fn has_row(&self, generation: Generation, (from, to): &(Vec<u8>, Vec<u8>)) -> Result<bool, Error> {
        let (from, to) = (self.shared.key(generation, from), self.shared.key(generation, to));
        Ok(!self.shared.rows.scan(&from, &to, 1)?.is_empty())
    }

    /// Apps in order, found by seeking from one to the next.
    fn merged_apps(
        &self,
        generation: Generation,
        from: &[u8],
        to: &[u8],
        wanted: usize,
        recent: &BTreeMap<String, (Hour, Hour)>,
    ) -> Result<Vec<AppHours>, Error> {
        let mut apps: BTreeMap<String, (Hour, Hour)> = recent.clone();
        let (mut from, to) = (self.shared.key(generation, from), self.shared.key(generation, to));
        let mut found = 0;
        while found < wanted {
            let Some((key, _)) = self.shared.rows.scan(&from, &to, 1)?.pop() else { break };
            let (app, first) = self.split(self.tail_of(&key)?)?;
            let end = self.shared.key(generation, &keys::app_end(app.as_str()));
            let last = self.shared.rows.last(&key, &end)?.map(|(key, _)| key).unwrap_or_else(|| key.clone());
            let (_, last) = self.split(self.tail_of(&last)?)?;
            let hours = apps.entry(app.as_str().to_owned()).or_insert((first, last));
            *hours = (hours.0.min(first), hours.1.max(last));
            from = end;
            found += 1;
        }
        let first = apps.into_iter().take(wanted);
        first
            .map(|(name, (first_hour, last_hour))| {
                let app = AppId::new(&name).map_err(|error| self.shared.damaged(&keys::app_prefix(&name), error))?;
                Ok(AppHours { app, first_hour, last_hour })
            })
            .collect()
    }

    fn stored_quarantined(
        &self,
        generation: Generation,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<Quarantined>, Error> {
        let mut entries = Vec::new();
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut open: Option<u64> = None;
        let (mut from, to) = (
            self.shared.key(generation, &keys::quarantined(from.0, 0)),
            self.shared.key(generation, &[Kind::Quarantined as u8 + 1]),
        );
        while entries.len() < limit {
            let row = self.shared.rows.scan(&from, &to, 1)?.pop();
            let next = match &row {
                Some((key, _)) => {
                    let tail = self.tail_of(key)?;
                    let (offset, _) = keys::split_quarantined(tail).ok_or_else(|| self.shared.damaged(tail, "key"))?;
                    Some(offset)
                }
                None => None,
            };
            if let Some(offset) = open
                && next != Some(offset)
            {
                let tail = keys::quarantined(offset, 0);
                let entry = quarantine::entry(offset, &std::mem::take(&mut pieces));
                entries.push(entry.map_err(|error| self.shared.damaged(&tail, error))?);
            }
            let Some((key, value)) = row else { break };
            open = next;
            pieces.push(value);
            from = [key, vec![0]].concat();
        }
        Ok(entries)
    }

    fn tail_of<'a>(&self, key: &'a [u8]) -> Result<&'a [u8], Error> {
        keys::split(key).map(|(_, tail)| tail).ok_or_else(|| self.shared.damaged(key, "key"))
    }

    fn split(&self, tail: &[u8]) -> Result<(AppId, Hour), Error> {
        let split = keys::split_rollup(tail).and_then(|(app, hour)| Some((AppId::new(app).ok()?, hour)));
        split.ok_or_else(|| load::damaged(self.shared.id, tail, "key")).inspect_err(|error| {
            self.shared.damage.report(error);
        })
    }
}

/// What [`Reader::fold`] gives.
struct Folded<T> {
    as_of: AsOf,
    content: T,
    has_more: bool,
    is_known: bool,
}

/// Whether a merge goes on, or ends because no more is wanted or it failed.
type Step = ControlFlow<Result<(), Error>>;

/// Merges rows of the store, in order, with those in memory, which replace them.
struct Merge<'a, F> {
    reader: &'a Reader,
    recent: Peekable<std::slice::Iter<'a, (Vec<u8>, RecentRow)>>,
    each: F,
}

impl<F: FnMut(Hour, Arc<StoredRollup>) -> ControlFlow<()>> Merge<'_, F> {
    /// The next row of the store.
    fn stored(&mut self, tail: &[u8], value: &[u8]) -> Step {
        self.recent_below(Some(tail))?;
        match self.recent.next_if(|(recent, _)| recent == tail) {
            Some((_, row)) => self.give(tail, Arc::clone(row.stored())),
            None => match StoredRollup::decode(value) {
                Ok(stored) => self.give(tail, Arc::new(stored)),
                Err(error) => Step::Break(Err(self.reader.shared.damaged(tail, error))),
            },
        }
    }

    /// The rows in memory before `end`, or all that are left.
    fn recent_below(&mut self, end: Option<&[u8]>) -> Step {
        while let Some((tail, row)) = self.recent.next_if(|(tail, _)| end.is_none_or(|end| &tail[..] < end)) {
            self.give(tail, Arc::clone(row.stored()))?;
        }
        Step::Continue(())
    }

    fn give(&mut self, tail: &[u8], row: Arc<StoredRollup>) -> Step {
        match keys::split_rollup(tail) {
            Some((_, hour)) => (self.each)(hour, row).map_break(Ok),
            None => Step::Break(Err(self.reader.shared.damaged(tail, "key"))),
        }
    }
}

fn as_of(inner: &Inner) -> AsOf {
    AsOf {
        consumed: inner.position.offset(),
        watermark_ms: inner.position.watermark_ms,
        age: inner.complete_at.elapsed(),
    }
}

/// The first apps of a range in memory, with their first and last hours there.
fn recent_apps(recent: &Recent, from: &[u8], to: &[u8], wanted: usize) -> BTreeMap<String, (Hour, Hour)> {
    let mut apps: BTreeMap<String, (Hour, Hour)> = BTreeMap::new();
    for (tail, _) in recent.range(from, to) {
        let Some((app, hour)) = keys::split_rollup(tail) else { continue };
        if let Some(hours) = apps.get_mut(app) {
            hours.1 = hour;
        } else if apps.len() < wanted {
            apps.insert(app.to_owned(), (hour, hour));
        } else {
            break;
        }
    }
    apps
}
