//! Memory of bodies, used again.
//!
//! A fresh buffer of a megabyte costs as much as filling it: the system gives it page by page, zeroed, and takes it back
//! when it is freed. So buffers of a usual large body are kept when the last holder lets go of it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Smaller bodies are left to the allocator.
pub const KEPT_BYTES_MIN: usize = 64 * 1024;
/// Larger ones are rare: these are 90,000 lines.
pub const KEPT_BYTES_MAX: usize = 8 << 20;
/// Buffers that are kept at a time.
const KEPT_MAX: usize = 64;
/// Bytes that these have together at most.
const KEPT_BYTES_SUM_MAX: usize = 32 << 20;

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
        let fitting = (0..kept.len()).filter(|place| kept[*place].capacity() >= bytes);
        match fitting.min_by_key(|place| kept[*place].capacity()) {
            Some(place) => kept.swap_remove(place),
            // What is not written to takes no memory yet.
            None => Vec::with_capacity(bytes),
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
            kept.swap_remove(smallest.expect("more than none are kept"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((again.as_ptr(), again.len()), (address, 90_000), "the smaller of two");
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
