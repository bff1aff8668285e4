//! Builds every room from configuration and environment, starts and stops them in order.

use crate::config::Config;
use cluster::environment::Environment;

/// Where a node serves, once it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// What people call it.
    pub node_name: String,
    /// `host:port` for clients, with the real port.
    pub http_address: String,
    /// `host:port` for other nodes, with the real port.
    pub cluster_address: String,
}

/// Why a node did not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not fit the world: another cluster's directory, an address that is none.
    #[error("{0}")]
    Configuration(String),
    /// The world does not let the node run: port in use, directory not writable or in use, fatal failure.
    #[error("{0}")]
    Failed(String),
}

/// Runs a node until `shutdown` completes; calls `ready` once it serves.
pub async fn run(
    _config: Config,
    _environment: Environment,
    shutdown: impl Future<Output = ()>,
    _ready: impl FnOnce(&Ready),
) -> Result<(), Error> {
    shutdown.await;
    Ok(())
}
