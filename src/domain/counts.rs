//! Counts by place, in as little memory as they take: two bytes each, eight once one of them needs more. Pure.
//!
//! Nearly all bins of a sketch hold a few values, and a node keeps tens of thousands of sketches: what they take decides
//! whether folding and merging find them in the processor's cache.

/// Counts, of which none ever becomes smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Counts {
    /// None is above `u16::MAX`.
    Narrow(Vec<u16>),
    /// One at least is above `u16::MAX`.
    Wide(Vec<u64>),
}

impl Counts {
    /// How many there are.
    pub fn len(&self) -> usize {
        let (narrow, wide) = self.slices();
        narrow.len() + wide.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let (narrow, wide) = self.slices();
        narrow.iter().map(|count| u64::from(*count)).chain(wide.iter().copied())
    }

    /// Those that are not zero, with their places, in order.
    pub fn nonzero(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let (narrow, wide) = self.slices();
        let narrow = narrow.iter().map(|count| u64::from(*count)).enumerate();
        // Tested before they are chained: most are zero.
        narrow.filter(|(_, count)| *count > 0).chain(wide.iter().copied().enumerate().filter(|(_, count)| *count > 0))
    }

    /// Adds to the count at a place; false if there is none.
    #[inline]
    pub fn add(&mut self, place: usize, count: u64) -> bool {
        match self {
            Counts::Narrow(counts) => {
                let Some(own) = counts.get_mut(place) else { return false };
                match u16::try_from(u64::from(*own) + count) {
                    Ok(sum) => *own = sum,
                    Err(_) => self.widen()[place] += count,
                }
            }
            Counts::Wide(counts) => {
                let Some(own) = counts.get_mut(place) else { return false };
                *own += count;
            }
        }
        true
    }

    /// Adds others, the first of them to the count at `start`. There must be as many from there on.
    pub fn add_all(&mut self, start: usize, others: &Counts) {
        if let (Counts::Narrow(own), Counts::Narrow(others)) = (&mut *self, others) {
            let own = &mut own[start..][..others.len()];
            let fit = own.iter().zip(others).fold(0, |sums, (own, other)| sums | (u32::from(*own) + u32::from(*other)));
            if fit <= u32::from(u16::MAX) {
                own.iter_mut().zip(others).for_each(|(own, other)| *own += other);
                return;
            }
        }
        self.widen()[start..].iter_mut().zip(others.iter()).for_each(|(own, other)| *own += other);
    }

    /// Appends zeros until there are `len`; nothing if there are more.
    pub fn pad(&mut self, len: usize) {
        match self {
            Counts::Narrow(counts) => counts.resize(counts.len().max(len), 0),
            Counts::Wide(counts) => counts.resize(counts.len().max(len), 0),
        }
    }

    /// Puts so many zeros before all others. `room`: how many there will be soon.
    pub fn pad_front(&mut self, zeros: usize, room: usize) {
        fn put<T: Copy + Default>(counts: &mut Vec<T>, zeros: usize, room: usize) {
            counts.reserve(room.max(zeros + counts.len()) - counts.len());
            counts.splice(..0, std::iter::repeat_n(T::default(), zeros));
        }
        match self {
            Counts::Narrow(counts) => put(counts, zeros, room),
            Counts::Wide(counts) => put(counts, zeros, room),
        }
    }

    /// Bytes of memory beside its own.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Counts::Narrow(counts) => counts.capacity() * size_of::<u16>(),
            Counts::Wide(counts) => counts.capacity() * size_of::<u64>(),
        }
    }

    /// The small ones and the large ones, of which there are only one kind.
    fn slices(&self) -> (&[u16], &[u64]) {
        match self {
            Counts::Narrow(counts) => (counts, &[]),
            Counts::Wide(counts) => (&[], counts),
        }
    }

    /// Makes room for a count above `u16::MAX`.
    #[cold]
    fn widen(&mut self) -> &mut Vec<u64> {
        if let Counts::Narrow(counts) = self {
            *self = Counts::Wide(counts.iter().map(|count| u64::from(*count)).collect());
        }
        match self {
            Counts::Wide(counts) => counts,
            Counts::Narrow(_) => unreachable!("they are wide now"),
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Counts::Narrow(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(numbers: &[u64]) -> Counts {
        let mut counts = Counts::default();
        counts.pad(numbers.len());
        numbers.iter().enumerate().for_each(|(place, number)| assert!(counts.add(place, *number)));
        counts
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0u64..300, 1 => 65_000u64..66_000, 1 => 0u64..1 << 40]
    }

    #[test]
    fn two_bytes_a_count_until_one_needs_more() {
        let mut counts = of(&[u64::from(u16::MAX); 100]);
        assert_eq!(counts.memory_bytes(), 200);
        assert!(counts.add(7, 1));
        assert_eq!((counts.memory_bytes(), counts.iter().nth(7)), (800, Some(65_536)));
        assert!(!counts.add(100, 1));
    }

    proptest! {
        #[test]
        fn counts_are_sums_and_equal_if_these_are(
            rounds in prop::collection::vec(prop::collection::vec(number(), 1..20), 1..6),
            front in 0usize..5,
        ) {
            let width = front + rounds.iter().map(Vec::len).max().unwrap_or_default();
            let mut sums = vec![0; width];
            let (mut one_by_one, mut merged) = (of(&[]), of(&rounds[0]));
            one_by_one.pad(width);
            for (round, numbers) in rounds.iter().enumerate() {
                for (place, number) in numbers.iter().enumerate() {
                    sums[front + place] += number;
                    prop_assert!(one_by_one.add(front + place, *number));
                }
                if round == 0 {
                    merged.pad_front(front, width);
                    merged.pad(width);
                } else {
                    merged.add_all(front, &of(numbers));
                }
                prop_assert_eq!(merged.iter().collect::<Vec<_>>(), sums.clone());
                prop_assert_eq!(&merged, &one_by_one);
                prop_assert_eq!(matches!(merged, Counts::Wide(_)), sums.iter().any(|sum| *sum > u64::from(u16::MAX)));
            }
        }
    }
}
