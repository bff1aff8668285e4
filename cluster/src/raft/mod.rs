//! Consensus: the only folder that names openraft (0.10.0-alpha.37, pinned: its interface moves between alphas).
//!
//! What we rely on, and where it is held:
//!
//! - an entry is acknowledged after fsync on a majority: [`log_store`] completes an append after the log's fsync;
//! - votes are durable before they are given and never reordered with entries: the log's promise;
//! - a leader never resumes its leadership after a restart (`enable_leader_restore` is off): after a power cut it could
//!   reuse positions that a follower has already filled ([`group`]);
//! - the log knows a vote before it is given, which is what confirms leaders ([`confirmation`]);
//! - a leadership is (term, node), positions carry both, and no two leaderships are equal;
//! - a group that stops with an error stops the node ([`group`]): a dead group in a living process serves nobody.

mod applier;
mod confirmation;
mod group;
mod incoming;
mod log_store;
mod network;
#[cfg(feature = "planted-bugs")]
mod planted;
mod rests;
mod runtime;
mod server;
pub mod spool;
mod types;
mod view;
mod wire;

#[cfg(test)]
mod suite;

pub use group::{Group, GroupContext, WriteError, Written};
pub use runtime::seed_consensus;
pub use view::View;
pub use wire::{KIND_BLANK, KIND_DATA, KIND_MEMBERS, decode, encode};
