//! Apps with open windows, found by name once per batch.
//!
//! Events wait beside their app's windows until some hundred are there, and are then recorded window by window. An entry's
//! few events of an app may be of as many hours, and each window that is visited has to come from memory: visiting it once
//! for many events is what makes folding cheap.

use crate::domain::{AppId, Hour, ResponseTime, Rollup, SketchConfig, Values};
use hashbrown::HashTable;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Events of an app that wait at most: ten for each of 24 hours. 4 KiB, less than the windows of most apps that have so many.
pub const PENDING_MAX: usize = 256;

/// What an event that waits may add to a checkpoint, about, at least half of the most: a value, and once for each run of events of
/// one hour a window.
const PENDING_BYTES: usize = 4;
const PENDING_RUN_BYTES: usize = 4;

/// Apps in the order they came.
#[derive(Debug, Clone, Default)]
pub struct OpenApps {
    /// Places in `apps`, by the hash of the name.
    index: HashTable<u32>,
    apps: Vec<OpenApp>,
}

/// An app's open windows, and its events that are not in them yet.
#[derive(Debug, Clone)]
pub struct OpenApp {
    /// Its name.
    pub id: AppId,
    windows: Windows,
    pending: Vec<Pending>,
    /// How many runs of events of one hour `pending` has.
    pending_runs: usize,
}

/// Deltas, ascending by hour. Few: hours of a few seconds' events.
#[derive(Debug, Clone, Default)]
struct Windows(Vec<(Hour, Rollup)>);

/// An event on its way into its window.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// Its window.
    pub hour: Hour,
    /// Whether that was sealed when the event came.
    pub is_late: bool,
    /// What to record.
    pub value: ResponseTime,
}

impl OpenApps {
    /// The app of this name, which must be one, and whether it is new.
    pub fn find_or_insert(&mut self, name: &str) -> (&mut OpenApp, bool) {
        let hash = hash(name);
        let apps = &self.apps;
        let found = self.index.find(hash, |place| apps[*place as usize].id.as_str() == name).copied();
        let place = found.unwrap_or_else(|| self.insert(name, hash));
        (&mut self.apps[place as usize], found.is_none())
    }

    /// The app of this name, if it has open windows or events that wait.
    pub fn find(&self, name: &str) -> Option<&OpenApp> {
        let found = self.index.find(hash(name), |place| self.apps[*place as usize].id.as_str() == name);
        found.map(|place| &self.apps[*place as usize])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.apps.len()
    }

    /// All apps, ascending by name.
    pub fn sorted(&self) -> Vec<&OpenApp> {
        let mut apps: Vec<&OpenApp> = self.apps.iter().collect();
        apps.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        apps
    }

    fn insert(&mut self, name: &str, hash: u64) -> u32 {
        let id = AppId::new(name).expect("a checked batch holds app ids only");
        let place = u32::try_from(self.apps.len()).expect("fewer apps than a checkpoint may have bytes");
        self.apps.push(OpenApp { id, windows: Windows::default(), pending: Vec::new(), pending_runs: 0 });
        self.index.insert_unique(hash, place, |place| self::hash(self.apps[*place as usize].id.as_str()));
        place
    }
}

impl OpenApp {
    /// Lets events wait for their windows.
    #[inline]
    pub fn add(&mut self, events: impl ExactSizeIterator<Item = Pending>) {
        self.pending.reserve(events.len());
        let mut last = self.pending.last().map(|last| last.hour);
        for event in events {
            self.pending_runs += usize::from(last != Some(event.hour));
            last = Some(event.hour);
            self.pending.push(event);
        }
    }

    /// About how many bytes the events that wait may add to a checkpoint, at least half of the most.
    pub fn pending_bytes(&self) -> usize {
        PENDING_BYTES * self.pending.len() + PENDING_RUN_BYTES * self.pending_runs
    }

    /// How many events wait.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Records the events that wait. Returns about how many more bytes the app's windows take in a checkpoint.
    pub fn settle(&mut self, config: &SketchConfig) -> usize {
        let bytes = self.windows.record(&mut self.pending, config);
        self.pending.clear();
        self.pending_runs = 0;
        bytes
    }

    /// The deltas of these hours, ascending, with the events that wait.
    pub fn deltas(&self, hours: &Range<Hour>, config: &SketchConfig) -> Vec<(Hour, Rollup)> {
        let mut windows = Windows(self.windows.0.iter().filter(|(hour, _)| hours.contains(hour)).cloned().collect());
        let mut pending: Vec<_> = self.pending.iter().filter(|event| hours.contains(&event.hour)).copied().collect();
        windows.record(&mut pending, config);
        windows.0
    }

    /// The first and the last hour that has an event.
    pub fn span(&self) -> Option<(Hour, Hour)> {
        let windows = self.windows.0.first().zip(self.windows.0.last()).map(|((first, _), (last, _))| (*first, *last));
        self.pending.iter().fold(windows, |span, Pending { hour, .. }| {
            let (first, last) = span.unwrap_or((*hour, *hour));
            Some((first.min(*hour), last.max(*hour)))
        })
    }
}

impl Windows {
    /// Records events, each in its window. Returns how many more bytes the windows take in a checkpoint, about.
    fn record(&mut self, events: &mut [Pending], config: &SketchConfig) -> usize {
        events.sort_unstable_by_key(|event| event.hour);
        let by_hour = events.chunk_by(|one, other| one.hour == other.hour);
        let grown = by_hour.map(|events| {
            let window = self.window(events[0].hour);
            let bytes_before = encoded_bytes(window);
            let late = events.iter().filter(|event| event.is_late).count();
            window.record_all(events.iter().map(|event| event.value), late, config);
            encoded_bytes(window).saturating_sub(bytes_before)
        });
        grown.sum()
    }

    /// The delta of an hour; an empty one if there was none.
    fn window(&mut self, hour: Hour) -> &mut Rollup {
        let place = match self.0.last() {
            Some((last, _)) if *last == hour => self.0.len() - 1,
            _ => self.0.binary_search_by_key(&hour, |(hour, _)| *hour).unwrap_or_else(|place| {
                self.0.insert(place, (hour, Rollup::default()));
                place
            }),
        };
        &mut self.0[place].1
    }
}

/// At least about what a delta takes in a checkpoint: nothing if it is empty.
fn encoded_bytes(delta: &Rollup) -> usize {
    match delta.values() {
        Values::Exact(values) if values.is_empty() => 0,
        Values::Exact(values) => 24 + 6 * values.len(),
        // Three bytes a bin, also of those that hold nothing: a large delta's are three or four.
        Values::Sketch(sketch) => 32 + 3 * sketch.width(),
    }
}

/// The halves are swapped because the low bits are the slot: a partition's apps share many of them.
fn hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes()).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(hour: u32, value: u64) -> Pending {
        Pending { hour: Hour(hour), is_late: value.is_multiple_of(2), value: ResponseTime(value) }
    }

    #[test]
    fn apps_are_found_again_and_come_out_in_order() {
        let mut apps = OpenApps::default();
        for (name, hour) in [("b", 7), ("a", 9), ("b", 5), ("b", 7), ("a", 10)] {
            apps.find_or_insert(name).0.add([event(hour, 1)].into_iter());
        }
        let all: Vec<_> = apps.sorted().into_iter().map(|app| (app.id.to_string(), app.span())).collect();
        assert_eq!(all, [("a".to_owned(), Some((Hour(9), Hour(10)))), ("b".to_owned(), Some((Hour(5), Hour(7))))]);
        assert!(apps.find("b").is_some() && apps.find("c").is_none());
        assert!(apps.find_or_insert("c").1);
    }

    #[test]
    fn events_that_wait_are_told_as_if_they_were_recorded() {
        let config = SketchConfig::default();
        let mut apps = OpenApps::default();
        let app = apps.find_or_insert("a").0;
        let mut expected = [Rollup::default(), Rollup::default()];
        for value in 0..500 {
            let hour = value % 3 % 2;
            app.add([event(7 - u32::try_from(hour).unwrap(), value)].into_iter());
            expected[1 - hour as usize].record(ResponseTime(value), value % 2 == 0, &config);
            let all = app.deltas(&(Hour(0)..Hour(9)), &config);
            if value == 200 || value == 350 {
                app.settle(&config);
                assert_eq!((app.pending(), app.deltas(&(Hour(0)..Hour(9)), &config)), (0, all));
            }
        }
        let [six, seven] = expected;
        assert_eq!(app.span(), Some((Hour(6), Hour(7))));
        assert_eq!(app.deltas(&(Hour(0)..Hour(9)), &config), [(Hour(6), six), (Hour(7), seven.clone())]);
        assert_eq!(app.deltas(&(Hour(7)..Hour(8)), &config), [(Hour(7), seven)]);
    }
}
