//! A rollup in memory: what is merged already, the small deltas that came since, and what all of it adds to the digest. Pure.
//!
//! ```text
//!   row ── delta, 3 values ──▶ row ── delta, 11 values ──▶ row, merged: sketch of 5,000 values
//! ```
//!
//! Readers hold rows while checkpoints change them, so that merging means copying, and a sketch has some kilobytes. Most
//! deltas have few values. Those wait in a chain of rows, and are merged when there are many, when somebody reads the rollup,
//! or when it is written. The digest does not wait: what values add to it can be added up.

use crate::domain::{ResponseTime, Rollup, SketchConfig, Values};
use crate::format::StoredRollup;
use std::sync::{Arc, OnceLock};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// So many deltas of a rollup wait at most: with 64 values each, they take as much memory as a large sketch.
const WAITING_MAX: u32 = 8;

/// A rollup with what it adds to the digest.
#[derive(Debug)]
pub struct RecentRow {
    /// Sum of the hashes of its values.
    values_hash: u64,
    /// What it adds to the digest.
    hash: u64,
    content: Content,
}

/// The numbers of a rollup, all but the values.
#[derive(Debug, Clone, Copy)]
struct Head {
    revision: u64,
    late: u64,
    sum_ns: u128,
    min: ResponseTime,
    max: ResponseTime,
    is_sketch: bool,
}

#[derive(Debug)]
enum Content {
    Merged(Arc<StoredRollup>),
    Waiting(Waiting),
}

/// A delta of few values behind a sketch.
#[derive(Debug)]
struct Waiting {
    /// Of all of it.
    head: Head,
    before: Arc<RecentRow>,
    delta: Rollup,
    /// How many deltas wait, this one included.
    deltas: u32,
    /// All of it merged, once somebody has read it.
    merged: OnceLock<Arc<StoredRollup>>,
}

impl RecentRow {
    /// A row of a rollup with this tail.
    pub fn new(tail: &[u8], stored: StoredRollup) -> RecentRow {
        let values_hash = values_hash(stored.rollup.values());
        RecentRow::of_merged(tail, stored, values_hash)
    }

    fn of_merged(tail: &[u8], stored: StoredRollup, values_hash: u64) -> RecentRow {
        let hash = Head::of(&stored).hash(tail, values_hash);
        RecentRow { values_hash, hash, content: Content::Merged(Arc::new(stored)) }
    }

    /// The row after a checkpoint: one revision later, with a delta that is not empty and of the same configuration.
    pub fn with(self: &Arc<Self>, tail: &[u8], delta: Rollup, config: &SketchConfig) -> RecentRow {
        let head = self.head();
        if !head.is_sketch {
            // Few values: nothing is gained by letting others wait beside them, and the delta's memory is there to be used.
            let mut rollup = delta;
            rollup.merge(&self.stored(config).rollup, config);
            return RecentRow::new(tail, StoredRollup { revision: head.revision + 1, rollup });
        }
        let values_hash = self.values_hash.wrapping_add(binned_hash(delta.values(), config));
        let (before, deltas) = self.settled();
        if matches!(delta.values(), Values::Exact(_)) && deltas < WAITING_MAX {
            let head = head.with(&delta);
            let hash = head.hash(tail, values_hash);
            let waiting = Waiting { head, before, delta, deltas: deltas + 1, merged: OnceLock::new() };
            return RecentRow { values_hash, hash, content: Content::Waiting(waiting) };
        }
        let mut stored = self.to_stored(config);
        stored.rollup.merge(&delta, config);
        stored.revision += 1;
        RecentRow::of_merged(tail, stored, values_hash)
    }

    fn head(&self) -> Head {
        match &self.content {
            Content::Merged(stored) => Head::of(stored),
            Content::Waiting(waiting) => waiting.head,
        }
    }

    /// This row, without the deltas that are merged already, and how many still wait.
    fn settled(self: &Arc<Self>) -> (Arc<RecentRow>, u32) {
        let Content::Waiting(waiting) = &self.content else { return (Arc::clone(self), 0) };
        match waiting.merged.get() {
            Some(stored) => (Arc::new(RecentRow { content: Content::Merged(Arc::clone(stored)), ..**self }), 0),
            None => (Arc::clone(self), waiting.deltas),
        }
    }

    /// What it adds to the digest.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The rollup, which is kept merged from now on.
    pub fn stored(&self, config: &SketchConfig) -> Arc<StoredRollup> {
        match &self.content {
            Content::Merged(stored) => Arc::clone(stored),
            Content::Waiting(waiting) => Arc::clone(waiting.merged.get_or_init(|| Arc::new(self.to_stored(config)))),
        }
    }

    /// A copy of the rollup; the row stays as it is.
    pub fn to_stored(&self, config: &SketchConfig) -> StoredRollup {
        let mut deltas = Vec::new();
        let mut row = self;
        let stored = loop {
            match &row.content {
                Content::Merged(stored) => break stored,
                Content::Waiting(Waiting { before, delta, merged, .. }) => match merged.get() {
                    Some(stored) => break stored,
                    None => {
                        deltas.push(delta);
                        row = before;
                    }
                },
            }
        };
        let mut stored = StoredRollup::clone(stored);
        stored.revision += deltas.len() as u64;
        deltas.into_iter().for_each(|delta| stored.rollup.merge(delta, config));
        stored
    }
}

impl Head {
    fn of(StoredRollup { revision, rollup }: &StoredRollup) -> Head {
        Head {
            revision: *revision,
            late: rollup.late(),
            sum_ns: rollup.sum_ns(),
            min: rollup.min(),
            max: rollup.max(),
            is_sketch: matches!(rollup.values(), Values::Sketch(_)),
        }
    }

    /// One revision later, with a delta that is not empty; neither is what it is added to.
    fn with(self, delta: &Rollup) -> Head {
        Head {
            revision: self.revision + 1,
            late: self.late + delta.late(),
            sum_ns: self.sum_ns + delta.sum_ns(),
            min: self.min.min(delta.min()),
            max: self.max.max(delta.max()),
            is_sketch: self.is_sketch,
        }
    }

    fn hash(&self, tail: &[u8], values_hash: u64) -> u64 {
        let mut numbers = [[0; 8]; 8];
        let sum_ns = self.sum_ns.to_le_bytes();
        numbers[..2].as_flattened_mut().copy_from_slice(&sum_ns);
        let rest = [self.revision, self.late, self.min.0, self.max.0, u64::from(self.is_sketch), values_hash];
        numbers[2..].iter_mut().zip(rest).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
        xxh3_64_with_seed(tail, xxh3_64(numbers.as_flattened()))
    }
}

/// What a rollup adds to the digest.
pub fn rollup_hash(tail: &[u8], stored: &StoredRollup) -> u64 {
    Head::of(stored).hash(tail, values_hash(stored.rollup.values()))
}

/// Sum of the hashes of values as they are kept: themselves, or their bins.
fn values_hash(values: &Values) -> u64 {
    match values {
        Values::Exact(values) => sum(values.iter().map(|value| xxh3_64(&value.to_le_bytes()))),
        Values::Sketch(sketch) => {
            let bins = sum(sketch.bins().map(|(key, count)| bin_hash(Some(key)).wrapping_mul(count)));
            bin_hash(None).wrapping_mul(sketch.zeros()).wrapping_add(bins)
        }
    }
}

/// What values add to the sum of a sketch.
fn binned_hash(values: &Values, config: &SketchConfig) -> u64 {
    match values {
        Values::Exact(values) => sum(values.iter().map(|value| bin_hash(config.bin(ResponseTime(*value))))),
        Values::Sketch(_) => values_hash(values),
    }
}

/// Hash of a value in the bin with this key; `None` for a value of zero.
fn bin_hash(key: Option<i32>) -> u64 {
    xxh3_64(&key.map_or(i64::MIN, i64::from).to_le_bytes())
}

fn sum(hashes: impl Iterator<Item = u64>) -> u64 {
    hashes.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn rollup_of(values: &[u64], late: bool) -> Rollup {
        let mut rollup = Rollup::default();
        values.iter().for_each(|value| rollup.record(ResponseTime(*value), late, &SketchConfig::default()));
        rollup
    }

    fn hash_of(revision: u64, values: &[u64], late: bool) -> u64 {
        rollup_hash(b"a", &StoredRollup { revision, rollup: rollup_of(values, late) })
    }

    #[test]
    fn the_hash_of_a_rollup_is_of_all_its_numbers() {
        let many: Vec<u64> = (0..100).map(|value| value * 1000).collect();
        let other_bin = [&many[..99], &[88_000]].concat();
        let more_zeros = [&many[..], &[0]].concat();
        let mut hashes = vec![
            hash_of(2, &[5], false),
            rollup_hash(b"b", &StoredRollup { revision: 1, rollup: rollup_of(&[5], false) }),
        ];
        for (values, late) in [
            (&[][..], false),
            (&[5], false),
            (&[5], true),
            (&[6], false),
            (&many, false),
            (&other_bin, false),
            (&more_zeros, false),
            (&many, true),
        ] {
            hashes.push(hash_of(1, values, late));
        }
        let distinct: BTreeSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
        let backwards: Vec<_> = many.iter().rev().copied().collect();
        assert_eq!(hashes.last(), Some(&hash_of(1, &backwards, true)), "the order of values does not matter");
    }

    #[test]
    fn what_waits_is_bounded() {
        let config = SketchConfig::default();
        let many: Vec<u64> = (0..100).collect();
        let stored = StoredRollup { revision: 1, rollup: rollup_of(&many, false) };
        let mut row = Arc::new(RecentRow::new(b"a", stored));
        let mut longest = 0;
        for value in 0..100 {
            row = Arc::new(row.with(b"a", rollup_of(&[value], false), &config));
            let waiting = match &row.content {
                Content::Waiting(waiting) => waiting.deltas,
                Content::Merged(_) => 0,
            };
            longest = longest.max(waiting);
        }
        assert_eq!(longest, WAITING_MAX);
        row.stored(&config);
        let next = row.with(b"a", rollup_of(&[1], false), &config);
        let Content::Waiting(Waiting { before, deltas: 1, .. }) = next.content else { panic!("{next:?}") };
        assert!(matches!(before.content, Content::Merged(_)), "what was merged for a reader is let go of");
    }

    proptest! {
        #[test]
        fn rows_are_the_same_whenever_their_deltas_are_merged(
            deltas in prop::collection::vec((prop::collection::vec(0u64..1 << 40, 1..90), any::<bool>(), any::<bool>()), 1..30),
        ) {
            let config = SketchConfig::default();
            let mut row = Arc::new(RecentRow::new(b"a", StoredRollup::default()));
            let mut expected = StoredRollup::default();
            for (values, late, is_read) in deltas {
                // Rather many small ones.
                let values = if late { &values[..] } else { &values[..1 + values.len() / 10] };
                expected.rollup.merge(&rollup_of(values, late), &config);
                expected.revision += 1;
                row = Arc::new(row.with(b"a", rollup_of(values, late), &config));
                prop_assert_eq!(row.hash(), rollup_hash(b"a", &expected));
                prop_assert_eq!(&row.to_stored(&config), &expected);
                if is_read {
                    prop_assert_eq!(&*row.stored(&config), &expected);
                }
            }
        }
    }
}
