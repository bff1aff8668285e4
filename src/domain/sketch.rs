//! Estimates of quantiles: a DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with
//! relative-error guarantees", VLDB 2019), by the crate `sketches-ddsketch`.
//!
//! The crate gives the mapping from values to bins and answers quantiles. The bins' counts are kept here, as whole
//! numbers: a sketch is then a pure function of the values in it, whatever their order, and replicas are byte-identical.
//! (The crate's own sketch also keeps a floating-point sum, which depends on the order.)

use super::counts::Counts;
use super::{Quantile, ResponseTime};
use sketches_ddsketch::{Config, DDSketch};
use std::sync::{Arc, Mutex};

/// Relative accuracy of a cluster that does not say otherwise: 1 %.
pub const RELATIVE_ACCURACY_DEFAULT: f64 = 0.01;

/// Bins the crate keeps at most. At 1 % the allowed range (1 ns to 1e11 ms) takes 1,957, so none is ever given up.
pub const BINS_MAX: u32 = 2048;

/// No key is farther from zero: at the finest accuracy they go from -720 to 1,320. Bounds what bytes from outside can make
/// a sketch allocate, also after a merge.
const KEY_MAX: i32 = BINS_MAX as i32;

/// Below this (in ms) a value counts as zero for the crate; the smallest response time above zero is 1e-6 ms.
const ZERO_BELOW_MS: f64 = 1e-9;

/// How values are divided into bins: one accuracy, the same on all nodes of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SketchConfig {
    relative_accuracy: f64,
    config: Config,
    table: Arc<KeyTable>,
}

/// Keys by the leading bits of a value in ns as a double, so that no logarithm is taken per event, and no division either.
/// Each cell spans less than one bin, so it holds at most one border between two bins.
#[derive(Debug)]
struct KeyTable {
    shift: u32,
    first_cell: u64,
    cells: Vec<Cell>,
}

/// One cell: `key` below `border`, the next key from it on.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// In ns.
    border: u64,
    key: i32,
}

impl SketchConfig {
    /// Smallest accuracy at which no bin is ever given up: 1,957 bins at 1 %, so just below that.
    pub const RELATIVE_ACCURACY_MIN: f64 = 0.0096;
    /// Coarsest accuracy that makes sense.
    pub const RELATIVE_ACCURACY_MAX: f64 = 0.2;

    /// A configuration for an accuracy; `None` outside of
    /// [`SketchConfig::RELATIVE_ACCURACY_MIN`]..=[`SketchConfig::RELATIVE_ACCURACY_MAX`].
    pub fn new(relative_accuracy: f64) -> Option<SketchConfig> {
        let allowed = SketchConfig::RELATIVE_ACCURACY_MIN..=SketchConfig::RELATIVE_ACCURACY_MAX;
        if !allowed.contains(&relative_accuracy) {
            return None;
        }
        let config = Config::new(relative_accuracy, BINS_MAX, ZERO_BELOW_MS);
        Some(SketchConfig { relative_accuracy, config, table: KeyTable::of(relative_accuracy, &config) })
    }

    /// Its relative accuracy.
    pub fn relative_accuracy(&self) -> f64 {
        self.relative_accuracy
    }

    /// The key of the bin that a value falls into; `None` for zero, which has none.
    pub fn bin(&self, value: ResponseTime) -> Option<i32> {
        (value.0 > 0).then(|| self.key(value))
    }

    /// The bin of a value above zero; exactly the crate's.
    #[inline]
    fn key(&self, value: ResponseTime) -> i32 {
        let cell = self.table.cells[self.table.cell_of(value.0)];
        cell.key + i32::from(value.0 >= cell.border)
    }
}

impl Default for SketchConfig {
    fn default() -> Self {
        SketchConfig::new(RELATIVE_ACCURACY_DEFAULT).expect("the default lies in the allowed range")
    }
}

impl PartialEq for SketchConfig {
    fn eq(&self, other: &Self) -> bool {
        self.relative_accuracy == other.relative_accuracy
    }
}

/// The table that was made last, and the accuracy that it is of: making one takes milliseconds, and a process needs one over
/// and over.
static LAST_TABLE: Mutex<Option<(f64, Arc<KeyTable>)>> = Mutex::new(None);

impl KeyTable {
    fn of(relative_accuracy: f64, config: &Config) -> Arc<KeyTable> {
        let mut last = LAST_TABLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*last {
            Some((known, table)) if *known == relative_accuracy => table.clone(),
            _ => {
                let table = Arc::new(KeyTable::new(config));
                *last = Some((relative_accuracy, table.clone()));
                table
            }
        }
    }

    fn new(config: &Config) -> KeyTable {
        // A cell spans at most 2^-bits of its value; a bin spans gamma - 1.
        let bits = (-(config.gamma - 1.0).log2()).ceil() as u32 + 1;
        let shift = 52 - bits;
        let first_cell = 1f64.to_bits() >> shift;
        let mut table = KeyTable { shift, first_cell, cells: Vec::new() };
        let mut first = 1;
        while first <= ResponseTime::MAX.0 {
            let cell = table.cell_of(first);
            let end = first_where(first, ResponseTime::MAX.0 + 1, |ns| table.cell_of(ns) > cell);
            let key = |ns| config.key(ResponseTime(ns).as_ms());
            let border = first_where(first, end, |ns| key(ns) != key(first));
            // Small integers leave cells between them empty.
            table.cells.resize(cell, Cell { border: u64::MAX, key: key(first) });
            table.cells.push(Cell { border, key: key(first) });
            first = end;
        }
        table
    }

    /// The cell of a value above zero, in ns. Rises with the value: converting rounds, but never past another one.
    #[inline]
    fn cell_of(&self, ns: u64) -> usize {
        (((ns as f64).to_bits() >> self.shift) - self.first_cell) as usize
    }
}

/// The first number in `[first, end)` from which on `is_behind` holds; `end` if there is none.
fn first_where(first: u64, end: u64, is_behind: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (first, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_behind(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Counts by bin. Which values it was given is forgotten, how many fell into each bin is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sketch {
    zeros: u64,
    first_key: i32,
    /// Counts of the keys from `first_key` on; the first and the last are not zero.
    counts: Counts,
}

impl Sketch {
    /// A sketch of these values, ascending, in ns. Takes its memory once.
    pub(super) fn of(values: &[u64], config: &SketchConfig) -> Sketch {
        let mut sketch = Sketch::default();
        if let (Some(first), Some(last)) = (values.iter().find(|value| **value > 0), values.last()) {
            sketch.cover(config.key(ResponseTime(*first)), config.key(ResponseTime(*last)));
        }
        values.iter().for_each(|value| sketch.add(ResponseTime(*value), config));
        sketch
    }

    /// Adds one value.
    #[inline]
    pub fn add(&mut self, value: ResponseTime, config: &SketchConfig) {
        if value.0 == 0 {
            self.zeros += 1;
        } else {
            self.add_to_bin(config.key(value), 1);
        }
    }

    /// Adds all that is in `other`, which must be of the same configuration.
    pub fn merge(&mut self, other: &Sketch) {
        self.zeros += other.zeros;
        if !other.counts.is_empty() {
            self.cover(other.first_key, other.last_key());
            let start = usize::try_from(other.first_key - self.first_key).expect("covered");
            self.counts.add_all(start, &other.counts);
        }
    }

    /// How many values are zero.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// The bins that hold anything, as (key, count), ascending.
    pub fn bins(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        let key = |place| self.first_key + i32::try_from(place).expect("keys are i32");
        self.counts.nonzero().map(move |(place, count)| (key(place), count))
    }

    /// How many bins there are from the first to the last that holds anything.
    pub fn width(&self) -> usize {
        self.counts.len()
    }

    /// How many values are in it.
    pub fn count(&self) -> u64 {
        self.zeros + self.counts.iter().sum::<u64>()
    }

    /// A sketch of so many zeros and of these bins, as (key, count); all counts together are below 2^64. `None` if keys do not
    /// ascend, a count is zero, or the keys are those of no sketch.
    pub fn of_bins(zeros: u64, bins: &[(i32, u64)]) -> Option<Sketch> {
        if !bins.is_sorted_by(|(one, _), (next, _)| one < next) || bins.iter().any(|(_, count)| *count == 0) {
            return None;
        }
        let mut sketch = Sketch { zeros, ..Sketch::default() };
        if let (Some((first, _)), Some((last, _))) = (bins.first(), bins.last()) {
            if *first < -KEY_MAX || *last > KEY_MAX || last - first >= BINS_MAX as i32 {
                return None;
            }
            sketch.cover(*first, *last);
            bins.iter().for_each(|(key, count)| sketch.add_to_bin(*key, *count));
        }
        Some(sketch)
    }

    /// Estimates the values of quantiles in ms, each within the relative accuracy of the value of its rank. Nothing if the
    /// sketch is empty.
    pub fn quantiles(&self, quantiles: &[Quantile], config: &SketchConfig) -> Vec<f64> {
        let mut sketch = DDSketch::new(config.config);
        sketch.add_with_count(0.0, self.zeros);
        for (key, count) in self.bins() {
            // The estimate of a bin lies inside it, so it is put into the same bin again (tested).
            sketch.add_with_count(config.config.value(key), count);
        }
        quantiles.iter().filter_map(|quantile| sketch.quantile(quantile.value()).ok().flatten()).collect()
    }

    /// Bytes it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Sketch>() + self.counts.memory_bytes()
    }

    #[inline]
    fn add_to_bin(&mut self, key: i32, count: u64) {
        // A key below the first one becomes a large index.
        let index = key.wrapping_sub(self.first_key).cast_unsigned() as usize;
        if !self.counts.add(index, count) {
            self.add_to_new_bin(key, count);
        }
    }

    #[cold]
    fn add_to_new_bin(&mut self, key: i32, count: u64) {
        self.cover(key, key);
        let index = usize::try_from(key - self.first_key).expect("covered");
        assert!(self.counts.add(index, count), "covered");
    }

    /// The key of the last bin, of which there is one.
    fn last_key(&self) -> i32 {
        self.first_key + i32::try_from(self.counts.len() - 1).expect("keys are i32")
    }

    /// Widens the bins so that all keys from `first` to `last` have one, which the caller makes hold something.
    fn cover(&mut self, first: i32, last: i32) {
        if self.counts.is_empty() {
            self.first_key = first;
        }
        if first < self.first_key {
            let missing = usize::try_from(self.first_key - first).expect("positive");
            let width = usize::try_from(last - first).expect("ascending") + 1;
            self.counts.pad_front(missing, width);
            self.first_key = first;
        }
        let width = usize::try_from(last - self.first_key).map_or(0, |last| last + 1);
        self.counts.pad(width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response_time() -> impl Strategy<Value = ResponseTime> {
        (0u32..57, any::<u64>()).prop_map(|(bits, noise)| ResponseTime((noise >> (63 - bits)).min(ResponseTime::MAX.0)))
    }

    #[test]
    fn key_is_the_crates_key() {
        for accuracy in [RELATIVE_ACCURACY_DEFAULT, 0.0096, 0.05, 0.2] {
            let config = SketchConfig::new(accuracy).unwrap();
            let mut state = 1u64;
            for round in 0..400_000u64 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value = ResponseTime((state >> (round % 64)).clamp(1, ResponseTime::MAX.0));
                assert_eq!(config.key(value), config.config.key(value.as_ms()), "{value:?} at {accuracy}");
            }
            for key in config.config.key(1e-6)..=config.config.key(1e11) {
                for nudge in -2i64..=2 {
                    let ns = (config.config.pow_gamma(key) * 1e6).round() as i64 + nudge;
                    let value = ResponseTime((ns.max(1) as u64).min(ResponseTime::MAX.0));
                    assert_eq!(config.key(value), config.config.key(value.as_ms()), "{value:?} at {accuracy}");
                }
            }
        }
    }

    #[test]
    fn whole_range_fits_into_the_crates_bins() {
        let config = SketchConfig::new(SketchConfig::RELATIVE_ACCURACY_MIN).unwrap();
        let width = config.key(ResponseTime::MAX) - config.key(ResponseTime(1)) + 1;
        assert!(width <= BINS_MAX as i32, "{width}");
    }

    #[test]
    fn estimate_of_a_bin_lies_in_the_bin() {
        for accuracy in [RELATIVE_ACCURACY_DEFAULT, 0.0096, 0.2] {
            let config = SketchConfig::new(accuracy).unwrap().config;
            for key in config.key(1e-6)..=config.key(1e11) {
                assert_eq!(config.key(config.value(key)), key);
            }
        }
    }

    #[test]
    fn bins_of_no_sketch_are_refused() {
        for keys in [
            &[i32::MIN][..],
            &[i32::MAX],
            &[-KEY_MAX - 1],
            &[KEY_MAX + 1],
            &[-KEY_MAX, 0],
            &[2, 1],
            &[1, 1],
            &[i32::MIN, i32::MAX],
            &[1, i32::MIN, 2],
        ] {
            let bins: Vec<(i32, u64)> = keys.iter().map(|key| (*key, 1)).collect();
            assert_eq!(Sketch::of_bins(0, &bins), None, "{keys:?}");
        }
        assert_eq!(Sketch::of_bins(0, &[(1, 0)]), None);
    }

    #[test]
    fn sketches_from_outside_merge_in_bounded_memory() {
        let [mut low, high] = [-KEY_MAX, KEY_MAX].map(|key| Sketch::of_bins(0, &[(key, 65)]).unwrap());
        low.merge(&high);
        assert_eq!(low.bins().collect::<Vec<_>>(), [(-KEY_MAX, 65), (KEY_MAX, 65)]);
        assert!(low.memory_bytes() < 100_000, "{}", low.memory_bytes());
    }

    proptest! {
        #[test]
        fn order_and_grouping_do_not_matter(
            values in prop::collection::vec(response_time(), 0..300),
            cut in 0usize..300,
            doublings in 0u32..30,
        ) {
            let config = SketchConfig::default();
            let (mut whole, mut first, mut second) = (Sketch::default(), Sketch::default(), Sketch::default());
            values.iter().for_each(|value| whole.add(*value, &config));
            let cut = cut.min(values.len());
            values[..cut].iter().rev().for_each(|value| first.add(*value, &config));
            values[cut..].iter().for_each(|value| second.add(*value, &config));
            for _ in 0..doublings {
                [&mut whole, &mut first, &mut second].into_iter().for_each(|sketch| sketch.merge(&sketch.clone()));
            }
            second.merge(&first);
            prop_assert_eq!(&whole, &second);
            let bins: Vec<_> = whole.bins().collect();
            prop_assert_eq!(Sketch::of_bins(whole.zeros(), &bins), Some(whole));
        }

        #[test]
        fn estimate_is_within_the_relative_accuracy(mut values in prop::collection::vec(response_time(), 1..300), q in 0.0..=1.0) {
            let config = SketchConfig::default();
            let mut sketch = Sketch::default();
            values.iter().for_each(|value| sketch.add(*value, &config));
            values.sort_unstable();
            let quantile = Quantile::new(q).unwrap();
            let truth = values[quantile.rank(values.len() as u64) as usize].as_ms();
            let estimate = sketch.quantiles(&[quantile], &config)[0];
            prop_assert!((estimate - truth).abs() <= truth * config.relative_accuracy() * (1.0 + 1e-9) || q == 0.0 || q == 1.0);
        }
    }
}
