//! Accepts events, makes them durable, answers.
//!
//! ```text
//!  POST /v1/events ─ http ─▶ admission ─▶ body ─ lines ─▶ ndjson ─ events ─▶ request: a batch for each partition
//!                                                                                     │ intake: home partition first
//!  receipt ◀────────────────── verdicts ◀── Append (the log) ◀── entries ── batcher ◀──┘
//! ```
//!
//! A bad line is refused alone; a request over a bound is refused whole, early, and told when to come back. What an answer
//! promises is in [`intake`].

mod admission;
mod append;
mod batcher;
mod body;
mod buffers;
mod http;
pub mod intake;
pub mod ndjson;
mod reason;
mod request;
#[cfg(test)]
mod testing;

pub use admission::{Overloaded, Permit};
pub use append::{Append, AppendError};
pub use body::{Encoding, InflateError, Kind};
pub use http::room;
pub use intake::{Body, Error, Intake, Receipt, Settings};
pub use reason::{Field, Reason};
pub use request::{BatchTooLarge, PartitionEvents, REJECTIONS_LISTED_MAX, Rejections, Request};
