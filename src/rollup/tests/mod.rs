//! Tests of the room as a whole.

mod crashes;
mod disk;
mod reads;
mod replicas;
mod store;
mod world;
