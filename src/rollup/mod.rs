//! Rollups on every replica.

pub mod journal_rows;
pub mod rows;
pub mod sled_rows;
