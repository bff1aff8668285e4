//! Reads a partition's state from its rows, all but the rollups, and checks that it fits together.

use super::error::Error;
use super::identities::{Identities, Limits};
use super::keys::{self, Generation, Kind};
use super::position::{Position, row_hash};
use super::recent_row::rollup_hash;
use super::rows::{Row, RowStore, prefix_end};
use super::windows::{Chunk, Slot, Window, Windows};
use crate::format::{StoredRollup, codec};
use cluster::PartitionId;
use std::fmt::Display;

/// Rows that are read at a time.
const PAGE_ROWS: usize = 1024;

const CURRENT_VERSION: u8 = 1;

/// A partition's state without its rollups.
pub struct Loaded {
    /// The generation that counts.
    pub generation: Generation,
    /// Where the state stands.
    pub position: Position,
    /// What is remembered of producers and edges.
    pub base: Identities,
    /// Its rows are of an older layout and have to be written anew.
    pub is_outdated: bool,
}

/// Reads the state of the current generation; the empty state if there is none.
pub fn partition(id: PartitionId, rows: &dyn RowStore, limits: Limits) -> Result<Loaded, Error> {
    let mut base = Identities::new(limits);
    let Some(current) = rows.get(&keys::current(id))? else {
        return Ok(Loaded { generation: 1, position: Position::default(), base, is_outdated: false });
    };
    let generation = decode_current(&current).map_err(|error| damaged(id, &[0], error))?;
    let state = rows.get(&keys::key(id, generation, &keys::state()))?;
    let state = state.ok_or_else(|| damaged(id, &keys::state(), "it is missing"))?;
    let (mut position, has_digest) =
        Position::decode_any(&state).map_err(|error| damaged(id, &keys::state(), error))?;
    if !has_digest {
        position.rows_digest = rows_digest(id, generation, rows)?;
    }
    for kind in [Kind::ProducerHead, Kind::ProducerChunk, Kind::EdgeHead, Kind::EdgeChunk] {
        let prefix = keys::key(id, generation, &[kind as u8]);
        for_each(rows, &prefix, &prefix_end(&prefix), |(key, value)| {
            let (_, tail) = keys::split(&key).ok_or_else(|| damaged(id, &key, "key"))?;
            window_row(&mut base, tail, &value).map_err(|error| damaged(id, tail, error))
        })?;
    }
    base.clock_ms = position.clock_ms;
    if base.digest() != position.identities_digest {
        return Err(damaged(id, &[Kind::ProducerHead as u8], "the identities do not fit the state"));
    }
    // What was just read is in rows.
    base.producers.take_dirty();
    base.edges.take_dirty();
    Ok(Loaded { generation, position, base, is_outdated: !has_digest })
}

/// The digest of all rollups and quarantined entries, computed from their rows.
fn rows_digest(id: PartitionId, generation: Generation, rows: &dyn RowStore) -> Result<u64, Error> {
    let mut digest = 0;
    for kind in [Kind::Rollup, Kind::Quarantined] {
        let prefix = keys::key(id, generation, &[kind as u8]);
        for_each(rows, &prefix, &prefix_end(&prefix), |(key, value)| {
            let (_, tail) = keys::split(&key).ok_or_else(|| damaged(id, &key, "key"))?;
            digest ^= match kind {
                Kind::Rollup => {
                    rollup_hash(tail, &StoredRollup::decode(&value).map_err(|error| damaged(id, tail, error))?)
                }
                _ => row_hash(tail, &value),
            };
            Ok(())
        })?;
    }
    Ok(digest)
}

/// Puts one row of a window into its table; heads come before chunks.
pub fn window_row(base: &mut Identities, tail: &[u8], value: &[u8]) -> Result<(), String> {
    match keys::kind(tail) {
        Some(Kind::ProducerHead) => head(&mut base.producers, &tail[1..], value),
        Some(Kind::ProducerChunk) => chunk(&mut base.producers, tail, value),
        Some(Kind::EdgeHead) => head(&mut base.edges, &tail[1..], value),
        Some(Kind::EdgeChunk) => chunk(&mut base.edges, tail, value),
        _ => Err("it is no row of a window".to_owned()),
    }
}

fn head<T: Slot>(windows: &mut Windows<T>, owner: &[u8], value: &[u8]) -> Result<(), String> {
    let (floor, seen_hour) = Window::<T>::decode_head(value).map_err(|error| error.to_string())?;
    if windows.window(owner).is_some() {
        return Err("it is there twice".to_owned());
    }
    windows.load_head(owner, floor, seen_hour);
    Ok(())
}

fn chunk<T: Slot>(windows: &mut Windows<T>, tail: &[u8], value: &[u8]) -> Result<(), String> {
    let (owner, number) = keys::split_chunk(tail).ok_or("its key is malformed")?;
    let slots = Chunk::<T>::decode(value).map_err(|error| error.to_string())?;
    if windows.load_chunk(owner, number, slots) { Ok(()) } else { Err("it does not fit its window".to_owned()) }
}

/// Calls `work` for all rows with `from <= key < to`, in order.
pub fn for_each(
    rows: &dyn RowStore,
    from: &[u8],
    to: &[u8],
    mut work: impl FnMut(Row) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut from = from.to_vec();
    loop {
        let page = rows.scan(&from, to, PAGE_ROWS)?;
        let is_last = page.len() < PAGE_ROWS;
        if let Some((key, _)) = page.last() {
            from = [key, &[0][..]].concat();
        }
        for row in page {
            work(row)?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// The value of the row that names the current generation: a sealed layout (version 1, CRC32C) of its number (varint).
pub fn encode_current(generation: Generation) -> Vec<u8> {
    let mut out = codec::begin(CURRENT_VERSION);
    codec::put_varint(&mut out, u128::from(generation));
    codec::seal(out).into()
}

fn decode_current(bytes: &[u8]) -> Result<Generation, crate::format::Error> {
    let mut reader = codec::open("current generation", CURRENT_VERSION, bytes)?;
    let generation = Generation::try_from(reader.varint()?).map_err(|_| reader.invalid("number"))?;
    reader.end()?;
    Ok(generation)
}

/// A row that is not what was written.
pub fn damaged(partition: PartitionId, tail: &[u8], source: impl Display) -> Error {
    let row: String = tail.iter().map(|byte| format!("{byte:02x}")).collect();
    Error::Damaged { partition, what: format!("row {row}: {source}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_generation_layout_never_changes() {
        crate::format::golden::check("current-generation-v1", &encode_current(300));
        assert_eq!(decode_current(&crate::format::golden::read("current-generation-v1")), Ok(300));
    }
}
