//! Deterministic simulation of a Hourmark cluster: one seed decides everything.

pub mod environment;
