//! turmoil as the world uses it: hosts that are machines with a process, and the network between them.
//!
//! turmoil runs the hosts, moves time on tick by tick, carries TCP and breaks it. This layer keeps what turmoil does not: how
//! often a way was cut, who is without power, and what runs on a machine in its next life.

mod machine;
mod network;
pub mod time;

pub use machine::{Ended, Machine};
pub use network::{Quality, SharedNetwork};
