//! What must hold, one file each, with its source. Some are checked at every step of the replicated log ([`Watch`]), some at
//! every answer, some when all faults are over.

mod bounded;
mod conserved;
mod counted_once;
mod exact;
mod fresh_reads;
mod leader_complete;
mod led_once;
mod log_matching;
mod monotone;
mod purged_behind_durable;
mod quantiles;
mod receipts;
mod replicas_identical;
mod serves_again;
mod watch;

pub use bounded::{bounded, settled_bounds};
pub use conserved::conserved;
pub use counted_once::counted_once;
pub use fresh_reads::{Floor, fresh_local, fresh_marked, fresh_shared};
pub use receipts::{repeated, reused};
pub use replicas_identical::{Digests, replicas_identical};
pub use serves_again::serves_again;
pub use watch::Watch;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    /// `invariant` does not hold, because of what `detail` says.
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Violation {
        Violation { invariant, detail: detail.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Every invariant, by name, and where it comes from.
pub const INVARIANTS: &[(&str, &str)] = &[
    ("counted-once", "docs/guarantees.md, An ack; Exactly once"),
    ("unknown-at-most-once", "docs/guarantees.md, An ack"),
    ("nothing-unsent", "docs/guarantees.md, Exactly once"),
    ("exact-numbers", "docs/guarantees.md, Numbers"),
    ("quantiles-bounded", "docs/guarantees.md, Numbers; Masson et al., DDSketch, VLDB 2019"),
    ("fresh-reads", "docs/guarantees.md, Reads; Herlihy and Wing, Linearizability, TOPLAS 1990"),
    ("monotone", "docs/guarantees.md, Reads; docs/architecture.md, The one invariant"),
    ("receipts-stable", "docs/guarantees.md, Exactly once"),
    ("log-matching", "Ongaro and Ousterhout, Raft, ATC 2014, section 5.3"),
    ("leader-complete", "Raft, section 5.4"),
    ("led-once", "Raft, section 5.2"),
    ("purged-behind-durable", "docs/architecture.md, The one invariant"),
    ("replicas-identical", "docs/architecture.md, Replicas with equal consumed have equal digests"),
    ("conserved", "docs/architecture.md, Events in the log = counted + duplicate + quarantined"),
    ("bounded", "docs/configuration.md, inflight_bytes_max, log_bytes_max; docs/architecture.md, purging"),
    ("stays-up", "docs/guarantees.md, Failures: what stops a node"),
    ("serves-again", "docs/guarantees.md, Failures"),
];
