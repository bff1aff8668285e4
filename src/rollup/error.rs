//! What can go wrong with stored rollups.

use std::io;

/// A read or a write of this room that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The row store holds something that it was never given. The node stops; at its next start the store is moved aside
    /// and its rows are rebuilt from the log and from peers.
    #[error("stored rows of partition {partition} are damaged: {what}")]
    Damaged {
        /// Whose rows.
        partition: cluster::PartitionId,
        /// Which row, and what is wrong with it.
        what: String,
    },
    /// Something that follows from the rest does not hold. The node stops.
    #[error("partition {partition} contradicts itself: {what}")]
    Broken {
        /// Which partition.
        partition: cluster::PartitionId,
        /// What does not hold.
        what: String,
    },
    /// A snapshot cannot be read, or is not of the position that it was announced with.
    #[error("the snapshot is not usable: {0}")]
    Snapshot(String),
    /// A snapshot was installed while the state was being read; read again.
    #[error("the state was replaced by a snapshot meanwhile")]
    Replaced,
    /// The row store failed.
    #[error("the row store failed")]
    Rows(#[from] io::Error),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Rows(error) => error,
            Error::Damaged { .. } | Error::Snapshot(_) => io::Error::new(io::ErrorKind::InvalidData, error),
            Error::Broken { .. } | Error::Replaced => io::Error::other(error),
        }
    }
}
