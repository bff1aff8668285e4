//! A rollup's bytes: inside checkpoints, in stored rows and in the answers between nodes.
//!
//! | field | size | meaning |
//! |---|---|---|
//! | kind | 1 | 0 = exact values, 1 = sketch |
//! | late | varint | events that came late |
//! | exact: values | varint, then varints | how many, then each as difference to the one before, ascending, ns; sum, min and max follow from them |
//! | sketch: sum, min, max | varints | ns |
//! | sketch: zeros, bins | varints | values that are zero, number of bins |
//! | sketch: bin | varints each | key as zigzag difference to the key before (first: to 0), count |
//!
//! A stored row is a sealed layout (version 1, CRC32C) of: revision (varint), the rollup.

use super::codec::{self, Error, Reader, put_varint, unzigzag, zigzag};
use crate::domain::{BINS_MAX, EXACT_VALUES_MAX, ResponseTime, Rollup, Sketch, Values};
use bytes::Bytes;

const LAYOUT: &str = "rollup";
const VERSION: u8 = 1;

/// A rollup as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredRollup {
    /// How many checkpoints have changed it.
    pub revision: u64,
    /// Its numbers.
    pub rollup: Rollup,
}

impl StoredRollup {
    /// Writes a row.
    pub fn encode(&self) -> Bytes {
        let mut out = codec::begin(VERSION);
        // Growing step by step would copy them several times.
        out.reserve(64 + bytes_about(self.rollup.values()));
        put_varint(&mut out, u128::from(self.revision));
        put(&mut out, &self.rollup);
        codec::seal(out)
    }

    /// Reads a row.
    pub fn decode(bytes: &[u8]) -> Result<StoredRollup, Error> {
        let mut reader = codec::open(LAYOUT, VERSION, bytes)?;
        let revision = reader.varint()?;
        let rollup = take(&mut reader)?;
        reader.end()?;
        Ok(StoredRollup { revision, rollup })
    }
}

/// About what values take, rather more.
fn bytes_about(values: &Values) -> usize {
    match values {
        Values::Exact(values) => 6 * values.len(),
        Values::Sketch(sketch) => 4 * sketch.width(),
    }
}

/// Appends a rollup.
pub fn put(out: &mut Vec<u8>, rollup: &Rollup) {
    out.push(u8::from(matches!(rollup.values(), Values::Sketch(_))));
    put_varint(out, u128::from(rollup.late()));
    match rollup.values() {
        Values::Exact(values) => {
            put_varint(out, values.len() as u128);
            let mut before = 0;
            for value in values {
                put_varint(out, u128::from(value - before));
                before = *value;
            }
        }
        Values::Sketch(sketch) => {
            put_varint(out, rollup.sum_ns());
            put_varint(out, u128::from(rollup.min().0));
            put_varint(out, u128::from(rollup.max().0));
            put_varint(out, u128::from(sketch.zeros()));
            put_varint(out, sketch.bins().count() as u128);
            let mut before = 0;
            for (key, count) in sketch.bins() {
                put_varint(out, u128::from(zigzag(i64::from(key) - before)));
                put_varint(out, u128::from(count));
                before = i64::from(key);
            }
        }
    }
}

/// Reads a rollup, and checks that its parts fit together.
pub fn take(reader: &mut Reader<'_>) -> Result<Rollup, Error> {
    let (kind, late) = (reader.byte()?, reader.varint()?);
    let rollup = match kind {
        0 => Rollup::of_exact(late, take_exact(reader)?),
        1 => {
            let sum_ns = reader.varint_128()?;
            let (min, max) = (ResponseTime(reader.varint()?), ResponseTime(reader.varint()?));
            Rollup::of_sketch(late, sum_ns, min, max, take_sketch(reader)?)
        }
        _ => return Err(reader.invalid("kind")),
    };
    rollup.ok_or(reader.invalid("combination of numbers"))
}

fn take_exact(reader: &mut Reader<'_>) -> Result<Vec<u64>, Error> {
    let count = reader.length()?;
    if count > EXACT_VALUES_MAX {
        return Err(reader.invalid("number of values"));
    }
    let mut before = 0u64;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        before = before.checked_add(reader.varint()?).ok_or_else(|| reader.invalid("value"))?;
        values.push(before);
    }
    Ok(values)
}

fn take_sketch(reader: &mut Reader<'_>) -> Result<Sketch, Error> {
    let (zeros, count) = (reader.varint()?, reader.length()?);
    if count > reader.remaining() / 2 || count > BINS_MAX as usize {
        return Err(reader.invalid("number of bins"));
    }
    let mut before = 0i64;
    let mut total = zeros;
    let mut bins = Vec::with_capacity(count);
    for _ in 0..count {
        before = before.checked_add(unzigzag(reader.varint()?)).ok_or_else(|| reader.invalid("key"))?;
        let key = i32::try_from(before).map_err(|_| reader.invalid("key"))?;
        let count = reader.varint()?;
        total = total.checked_add(count).ok_or_else(|| reader.invalid("count"))?;
        bins.push((key, count));
    }
    Sketch::of_bins(zeros, &bins).ok_or_else(|| reader.invalid("bins"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::SketchConfig;
    use crate::format::golden;
    use proptest::prelude::*;

    pub fn rollup_of(values: &[u64]) -> Rollup {
        let config = SketchConfig::default();
        let mut rollup = Rollup::default();
        values.iter().for_each(|value| rollup.record(ResponseTime(*value), value % 7 == 0, &config));
        rollup
    }

    #[test]
    fn layouts_never_change() {
        let few = StoredRollup { revision: 3, rollup: rollup_of(&[12_750_000, 0, 900_000]) };
        let many: Vec<u64> = (0..100).map(|value| value * value * 1_000_003).collect();
        let many = StoredRollup { revision: 700, rollup: rollup_of(&many) };
        for (name, stored) in [("rollup-exact-v1", few), ("rollup-sketch-v1", many)] {
            golden::check(name, &stored.encode());
            assert_eq!(StoredRollup::decode(&golden::read(name)), Ok(stored));
        }
    }

    proptest! {
        #[test]
        fn rows_round_trip(
            revision: u64,
            values in prop::collection::vec(0u64..=ResponseTime::MAX.0, 0..200),
            doublings in 0u32..30,
        ) {
            let mut rollup = rollup_of(&values);
            (0..doublings).for_each(|_| rollup.merge(&rollup.clone(), &SketchConfig::default()));
            let stored = StoredRollup { revision, rollup };
            prop_assert_eq!(StoredRollup::decode(&stored.encode()), Ok(stored));
        }

        #[test]
        fn any_flipped_bit_is_refused(values in prop::collection::vec(0u64..=ResponseTime::MAX.0, 0..100), place: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = StoredRollup { revision: 1, rollup: rollup_of(&values) }.encode().to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(StoredRollup::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_behind_a_good_checksum_are_read_without_panic(bytes: Vec<u8>) {
            let mut sealed = codec::begin(VERSION);
            sealed.extend_from_slice(&bytes);
            let _ = StoredRollup::decode(&codec::seal(sealed));
        }
    }
}
