//! Accepts events, makes them durable, answers.

mod admission;
pub mod append;
mod body;
pub mod ndjson;
mod reason;
mod request;

pub use append::{Append, AppendError};
pub use reason::{Field, Reason};
