//! Accepts events, makes them durable, answers.

pub mod ndjson;
mod reason;

pub use reason::{Field, Reason};
