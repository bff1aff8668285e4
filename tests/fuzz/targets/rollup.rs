//! Rows of rollups: refused, or a rollup whose parts fit together, which is written as it was read and can be merged.

#![no_main]

use fuzz::{SKETCH, piece, seal};
use hourmark::domain::{Quantile, Rollup};
use hourmark::format::StoredRollup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut merged = Rollup::default();
    while let Some(row) = piece(&mut rest) {
        let row = seal(row);
        let Ok(stored) = StoredRollup::decode(&row) else { continue };
        assert_eq!(stored.encode(), row, "one rollup has one encoding");
        let (count, sum) = (merged.count(), merged.sum_ns());
        // Counts of real events stay far below this.
        if count.checked_add(stored.rollup.count()).is_none_or(|count| count > 1 << 60) {
            continue;
        }
        merged.merge(&stored.rollup, &SKETCH);
        assert_eq!(merged.count(), count + stored.rollup.count());
        assert_eq!(merged.sum_ns(), sum + stored.rollup.sum_ns());
        let quantiles: Vec<_> = [0.0, 0.5, 0.99, 1.0].into_iter().filter_map(Quantile::new).collect();
        if merged.count() > 0 {
            assert_eq!(merged.quantiles(&quantiles, &SKETCH).len(), quantiles.len());
        }
    }
});
