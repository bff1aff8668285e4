//! Apps with open windows, found by name once per batch.

use crate::domain::{AppId, Hour, Rollup};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// Apps in the order they came.
#[derive(Debug, Clone, Default)]
pub struct OpenApps {
    /// Places in `apps`, by the hash of the name.
    index: HashTable<u32>,
    apps: Vec<OpenApp>,
}

/// An app's open windows.
#[derive(Debug, Clone)]
pub struct OpenApp {
    /// Its name.
    pub id: AppId,
    /// Deltas, ascending by hour. Few: hours of a few seconds' events.
    pub windows: Vec<(Hour, Rollup)>,
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

    /// The app of this name, if it has open windows.
    pub fn find(&self, name: &str) -> Option<&OpenApp> {
        let found = self.index.find(hash(name), |place| self.apps[*place as usize].id.as_str() == name);
        found.map(|place| &self.apps[*place as usize])
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
        self.apps.push(OpenApp { id, windows: Vec::new() });
        self.index.insert_unique(hash, place, |place| self::hash(self.apps[*place as usize].id.as_str()));
        place
    }
}

impl OpenApp {
    /// The delta of an hour; an empty one if there was none.
    pub fn window(&mut self, hour: Hour) -> &mut Rollup {
        let place = match self.windows.last() {
            Some((last, _)) if *last == hour => self.windows.len() - 1,
            _ => self.windows.binary_search_by_key(&hour, |(hour, _)| *hour).unwrap_or_else(|place| {
                self.windows.insert(place, (hour, Rollup::default()));
                place
            }),
        };
        &mut self.windows[place].1
    }
}

/// The halves are swapped because the low bits are the slot: a partition's apps share many of them.
fn hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes()).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_and_hours_are_found_again_and_come_out_in_order() {
        let mut apps = OpenApps::default();
        for (name, hour) in [("b", 7), ("a", 9), ("b", 5), ("b", 7), ("a", 10)] {
            apps.find_or_insert(name).0.window(Hour(hour));
        }
        let all: Vec<_> = apps
            .sorted()
            .into_iter()
            .map(|app| (app.id.to_string(), app.windows.iter().map(|(hour, _)| hour.0).collect::<Vec<_>>()))
            .collect();
        assert_eq!(all, [("a".to_owned(), vec![9, 10]), ("b".to_owned(), vec![5, 7])]);
        assert!(apps.find("b").is_some() && apps.find("c").is_none());
        assert!(apps.find_or_insert("c").1);
    }
}
