//! Bugs planted on purpose, compiled with the feature `planted-bugs` only: the simulator must find them.
//!
//! Each bug sits at a seam, so that the product itself has no branch for it. `HOURMARK_PLANT` names the one that a process has.
//! Which invariant finds which is in `docs/simulation.md`, and `tests/planted_bugs.rs` holds it.

mod append;
mod disk;
mod leaders;
mod machine;
mod partition;
mod stored;

pub use append::append;
pub use disk::environment;
pub use leaders::leaders;
pub use machine::machine;
pub use partition::partition;
pub use stored::stored;

use super::settings::ClusterSettings;

/// Whether this process has a certain bug.
pub fn has(bug: &str) -> bool {
    std::env::var("HOURMARK_PLANT").is_ok_and(|planted| planted == bug)
}

/// Bug `coarse-sketch`: sketches are built with ten times the error that answers state.
pub fn sketches(settings: ClusterSettings) -> ClusterSettings {
    match has("coarse-sketch") {
        true => ClusterSettings { relative_accuracy: 0.1, ..settings },
        false => settings,
    }
}
