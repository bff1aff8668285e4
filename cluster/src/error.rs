//! Why a node does not start.

use crate::{ClusterId, GroupId, PartitionId, log};
use std::io;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of its bounds.
    #[error("configuration: {0}")]
    Config(String),
    /// Another process has the data directory.
    #[error("the data directory is in use by another process")]
    InUse,
    /// The address cannot be listened on.
    #[error("listening for other nodes on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The disk refused, or a small file is damaged.
    #[error("{action}")]
    Disk {
        /// What was attempted.
        action: &'static str,
        /// What the disk says.
        source: io::Error,
    },
    /// The log does not open.
    #[error("opening the log")]
    Log(#[from] log::Error),
    /// The data directory belongs to one cluster, the member to join to another. Use an empty directory to enter it.
    #[error(
        "this data directory belongs to cluster {own}, but {address} is a member of cluster {other}: use an empty data \
         directory to enter that one"
    )]
    OtherCluster {
        /// The cluster of the data directory.
        own: ClusterId,
        /// The cluster of the member.
        other: ClusterId,
        /// The member.
        address: String,
    },
    /// The cluster does not let this node in, or has let it go.
    #[error("{0}")]
    Refused(String),
    /// The log is gone, and with it this node's votes: it must not go on under its id.
    #[error(
        "the log of this node is gone, and with it what it has promised to others: remove the whole data directory and \
         enter the cluster again as a new node"
    )]
    LogLost,
    /// The metadata is gone, and the log does not reach back far enough to make it again.
    #[error(
        "the metadata of this node is gone and its log does not reach back to the beginning: remove the whole data \
         directory and enter the cluster again as a new node"
    )]
    MetadataLost,
    /// A partition's store has lost entries that its log does not have any more, and no other node has a replica.
    #[error(
        "the store of partition {partition} has lost entries that are no longer in the log, and there is no other \
         replica to rebuild it from: restore the data directory from a backup"
    )]
    StoreLost {
        /// The partition.
        partition: PartitionId,
    },
    /// A group does not open.
    #[error("opening group {group}")]
    Open {
        /// The group.
        group: GroupId,
        /// Why.
        source: io::Error,
    },
    /// The node had to stop while it started.
    #[error("the node stopped while it started: {0}")]
    Stopped(String),
}
