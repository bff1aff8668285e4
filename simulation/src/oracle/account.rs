//! One app and hour that producers share: what was sent, what was acked, what readers have seen.

use crate::answer::Hour;

/// Numbers of a set of values in ns, exact whatever their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: u128,
    /// The smallest; `u64::MAX` if there are none.
    pub min: u64,
    /// The largest.
    pub max: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { count: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Tally {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.count += 1;
        self.sum += u128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: &Tally) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// What is known of an app and hour.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Everything that was ever sent.
    pub sent: Tally,
    /// What was acked.
    pub acked: Tally,
    /// The values that were acked.
    pub values: Vec<u64>,
    /// What linearizable reads have shown.
    pub seen: Seen,
}

impl Account {
    /// All hours of an app together, except what readers have seen.
    pub fn merge(&mut self, other: &Account) {
        self.sent.merge(&other.sent);
        self.acked.merge(&other.acked);
        self.values.extend(&other.values);
    }
}

/// Numbers that no later linearizable answer may fall behind.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Events.
    pub count: u64,
    /// Their sum, in ms.
    pub sum_ms: f64,
    /// The smallest, in ms; infinite if there are none.
    pub min_ms: f64,
    /// The largest, in ms.
    pub max_ms: f64,
    /// How often the stored rollup had changed.
    pub revision: u64,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { count: 0, sum_ms: 0.0, min_ms: f64::INFINITY, max_ms: 0.0, revision: 0 }
    }
}

impl Seen {
    /// Takes note of an answer.
    pub fn add(&mut self, answer: &Hour) {
        self.count = self.count.max(answer.count);
        self.sum_ms = self.sum_ms.max(answer.sum_ms);
        self.min_ms = self.min_ms.min(answer.min_ms);
        self.max_ms = self.max_ms.max(answer.max_ms);
        self.revision = self.revision.max(answer.revision);
    }

    /// Whether an answer can hold all events that were seen; rounding keeps the order of sums.
    pub fn is_within(&self, answer: &Hour) -> bool {
        answer.count >= self.count
            && answer.sum_ms >= self.sum_ms
            && answer.min_ms <= self.min_ms
            && answer.max_ms >= self.max_ms
    }
}
