//! Memory of bodies and of what reads them, used again.
//!
//! A fresh buffer of a megabyte costs as much as filling it: the system gives it page by page, zeroed, and takes it back
//! when it is freed. So buffers of a usual large body are kept when the last holder lets go of it, and so are builders.

use crate::format::BatchBuilder;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Smaller bodies are left to the allocator. A buffer is made a multiple of it, so that bodies of about the same size
/// fit into each other's.
pub const KEPT_BYTES_MIN: usize = 64 * 1024;
/// Larger ones are rare: these are 90,000 lines.
pub const KEPT_BYTES_MAX: usize = 8 << 20;
/// Buffers that are kept at a time.
const KEPT_MAX: usize = 64;
/// Bytes that these have together at most: room for a dozen bodies of 50,000 lines.
const KEPT_BYTES_SUM_MAX: usize = 64 << 20;

/// Keeps buffers. Cheap to clone; all clones share them.
#[derive(Clone, Default)]
pub struct Buffers {
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// An empty buffer for `bytes`; of any size if that is not known.
    pub fn take(&self, bytes: Option<usize>) -> Vec<u8> {
        let Some(bytes) = bytes.filter(|bytes| (KEPT_BYTES_MIN..=KEPT_BYTES_MAX).contains(bytes)) else {
            return Vec::new();
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Of those that fit best, the one that came back last: it is the warmest. A much larger one would hold more memory than
        // the body's permit.
        let fitting = (0..kept.len()).rev().filter(|place| (bytes..=2 * bytes).contains(&kept[*place].capacity()));
        match fitting.min_by_key(|place| kept[*place].capacity()) {
            Some(place) => kept.remove(place),
            // What is not written to takes no memory yet.
            None => Vec::with_capacity(bytes.next_multiple_of(KEPT_BYTES_MIN)),
        }
    }

    /// A body whose buffer comes back here when nobody holds it any more.
    pub fn lend(&self, buffer: Vec<u8>) -> Bytes {
        if (KEPT_BYTES_MIN..=2 * KEPT_BYTES_MAX).contains(&buffer.capacity()) {
            Bytes::from_owner(Lent { buffer, buffers: self.clone() })
        } else {
            buffer.into()
        }
    }
}

struct Lent {
    buffer: Vec<u8>,
    buffers: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut kept = self.buffers.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.buffer.clear();
        kept.push(std::mem::take(&mut self.buffer));
        // Large ones cost most to take afresh.
        while kept.len() > KEPT_MAX || kept.iter().map(Vec::capacity).sum::<usize>() > KEPT_BYTES_SUM_MAX {
            let smallest = (0..kept.len()).min_by_key(|place| kept[*place].capacity());
            kept.remove(smallest.expect("more than none are kept"));
        }
    }
}

/// Builders that are kept at a time: as many as read bodies at a time, on most machines.
const BUILDERS_MAX: usize = 8;
/// Memory of a builder that is kept: 130,000 events of a thousand apps take 5.2 MB.
const BUILDER_BYTES_MAX: usize = 6 << 20;

/// Keeps builders.
#[derive(Default)]
pub struct Builders {
    kept: Mutex<Vec<BatchBuilder>>,
}

impl Builders {
    /// Does something with an empty builder, and keeps it if it is empty again and not too large.
    pub fn with<T>(&self, work: impl FnOnce(&mut BatchBuilder) -> T) -> T {
        let mut builder = self.lock().pop().unwrap_or_default();
        let done = work(&mut builder);
        let mut kept = self.lock();
        if builder.is_empty() && builder.memory_bytes() <= BUILDER_BYTES_MAX {
            kept.push(builder);
        }
        if kept.len() > BUILDERS_MAX {
            // Large ones cost most to make afresh.
            let smallest = (0..kept.len()).min_by_key(|place| kept[*place].memory_bytes());
            kept.remove(smallest.expect("more than none are kept"));
        }
        done
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BatchBuilder>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventTime, ResponseTime};

    #[test]
    fn a_buffer_comes_back_when_its_last_holder_lets_go() {
        let buffers = Buffers::default();
        let lend = |bytes: usize| {
            let mut buffer = buffers.take(Some(bytes));
            buffer.resize(bytes, 7);
            buffers.lend(buffer)
        };
        let first = lend(100_000);
        let (address, slice) = (first.as_ptr(), first.slice(5..9));
        drop(first);
        assert_ne!(lend(110_000).as_ptr(), address, "a slice is still held");
        assert_eq!(slice[..], [7; 4]);
        drop(slice);
        let again = lend(90_000);
        assert_eq!((again.as_ptr(), again.len()), (address, 90_000), "one that was given back");
        drop(again);
        assert_eq!(lend(2 * KEPT_BYTES_MIN).as_ptr(), address, "bodies of about the same size share one");
        let large = lend(16 * KEPT_BYTES_MIN).as_ptr();
        assert_ne!(lend(7 * KEPT_BYTES_MIN).as_ptr(), large, "a body of less than half as much is left to another");
    }

    #[test]
    fn builders_are_kept_while_they_are_few_and_small() {
        let builders = Builders::default();
        let fill = |builder: &mut BatchBuilder, count: u64| {
            (0..count).for_each(|time| builder.add("a", EventTime(time), ResponseTime(1)));
            builder.finish();
            builder.memory_bytes()
        };
        let bytes = builders.with(|builder| fill(builder, 130_000));
        assert_eq!(builders.with(|builder| builder.memory_bytes()), bytes);
        builders.with(|builder| builder.add("a", EventTime(1), ResponseTime(1)));
        assert_eq!(builders.lock().len(), 0, "it is not empty");
        assert!(builders.with(|builder| fill(builder, 200_000)) > BUILDER_BYTES_MAX);
        assert_eq!(builders.lock().len(), 0, "it is too large");
        fn nested(builders: &Builders, depth: usize) {
            builders.with(|_| {
                if depth > 0 {
                    nested(builders, depth - 1)
                }
            });
        }
        builders.with(|grown| {
            fill(grown, 1000);
            nested(&builders, 2 * BUILDERS_MAX);
        });
        assert_eq!(builders.lock().len(), BUILDERS_MAX);
        assert!(builders.lock().iter().any(|builder| builder.memory_bytes() > 0), "the grown one is kept");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = Buffers::default();
        let lend = |count, bytes| drop((0..count).map(|_| buffers.lend(Vec::with_capacity(bytes))).collect::<Vec<_>>());
        lend(9, KEPT_BYTES_MAX);
        assert_eq!(buffers.kept.lock().unwrap().len(), KEPT_BYTES_SUM_MAX / KEPT_BYTES_MAX);
        buffers.kept.lock().unwrap().clear();
        lend(KEPT_MAX + 9, KEPT_BYTES_MIN);
        drop(buffers.lend(Vec::with_capacity(KEPT_BYTES_MIN - 1)));
        drop(buffers.lend(Vec::with_capacity(2 * KEPT_BYTES_MAX + 1)));
        assert_eq!(buffers.kept.lock().unwrap().len(), KEPT_MAX);
        assert_eq!(buffers.take(Some(KEPT_BYTES_MAX + 1)).capacity(), 0);
        assert_eq!(buffers.take(None).capacity(), 0);
    }
}
