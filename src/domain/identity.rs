//! Who sent a request, so that a repeat is known, and what became of each part of it.

use serde::{Deserialize, Serialize};

/// Longest producer id in bytes.
pub const PRODUCER_ID_BYTES_MAX: usize = 256;

/// A producer's name for itself: 1 to [`PRODUCER_ID_BYTES_MAX`] bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerId(String);

impl ProducerId {
    /// Checks and takes a name; `None` if it is empty, too long or holds a control character.
    pub fn new(text: &str) -> Option<ProducerId> {
        let is_good = (1..=PRODUCER_ID_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        is_good.then(|| ProducerId(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot whose partition decides first about this producer's requests.
    pub fn slot(&self) -> u16 {
        super::slot_of(&self.0)
    }
}

/// A request's number, given by its producer. Any order, each used for one request only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

/// What makes a repeated request known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Who sent it.
    pub producer: ProducerId,
    /// Its number.
    pub sequence: Sequence,
    /// XXH3 of the request's body after decompression: the same number with another body is a mistake.
    pub body_hash: u64,
}

/// What became of one part of an entry. Decided by the log's order alone, the same on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Its events count.
    Accepted,
    /// The same request was accepted before, by the entry at this offset: counted then, not now.
    Duplicate {
        /// Offset of the entry that counts.
        offset: u64,
    },
    /// The sequence was used before with another body: not counted.
    Reused,
    /// The sequence is below what is remembered of the producer: not counted.
    Expired,
    /// The partition remembers as many producers as it can: not counted, worth another try later.
    TableFull,
}

/// What became of an entry of events: the answer of the append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// The offset to wait for: of this entry, or of the first one if this repeats it.
    pub offset: u64,
    /// Of each part, in order.
    pub parts: Vec<Verdict>,
}
