//! Pure: the open windows of a partition, app by app and hour by hour.
//!
//! A table holds *deltas*: what a run of log entries adds to the stored rollups. Deltas merge in any order, so a table
//! needs no care about who comes first; what matters is that each entry is folded into exactly one table that a
//! checkpoint then carries.

use super::open_apps::{OpenApps, PENDING_MAX, Pending};
use super::seams::Acceptance;
use super::watermark::Watermark;
use crate::domain::{AppId, EventTime, Hour, ResponseTime, Rollup, SketchConfig};
use crate::format::{self, Batch, EventsEntry, Quarantined, Tally};
use std::ops::Range;

/// Deltas by app and hour, what became of the events, and the entries that could not be folded.
#[derive(Debug, Clone)]
pub struct WindowTable {
    apps: OpenApps,
    tally: Tally,
    quarantined: Vec<Quarantined>,
    entries: u64,
    late: u64,
    /// As many events of one app wait for their windows at most.
    pending_max: usize,
    /// About what its checkpoint would take.
    bytes: usize,
}

impl Default for WindowTable {
    fn default() -> Self {
        WindowTable {
            apps: OpenApps::default(),
            tally: Tally::default(),
            quarantined: Vec::new(),
            entries: 0,
            late: 0,
            pending_max: PENDING_MAX,
            bytes: 0,
        }
    }
}

impl WindowTable {
    /// An empty table in which no event waits for its window: slower, but whatever goes wrong while one is recorded goes
    /// wrong while its own entry is folded.
    pub fn recording_at_once() -> WindowTable {
        WindowTable { pending_max: 1, ..WindowTable::default() }
    }

    /// Folds the parts of an entry that count. The entry's stamp bounds how far its events move the watermark; an event is
    /// late if its window was sealed before this entry.
    ///
    /// An error leaves the table as it was: batches are checked as a whole before the first event is folded.
    pub fn fold(
        &mut self,
        entry: &EventsEntry,
        acceptance: &Acceptance,
        watermark: &mut Watermark,
        config: &SketchConfig,
    ) -> Result<(), format::Error> {
        let mut batches = Vec::with_capacity(entry.parts.len());
        for (index, part) in entry.parts.iter().enumerate() {
            if !acceptance.counts(index) || part.events == 0 {
                continue;
            }
            let batch = Batch::decode(&part.batch)?;
            if batch.events() != u64::from(part.events) {
                return Err(format::Error::Invalid("events entry", "number of events"));
            }
            batches.push(batch);
        }
        let counted: u64 = batches.iter().map(Batch::events).sum();
        let (stamp_ms, sealed_hours) = (entry.stamp_ms, watermark.sealed_hours());
        let mut pass = Pass { stamp_ms, sealed_hours, watermark, config };
        for batch in batches {
            batch.for_each_app(|app_id, events| self.fold_app(app_id, events, &mut pass));
        }
        self.tally.counted += counted;
        self.tally.duplicate += entry.events() - counted;
        self.entries += 1;
        Ok(())
    }

    /// Sets an entry aside that cannot be folded.
    pub fn quarantine(&mut self, entry: Quarantined) {
        self.tally.quarantined += entry.events;
        self.bytes += entry.payload.len() + entry.reason.len();
        self.quarantined.push(entry);
        self.entries += 1;
    }

    /// Whether no entry went into it: there is nothing to checkpoint. An entry without events counts, because the log
    /// and every replica's tail keep it until a checkpoint has passed it.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// What became of the events so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Entries set aside, oldest first.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// How many events were late.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// About how many bytes its checkpoint would take, not less than half of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All deltas, ascending by app and hour.
    pub fn deltas(&self, config: &SketchConfig) -> Vec<(AppId, Hour, Rollup)> {
        let mut deltas = Vec::new();
        for app in self.apps.sorted() {
            let hours = app.deltas(&(Hour(0)..Hour(u32::MAX)), config);
            deltas.extend(hours.into_iter().map(|(hour, delta)| (app.id.clone(), hour, delta)));
        }
        deltas
    }

    /// The deltas of one app's hours.
    pub fn hours(&self, app: &AppId, hours: &Range<Hour>, config: &SketchConfig) -> Vec<(Hour, Rollup)> {
        self.apps.find(app.as_str()).map_or_else(Vec::new, |app| app.deltas(hours, config))
    }

    /// Whether it holds anything of the app.
    pub fn knows(&self, app: &AppId) -> bool {
        self.apps.find(app.as_str()).is_some()
    }

    /// How many apps it holds.
    pub fn app_count(&self) -> usize {
        self.apps.len()
    }

    /// Apps by name with their first and last hour: only those that begin with `prefix` and come behind `cursor`, at most
    /// `limit`.
    pub fn apps(&self, prefix: &str, cursor: Option<&str>, limit: usize) -> Vec<(AppId, Hour, Hour)> {
        let apps = self.apps.sorted().into_iter();
        apps.filter(|app| app.id.as_str().starts_with(prefix) && cursor.is_none_or(|cursor| app.id.as_str() > cursor))
            .take(limit)
            .filter_map(|app| app.span().map(|(first, last)| (app.id.clone(), first, last)))
            .collect()
    }

    /// Folds one app's events.
    fn fold_app(&mut self, app_id: &str, events: &[(EventTime, ResponseTime)], pass: &mut Pass<'_>) {
        let (app, is_new) = self.apps.find_or_insert(app_id);
        if is_new {
            self.bytes += app_id.len() + 4;
        }
        let mut rest = events;
        while !rest.is_empty() {
            let room = self.pending_max - app.pending();
            let (events, others) = rest.split_at(room.min(rest.len()));
            rest = others;
            self.bytes -= app.pending_bytes();
            app.add(events.iter().map(|(time, value)| {
                pass.watermark.observe(*time, pass.stamp_ms);
                let hour = time.hour();
                let is_late = u64::from(hour.0) < pass.sealed_hours;
                self.late += u64::from(is_late);
                Pending { hour, is_late, value: *value }
            }));
            if app.pending() >= self.pending_max {
                self.bytes += app.settle(pass.config);
            }
            self.bytes += app.pending_bytes();
        }
    }
}

/// What one entry's events are folded by.
struct Pass<'a> {
    stamp_ms: u64,
    /// Windows before this hour were sealed when the entry came.
    sealed_hours: u64,
    watermark: &'a mut Watermark,
    config: &'a SketchConfig,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MS_PER_HOUR;
    use crate::format::{BatchBuilder, Part};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn part(events: &[(&str, u64, u64)]) -> Part {
        let mut batch = BatchBuilder::default();
        for (app, time, value) in events {
            batch.add(app, EventTime(*time), ResponseTime(*value));
        }
        Part { identity: None, events: u32::try_from(events.len()).unwrap(), batch: batch.finish() }
    }

    fn entry(parts: Vec<Part>) -> EventsEntry {
        EventsEntry { edge: 1, edge_sequence: 1, stamp_ms: u64::MAX, parts }
    }

    fn fold(
        table: &mut WindowTable,
        entry: &EventsEntry,
        acceptance: &Acceptance,
        watermark: &mut Watermark,
    ) -> Result<(), format::Error> {
        table.fold(entry, acceptance, watermark, &SketchConfig::default())
    }

    const HOUR: u64 = MS_PER_HOUR;

    #[test]
    fn events_go_to_their_app_and_hour() {
        let (mut table, mut watermark) = (WindowTable::default(), Watermark::new(0, HOUR));
        let entry = entry(vec![part(&[("a", 5, 1), ("b", HOUR - 1, 2), ("a", HOUR, 3), ("a", 6, 4)])]);
        fold(&mut table, &entry, &Acceptance::All, &mut watermark).unwrap();
        let deltas = table.deltas(&SketchConfig::default());
        let deltas: Vec<_> = deltas.iter().map(|(app, hour, delta)| (app.as_str(), hour.0, delta.count())).collect();
        assert_eq!(deltas, [("a", 0, 2), ("a", 1, 1), ("b", 0, 1)]);
        assert_eq!(table.tally(), Tally { counted: 4, duplicate: 0, quarantined: 0 });
        assert_eq!(watermark.reached_ms(), HOUR);
        assert!(table.bytes() > 0);
    }

    #[test]
    fn parts_that_do_not_count_are_only_tallied() {
        let (mut table, mut watermark) = (WindowTable::default(), Watermark::new(0, HOUR));
        let entry = entry(vec![part(&[("a", 5, 1)]), part(&[("b", 9, 2), ("b", 9, 2)])]);
        fold(&mut table, &entry, &Acceptance::Some([true, false].into()), &mut watermark).unwrap();
        fold(&mut table, &entry, &Acceptance::Nothing, &mut watermark).unwrap();
        assert_eq!(table.tally(), Tally { counted: 1, duplicate: 5, quarantined: 0 });
        assert!(!table.knows(&AppId::new("b").unwrap()));
    }

    #[test]
    fn late_event_is_folded_and_marked() {
        let (mut table, mut watermark) = (WindowTable::default(), Watermark::new(10 * HOUR, HOUR));
        let entry = entry(vec![part(&[("a", 0, 1), ("a", 9 * HOUR, 1)])]);
        fold(&mut table, &entry, &Acceptance::All, &mut watermark).unwrap();
        let deltas = table.deltas(&SketchConfig::default());
        let late: Vec<_> = deltas.iter().map(|(_, hour, delta)| (hour.0, delta.late())).collect();
        assert_eq!((table.late(), late), (1, vec![(0, 1), (9, 0)]));
    }

    #[test]
    fn tables_that_record_at_once_and_others_hold_the_same() {
        let (mut table, mut at_once) = (WindowTable::default(), WindowTable::recording_at_once());
        let events: Vec<_> = (0..2 * PENDING_MAX as u64 + 9).map(|i| ("a", i % 7 * HOUR, i)).collect();
        let entry = entry(vec![part(&events), part(&[("b", 5, 1)])]);
        for table in [&mut table, &mut at_once] {
            fold(table, &entry, &Acceptance::All, &mut Watermark::new(4 * HOUR, HOUR)).unwrap();
        }
        let config = SketchConfig::default();
        assert_eq!(table.deltas(&config), at_once.deltas(&config));
        assert_eq!(table.late(), at_once.late());
        let waiting = ["a", "b"].map(|app| [&table, &at_once].map(|table| table.apps.find(app).unwrap().pending()));
        assert_eq!(waiting, [[9, 0], [1, 0]]);
    }

    #[test]
    fn damaged_batch_leaves_nothing_of_its_entry_behind() {
        let (mut table, mut watermark) = (WindowTable::default(), Watermark::new(0, HOUR));
        let mut damaged = part(&[("b", 5, 1)]);
        damaged.batch = Bytes::from([&damaged.batch[..damaged.batch.len() - 1], &[0x55]].concat());
        let entry = entry(vec![part(&[("a", 5, 1)]), damaged]);
        assert!(fold(&mut table, &entry, &Acceptance::All, &mut watermark).is_err());
        assert!(table.is_empty() && table.deltas(&SketchConfig::default()).is_empty());
        assert_eq!(watermark.reached_ms(), 0);
    }

    #[test]
    fn apps_are_listed_by_prefix_behind_a_cursor() {
        let (mut table, mut watermark) = (WindowTable::default(), Watermark::new(0, HOUR));
        let entry = entry(vec![part(&[
            ("b1", 0, 1),
            ("b3", 3 * HOUR, 1),
            ("b2", 0, 1),
            ("b2", 2 * HOUR, 1),
            ("a", 0, 1),
            ("c", 0, 1),
        ])]);
        fold(&mut table, &entry, &Acceptance::All, &mut watermark).unwrap();
        let names = |prefix, cursor, limit| -> Vec<String> {
            table
                .apps(prefix, cursor, limit)
                .into_iter()
                .map(|(app, first, last)| format!("{app} {}-{}", first.0, last.0))
                .collect()
        };
        assert_eq!(names("b", None, 2), ["b1 0-0", "b2 0-2"]);
        assert_eq!(names("b", Some("b1"), 9), ["b2 0-2", "b3 3-3"]);
        assert_eq!(names("", Some("b3"), 9), ["c 0-0"]);
    }

    proptest! {
        /// What keeps a checkpoint within the largest entry of the log.
        #[test]
        fn a_table_says_at_least_half_of_what_its_checkpoint_takes(
            apps in 1usize..4,
            hours in prop::collection::vec(0u64..500_000, 1..5),
            at_once: bool,
            values_max in prop_oneof![Just(ResponseTime::MAX.0), Just(1_000_000_000), Just(1)],
            events in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u64>()), 1..900),
        ) {
            const HEAD_BYTES: usize = 64;
            let mut table = if at_once { WindowTable::recording_at_once() } else { WindowTable::default() };
            let events: Vec<_> = events
                .iter()
                .map(|(app, hour, value)| {
                    (["a", "bb", "ccc"][app % apps], hours[hour % hours.len()] * HOUR, value % (values_max + 1))
                })
                .collect();
            for events in events.chunks(50) {
                let entry = entry(vec![part(events)]);
                fold(&mut table, &entry, &Acceptance::All, &mut Watermark::new(0, HOUR)).unwrap();
                let deltas = table.deltas(&SketchConfig::default());
                let checkpoint = format::Checkpoint { deltas, ..format::Checkpoint::default() };
                let bytes = checkpoint.encode().len();
                prop_assert!(2 * table.bytes() + HEAD_BYTES >= bytes, "{} said, {bytes} taken", table.bytes());
            }
        }
    }
}
