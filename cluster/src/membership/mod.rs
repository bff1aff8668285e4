//! Who belongs to the cluster and what each node holds: decided by the metadata group, a Raft group of its own in which
//! every node takes part.
//!
//! - [`command`]: what can be proposed; [`state`]: what follows from it, pure.
//! - [`machine`]: the state on this node, in memory and in a small file.
//! - [`identity`]: which node of which cluster this directory belongs to; [`directory`]: whether all of it does.
//! - [`join`]: how a node enters.
//! - [`placement`]: which nodes should hold which partitions, and who should lead, pure.
//! - [`reconcile`]: the next step of a group's members towards what is wanted, pure.
//! - [`silence`]: how long nodes have been silent, pure.
//! - [`steward`]: the leader of the metadata group brings all this about.

pub mod command;
pub mod directory;
pub mod file;
pub mod identity;
pub mod join;
pub mod machine;
pub mod placement;
pub mod reconcile;
pub mod silence;
pub mod state;
pub mod steward;
