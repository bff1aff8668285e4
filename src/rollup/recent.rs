//! Rollups in memory, above those in the row store: the ones that changed since they were last written, the ones that were
//! written last, and the ones that were read last. Pure.

use super::recent_row::RecentRow;
use crate::format::Quarantined;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Rows of each of two halves that were read and are kept, so that hot hours do not ask the store: some 2 MB of a partition
/// with sketches of 300 bins.
const READ_ROWS_MAX: usize = 1024;

/// Rollups by the tail of their key.
#[derive(Debug, Default)]
pub struct Recent {
    rows: BTreeMap<Vec<u8>, Kept>,
    /// How many of them changed since they were last taken.
    dirty: usize,
    /// How many of them are being written out now.
    writing: usize,
    quarantined: BTreeMap<u64, Quarantined>,
    read: ReadRows,
}

/// A row in memory, and whether the row store has it. Both marks stand where one changes while it is written.
#[derive(Debug)]
struct Kept {
    row: RecentRow,
    is_dirty: bool,
    is_writing: bool,
}

/// Rows as the row store has them, as long as nothing changes them. When the younger half is full, the older one is
/// forgotten.
#[derive(Debug, Default)]
struct ReadRows {
    younger: BTreeMap<Vec<u8>, RecentRow>,
    older: BTreeMap<Vec<u8>, RecentRow>,
}

/// Rows that are to be written.
#[derive(Debug, Default, Clone)]
pub struct Taken {
    /// Rollups by tail.
    pub rows: Vec<(Vec<u8>, RecentRow)>,
    /// Quarantined entries.
    pub quarantined: Vec<Quarantined>,
}

impl Recent {
    /// A row, if it is in memory.
    pub fn get(&self, tail: &[u8]) -> Option<&RecentRow> {
        let kept = self.rows.get(tail).map(|kept| &kept.row);
        kept.or_else(|| self.read.younger.get(tail)).or_else(|| self.read.older.get(tail))
    }

    /// Keeps a row that was just read from the row store, where it still is the newest.
    pub fn keep_read(&mut self, tail: Vec<u8>, row: RecentRow) {
        if self.rows.contains_key(&tail) {
            return;
        }
        if self.read.younger.len() >= READ_ROWS_MAX {
            self.read.older = std::mem::take(&mut self.read.younger);
        }
        self.read.younger.insert(tail, row);
    }

    /// The rows with `from <= tail < to`, in order.
    pub fn range(&self, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &RecentRow)> {
        let to = to.max(from);
        let kept = self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        kept.map(|(tail, kept)| (tail, &kept.row))
    }

    /// Puts a changed row.
    pub fn put(&mut self, tail: Vec<u8>, row: RecentRow) {
        match self.rows.get_mut(&tail) {
            Some(kept) => {
                self.dirty += usize::from(!kept.is_dirty);
                kept.row = row;
                kept.is_dirty = true;
            }
            None => {
                self.read.younger.remove(&tail);
                self.read.older.remove(&tail);
                self.dirty += 1;
                self.rows.insert(tail, Kept { row, is_dirty: true, is_writing: false });
            }
        }
    }

    /// Sets an entry aside.
    pub fn quarantine(&mut self, entry: Quarantined) {
        self.quarantined.insert(entry.offset, entry);
    }

    /// Quarantined entries that are not written yet, from an offset on.
    pub fn quarantined(&self, from: u64) -> impl Iterator<Item = &Quarantined> {
        self.quarantined.range(from..).map(|(_, entry)| entry)
    }

    /// How many rows changed since they were last taken.
    pub fn dirty(&self) -> usize {
        self.dirty + self.quarantined.len()
    }

    /// All rows that the row store does not hold for sure in their newest form.
    pub fn unwritten(&self) -> Taken {
        let rows = self.rows.iter().filter(|(_, kept)| kept.is_dirty || kept.is_writing);
        Taken {
            rows: rows.map(|(tail, kept)| (tail.clone(), kept.row.clone())).collect(),
            quarantined: self.quarantined.values().cloned().collect(),
        }
    }

    /// Takes what changed, to write it. Ends with [`Recent::written`] or [`Recent::not_written`].
    pub fn take(&mut self) -> Taken {
        assert_eq!(self.writing, 0, "one write-out at a time");
        let mut rows = Vec::with_capacity(self.dirty);
        for (tail, kept) in self.rows.iter_mut().filter(|(_, kept)| kept.is_dirty) {
            (kept.is_dirty, kept.is_writing) = (false, true);
            rows.push((tail.clone(), kept.row.clone()));
        }
        (self.dirty, self.writing) = (0, rows.len());
        Taken { rows, quarantined: self.quarantined.values().cloned().collect() }
    }

    /// What was taken is in the row store: what did not change in the meantime may be forgotten. The rows of this
    /// write-out are kept if they are not more than `kept_max`, because they are likely to change again; those of earlier ones are
    /// not.
    pub fn written(&mut self, taken: &Taken, kept_max: usize) {
        let keeps_written = self.writing <= kept_max;
        self.writing = 0;
        self.rows.retain(|_, kept| {
            let was_written = std::mem::take(&mut kept.is_writing);
            kept.is_dirty || (keeps_written && was_written)
        });
        for entry in &taken.quarantined {
            self.quarantined.remove(&entry.offset);
        }
    }

    /// What was taken could not be written and is to be written again.
    pub fn not_written(&mut self) {
        self.writing = 0;
        for kept in self.rows.values_mut().filter(|kept| kept.is_writing) {
            self.dirty += usize::from(!kept.is_dirty);
            (kept.is_dirty, kept.is_writing) = (true, false);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Recent::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::StoredRollup;

    fn row(revision: u64) -> RecentRow {
        RecentRow::new(&[], StoredRollup { revision, ..StoredRollup::default() })
    }

    fn revision(recent: &Recent, tail: &[u8]) -> Option<u64> {
        recent.get(tail).map(|row| row.stored().revision)
    }

    fn tails(taken: &Taken) -> Vec<Vec<u8>> {
        taken.rows.iter().map(|(tail, _)| tail.clone()).collect()
    }

    #[test]
    fn rows_that_change_while_they_are_written_are_written_again() {
        let mut recent = Recent::default();
        recent.put(vec![1], row(1));
        recent.put(vec![2], row(1));
        let taken = recent.take();
        assert_eq!(tails(&taken), [[1], [2]]);
        recent.put(vec![2], row(2));
        assert_eq!(tails(&recent.unwritten()), [[1], [2]], "a snapshot needs both");
        recent.written(&taken, 9);
        assert_eq!(tails(&recent.take()), [[2]]);
    }

    #[test]
    fn rows_of_earlier_write_outs_are_forgotten() {
        let mut recent = Recent::default();
        recent.put(vec![1], row(1));
        let taken = recent.take();
        recent.written(&taken, 9);
        assert!(recent.get(&[1]).is_some(), "likely to change again");
        recent.put(vec![2], row(1));
        let taken = recent.take();
        recent.written(&taken, 9);
        assert!(recent.get(&[1]).is_none() && recent.get(&[2]).is_some());
        recent.put(vec![1], row(1));
        recent.put(vec![2], row(1));
        let taken = recent.take();
        recent.written(&taken, 1);
        assert!(recent.get(&[1]).is_none() && recent.get(&[2]).is_none(), "too many to be kept");
    }

    #[test]
    fn rows_that_could_not_be_written_stay_dirty() {
        let mut recent = Recent::default();
        recent.put(vec![1], row(1));
        recent.take();
        recent.not_written();
        assert_eq!((recent.dirty(), tails(&recent.take())), (1, vec![vec![1]]));
        recent.put(vec![1], row(2));
        recent.put(vec![2], row(2));
        recent.not_written();
        assert_eq!((recent.dirty(), tails(&recent.take())), (2, vec![vec![1], vec![2]]));
    }

    #[test]
    fn a_row_that_was_read_is_kept_until_it_changes() {
        let mut recent = Recent::default();
        recent.keep_read(vec![1], row(1));
        assert_eq!((revision(&recent, &[1]), recent.dirty()), (Some(1), 0));
        recent.put(vec![1], row(2));
        recent.keep_read(vec![1], row(1));
        let taken = recent.take();
        recent.written(&taken, 9);
        recent.take();
        recent.written(&Taken::default(), 9);
        assert_eq!(revision(&recent, &[1]), None, "what was read before the change is not shown after it");
    }

    #[test]
    fn rows_that_were_read_long_ago_are_forgotten() {
        let mut recent = Recent::default();
        let tails: Vec<_> = (0..3 * READ_ROWS_MAX).map(|number| number.to_le_bytes().to_vec()).collect();
        tails.iter().for_each(|tail| recent.keep_read(tail.clone(), row(1)));
        let kept = tails.iter().filter(|tail| recent.get(tail).is_some()).count();
        assert!((READ_ROWS_MAX..=2 * READ_ROWS_MAX).contains(&kept), "{kept}");
        assert!(recent.get(&tails[0]).is_none() && recent.get(tails.last().unwrap()).is_some());
    }
}
