//! A partition's whole state for another replica, streamed while this one goes on.
//!
//! A snapshot is a sequence of chunks. Each is a sealed layout (version 1, CRC32C) that begins with its type:
//!
//! | type | then |
//! |---|---|
//! | 0 header, the first chunk | the state's row ([`super::position`]; length, bytes) |
//! | 1 rows | number of rows (varint), then per row the tail of its key ([`super::keys`]) and its value (length, bytes each) |
//! | 2 end, the last chunk | number of rows in all (varint) |
//!
//! Rows come by owner for producers, then for edges (each window's head before its chunks), then rollups, then quarantined
//! entries, all in the order of their tails. The digests in the header are over these rows.
//!
//! The state is captured by pointers. Rollups are read from the row store page by page as the receiver takes them; a
//! write-out that comes before a page keeps the value it writes over in the snapshot's [`Overlay`].

use super::error::Error;
use super::identities::{Answer, First};
use super::keys::{self, Generation, Kind};
use super::position::Position;
use super::quarantine;
use super::recent_row::RecentRow;
use super::rows::Row;
use super::state::{Condition, PartitionState, Shared};
use super::windows::{Owner, Slot, Window};
use crate::format::codec::{self, put_bytes, put_varint};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{SNAPSHOT_CHUNK_BYTES_MAX, Snapshot, SnapshotChunks};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// Version of a chunk's layout.
pub(super) const VERSION: u8 = 1;
pub(super) const TYPE_HEADER: u8 = 0;
pub(super) const TYPE_ROWS: u8 = 1;
pub(super) const TYPE_END: u8 = 2;

/// Bytes of a chunk around its rows: version, checksum, type, number of rows, with room to spare.
const CHUNK_OVERHEAD_BYTES: usize = 32;

/// Rows that are read from the store at a time.
const PAGE_ROWS: usize = 256;

/// What the rows of rollups were when a snapshot was captured, where the row store says (or may say) something else.
#[derive(Debug, Default)]
pub struct Overlay {
    rows: BTreeMap<Vec<u8>, Old>,
    /// Rows below this tail were sent.
    sent: Vec<u8>,
}

#[derive(Debug)]
enum Old {
    Row(RecentRow),
    Value(Vec<u8>),
    Absent,
}

impl Overlay {
    /// Whether the old value of a row must be kept before it is written over.
    pub fn needs(&self, tail: &[u8]) -> bool {
        tail >= &self.sent[..] && !self.rows.contains_key(tail)
    }

    /// Keeps the old value of a row, `None` if there was no row.
    pub fn keep(&mut self, tail: &[u8], old: Option<Vec<u8>>) {
        if self.needs(tail) {
            self.rows.insert(tail.to_vec(), old.map_or(Old::Absent, Old::Value));
        }
    }

    /// The rows below `end` as they were, from a page of the row store that has all of its rows from `sent` to `end`. The
    /// page was read before this call: a write-out that it may show has left the old values here before it wrote.
    fn take_page(&mut self, page: Vec<Row>, end: Vec<u8>) -> Vec<Row> {
        let later = self.rows.split_off(&end);
        let kept = std::mem::replace(&mut self.rows, later);
        self.sent = end;
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = page.into_iter().collect();
        for (tail, old) in kept {
            match old {
                Old::Row(row) => rows.insert(tail, row.stored().encode().into()),
                Old::Value(value) => rows.insert(tail, value),
                Old::Absent => rows.remove(&tail),
            };
        }
        rows.into_iter().collect()
    }
}

/// A captured state.
pub struct Capture {
    shared: Arc<Shared>,
    generation: Generation,
    position: Position,
    overlay: Arc<Mutex<Overlay>>,
    producers: BTreeMap<Owner, Arc<Window<First>>>,
    edges: BTreeMap<Owner, Arc<Window<Answer>>>,
    /// Rows of quarantined entries that may not be in the row store.
    quarantined: BTreeMap<Vec<u8>, Vec<u8>>,
    stage: Stage,
    pending: VecDeque<Row>,
    rows_sent: u64,
}

/// What comes next; the tail is where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Header,
    Producers,
    Edges,
    Rollups(Vec<u8>),
    Quarantined(Vec<u8>),
    End,
    Over,
}

impl PartitionState {
    /// Captures the state at `consumed`; an error where it is broken or removed.
    pub(super) fn capture(&self) -> Result<Capture, Error> {
        let _long_holder = self.shared.holds_long();
        let recent = self.shared.lock_recent();
        let unwritten = recent.unwritten();
        let mut inner = self.shared.lock();
        if inner.condition != Condition::Sound {
            return Err(self.shared.broken(format!("its state is {:?} and cannot be read", inner.condition)));
        }
        let rows = unwritten.rows.into_iter().map(|(tail, row)| (tail, Old::Row(row))).collect();
        let overlay = Arc::new(Mutex::new(Overlay { rows, sent: Vec::new() }));
        inner.snapshots.retain(|overlay| overlay.strong_count() > 0);
        inner.snapshots.push(Arc::downgrade(&overlay));
        Ok(Capture {
            shared: Arc::clone(&self.shared),
            generation: inner.generation,
            position: inner.position.clone(),
            overlay,
            producers: inner.base.producers.owners().clone(),
            edges: inner.base.edges.owners().clone(),
            quarantined: unwritten.quarantined.iter().flat_map(quarantine::rows).collect(),
            stage: Stage::Header,
            pending: VecDeque::new(),
            rows_sent: 0,
        })
    }
}

impl Capture {
    /// The position it is at.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// As the log wants it.
    pub fn into_snapshot(self) -> Snapshot {
        Snapshot { durable: self.position.durable(), chunks: Box::new(Chunks(Some(self))) }
    }

    /// The next chunk, or `None` after the last. Blocks.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if self.stage == Stage::Header {
            self.stage = Stage::Producers;
            return Ok(Some(header_chunk(&self.position)));
        }
        let mut rows = Vec::new();
        let mut bytes = CHUNK_OVERHEAD_BYTES;
        loop {
            while let Some((tail, value)) = self.pending.pop_front() {
                let row_bytes = tail.len() + value.len() + 10;
                if bytes + row_bytes > SNAPSHOT_CHUNK_BYTES_MAX {
                    assert!(!rows.is_empty(), "a row of {row_bytes} bytes does not fit a chunk");
                    self.pending.push_front((tail, value));
                    return Ok(Some(rows_chunk(&rows)));
                }
                bytes += row_bytes;
                self.rows_sent += 1;
                rows.push((tail, value));
            }
            match self.stage {
                Stage::End | Stage::Over if !rows.is_empty() => return Ok(Some(rows_chunk(&rows))),
                Stage::End => {
                    self.stage = Stage::Over;
                    return Ok(Some(end_chunk(self.rows_sent)));
                }
                Stage::Over => return Ok(None),
                _ => self.read_on()?,
            }
        }
    }

    /// Reads the next rows into `pending`, and moves to the next stage where there are none.
    fn read_on(&mut self) -> Result<(), Error> {
        let (rows, next) = match self.stage.clone() {
            Stage::Producers => match self.producers.pop_first() {
                Some((owner, window)) => (window_rows(&owner, &window, PRODUCER_KINDS), Stage::Producers),
                None => (Vec::new(), Stage::Edges),
            },
            Stage::Edges => match self.edges.pop_first() {
                Some((owner, window)) => (window_rows(&owner, &window, EDGE_KINDS), Stage::Edges),
                None => (Vec::new(), Stage::Rollups(vec![Kind::Rollup as u8])),
            },
            Stage::Rollups(from) => {
                let (page, end) = self.page(&from, Kind::Rollup)?;
                let is_last = end == kind_end(Kind::Rollup);
                let rows = self.lock_overlay().take_page(page, end.clone());
                (rows, if is_last { Stage::Quarantined(vec![Kind::Quarantined as u8]) } else { Stage::Rollups(end) })
            }
            Stage::Quarantined(from) => {
                let (page, end) = self.page(&from, Kind::Quarantined)?;
                let is_last = end == kind_end(Kind::Quarantined);
                (self.quarantined_page(page, &end), if is_last { Stage::End } else { Stage::Quarantined(end) })
            }
            Stage::Header | Stage::End | Stage::Over => (Vec::new(), Stage::Over),
        };
        self.pending.extend(rows);
        self.stage = next;
        Ok(())
    }

    /// A page of the row store from a tail on, and the tail that the next one begins at.
    fn page(&self, from: &[u8], kind: Kind) -> Result<(Vec<Row>, Vec<u8>), Error> {
        let end = kind_end(kind);
        let (from, to) = (self.shared.key(self.generation, from), self.shared.key(self.generation, &end));
        let page = self.shared.rows.scan(&from, &to, PAGE_ROWS)?;
        if self.shared.lock().generation != self.generation {
            return Err(Error::Replaced);
        }
        let mut rows = Vec::with_capacity(page.len());
        for (key, value) in page {
            let (_, tail) = keys::split(&key).ok_or_else(|| self.shared.damaged(&key, "key"))?;
            rows.push((tail.to_vec(), value));
        }
        let next = match rows.last() {
            Some((last, _)) if rows.len() == PAGE_ROWS => [last, &[0][..]].concat(),
            _ => end,
        };
        Ok((rows, next))
    }

    /// Quarantined entries never change; those behind the captured position are left out.
    fn quarantined_page(&mut self, page: Vec<Row>, end: &[u8]) -> Vec<Row> {
        let consumed = self.position.offset().map(|offset| offset.0);
        let later = self.quarantined.split_off(end);
        let mut rows = std::mem::replace(&mut self.quarantined, later);
        rows.extend(page);
        rows.into_iter()
            .filter(|(tail, _)| keys::split_quarantined(tail).map(|(offset, _)| offset) <= consumed)
            .collect()
    }

    fn lock_overlay(&self) -> MutexGuard<'_, Overlay> {
        self.overlay.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The chunks of a capture; `None` after an error.
struct Chunks(Option<Capture>);

#[async_trait]
impl SnapshotChunks for Chunks {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut capture = self.0.take().ok_or_else(|| io::Error::other("the snapshot has failed before"))?;
        let tasks = capture.shared.environment.tasks.clone();
        let (capture, chunk) = tasks
            .blocking(move || {
                let chunk = capture.next_chunk();
                (capture, chunk)
            })
            .await;
        let chunk = chunk?;
        self.0 = Some(capture);
        Ok(chunk)
    }
}

const PRODUCER_KINDS: [Kind; 2] = [Kind::ProducerHead, Kind::ProducerChunk];
const EDGE_KINDS: [Kind; 2] = [Kind::EdgeHead, Kind::EdgeChunk];

fn window_rows<T: Slot>(owner: &Owner, window: &Window<T>, [head, chunk]: [Kind; 2]) -> Vec<Row> {
    let mut rows = vec![(keys::head(head, owner), window.encode_head())];
    rows.extend(window.chunks().map(|(number, slots)| (keys::chunk(chunk, owner, number), slots.encode())));
    rows
}

fn kind_end(kind: Kind) -> Vec<u8> {
    vec![kind as u8 + 1]
}

fn header_chunk(position: &Position) -> Bytes {
    let mut out = codec::begin(VERSION);
    out.push(TYPE_HEADER);
    put_bytes(&mut out, &position.encode());
    codec::seal(out)
}

fn rows_chunk(rows: &[Row]) -> Bytes {
    let mut out = codec::begin(VERSION);
    out.push(TYPE_ROWS);
    put_varint(&mut out, rows.len() as u128);
    for (tail, value) in rows {
        put_bytes(&mut out, tail);
        put_bytes(&mut out, value);
    }
    let sealed = codec::seal(out);
    assert!(sealed.len() <= SNAPSHOT_CHUNK_BYTES_MAX, "a chunk of {} bytes", sealed.len());
    sealed
}

fn end_chunk(rows: u64) -> Bytes {
    let mut out = codec::begin(VERSION);
    out.push(TYPE_END);
    put_varint(&mut out, u128::from(rows));
    codec::seal(out)
}
