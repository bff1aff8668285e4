//! Accepts events, makes them durable, answers.

mod admission;
mod append;
mod batcher;
mod body;
pub mod ndjson;
mod reason;
mod request;
#[cfg(test)]
mod testing;

pub use reason::{Field, Reason};
