//! Why a node does not start.

use crate::{ClusterId, GroupId, NodeId, PartitionId, log};
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
    /// The data directory holds what a node leaves behind, but not the file that says which node that was.
    #[error(
        "this data directory holds a node's data ({held}) but no file `identity` that says whose: use an empty directory, \
         or restore the file `identity`"
    )]
    IdentityMissing {
        /// What was found, relative to the data directory.
        held: String,
    },
    /// The file that says which node this is cannot be read any more.
    #[error(
        "{0}; without it this node must not go on under its id: restore the file from a copy of this very directory, or \
         start with an empty data directory and --join a member, as a new node whose replicas are rebuilt from the others"
    )]
    IdentityDamaged(String),
    /// The files of the data directory are of different nodes.
    #[error(
        "this data directory says that it is node {own_node} of cluster {own}, but its metadata is of node {node} of cluster \
         {cluster}: use an empty directory, or restore the file `identity` that belongs to the rest"
    )]
    Mixed {
        /// The cluster, by the file `identity`.
        own: ClusterId,
        /// The node, by the file `identity`.
        own_node: NodeId,
        /// The cluster, by the file `metadata`.
        cluster: ClusterId,
        /// The node, by the file `metadata`.
        node: NodeId,
    },
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

impl Error {
    /// Whether there is no room on the disk, now: what failed may be tried again.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, Error::Open { source, .. } if log::is_disk_full(source))
    }
}
