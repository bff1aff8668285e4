//! Rollups on every replica.
