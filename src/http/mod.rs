//! The one HTTP server; rooms bring routes.

mod error;

pub use error::{PROBLEM_MEDIA_TYPE, Problem};
