//! The simulated hardware under the doors: machines that run, a network between them, and one time.
//!
//! Each machine has a tokio runtime of its own with a paused clock, so that it can be stopped like a process and lose its
//! memory like one. The world moves time on in short steps: deliver what has arrived, let every machine run for the step.
//! What a machine sends during a step arrives in a later one, so no machine can see another's future. Steps are a
//! millisecond while something is on the wire and longer while nothing is.

mod link;
mod machine;
mod network;
mod pipe;
mod stream;
pub mod time;

pub use link::Quality;
pub use machine::{Ended, Machine};
pub use network::SharedNetwork;
pub use stream::{SimulatedListener, SimulatedStream};
