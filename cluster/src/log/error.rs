//! Why a log will not open.

use std::io;
use std::path::PathBuf;

/// Why a log will not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused; trying again may help.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What was once synced is no longer there as it was written. Nothing was changed.
    #[error(
        "log segment {} is damaged at byte {position}: {reason}; this node must not vote with what is left: keep the \
         directory for inspection, and bring the node back empty, under a new id, so that its replicas are rebuilt from \
         the others",
        path.display()
    )]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A setting is out of its bounds.
    #[error("log setting {name} must be {bounds}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// What is allowed.
        bounds: &'static str,
    },
}
