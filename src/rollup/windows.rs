//! Windows of recent sequences, one per owner: the structure under the tables of producers and edges. Pure.
//!
//! ```text
//!   owner "checkout-7":   floor = 9,000          count = 4,096
//!     … forgotten …        │ chunk 35          │ chunk 36          │ …
//!     8,997 8,998 8,999    │ 9,000 9,001 …     │ 9,216 …           │      below the floor: nothing is known any more
//! ```
//!
//! A table is kept twice, as of `applied` and as of `consumed`. Both run the same operations, one later than the other, so
//! a chunk that was last touched by the same entry in both is the same chunk, and is shared. All orders are those of
//! ordered maps: the same on every replica.

use crate::format::Error;
use crate::format::codec::{self, Reader, put_varint};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Version of both rows.
const VERSION: u8 = 1;

/// Whose sequences they are: a producer's name or an edge's number, as bytes.
pub type Owner = Arc<[u8]>;

/// What is remembered of one sequence.
pub trait Slot: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Sequences in one chunk, at most 256: a power of two, and a chunk's row stays below 10 KB.
    const CHUNK_SEQUENCES: u64;
    /// Keeps the digests of different tables apart.
    const SALT: u8;
    /// Appends its bytes.
    fn encode(&self, bytes: &mut Vec<u8>);
    /// Takes its bytes off the front.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error>;
}

/// Sequences of one owner that lie in one aligned range.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk<T> {
    /// Offset of the entry that changed it last; not part of its rows.
    touched: u64,
    /// Place in the chunk, and what is remembered; in order.
    slots: Vec<(u8, T)>,
}

/// The sequences of one owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Window<T> {
    floor: u64,
    count: u64,
    seen_hour: u32,
    chunks: BTreeMap<u64, Arc<Chunk<T>>>,
}

/// A part of a window that has a row of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// Whose window.
    pub owner: Owner,
    /// The chunk, or `None` for the window's head.
    pub chunk: Option<u64>,
}

/// The windows of all owners.
#[derive(Debug, Clone)]
pub struct Windows<T> {
    owners: BTreeMap<Owner, Arc<Window<T>>>,
    /// Owners by the hour they were last seen in.
    ages: BTreeSet<(u32, Owner)>,
    remembered: u64,
    digest: u64,
    /// What changed since it was last taken; `None` where nobody takes it.
    dirty: Option<BTreeSet<Piece>>,
}

impl<T: Slot> Chunk<T> {
    /// Writes its row: a sealed layout (version 1, CRC32C) of the number of slots (varint), then per slot its place (u8)
    /// and what is remembered.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = codec::begin(VERSION);
        put_varint(&mut out, self.slots.len() as u128);
        for (place, slot) in &self.slots {
            out.push(*place);
            slot.encode(&mut out);
        }
        codec::seal(out).into()
    }

    /// Reads the slots of a row.
    pub fn decode(bytes: &[u8]) -> Result<Vec<(u8, T)>, Error> {
        let mut reader = codec::open("window chunk", VERSION, bytes)?;
        let count = reader.length()?;
        if count > 256 {
            return Err(reader.invalid("number of slots"));
        }
        let slots = (0..count).map(|_| Ok((reader.byte()?, T::decode(&mut reader)?))).collect::<Result<_, Error>>()?;
        reader.end()?;
        Ok(slots)
    }
}

impl<T: Slot> Window<T> {
    /// Writes the row of its head: a sealed layout (version 1, CRC32C) of floor and hour (varints).
    pub fn encode_head(&self) -> Vec<u8> {
        let mut out = codec::begin(VERSION);
        put_varint(&mut out, u128::from(self.floor));
        put_varint(&mut out, u128::from(self.seen_hour));
        codec::seal(out).into()
    }

    /// Reads floor and hour from the row of a head.
    pub fn decode_head(bytes: &[u8]) -> Result<(u64, u32), Error> {
        let mut reader = codec::open("window head", VERSION, bytes)?;
        let (floor, hour) = (reader.varint()?, reader.varint()?);
        let hour = u32::try_from(hour).map_err(|_| reader.invalid("hour"))?;
        reader.end()?;
        Ok((floor, hour))
    }

    /// A chunk by its number.
    pub fn chunk(&self, number: u64) -> Option<&Arc<Chunk<T>>> {
        self.chunks.get(&number)
    }

    /// Sequences below it are forgotten.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// How many sequences it remembers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Its chunks by number, lowest first.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, &Arc<Chunk<T>>)> {
        self.chunks.iter().map(|(number, chunk)| (*number, chunk))
    }

    /// What is remembered of a sequence.
    pub fn get(&self, sequence: u64) -> Option<&T> {
        let chunk = self.chunks.get(&(sequence / T::CHUNK_SEQUENCES))?;
        let place = chunk.slots.binary_search_by_key(&place_of::<T>(sequence), |slot| slot.0).ok()?;
        Some(&chunk.slots[place].1)
    }

    /// The lowest sequence it remembers.
    pub fn lowest(&self) -> Option<u64> {
        let (number, chunk) = self.chunks.first_key_value()?;
        chunk.slots.first().map(|(place, _)| sequence_of::<T>(*number, *place))
    }
}

impl<T: Slot> Windows<T> {
    /// No owners; changes are collected for [`Windows::take_dirty`].
    pub fn new() -> Windows<T> {
        let dirty = Some(BTreeSet::new());
        Windows { owners: BTreeMap::new(), ages: BTreeSet::new(), remembered: 0, digest: 0, dirty }
    }

    /// The same windows, sharing all chunks, without collecting changes.
    pub fn untracked(&self) -> Windows<T> {
        Windows { dirty: None, ..self.clone() }
    }

    /// The window of an owner.
    pub fn window(&self, owner: &[u8]) -> Option<&Window<T>> {
        self.owners.get(owner).map(|window| &**window)
    }

    /// All owners with their windows, in the order of the owners' bytes. Cheap to clone.
    pub fn owners(&self) -> &BTreeMap<Owner, Arc<Window<T>>> {
        &self.owners
    }

    /// How many sequences are remembered in all.
    pub fn remembered(&self) -> u64 {
        self.remembered
    }

    /// XOR of the hashes of all heads and slots.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Adds an owner that is not there (asserted), seen in `hour`.
    pub fn admit(&mut self, owner: &[u8], hour: u32) {
        self.load_head(owner, 0, hour);
        let owner = Owner::from(owner);
        self.mark(&owner, None);
    }

    /// Adds an owner that is not there (asserted) as a row says it is, without its chunks.
    pub fn load_head(&mut self, owner: &[u8], floor: u64, seen_hour: u32) {
        let owner = Owner::from(owner);
        let window = Window { floor, count: 0, seen_hour, chunks: BTreeMap::new() };
        self.digest ^= head_hash(&owner, &window);
        self.ages.insert((seen_hour, Arc::clone(&owner)));
        let previous = self.owners.insert(owner, Arc::new(window));
        assert!(previous.is_none(), "an owner is admitted once");
    }

    /// Adds a chunk as a row says it is; false if it does not fit its head.
    #[must_use]
    pub fn load_chunk(&mut self, owner: &[u8], number: u64, slots: Vec<(u8, T)>) -> bool {
        let Some(window) = self.owners.get_mut(owner) else { return false };
        let is_ordered = slots.is_sorted_by(|a, b| a.0 < b.0);
        let is_in_chunk = slots.iter().all(|(place, _)| u64::from(*place) < T::CHUNK_SEQUENCES);
        let Some(first) = slots.first() else { return false };
        if number > u64::MAX / T::CHUNK_SEQUENCES || !is_ordered || !is_in_chunk {
            return false;
        }
        if sequence_of::<T>(number, first.0) < window.floor {
            return false;
        }
        if window.chunks.contains_key(&number) {
            return false;
        }
        for (place, slot) in &slots {
            self.digest ^= slot_hash(owner, sequence_of::<T>(number, *place), slot);
        }
        self.remembered += slots.len() as u64;
        let window = Arc::make_mut(window);
        window.count += slots.len() as u64;
        window.chunks.insert(number, Arc::new(Chunk { touched: 0, slots }));
        true
    }

    /// Notes that an owner (there, asserted) was seen in `hour`; hours never go back.
    pub fn see(&mut self, owner: &[u8], hour: u32) {
        let (owner, window) = self.entry(owner);
        if window.seen_hour >= hour {
            return;
        }
        let old = window.seen_hour;
        self.change_head(&owner, |window| window.seen_hour = hour);
        self.ages.remove(&(old, Arc::clone(&owner)));
        self.ages.insert((hour, owner));
    }

    /// Remembers a sequence that is not remembered and not below the floor (asserted), on behalf of the entry at `offset`.
    pub fn insert(&mut self, owner: &[u8], sequence: u64, slot: T, offset: u64) {
        let (owner, window) = self.entry(owner);
        assert!(sequence >= window.floor, "sequence {sequence} is below the floor {}", window.floor);
        self.digest ^= slot_hash(&owner, sequence, &slot);
        self.remembered += 1;
        let number = sequence / T::CHUNK_SEQUENCES;
        let window = Arc::make_mut(self.owners.get_mut(&owner).expect("it was just there"));
        window.count += 1;
        let chunk = window.chunks.entry(number).or_insert_with(|| Arc::new(Chunk { touched: 0, slots: Vec::new() }));
        let chunk = Arc::make_mut(chunk);
        chunk.touched = offset;
        let place = place_of::<T>(sequence);
        match chunk.slots.binary_search_by_key(&place, |slot| slot.0) {
            Ok(_) => panic!("sequence {sequence} is remembered already"),
            Err(at) => chunk.slots.insert(at, (place, slot)),
        }
        self.mark(&owner, Some(number));
    }

    /// Forgets all sequences of an owner below `floor`, on behalf of the entry at `offset`. A floor never falls.
    pub fn raise_floor(&mut self, owner: &[u8], floor: u64, offset: u64) {
        let (owner, window) = self.entry(owner);
        if window.floor >= floor {
            return;
        }
        self.change_head(&owner, |window| window.floor = floor);
        while let Some((number, forgotten)) = self.forget_lowest(&owner, floor, offset) {
            self.remembered -= forgotten.len() as u64;
            for (place, slot) in &forgotten {
                self.digest ^= slot_hash(&owner, sequence_of::<T>(number, *place), slot);
            }
            self.mark(&owner, Some(number));
        }
    }

    /// Takes what lies below `floor` out of the lowest chunk.
    fn forget_lowest(&mut self, owner: &Owner, floor: u64, offset: u64) -> Option<(u64, Vec<(u8, T)>)> {
        let window = Arc::make_mut(self.owners.get_mut(owner).expect("the caller looked it up"));
        let mut lowest = window.chunks.first_entry()?;
        let number = *lowest.key();
        let kept = lowest.get().slots.partition_point(|(place, _)| sequence_of::<T>(number, *place) < floor);
        if kept == 0 {
            return None;
        }
        window.count -= kept as u64;
        let chunk = Arc::make_mut(lowest.get_mut());
        chunk.touched = offset;
        let forgotten = chunk.slots.drain(..kept).collect();
        if chunk.slots.is_empty() {
            lowest.remove();
        }
        Some((number, forgotten))
    }

    /// The owner that was seen least recently, with that hour; of several the first by name.
    pub fn oldest(&self) -> Option<(u32, Owner)> {
        self.ages.first().cloned()
    }

    /// Forgets an owner (there, asserted) and all its sequences.
    pub fn evict(&mut self, owner: &[u8]) {
        let (owner, window) = self.owners.remove_entry(owner).expect("only owners that are there are evicted");
        self.ages.remove(&(window.seen_hour, Arc::clone(&owner)));
        self.remembered -= window.count;
        self.digest ^= head_hash(&owner, &window);
        self.mark(&owner, None);
        for (number, chunk) in &window.chunks {
            for (place, slot) in &chunk.slots {
                self.digest ^= slot_hash(&owner, sequence_of::<T>(*number, *place), slot);
            }
            self.mark(&owner, Some(*number));
        }
    }

    /// Takes what changed since the last call. A piece that is no longer there has lost its row.
    pub fn take_dirty(&mut self) -> BTreeSet<Piece> {
        self.dirty.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives back what [`Windows::take_dirty`] took and could not be written.
    pub fn return_dirty(&mut self, pieces: BTreeSet<Piece>) {
        if let Some(dirty) = &mut self.dirty {
            dirty.extend(pieces);
        }
    }

    /// How many pieces changed.
    pub fn dirty(&self) -> usize {
        self.dirty.as_ref().map_or(0, BTreeSet::len)
    }

    /// Shares a chunk with the same table as of a later entry, where no entry in between touched it.
    pub fn share(&mut self, later: &Windows<T>, piece: &Piece) {
        let Some(number) = piece.chunk else { return };
        let theirs = later.owners.get(&piece.owner).and_then(|window| window.chunks.get(&number));
        let (Some(ours), Some(theirs)) = (self.owners.get_mut(&piece.owner), theirs) else { return };
        if let Some(chunk) = Arc::make_mut(ours).chunks.get_mut(&number)
            && chunk.touched == theirs.touched
        {
            debug_assert_eq!(chunk, theirs, "the same entries leave the same chunk");
            *chunk = Arc::clone(theirs);
        }
    }

    fn entry(&self, owner: &[u8]) -> (Owner, &Window<T>) {
        let (owner, window) = self.owners.get_key_value(owner).expect("the caller admitted the owner");
        (Arc::clone(owner), window)
    }

    fn change_head(&mut self, owner: &Owner, change: impl FnOnce(&mut Window<T>)) {
        let window = Arc::make_mut(self.owners.get_mut(owner).expect("the caller looked it up"));
        self.digest ^= head_hash(owner, window);
        change(window);
        self.digest ^= head_hash(owner, window);
        self.mark(owner, None);
    }

    fn mark(&mut self, owner: &Owner, chunk: Option<u64>) {
        if let Some(dirty) = &mut self.dirty {
            dirty.insert(Piece { owner: Arc::clone(owner), chunk });
        }
    }
}

fn place_of<T: Slot>(sequence: u64) -> u8 {
    u8::try_from(sequence % T::CHUNK_SEQUENCES).expect("a chunk has at most 256 sequences")
}

fn sequence_of<T: Slot>(number: u64, place: u8) -> u64 {
    number * T::CHUNK_SEQUENCES + u64::from(place)
}

fn head_hash<T: Slot>(owner: &[u8], window: &Window<T>) -> u64 {
    let mut bytes = vec![T::SALT, 0];
    bytes.extend_from_slice(owner);
    bytes.extend_from_slice(&window.floor.to_le_bytes());
    bytes.extend_from_slice(&window.seen_hour.to_le_bytes());
    xxh3_64(&bytes)
}

fn slot_hash<T: Slot>(owner: &[u8], sequence: u64, slot: &T) -> u64 {
    let mut bytes = vec![T::SALT, 1];
    bytes.extend_from_slice(owner);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    slot.encode(&mut bytes);
    xxh3_64(&bytes)
}
