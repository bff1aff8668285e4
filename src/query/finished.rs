//! Finished answers: bytes and their tag, kept for hours that are asked for again and again.
//!
//! As with the rollups of [`super::cache`], none is taken for the newest by itself: whoever asks has read the hour's version
//! from the replica or heard it from the leader, and an answer is used only if it is of that version. What is saved is
//! estimating quantiles and writing numbers.

use super::state::Version;
use crate::domain::{AppId, Hour};
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_128;

/// An answer as it is sent, without `as_of`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// A JSON object with at least one field.
    body: Bytes,
    /// Its `ETag`, quotes included.
    tag: Bytes,
    /// The same, weak.
    weak_tag: Bytes,
}

impl Finished {
    /// Writes an answer, which must be an object with at least one field.
    pub fn of(answer: &impl Serialize) -> Finished {
        let body = json(answer);
        let tag = format!("\"{:032x}\"", xxh3_128(&body));
        Finished { body: body.into(), weak_tag: format!("W/{tag}").into(), tag: tag.into() }
    }

    /// The answer's bytes.
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The answer's bytes with `as_of` as its last field.
    pub fn body_with(&self, as_of: &impl Serialize) -> Bytes {
        let (open, _) = self.body.split_at(self.body.len() - 1);
        [open, br#","as_of":"#, &json(as_of), b"}"].concat().into()
    }

    /// Its tag: hexadecimal digits in quotes.
    pub fn tag(&self) -> &Bytes {
        &self.tag
    }

    /// The tag of the answer with `as_of`, which is no part of it.
    pub fn weak_tag(&self) -> &Bytes {
        &self.weak_tag
    }
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("texts and finite numbers always serialize")
}

/// Which answer: an hour of an app, and its quantiles as they were asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HourKey {
    /// The app.
    pub app: AppId,
    /// The hour.
    pub hour: Hour,
    /// The parameter `q`, as it was given.
    pub quantiles: Option<String>,
}

/// A bounded cache in two halves: when the younger one is full, the older one is forgotten.
pub struct FinishedHours {
    halves: Mutex<Halves>,
    bytes_max: usize,
}

#[derive(Default)]
struct Halves {
    younger: BTreeMap<HourKey, (Version, Finished)>,
    younger_bytes: usize,
    older: BTreeMap<HourKey, (Version, Finished)>,
}

/// Bytes of an answer besides its body and the texts that name it.
const ENTRY_BYTES: usize = 300;

impl FinishedHours {
    /// An empty cache of at most about `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> FinishedHours {
        FinishedHours { halves: Mutex::default(), bytes_max }
    }

    /// The finished answer, if it is of this version.
    pub fn get(&self, key: &HourKey, version: Version) -> Option<Finished> {
        let halves = self.lock();
        let (held, finished) = halves.younger.get(key).or_else(|| halves.older.get(key))?;
        (*held == version).then(|| finished.clone())
    }

    /// Keeps an answer.
    pub fn put(&self, key: HourKey, version: Version, finished: &Finished) {
        let texts = key.app.as_str().len() + key.quantiles.as_ref().map_or(0, String::len);
        let bytes = finished.body.len() + texts + ENTRY_BYTES;
        if bytes > self.bytes_max / 2 {
            return;
        }
        let mut halves = self.lock();
        if halves.younger_bytes + bytes > self.bytes_max / 2 {
            halves.older = std::mem::take(&mut halves.younger);
            halves.younger_bytes = 0;
        }
        if halves.younger.insert(key, (version, finished.clone())).is_none() {
            halves.younger_bytes += bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::state::HourState;
    use serde_json::json;

    fn key(hour: u32) -> HourKey {
        HourKey { app: AppId::new("a").unwrap(), hour: Hour(hour), quantiles: None }
    }

    fn version(revision: u64) -> Version {
        Version { revision, count: 1, late: 0, state: HourState::Sealed }
    }

    #[test]
    fn as_of_is_the_last_field_and_not_in_the_tag() {
        let finished = Finished::of(&json!({"count": 1}));
        assert_eq!(finished.body(), r#"{"count":1}"#);
        assert_eq!(finished.body_with(&json!({"offset": 3})), r#"{"count":1,"as_of":{"offset":3}}"#);
        assert_eq!(finished.tag(), Finished::of(&json!({"count": 1})).tag());
        assert_ne!(finished.tag(), Finished::of(&json!({"count": 2})).tag());
    }

    #[test]
    fn only_an_answer_of_the_same_version_and_question_is_used() {
        let (cache, finished) = (FinishedHours::new(1 << 20), Finished::of(&json!({"count": 1})));
        cache.put(key(1), version(1), &finished);
        assert_eq!(cache.get(&key(1), version(1)), Some(finished.clone()));
        assert_eq!(cache.get(&key(1), version(2)), None);
        assert_eq!(cache.get(&key(2), version(1)), None);
        let other = HourKey { quantiles: Some("0.9".into()), ..key(1) };
        assert_eq!(cache.get(&other, version(1)), None);
        cache.put(key(1), version(2), &finished);
        assert_eq!(cache.get(&key(1), version(1)), None);
    }

    #[test]
    fn answers_beyond_the_bound_are_forgotten_oldest_first() {
        let finished = Finished::of(&json!({"count": 1}));
        let bytes = finished.body().len() + 1 + ENTRY_BYTES;
        let cache = FinishedHours::new(2 * 3 * bytes);
        (0..7).for_each(|hour| cache.put(key(hour), version(1), &finished));
        let held: Vec<_> = (0..7).filter(|hour| cache.get(&key(*hour), version(1)).is_some()).collect();
        assert_eq!(held, [3, 4, 5, 6]);
        let none = FinishedHours::new(0);
        none.put(key(0), version(1), &finished);
        assert_eq!(none.get(&key(0), version(1)), None);
    }
}
