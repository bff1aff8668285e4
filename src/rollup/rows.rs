//! An ordered map of rows on disk: the little that the room asks of a storage engine.
//!
//! Engines: [`super::sled_rows`] in production, [`super::journal_rows`] where the disk is not a directory of the operating
//! system. Both pass the same suite (`rows_conformance.rs`). Calls block; writes go through `Environment.tasks.blocking`.
//!
//! What an engine promises:
//! - a batch is in the map whole or not at all, also after a crash; readers may see a part of it while it is applied, unless it
//!   is [indivisible](RowBatch::make_indivisible);
//! - batches survive in the order they were applied: after a crash the map is as of some batch, never a mixture;
//! - what was applied before a [`RowStore::flush`] that returned `Ok` survives a power cut.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Looks at a key and its value, and says whether it wants to see the next one.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Whether an error says that the disk is full: the one that is not fatal.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Rows of one node, ordered by their keys' bytes.
pub trait RowStore: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Shows `each` the keys and values with `from <= key < to`, in order, until it breaks. It must not call the store.
    fn visit(&self, from: &[u8], to: &[u8], each: &mut Visit<'_>) -> io::Result<()>;

    /// The first `limit` rows with `from <= key < to`, in order.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Row>> {
        let mut rows = Vec::new();
        if limit > 0 {
            self.visit(from, to, &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        Ok(rows)
    }

    /// The last row with `from <= key < to`.
    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Row>>;

    /// Applies a batch. Readable on return, durable after the next [`RowStore::flush`].
    ///
    /// `StorageFull`: reads go on; the batch, and all that were applied since the last flush, may be lost and must be
    /// applied again when there is room. After any other error the process stops.
    fn apply(&self, batch: RowBatch) -> io::Result<()>;

    /// Ends what a full disk has left half-way: on return the rows are those of whole batches, and none of them goes away but
    /// with the power. For whoever is about to read rows without knowing what was being written.
    fn settle(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes all applied batches durable.
    ///
    /// `StorageFull` as with [`RowStore::apply`]. After any other error the process stops: a failed fsync must never be
    /// tried again.
    fn flush(&self) -> io::Result<()>;

    /// Flushes and lets go of the files. Calls after it fail.
    fn close(&self) -> io::Result<()>;
}

/// Changes that are made together. A later change of a key replaces an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowBatch {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    is_indivisible: bool,
}

impl RowBatch {
    /// Sets a key's value.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    /// Removes a key; no error if it is not there.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }

    /// Has readers see all of it or nothing, however much memory that takes.
    pub fn make_indivisible(&mut self) {
        self.is_indivisible = true;
    }

    /// Whether readers must see all of it or nothing.
    pub fn is_indivisible(&self) -> bool {
        self.is_indivisible
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Its changes in the order they were made; `None` removes.
    pub fn changes(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
        &self.changes
    }
}

impl IntoIterator for RowBatch {
    type Item = (Vec<u8>, Option<Vec<u8>>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.changes.into_iter()
    }
}

/// Kind, key length and value length before each key.
pub(super) const CHANGE_HEADER_BYTES: usize = 7;

/// Changes as bytes, each: 1 put, 0 remove (u8) | key length u16 LE | value length u32 LE | key | value.
pub(super) fn encode<'a>(changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone) -> Vec<u8> {
    let bytes = |(key, value): (&[u8], Option<&[u8]>)| CHANGE_HEADER_BYTES + key.len() + value.map_or(0, <[u8]>::len);
    let mut body = Vec::with_capacity(changes.clone().map(bytes).sum());
    for (key, value) in changes {
        let key_bytes = u16::try_from(key.len()).expect("keys of this room are shorter than 64 KiB");
        let value_bytes = u32::try_from(value.map_or(0, <[u8]>::len)).expect("values are shorter than 4 GiB");
        body.push(u8::from(value.is_some()));
        body.extend_from_slice(&key_bytes.to_le_bytes());
        body.extend_from_slice(&value_bytes.to_le_bytes());
        body.extend_from_slice(key);
        body.extend_from_slice(value.unwrap_or_default());
    }
    body
}

/// What [`encode`] wrote; `None` where it did not.
pub(super) fn decode(mut body: &[u8]) -> Option<RowBatch> {
    let mut batch = RowBatch::default();
    while !body.is_empty() {
        let (header, rest) = body.split_at_checked(CHANGE_HEADER_BYTES)?;
        let [kind, k0, k1, v0, v1, v2, v3] = *header else { return None };
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([k0, k1])))?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes([v0, v1, v2, v3]) as usize)?;
        match kind {
            0 => batch.remove(key.to_vec()),
            1 => batch.put(key.to_vec(), value.to_vec()),
            _ => return None,
        }
        body = rest;
    }
    Some(batch)
}

/// The smallest key that is greater than every key starting with `prefix`.
///
/// `prefix` must hold a byte other than 0xff (asserted): every prefix of this room starts with a partition number.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX).expect("a prefix holds a byte other than 0xff");
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

/// Whether every sync has succeeded. After one that failed nothing is tried again: the operating system may have dropped what
/// was to be made durable, and would say `Ok` the next time.
#[derive(Debug, Default)]
pub struct Syncs {
    has_failed: AtomicBool,
}

impl Syncs {
    /// An error if a sync has failed before.
    pub fn check(&self) -> io::Result<()> {
        match self.has_failed.load(Relaxed) {
            false => Ok(()),
            true => Err(io::Error::other("a sync of the row store failed before, what it holds may not be durable")),
        }
    }

    /// Takes note of a sync. One that failed is never for want of room, even if the disk says so.
    pub fn note(&self, outcome: io::Result<()>) -> io::Result<()> {
        self.has_failed.fetch_or(outcome.is_err(), Relaxed);
        outcome.map_err(io::Error::other)
    }
}

#[cfg(test)]
#[path = "rows_conformance.rs"]
pub(super) mod conformance;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_the_next_key_after_the_prefix() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(&[1, 0xff, 0xff]), [2]);
    }
}
