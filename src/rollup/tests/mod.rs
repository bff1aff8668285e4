//! Tests of the room as a whole.

mod crashes;
pub(super) mod disk;
mod reads;
mod replicas;
mod store;
mod world;
