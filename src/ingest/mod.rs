//! Accepts events, makes them durable, answers.

mod admission;
mod append;
mod body;
pub mod ndjson;
mod reason;
mod request;

pub use reason::{Field, Reason};
