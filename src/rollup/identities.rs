//! What is remembered of producers and edges, and the verdicts that follow from it. Pure.
//!
//! A verdict depends on nothing but the entries before it in the log: where `consumed` stood, when a replica restarted or
//! whether it began from a snapshot makes no difference. Therefore the whole decision, forgetting included, is one
//! operation per entry, which runs once when the entry is applied and once more, with the same outcome (asserted), when
//! `consumed` passes it.
//!
//! What is forgotten, and when:
//! - of each producer the newest [`SEQUENCES_MIN`] sequences are remembered; one below them is expired, never counted;
//! - when the table is full, producers that were silent for [`IDLE_HOURS`] hours of the log's clock (the largest stamp of
//!   any entry) are forgotten, longest silence first; if there are none, a new producer is refused. One that is known goes on
//!   until the table is full twice, then it is refused too: whoever was accepted stays remembered;
//! - of each edge the newest [`EDGE_SPAN`] numbers are remembered, which is more than it may have unanswered; an edge that
//!   was silent for [`EDGE_IDLE_HOURS`] hours is forgotten when there are more than the table holds.
//!
//! These limits are constants: replicas with different ones would come to different verdicts.

use super::windows::{Slot, Windows};
use crate::domain::{Identity, MS_PER_HOUR, TimeLimits, Verdict, Verdicts};
use crate::format::codec::{Reader, put_limits, put_varint, take_limits};
use crate::format::{Error, EventsEntry, PARTS_MAX};

/// Sequences that are remembered of each producer.
pub const SEQUENCES_MIN: u64 = 4096;
/// What the table of producers holds, in sequences: about 100 MB in memory.
pub const REMEMBERED_MAX: u64 = 1 << 21;
/// What a producer costs beside its sequences, in sequences.
pub const PRODUCER_WEIGHT: u64 = 16;
/// Whole hours of silence after which a producer may be forgotten: one more than promised, because hours are cut.
pub const IDLE_HOURS: u32 = 25;
/// Numbers of an edge that are remembered. An edge has fewer unanswered.
pub const EDGE_SPAN: u64 = 1024;
/// Edges in the table: every start of a node is one.
pub const EDGES_MAX: usize = 4096;
/// Whole hours of silence after which an edge may be forgotten: it gives up on an entry within minutes.
pub const EDGE_IDLE_HOURS: u32 = 2;

/// The bounds of the tables; only tests have others than [`Limits::default`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// See [`SEQUENCES_MIN`].
    pub sequences_min: u64,
    /// See [`REMEMBERED_MAX`].
    pub remembered_max: u64,
    /// See [`EDGE_SPAN`].
    pub edge_span: u64,
    /// See [`EDGES_MAX`].
    pub edges_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sequences_min: SEQUENCES_MIN,
            remembered_max: REMEMBERED_MAX,
            edge_span: EDGE_SPAN,
            edges_max: EDGES_MAX,
        }
    }
}

/// The entry that a producer's sequence came with first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// Hash of the request's body.
    pub body_hash: u64,
    /// Offset of the entry.
    pub offset: u64,
    /// Which event times its lines were read with.
    pub limits: TimeLimits,
}

/// The answer that an edge's entry got first.
///
/// Of duplicates it is not remembered of what: their producers' windows know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Offset of the entry.
    pub offset: u64,
    /// Outcomes and how many parts in a row had them.
    pub runs: Vec<(Outcome, u16)>,
}

/// A [`Verdict`] without what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// See [`Verdict::Accepted`].
    Accepted,
    /// See [`Verdict::Duplicate`].
    Duplicate,
    /// See [`Verdict::Reused`].
    Reused,
    /// See [`Verdict::Expired`].
    Expired,
    /// See [`Verdict::TableFull`].
    TableFull,
}

/// Who an entry is from, without its events: what is needed to decide about it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Which node, in which of its lives, made it.
    pub edge: u128,
    /// Its number there.
    pub edge_sequence: u64,
    /// That node's wall clock, ms since the epoch.
    pub stamp_ms: u64,
    /// Of each part.
    pub identities: Vec<Option<Identity>>,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It was decided now.
    Fresh(Verdicts),
    /// It repeats an entry that was decided before: nothing of it counts, whatever the first answer says.
    Repeated(Verdicts),
}

/// Producers and edges as of one entry of the log.
#[derive(Debug, Clone)]
pub struct Identities {
    /// Of producers, by name.
    pub producers: Windows<First>,
    /// Of edges, by number (big endian).
    pub edges: Windows<Answer>,
    /// The log's clock: the largest stamp of any entry, ms since the epoch.
    pub clock_ms: u64,
    limits: Limits,
}

impl Header {
    /// The header of an entry.
    pub fn of(entry: &EventsEntry) -> Header {
        Header {
            edge: entry.edge,
            edge_sequence: entry.edge_sequence,
            stamp_ms: entry.stamp_ms,
            identities: entry.parts.iter().map(|part| part.identity.clone()).collect(),
        }
    }
}

impl Decision {
    /// What the one who appended the entry is told.
    pub fn verdicts(&self) -> &Verdicts {
        match self {
            Decision::Fresh(verdicts) | Decision::Repeated(verdicts) => verdicts,
        }
    }
}

impl First {
    fn repeat(&self) -> Verdict {
        Verdict::Duplicate { offset: self.offset, limits: self.limits }
    }
}

impl Answer {
    fn of(verdicts: &Verdicts) -> Answer {
        let mut runs: Vec<(Outcome, u16)> = Vec::new();
        for verdict in &verdicts.parts {
            let outcome = match verdict {
                Verdict::Accepted => Outcome::Accepted,
                Verdict::Duplicate { .. } => Outcome::Duplicate,
                Verdict::Reused => Outcome::Reused,
                Verdict::Expired => Outcome::Expired,
                Verdict::TableFull => Outcome::TableFull,
            };
            match runs.last_mut() {
                Some((last, count)) if *last == outcome => *count += 1,
                _ => runs.push((outcome, 1)),
            }
        }
        Answer { offset: verdicts.offset, runs }
    }

    fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        self.runs.iter().flat_map(|(outcome, count)| std::iter::repeat_n(*outcome, usize::from(*count)))
    }
}

impl Identities {
    /// Nobody is known.
    pub fn new(limits: Limits) -> Identities {
        Identities { producers: Windows::new(), edges: Windows::new(), clock_ms: 0, limits }
    }

    /// The same tables, sharing their memory, without collecting changes.
    pub fn untracked(&self) -> Identities {
        Identities {
            producers: self.producers.untracked(),
            edges: self.edges.untracked(),
            clock_ms: self.clock_ms,
            limits: self.limits.clone(),
        }
    }

    /// The bounds of the tables.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// XOR of the hashes of everything that is remembered.
    pub fn digest(&self) -> u64 {
        self.producers.digest() ^ self.edges.digest()
    }

    /// Decides about the entry at `offset` and remembers it.
    pub fn decide(&mut self, offset: u64, header: &Header) -> Decision {
        self.clock_ms = self.clock_ms.max(header.stamp_ms);
        let parts = header.identities.len();
        let edge = header.edge.to_be_bytes();
        if let Some(window) = self.edges.window(&edge) {
            if let Some(first) = window.get(header.edge_sequence) {
                return Decision::Repeated(self.recall(first, &header.identities));
            }
            if header.edge_sequence < window.floor() {
                return Decision::Repeated(Verdicts { offset, parts: vec![Verdict::Expired; parts] });
            }
        } else if !self.admit_edge(&edge) {
            return Decision::Fresh(Verdicts { offset, parts: vec![Verdict::TableFull; parts] });
        }
        let verdicts = header.identities.iter().map(|identity| match identity {
            Some(identity) => self.judge(offset, identity),
            None => Verdict::Accepted,
        });
        let verdicts = Verdicts { offset, parts: verdicts.collect() };
        let hour = self.hour();
        self.edges.see(&edge, hour);
        self.edges.insert(&edge, header.edge_sequence, Answer::of(&verdicts), offset);
        self.edges.raise_floor(&edge, header.edge_sequence.saturating_sub(self.limits.edge_span - 1), offset);
        Decision::Fresh(verdicts)
    }

    /// The verdicts on an entry that was decided before. A duplicate whose first was forgotten since is expired.
    fn recall(&self, answer: &Answer, identities: &[Option<Identity>]) -> Verdicts {
        let verdicts = answer.outcomes().zip(identities).map(|(outcome, identity)| match outcome {
            Outcome::Accepted => Verdict::Accepted,
            Outcome::Duplicate => {
                identity.as_ref().and_then(|it| self.first(it)).map_or(Verdict::Expired, First::repeat)
            }
            Outcome::Reused => Verdict::Reused,
            Outcome::Expired => Verdict::Expired,
            Outcome::TableFull => Verdict::TableFull,
        });
        Verdicts { offset: answer.offset, parts: verdicts.collect() }
    }

    fn first(&self, identity: &Identity) -> Option<&First> {
        self.producers.window(identity.producer.as_str().as_bytes())?.get(identity.sequence.0)
    }

    /// Makes a new edge known; false if there are too many, none of them silent for long.
    fn admit_edge(&mut self, edge: &[u8]) -> bool {
        while self.edges.owners().len() >= self.limits.edges_max {
            match self.edges.oldest() {
                Some((hour, idle)) if self.hour() >= hour.saturating_add(EDGE_IDLE_HOURS) => self.edges.evict(&idle),
                _ => return false,
            }
        }
        let hour = self.hour();
        self.edges.admit(edge, hour);
        true
    }

    fn judge(&mut self, offset: u64, identity: &Identity) -> Verdict {
        let producer = identity.producer.as_str().as_bytes();
        let (sequence, hour) = (identity.sequence.0, self.hour());
        let Some(window) = self.producers.window(producer) else {
            if !self.has_room() {
                return Verdict::TableFull;
            }
            self.producers.admit(producer, hour);
            self.remember(offset, identity);
            return Verdict::Accepted;
        };
        if sequence < window.floor() {
            return Verdict::Expired;
        }
        let known = window.get(sequence).cloned();
        self.producers.see(producer, hour);
        match known {
            Some(first) if first.body_hash == identity.body_hash => first.repeat(),
            Some(_) => Verdict::Reused,
            None => self.accept_known(offset, identity),
        }
    }

    /// Accepts a new sequence of a producer that is known, at the cost of its lowest one where its window is full. One that
    /// would itself be the lowest of a full window is refused: it would be forgotten at once, and its retry count again.
    fn accept_known(&mut self, offset: u64, identity: &Identity) -> Verdict {
        let producer = identity.producer.as_str().as_bytes();
        let window = self.producers.window(producer);
        let full = window.filter(|window| window.count() >= self.limits.sequences_min);
        let lowest = full.and_then(|window| window.lowest());
        if lowest.is_some_and(|lowest| identity.sequence.0 < lowest) {
            return Verdict::Expired;
        }
        if lowest.is_none() && !self.has_room() && self.weight() >= 2 * self.limits.remembered_max {
            return Verdict::TableFull;
        }
        self.remember(offset, identity);
        if let Some(lowest) = lowest {
            self.producers.raise_floor(producer, lowest.saturating_add(1), offset);
        }
        Verdict::Accepted
    }

    fn remember(&mut self, offset: u64, identity: &Identity) {
        let first = First { body_hash: identity.body_hash, offset, limits: identity.limits };
        self.producers.insert(identity.producer.as_str().as_bytes(), identity.sequence.0, first, offset);
    }

    /// Whether one more fits in, after forgetting those who were silent for long if need be.
    fn has_room(&mut self) -> bool {
        while self.weight() >= self.limits.remembered_max {
            match self.producers.oldest() {
                Some((hour, idle)) if self.hour() >= hour.saturating_add(IDLE_HOURS) => self.producers.evict(&idle),
                _ => return false,
            }
        }
        true
    }

    fn weight(&self) -> u64 {
        self.producers.remembered() + PRODUCER_WEIGHT * self.producers.owners().len() as u64
    }

    fn hour(&self) -> u32 {
        u32::try_from(self.clock_ms / MS_PER_HOUR).unwrap_or(u32::MAX)
    }
}

impl Slot for First {
    const CHUNK_SEQUENCES: u64 = 256;
    const SALT: u8 = b'p';

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.body_hash.to_le_bytes());
        put_varint(bytes, u128::from(self.offset));
        put_limits(bytes, self.limits);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<First, Error> {
        Ok(First { body_hash: reader.u64()?, offset: reader.varint()?, limits: take_limits(reader)? })
    }
}

impl Slot for Answer {
    // With the most parts and the least runs a slot takes 24 KB.
    const CHUNK_SEQUENCES: u64 = 8;
    const SALT: u8 = b'e';

    fn encode(&self, bytes: &mut Vec<u8>) {
        put_varint(bytes, u128::from(self.offset));
        put_varint(bytes, self.runs.len() as u128);
        for (outcome, count) in &self.runs {
            bytes.push(match outcome {
                Outcome::Accepted => 0,
                Outcome::Duplicate => 1,
                Outcome::Reused => 2,
                Outcome::Expired => 3,
                Outcome::TableFull => 4,
            });
            put_varint(bytes, u128::from(*count));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Answer, Error> {
        let (offset, count) = (reader.varint()?, reader.length()?);
        if count > PARTS_MAX {
            return Err(reader.invalid("number of runs"));
        }
        let runs = (0..count).map(|_| decode_run(reader)).collect::<Result<_, _>>()?;
        Ok(Answer { offset, runs })
    }
}

fn decode_run(reader: &mut Reader<'_>) -> Result<(Outcome, u16), Error> {
    let outcome = match reader.byte()? {
        0 => Outcome::Accepted,
        1 => Outcome::Duplicate,
        2 => Outcome::Reused,
        3 => Outcome::Expired,
        4 => Outcome::TableFull,
        _ => return Err(reader.invalid("outcome")),
    };
    let count = reader.varint()?;
    let count = u16::try_from(count).ok().filter(|count| usize::from(*count) <= PARTS_MAX);
    Ok((outcome, count.ok_or(reader.invalid("length of a run"))?))
}

#[cfg(test)]
#[path = "identities_tests.rs"]
mod tests;
