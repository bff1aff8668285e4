//! The numbers of one app and hour: exact count, sum, min and max, and a sketch of the values.
//!
//! A rollup is a pure function of the multiset of its values (and of how many of them were late): recording and merging
//! may happen in any order and grouping, the result is equal to the last bit.

use super::ratio;
use super::{NS_PER_MS, Quantile, ResponseTime, Sketch, SketchConfig};

/// Up to so many values are kept as they are, so that quantiles of small rollups are exact.
pub const EXACT_VALUES_MAX: usize = 64;

/// More values than any rollup has (a billion a second for three days into one hour): sums and merges of rollups from
/// outside cannot overflow.
const COUNT_MAX: u64 = 1 << 48;

/// How far, of a value, rounding can move the edge of its bin: `ln` and the division behind it leave an error of some
/// 3e-13 of a bin in a key of up to 1,320, which is 6e-15 of the value. With room to spare.
const EDGE_SLACK: f64 = 1e-12;

/// Count, sum, extremes and distribution of a multiset of response times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollup {
    count: u64,
    late: u64,
    sum_ns: u128,
    min: ResponseTime,
    max: ResponseTime,
    values: Values,
}

/// The distribution of a rollup's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// All of them, ascending, in ns; at most [`EXACT_VALUES_MAX`].
    Exact(Vec<u64>),
    /// Their sketch.
    Sketch(Sketch),
}

impl Default for Values {
    fn default() -> Self {
        Values::Exact(Vec::new())
    }
}

/// A quantile's value in ms, and the bounds that the true one lies within.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate; the true value itself where `low == high`.
    pub value_ms: f64,
    /// The true value is not below this.
    pub low_ms: f64,
    /// The true value is not above this.
    pub high_ms: f64,
}

impl Rollup {
    /// A rollup of these values, ascending, in ns; `None` if they are too many, out of order or too large, or fewer than
    /// are said to be late.
    pub fn of_exact(late: u64, values: Vec<u64>) -> Option<Rollup> {
        let count = values.len() as u64;
        let (min, max) = (values.first().copied().unwrap_or_default(), values.last().copied().unwrap_or_default());
        let is_whole =
            values.len() <= EXACT_VALUES_MAX && values.is_sorted() && max <= ResponseTime::MAX.0 && late <= count;
        is_whole.then(|| Rollup {
            count,
            late,
            sum_ns: values.iter().map(|value| u128::from(*value)).sum(),
            min: ResponseTime(min),
            max: ResponseTime(max),
            values: Values::Exact(values),
        })
    }

    /// A rollup whose values are kept as a sketch; `None` if the numbers contradict each other.
    pub fn of_sketch(late: u64, sum_ns: u128, min: ResponseTime, max: ResponseTime, sketch: Sketch) -> Option<Rollup> {
        let count = sketch.count();
        let sums = u128::from(min.0) * u128::from(count)..=u128::from(max.0) * u128::from(count);
        let is_whole =
            (EXACT_VALUES_MAX as u64 + 1..=COUNT_MAX).contains(&count) && min <= max && max <= ResponseTime::MAX;
        let is_whole = is_whole && sums.contains(&sum_ns) && late <= count;
        is_whole.then_some(Rollup { count, late, sum_ns, min, max, values: Values::Sketch(sketch) })
    }

    /// Adds one value.
    pub fn record(&mut self, value: ResponseTime, is_late: bool, config: &SketchConfig) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.late += u64::from(is_late);
        self.sum_ns += u128::from(value.0);
        match &mut self.values {
            Values::Sketch(sketch) => sketch.add(value, config),
            Values::Exact(exact) => {
                let place = exact.partition_point(|other| *other <= value.0);
                exact.insert(place, value.0);
                if exact.len() > EXACT_VALUES_MAX {
                    self.values = Values::Sketch(Sketch::of(exact, config));
                }
            }
        }
    }

    /// Adds values, so many of them late: as [`Rollup::record`] for each, but cheaper.
    pub fn record_all(
        &mut self,
        values: impl ExactSizeIterator<Item = ResponseTime> + Clone,
        late: usize,
        config: &SketchConfig,
    ) {
        let count = values.len();
        let (mut sum_ns, mut min, mut max) = (0u128, ResponseTime(u64::MAX), ResponseTime(0));
        for value in values.clone() {
            sum_ns += u128::from(value.0);
            min = min.min(value);
            max = max.max(value);
        }
        if count == 0 {
            return;
        }
        self.min = if self.count == 0 { min } else { self.min.min(min) };
        self.max = self.max.max(max);
        self.count += count as u64;
        self.late += late as u64;
        self.sum_ns += sum_ns;
        match &mut self.values {
            Values::Sketch(sketch) => values.for_each(|value| sketch.add(value, config)),
            Values::Exact(exact) if exact.len() + count <= EXACT_VALUES_MAX => {
                exact.extend(values.map(|value| value.0));
                exact.sort_unstable();
            }
            Values::Exact(exact) => {
                let mut sketch = Sketch::of(exact, config);
                values.for_each(|value| sketch.add(value, config));
                self.values = Values::Sketch(sketch);
            }
        }
    }

    /// Adds all values of `other`, which must be of the same configuration.
    pub fn merge(&mut self, other: &Rollup, config: &SketchConfig) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.late += other.late;
        self.sum_ns += other.sum_ns;
        let own = std::mem::take(&mut self.values);
        self.values = match (own, &other.values) {
            (Values::Exact(mut own), Values::Exact(others)) => {
                own.extend_from_slice(others);
                own.sort_unstable();
                if own.len() > EXACT_VALUES_MAX { Values::Sketch(Sketch::of(&own, config)) } else { Values::Exact(own) }
            }
            (Values::Exact(own), Values::Sketch(others)) => {
                let mut sketch = Sketch::of(&own, config);
                sketch.merge(others);
                Values::Sketch(sketch)
            }
            (Values::Sketch(mut sketch), Values::Exact(others)) => {
                others.iter().for_each(|value| sketch.add(ResponseTime(*value), config));
                Values::Sketch(sketch)
            }
            (Values::Sketch(mut sketch), Values::Sketch(others)) => {
                sketch.merge(others);
                Values::Sketch(sketch)
            }
        };
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them came after their window had been sealed.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The exact sum in ns.
    pub fn sum_ns(&self) -> u128 {
        self.sum_ns
    }

    /// The smallest value; zero if there is none.
    pub fn min(&self) -> ResponseTime {
        self.min
    }

    /// The largest value; zero if there is none.
    pub fn max(&self) -> ResponseTime {
        self.max
    }

    /// The distribution.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The average in ms: the double nearest to the exact one; zero if there is no value.
    pub fn average_ms(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        ratio::nearest(self.sum_ns, u128::from(self.count) * u128::from(NS_PER_MS))
    }

    /// The values of quantiles, in the order asked; never outside of the exact extremes. Nothing if the rollup is empty.
    pub fn quantiles(&self, quantiles: &[Quantile], config: &SketchConfig) -> Vec<Estimate> {
        match &self.values {
            Values::Exact(exact) if exact.is_empty() => Vec::new(),
            Values::Exact(exact) => quantiles
                .iter()
                .map(|quantile| {
                    let rank = usize::try_from(quantile.rank(self.count)).expect("at most EXACT_VALUES_MAX values");
                    Estimate::exact(ResponseTime(exact[rank]))
                })
                .collect(),
            Values::Sketch(sketch) => sketch
                .quantiles(quantiles, config)
                .into_iter()
                .zip(quantiles)
                .map(|(estimate, quantile)| self.bounded(estimate, *quantile, config.relative_accuracy()))
                .collect(),
        }
    }

    /// Bytes it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Rollup>()
            + match &self.values {
                Values::Exact(exact) => exact.capacity() * size_of::<u64>(),
                Values::Sketch(sketch) => sketch.memory_bytes(),
            }
    }

    /// An estimate held within the exact extremes, with its bounds.
    fn bounded(&self, estimate_ms: f64, quantile: Quantile, accuracy: f64) -> Estimate {
        match quantile.rank(self.count) {
            0 => return Estimate::exact(self.min),
            rank if rank + 1 == self.count => return Estimate::exact(self.max),
            _ => {}
        }
        let (min, max) = (self.min.as_ms(), self.max.as_ms());
        Estimate {
            value_ms: estimate_ms.clamp(min, max),
            low_ms: (estimate_ms / (1.0 + accuracy) * (1.0 - EDGE_SLACK)).clamp(min, max),
            high_ms: (estimate_ms / (1.0 - accuracy) * (1.0 + EDGE_SLACK)).clamp(min, max),
        }
    }
}

impl Estimate {
    fn exact(value: ResponseTime) -> Estimate {
        let value_ms = value.as_ms();
        Estimate { value_ms, low_ms: value_ms, high_ms: value_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rollup_of(values: &[u64], config: &SketchConfig) -> Rollup {
        let mut rollup = Rollup::default();
        values.iter().for_each(|value| rollup.record(ResponseTime(*value), false, config));
        rollup
    }

    #[test]
    fn small_rollup_is_exact() {
        let config = SketchConfig::default();
        let rollup = rollup_of(&[3_000_000, 1_000_000, 2_000_000, 10_000_000], &config);
        let median = rollup.quantiles(&[Quantile::MEDIAN], &config)[0];
        assert_eq!(median, Estimate { value_ms: 2.0, low_ms: 2.0, high_ms: 2.0 });
        assert_eq!(rollup.average_ms(), 4.0);
        assert_eq!((rollup.min().as_ms(), rollup.max().as_ms()), (1.0, 10.0));
    }

    #[test]
    fn empty_rollup_has_no_quantiles() {
        assert!(Rollup::default().quantiles(&[Quantile::MEDIAN], &SketchConfig::default()).is_empty());
    }

    #[test]
    fn bounds_hold_for_values_on_the_edges_of_bins() {
        let config = SketchConfig::default();
        for key in -690..1266 {
            let edge = (f64::from(key) * (1.01f64 / 0.99).ln()).exp() * 1e6;
            for ns in (edge as u64).saturating_sub(1).max(2)..=(edge as u64 + 2).min(ResponseTime::MAX.0 - 1) {
                let mut rollup = rollup_of(&[ns; 100], &config);
                rollup.record(ResponseTime(1), false, &config);
                rollup.record(ResponseTime::MAX, false, &config);
                let (truth, estimate) = (ResponseTime(ns).as_ms(), rollup.quantiles(&[Quantile::MEDIAN], &config)[0]);
                assert!(estimate.low_ms <= truth && truth <= estimate.high_ms, "{truth} in {estimate:?}");
            }
        }
    }

    #[test]
    fn late_events_count_and_are_counted_apart() {
        let config = SketchConfig::default();
        let mut rollup = rollup_of(&[1, 2], &config);
        rollup.record(ResponseTime(3), true, &config);
        assert_eq!((rollup.count(), rollup.late()), (3, 1));
        rollup.merge(&rollup.clone(), &config);
        assert_eq!((rollup.count(), rollup.late()), (6, 2));
    }

    #[test]
    fn the_longest_response_times_sum_exactly() {
        let rollup = rollup_of(&[ResponseTime::MAX.0; 1000], &SketchConfig::default());
        assert_eq!((rollup.sum_ns(), rollup.average_ms()), (100_000_000_000_000_000_000, 1e11));
    }

    #[test]
    fn contradicting_numbers_are_refused() {
        let [min, max] = [1, 1000].map(ResponseTime);
        let sketch = |count| Sketch::of_bins(0, &[(-690, count)]).unwrap();
        let of = |late, sum, min, max, count| Rollup::of_sketch(late, sum, min, max, sketch(count));
        assert!(of(100, 5000, min, max, 100).is_some());
        for flawed in [
            of(101, 5000, min, max, 100),
            of(0, 99, min, max, 100),
            of(0, 100_001, min, max, 100),
            of(0, 5000, max, min, 100),
            of(0, 5000, min, ResponseTime(u64::MAX), 100),
            of(0, 640, min, max, 64),
            of(0, 1 << 50, min, max, COUNT_MAX + 1),
            Rollup::of_exact(2, vec![1]),
            Rollup::of_exact(0, vec![2, 1]),
            Rollup::of_exact(0, vec![ResponseTime::MAX.0 + 1]),
            Rollup::of_exact(0, vec![1; 65]),
        ] {
            assert_eq!(flawed, None);
        }
    }

    proptest! {
        #[test]
        fn values_together_are_the_same_as_one_by_one(
            runs in prop::collection::vec((prop::collection::vec(0u64..=ResponseTime::MAX.0, 0..50), any::<bool>()), 0..5),
        ) {
            let config = SketchConfig::default();
            let (mut together, mut single) = (Rollup::default(), Rollup::default());
            for (values, are_late) in runs {
                let late = if are_late { values.len() / 2 } else { 0 };
                together.record_all(values.iter().map(|value| ResponseTime(*value)), late, &config);
                for (index, value) in values.iter().enumerate() {
                    single.record(ResponseTime(*value), index < late, &config);
                }
                prop_assert_eq!(&together, &single);
            }
        }

        #[test]
        fn the_average_is_the_nearest_double(values in prop::collection::vec(0u64..=ResponseTime::MAX.0, 1..100)) {
            let rollup = rollup_of(&values, &SketchConfig::default());
            let divisor = values.len() as u128 * u128::from(NS_PER_MS);
            let mut rest = rollup.sum_ns() % divisor;
            let mut text = format!("{}.", rollup.sum_ns() / divisor);
            for _ in 0..60 {
                rest *= 10;
                text += &(rest / divisor).to_string();
                rest %= divisor;
            }
            prop_assert_eq!(rollup.average_ms(), text.parse::<f64>().unwrap());
        }

        #[test]
        fn any_order_and_grouping_gives_the_same_rollup(
            values in prop::collection::vec(0u64..=ResponseTime::MAX.0, 0..200),
            cuts in prop::collection::vec(0usize..200, 0..4),
        ) {
            let config = SketchConfig::default();
            let whole = rollup_of(&values, &config);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(values.len())).collect();
            cuts.extend([0, values.len()]);
            cuts.sort_unstable();
            let mut merged = Rollup::default();
            for pair in cuts.windows(2).rev() {
                merged.merge(&rollup_of(&values[pair[0]..pair[1]], &config), &config);
            }
            prop_assert_eq!(&merged, &whole);
            let again = match whole.values().clone() {
                Values::Exact(exact) => Rollup::of_exact(whole.late(), exact),
                Values::Sketch(sketch) => Rollup::of_sketch(whole.late(), whole.sum_ns(), whole.min(), whole.max(), sketch),
            };
            prop_assert_eq!(again, Some(whole));
        }

        #[test]
        fn quantiles_rise_and_bound_the_truth(mut values in prop::collection::vec(0u64..=ResponseTime::MAX.0, 1..200)) {
            let config = SketchConfig::default();
            let rollup = rollup_of(&values, &config);
            values.sort_unstable();
            let quantiles: Vec<Quantile> = (0..=20).map(|step| Quantile::new(f64::from(step) / 20.0).unwrap()).collect();
            let estimates = rollup.quantiles(&quantiles, &config);
            for (quantile, estimate) in quantiles.iter().zip(&estimates) {
                let truth = ResponseTime(values[quantile.rank(rollup.count()) as usize]).as_ms();
                prop_assert!(estimate.low_ms <= truth && truth <= estimate.high_ms, "{truth} in {estimate:?}");
                prop_assert!((estimate.value_ms - truth).abs() <= truth * (0.01 + EDGE_SLACK));
            }
            prop_assert!(estimates.windows(2).all(|pair| pair[0].value_ms <= pair[1].value_ms));
        }
    }
}
