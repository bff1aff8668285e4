//! A rollup in memory, and what it adds to the digest. Pure.

use crate::domain::{ResponseTime, Rollup, SketchConfig, Values};
use crate::format::StoredRollup;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A rollup with what it adds to the digest. Cheap to clone; readers hold it while checkpoints put another in its place.
#[derive(Debug, Clone)]
pub struct RecentRow {
    /// Sum of the hashes of its values: what more values add can be added up.
    values_hash: u64,
    /// What it adds to the digest.
    hash: u64,
    stored: Arc<StoredRollup>,
}

impl RecentRow {
    /// A row of a rollup with this tail.
    pub fn new(tail: &[u8], stored: StoredRollup) -> RecentRow {
        let values_hash = values_hash(stored.rollup.values());
        RecentRow::hashed(tail, stored, values_hash)
    }

    fn hashed(tail: &[u8], stored: StoredRollup, values_hash: u64) -> RecentRow {
        RecentRow { values_hash, hash: hash(tail, &stored, values_hash), stored: Arc::new(stored) }
    }

    /// The row after a checkpoint: one revision later, with a delta that is not empty and of the same configuration.
    pub fn with(&self, tail: &[u8], mut delta: Rollup, config: &SketchConfig) -> RecentRow {
        let StoredRollup { revision, rollup } = &*self.stored;
        let revision = revision + 1;
        if matches!(rollup.values(), Values::Exact(_)) {
            // The delta's memory is there to be used.
            delta.merge(rollup, config);
            return RecentRow::new(tail, StoredRollup { revision, rollup: delta });
        }
        let values_hash = self.values_hash.wrapping_add(binned_hash(delta.values(), config));
        let mut rollup = rollup.clone();
        rollup.merge(&delta, config);
        RecentRow::hashed(tail, StoredRollup { revision, rollup }, values_hash)
    }

    /// What it adds to the digest.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The rollup.
    pub fn stored(&self) -> &Arc<StoredRollup> {
        &self.stored
    }
}

/// What a rollup adds to the digest.
pub fn rollup_hash(tail: &[u8], stored: &StoredRollup) -> u64 {
    hash(tail, stored, values_hash(stored.rollup.values()))
}

fn hash(tail: &[u8], StoredRollup { revision, rollup }: &StoredRollup, values_hash: u64) -> u64 {
    let is_sketch = matches!(rollup.values(), Values::Sketch(_));
    let mut numbers = [[0; 8]; 8];
    numbers[..2].as_flattened_mut().copy_from_slice(&rollup.sum_ns().to_le_bytes());
    let rest = [*revision, rollup.late(), rollup.min().0, rollup.max().0, u64::from(is_sketch), values_hash];
    numbers[2..].iter_mut().zip(rest).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
    xxh3_64_with_seed(tail, xxh3_64(numbers.as_flattened()))
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

    proptest! {
        #[test]
        fn deltas_add_up_to_the_row_of_all_their_values(
            deltas in prop::collection::vec((prop::collection::vec(0u64..1 << 40, 1..90), any::<bool>(), 0u32..18), 1..30),
        ) {
            let config = SketchConfig::default();
            let mut row = RecentRow::new(b"a", StoredRollup::default());
            let mut expected = StoredRollup::default();
            for (values, late, doublings) in deltas {
                // Rather many small ones.
                let values = if late { &values[..] } else { &values[..1 + values.len() / 10] };
                let mut delta = rollup_of(values, late);
                (0..doublings).for_each(|_| delta.merge(&delta.clone(), &config));
                expected.rollup.merge(&delta, &config);
                expected.revision += 1;
                row = row.with(b"a", delta, &config);
                prop_assert_eq!(row.hash(), rollup_hash(b"a", &expected));
                prop_assert_eq!(&**row.stored(), &expected);
            }
        }
    }
}
