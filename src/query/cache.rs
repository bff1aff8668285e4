//! Decoded rollups of hours that were asked for before.
//!
//! An entry is never taken for the newest by itself: a question goes to the leader with the versions that are held here,
//! and a rollup is used only where the leader says that its version still stands. So a late event can never leave an
//! answer stale; what is saved is the rollup's way over the network and its decoding.

use super::state::Version;
use crate::domain::{AppId, Hour};
use crate::format::StoredRollup;
use crate::metrics::QueryMetrics;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// A rollup and the version that it is.
#[derive(Debug, Clone)]
pub struct Held {
    /// Which hour.
    pub hour: Hour,
    /// Which version of it.
    pub version: Version,
    /// Its numbers.
    pub stored: Arc<StoredRollup>,
}

/// A bounded cache; what was used least recently leaves first. Cheap to clone, clones share everything.
#[derive(Clone)]
pub struct Cache {
    entries: Arc<Mutex<Entries>>,
    bytes_max: usize,
    metrics: QueryMetrics,
}

#[derive(Default)]
struct Entries {
    by_hour: BTreeMap<(AppId, Hour), Entry>,
    /// When each entry was last used, counted in uses.
    by_use: BTreeMap<u64, (AppId, Hour)>,
    uses: u64,
    bytes: usize,
}

struct Entry {
    version: Version,
    stored: Arc<StoredRollup>,
    used: u64,
    bytes: usize,
}

/// Bytes of an entry besides its rollup and its app's name: two tree nodes' shares.
const ENTRY_BYTES: usize = 200;

impl Cache {
    /// An empty cache of at most about `bytes_max` bytes; zero holds nothing.
    pub fn new(bytes_max: usize, metrics: QueryMetrics) -> Cache {
        Cache { entries: Arc::default(), bytes_max, metrics }
    }

    /// The rollups held of an app in a range of hours, ascending, at most `hours_max`.
    pub fn held(&self, app: &AppId, hours: Range<Hour>, hours_max: usize) -> Vec<Held> {
        if hours.is_empty() {
            return Vec::new();
        }
        let entries = self.lock();
        let range = entries.by_hour.range((app.clone(), hours.start)..(app.clone(), hours.end));
        let held = |((_, hour), entry): (&(AppId, Hour), &Entry)| Held {
            hour: *hour,
            version: entry.version,
            stored: Arc::clone(&entry.stored),
        };
        range.take(hours_max).map(held).collect()
    }

    /// Notes that a held rollup was the newest.
    pub fn hit(&self, app: &AppId, hour: Hour) {
        self.metrics.cache_hits.inc();
        let mut guard = self.lock();
        let entries = &mut *guard;
        if let Some(entry) = entries.by_hour.get_mut(&(app.clone(), hour)) {
            entries.uses += 1;
            let key = entries.by_use.remove(&entry.used).expect("every entry has its use");
            entry.used = entries.uses;
            entries.by_use.insert(entries.uses, key);
        }
    }

    /// Takes in the newest version of an hour, which was not held.
    pub fn put(&self, app: &AppId, hour: Hour, version: Version, stored: Arc<StoredRollup>) {
        self.metrics.cache_misses.inc();
        let bytes = stored.rollup.memory_bytes() + app.as_str().len() + ENTRY_BYTES;
        let mut guard = self.lock();
        let entries = &mut *guard;
        let key = (app.clone(), hour);
        entries.remove(&key);
        if bytes <= self.bytes_max {
            while entries.bytes + bytes > self.bytes_max {
                let (_, oldest) = entries.by_use.first_key_value().expect("bytes are held, so an entry is");
                entries.remove(&oldest.clone());
            }
            entries.uses += 1;
            entries.by_use.insert(entries.uses, key.clone());
            entries.by_hour.insert(key, Entry { version, stored, used: entries.uses, bytes });
            entries.bytes += bytes;
        }
        self.metrics.cache_bytes.set(entries.bytes as u64);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Entries {
    fn remove(&mut self, key: &(AppId, Hour)) {
        if let Some(entry) = self.by_hour.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Rollup;
    use crate::metrics::Metrics;
    use crate::query::state::HourState;

    fn version(revision: u64) -> Version {
        Version { revision, count: 1, late: 0, state: HourState::Open }
    }

    fn hours(cache: &Cache, app: &AppId) -> Vec<u32> {
        cache.held(app, Hour(0)..Hour(u32::MAX), 100).into_iter().map(|held| held.hour.0).collect()
    }

    #[test]
    fn what_was_used_least_recently_leaves_first() {
        let (app, metrics) = (AppId::new("a").unwrap(), Metrics::new());
        let entry_bytes = Rollup::default().memory_bytes() + 1 + ENTRY_BYTES;
        let cache = Cache::new(3 * entry_bytes, metrics.query.clone());
        for hour in 0..3 {
            cache.put(&app, Hour(hour), version(1), Arc::default());
        }
        cache.hit(&app, Hour(0));
        cache.put(&app, Hour(3), version(1), Arc::default());
        assert_eq!(hours(&cache, &app), [0, 2, 3]);
        assert_eq!(metrics.query.cache_bytes.get(), 3 * entry_bytes as u64);
        assert_eq!((metrics.query.cache_hits.get(), metrics.query.cache_misses.get()), (1, 4));
    }

    #[test]
    fn a_new_version_replaces_the_old_one() {
        let (app, metrics) = (AppId::new("a").unwrap(), Metrics::new());
        let cache = Cache::new(1 << 20, metrics.query.clone());
        cache.put(&app, Hour(1), version(1), Arc::default());
        let bytes = metrics.query.cache_bytes.get();
        cache.put(&app, Hour(1), version(2), Arc::default());
        let held = cache.held(&app, Hour(0)..Hour(2), 10);
        assert_eq!((held.len(), held[0].version), (1, version(2)));
        assert_eq!(metrics.query.cache_bytes.get(), bytes);
    }

    #[test]
    fn a_range_is_of_one_app_and_bounded() {
        let (one, other) = (AppId::new("a").unwrap(), AppId::new("b").unwrap());
        let cache = Cache::new(1 << 20, Metrics::new().query);
        for hour in 0..5 {
            cache.put(&one, Hour(hour), version(1), Arc::default());
            cache.put(&other, Hour(hour), version(1), Arc::default());
        }
        let held = cache.held(&one, Hour(1)..Hour(5), 2);
        assert_eq!(held.iter().map(|held| held.hour.0).collect::<Vec<_>>(), [1, 2]);
        assert!(cache.held(&one, Hour(3)..Hour(3), 2).is_empty());
    }

    #[test]
    fn a_cache_of_no_bytes_holds_nothing() {
        let app = AppId::new("a").unwrap();
        let cache = Cache::new(0, Metrics::new().query);
        cache.put(&app, Hour(1), version(1), Arc::default());
        assert!(hours(&cache, &app).is_empty());
    }
}
