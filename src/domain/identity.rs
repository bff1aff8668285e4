//! Who sent a request, so that a repeat is known, and what became of each part of it.

use super::TimeLimits;
use serde::{Deserialize, Serialize};

/// Longest producer id in bytes.
pub const PRODUCER_ID_BYTES_MAX: usize = 256;

/// A producer's name for itself: 1 to [`PRODUCER_ID_BYTES_MAX`] bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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
    /// Which event times its lines were read with. Not part of what makes it known: a repeat is read again with those of
    /// the first, so that both are the same events.
    pub limits: TimeLimits,
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
        /// Which event times that request's lines were read with.
        limits: TimeLimits,
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

impl TryFrom<String> for ProducerId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<ProducerId, &'static str> {
        ProducerId::new(&text).ok_or("the producer id is empty, too long or holds a control character")
    }
}

impl From<ProducerId> for String {
    fn from(producer: ProducerId) -> String {
        producer.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventTime;

    #[test]
    fn names_outside_the_rule_are_refused() {
        for text in ["", &"x".repeat(257), "a\n", "\u{85}"] {
            assert_eq!(ProducerId::new(text), None, "{text:?}");
        }
        assert!(ProducerId::new(&"x".repeat(256)).is_some());
    }

    #[test]
    fn bytes_of_an_impossible_producer_are_refused() {
        let identity = Identity {
            producer: ProducerId::new("ab").unwrap(),
            sequence: Sequence(u64::MAX),
            body_hash: 7,
            limits: TimeLimits::NONE,
        };
        let mut bytes = postcard::to_allocvec(&identity).unwrap();
        assert_eq!(postcard::from_bytes::<Identity>(&bytes), Ok(identity));
        bytes[1] = b'\n';
        assert!(postcard::from_bytes::<Identity>(&bytes).is_err());
    }

    #[test]
    fn bytes_of_verdicts_never_change() {
        // The answer of an append: nodes of two versions speak it with each other.
        let parts = vec![
            Verdict::Accepted,
            Verdict::Duplicate { offset: 300, limits: TimeLimits { earliest: EventTime(0), latest: EventTime(129) } },
            Verdict::Reused,
            Verdict::Expired,
            Verdict::TableFull,
        ];
        let verdicts = Verdicts { offset: 300, parts };
        let bytes = postcard::to_allocvec(&verdicts).unwrap();
        assert_eq!(bytes, [0xac, 2, 5, 0, 1, 0xac, 2, 0, 0x81, 1, 2, 3, 4]);
        assert_eq!(postcard::from_bytes(&bytes), Ok(verdicts));
    }
}
