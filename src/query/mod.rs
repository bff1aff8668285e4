//! Answers questions about rollups at any node.
//!
//! ```text
//!   any node                                                  the partition's leader
//!   http ─ request ─ execute ──── message ──▶ serve ─ leader = stored rows ⊕ open windows (after a read barrier)
//!             │        ▲  └─ cache: what is held is named, what still stands does not travel back
//!             └─ answer┘  finished: answers that were written before, for a version that still stands
//!                         shared: questions that come while the same hour is read share its next read
//! ```
//!
//! - `linearizable` (default): the answer contains every event that was acknowledged before the question was asked. It
//!   always asks the leader; the cache only saves the rollups' way.
//! - `local`: this node's replica as it is stored, at once, also without a majority, with `as_of` in the answer.
//!   `after=TOKEN` waits until that write is in it.
//!
//! The seams: [`Partitions`] (where things are, and the way to leaders), [`StoredReads`] (this node's rows) and
//! [`LeaderReads`] (what leaders know beyond those).

mod answer;
mod cache;
mod execute;
mod finished;
mod http;
mod leader;
mod message;
mod partitions;
mod reads;
mod request;
mod serve;
mod shared;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use answer::{AppAnswer, AppsAnswer, AsOf, HourAnswer, HoursAnswer, Numbers, QuantileAnswer, SummaryAnswer};
pub use execute::{Query, Settings};
pub use http::room;
pub use leader::{AppsPage, HourRow, HoursPage, Leader};
pub use partitions::{AskError, Partitions};
pub use reads::{
    AppHours, AppSelection, Generation, LeaderReads, OpenSelection, OpenWindows, Progress, ReadError, StoredApps,
    StoredAt, StoredHours, StoredReads, StoredSummary,
};
pub use serve::not_yet;
pub use state::{HourState, Version};
