//! Names to dense numbers: each app's name is looked up once per event, so this is made to be quick for short ones.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// Names in the order they came, each once.
#[derive(Default)]
pub struct Names {
    /// Numbers of the names, by hash.
    index: HashTable<u32>,
    names: Vec<Name>,
    /// The names' bytes, one after the other.
    bytes: Vec<u8>,
}

struct Name {
    hash: u64,
    start: u32,
    length: u32,
}

impl Names {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The bytes of all of them.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory that they hold on to.
    pub fn memory_bytes(&self) -> usize {
        self.index.allocation_size() + self.names.capacity() * size_of::<Name>() + self.bytes.capacity()
    }

    /// The name with this number.
    pub fn name(&self, number: u32) -> &[u8] {
        let Name { start, length, .. } = self.names[number as usize];
        &self.bytes[start as usize..(start + length) as usize]
    }

    /// The number of a name that is known.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = hash(name);
        self.index.find(hash, |number| self.is(*number, hash, name)).copied()
    }

    /// The number of a name, which is taken in if it is new.
    #[inline]
    pub fn number(&mut self, name: &[u8]) -> u32 {
        self.find(name).unwrap_or_else(|| self.insert(name))
    }

    /// Forgets all of them, but keeps the memory.
    pub fn clear(&mut self) {
        self.index.clear();
        self.names.clear();
        self.bytes.clear();
    }

    #[inline]
    fn is(&self, number: u32, hash: u64, name: &[u8]) -> bool {
        let known = &self.names[number as usize];
        known.hash == hash && equal(self.name(number), name)
    }

    #[cold]
    fn insert(&mut self, name: &[u8]) -> u32 {
        const FEW: &str = "the names of one request are fewer than 2^32 bytes";
        let (hash, number) = (hash(name), u32::try_from(self.names.len()).expect(FEW));
        let (start, length) = (u32::try_from(self.bytes.len()).expect(FEW), u32::try_from(name.len()).expect(FEW));
        self.bytes.extend_from_slice(name);
        assert!(u32::try_from(self.bytes.len()).is_ok(), "{FEW}");
        self.names.push(Name { hash, start, length });
        self.index.insert_unique(hash, number, |number| self.names[*number as usize].hash);
        number
    }
}

/// Two overlapping words hold all of a name of 8 to 16 bytes.
#[inline]
fn ends(name: &[u8]) -> Option<(u64, u64)> {
    let (first, last) = (name.first_chunk::<8>()?, name.last_chunk::<8>()?);
    (name.len() <= 16).then(|| (u64::from_le_bytes(*first), u64::from_le_bytes(*last)))
}

/// Whether two names are equal, without a call for most.
#[inline]
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && match (ends(one), ends(other)) {
            (Some(one), Some(other)) => one == other,
            _ => one == other,
        }
}

/// A hash of a name, for this index only: two multiplications for most names. Long ones, and those that are short enough
/// to be few, take XXH3, its halves swapped: its low bits are the slot, and the names of one builder may be those of one
/// partition's slots; a table that places by the low bits would crowd them into a few places.
#[inline]
fn hash(name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    match ends(name) {
        Some((first, last)) => {
            let product = u128::from(first ^ ODD)
                * u128::from(last.rotate_left(23) ^ (name.len() as u64) ^ 0x2545_f491_4f6c_dd1d);
            ((product as u64) ^ ((product >> 64) as u64)).wrapping_mul(ODD)
        }
        None => xxh3_64(name).rotate_left(32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_one_number_in_the_order_they_came() {
        let mut names = Names::default();
        let all: Vec<String> =
            (0..40).flat_map(|length| ["x", "y"].map(|letter| letter.repeat(length))).skip(1).collect();
        for round in 0..2 {
            for (number, name) in (0..).zip(&all) {
                assert_eq!(names.find(name.as_bytes()), (round == 1).then_some(number));
                assert_eq!(names.number(name.as_bytes()), number);
                assert_eq!(names.name(number), name.as_bytes());
            }
        }
        assert_eq!(names.len(), all.len());
        names.clear();
        assert_eq!((names.len(), names.find(b"x")), (0, None));
    }

    #[test]
    fn hashes_of_names_that_are_alike_spread() {
        let mut low = [0u32; 64];
        let mut high = [0u32; 64];
        for app in 0..6400 {
            let hash = hash(format!("b12345-{app:04}").as_bytes());
            low[(hash % 64) as usize] += 1;
            high[(hash >> 58) as usize] += 1;
        }
        for count in low.into_iter().chain(high) {
            assert!((50..150).contains(&count), "{low:?} {high:?}");
        }
    }
}
