//! Exact integers to the nearest double, with one rounding.

/// The double nearest to `numerator / denominator`, ties to even.
///
/// `denominator`: 1 to 2^126 (asserted), so that a doubled remainder still fits.
pub(super) fn nearest(numerator: u128, denominator: u128) -> f64 {
    assert!(denominator > 0 && denominator <= 1 << 126, "denominator {denominator} out of range");
    let (mut quotient, mut remainder) = (numerator / denominator, numerator % denominator);
    // Long division until the quotient has more bits than a double keeps (53) plus one to round by. What then remains
    // is only asked whether it is there: it becomes the quotient's last bit, which lies below the rounding bit.
    let mut shift = 0;
    while quotient < 1 << 55 && remainder != 0 {
        remainder <<= 1;
        quotient <<= 1;
        shift += 1;
        if remainder >= denominator {
            remainder -= denominator;
            quotient |= 1;
        }
    }
    if remainder != 0 {
        quotient |= 1;
    }
    // Both steps: `as` rounds to the nearest, ties to even; a power of two scales without rounding.
    quotient as f64 * 2f64.powi(-shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_ratios() {
        assert_eq!(nearest(0, 7), 0.0);
        assert_eq!(nearest(1, 3), 1.0 / 3.0);
        assert_eq!(nearest(12_750_000, 1_000_000), 12.75);
        assert_eq!(nearest(u128::MAX, 1), u128::MAX as f64);
        assert_eq!(nearest((1 << 53) + 1, 1), 9_007_199_254_740_992.0);
        assert_eq!(nearest((1 << 54) + 3, 2), 9_007_199_254_740_994.0);
        assert_eq!(nearest(1, 1 << 100), 2f64.powi(-100));
    }

    proptest! {
        #[test]
        fn agrees_with_the_decimal_text(ns in 0..=u128::MAX) {
            let text = format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
            prop_assert_eq!(nearest(ns, 1_000_000), text.parse::<f64>().unwrap());
        }

        #[test]
        fn agrees_with_hardware_division_where_that_rounds_once(a in 0..=1u64 << 53, b in 1..=1u64 << 53) {
            prop_assert_eq!(nearest(u128::from(a), u128::from(b)), a as f64 / b as f64);
        }
    }
}
