//! The entries between `consumed` and `applied`: who they were from and what became of them. Pure.
//!
//! What is in the tail is in no row. After a restart the log gives its entries again, and it is built anew.

use super::identities::{Decision, Header};
use crate::domain::Verdict;
use crate::format::{Checkpoint, EventsEntry, Tally};
use bytes::Bytes;
use cluster::{LogPosition, Offset};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

/// Which parts of an entry count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// Every part.
    All,
    /// None: the entry repeats an earlier one, or holds no events.
    Nothing,
    /// Part `i` counts where `parts[i]`.
    Some(Arc<[bool]>),
}

/// What an entry of the tail was.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Events, or what should have been and could not be read.
    Events(Events),
    /// A change of the partition's replicas.
    Membership(Bytes),
    /// Anything else.
    Other,
}

/// An entry of events.
#[derive(Debug, Clone)]
pub struct Events {
    /// Who it was from.
    pub header: Header,
    /// Which parts count.
    pub acceptance: Acceptance,
    /// Events in it.
    pub events: u64,
    /// Of those, in parts that count.
    pub accepted: u64,
    /// When it was applied here; no decision depends on it.
    pub applied_at: Instant,
}

/// An entry of the tail.
#[derive(Debug, Clone)]
pub struct TailEntry {
    /// Where it stands in the log.
    pub position: LogPosition,
    /// Bytes of its payload.
    pub bytes: u64,
    /// What it was.
    pub kind: Kind,
}

/// The tail, oldest entry first, without holes.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    entries: VecDeque<TailEntry>,
    events: u64,
}

impl Acceptance {
    /// Whether part `index` counts.
    pub fn counts(&self, index: usize) -> bool {
        match self {
            Acceptance::All => true,
            Acceptance::Nothing => false,
            Acceptance::Some(parts) => parts.get(index).copied().unwrap_or(false),
        }
    }

    /// What follows from a decision.
    pub fn of(decision: &Decision) -> Acceptance {
        let Decision::Fresh(verdicts) = decision else { return Acceptance::Nothing };
        let is_accepted = |verdict: &Verdict| *verdict == Verdict::Accepted;
        if verdicts.parts.iter().all(is_accepted) {
            Acceptance::All
        } else if !verdicts.parts.iter().any(is_accepted) {
            Acceptance::Nothing
        } else {
            Acceptance::Some(verdicts.parts.iter().map(is_accepted).collect())
        }
    }
}

impl Events {
    /// An entry with what was decided about it.
    pub fn of(entry: &EventsEntry, header: Header, decision: &Decision) -> Events {
        let acceptance = Acceptance::of(decision);
        let counting = entry.parts.iter().enumerate().filter(|(index, _)| acceptance.counts(*index));
        let accepted = counting.map(|(_, part)| u64::from(part.events)).sum();
        Events { header, acceptance, events: entry.events(), accepted, applied_at: Instant::now() }
    }
}

impl Tail {
    /// Adds the entry behind the last.
    pub fn push(&mut self, entry: TailEntry) {
        if let Some(last) = self.entries.back() {
            assert_eq!(entry.position.offset, last.position.offset.next(), "the tail has no holes");
        }
        if let Kind::Events(events) = &entry.kind {
            self.events += events.events;
        }
        self.entries.push_back(entry);
    }

    /// The entry at an offset.
    pub fn get(&self, offset: Offset) -> Option<&TailEntry> {
        let first = self.entries.front()?.position.offset;
        self.entries.get(usize::try_from(offset.0.checked_sub(first.0)?).ok()?)
    }

    /// Takes the entries up to and including `through`, oldest first.
    pub fn take_through(&mut self, through: Offset) -> Vec<TailEntry> {
        let count = self.entries.partition_point(|entry| entry.position.offset <= through);
        let taken: Vec<_> = self.entries.drain(..count).collect();
        self.events -= taken.iter().map(TailEntry::events).sum::<u64>();
        taken
    }

    /// The last entry.
    pub fn last(&self) -> Option<&TailEntry> {
        self.entries.back()
    }

    /// Events in all entries.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The first entry with events, if there is one.
    pub fn oldest_events(&self) -> Option<&Events> {
        self.entries.iter().find_map(|entry| match &entry.kind {
            Kind::Events(events) if events.events > 0 => Some(events),
            _ => None,
        })
    }

    /// What a checkpoint up to `through` must say about its stretch, where it sets these entries aside; or why the tail
    /// does not reach that far.
    pub fn tally(&self, checkpoint: &Checkpoint) -> Result<Tally, String> {
        let quarantined: BTreeMap<u64, u64> =
            checkpoint.quarantined.iter().map(|entry| (entry.offset, entry.events)).collect();
        let mut tally = Tally::default();
        let mut seen = 0;
        for entry in self.entries.iter().take_while(|entry| entry.position.offset.0 <= checkpoint.through) {
            if let Some(events) = quarantined.get(&entry.position.offset.0) {
                seen += 1;
                if *events != entry.events() {
                    return Err(format!("quarantined entry {} has {} events", entry.position, entry.events()));
                }
                tally.quarantined += events;
            } else if let Kind::Events(events) = &entry.kind {
                tally.counted += events.accepted;
                tally.duplicate += events.events - events.accepted;
            }
        }
        if seen != checkpoint.quarantined.len() {
            return Err("an entry outside of the stretch is quarantined".to_owned());
        }
        Ok(tally)
    }
}

impl TailEntry {
    /// Events in it.
    pub fn events(&self) -> u64 {
        match &self.kind {
            Kind::Events(events) => events.events,
            _ => 0,
        }
    }
}
