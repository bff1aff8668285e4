//! One app and hour that producers share: what was sent, what was acked, what readers have seen.

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
    /// The largest count that a linearizable read has returned.
    pub seen_count: u64,
    /// The largest revision that one has returned.
    pub seen_revision: u64,
}
