//! Hourmark: response-time events in, exact rollups per app and UTC hour out.

pub mod admin;
pub mod aggregate;
pub mod client;
pub mod config;
pub mod domain;
pub mod format;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod node;
pub mod query;
pub mod rollup;
pub mod telemetry;
