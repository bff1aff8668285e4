//! Which node of which cluster a data directory belongs to: the file `identity`, written before the node serves.

use super::file::{self, Kind};
use crate::environment::Environment;
use crate::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::io;

const KIND: Kind = Kind { path: "identity", magic: *b"HMID", version: 1 };

/// What a data directory has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// It is about to enter a cluster, under this entry number: asking again after a crash gives the same id.
    Entering {
        /// Drawn at random.
        entry: u128,
    },
    /// It is making a cluster of its own; its groups may not all have their first entry yet.
    Founding {
        /// The new cluster.
        cluster: ClusterId,
    },
    /// It is this node of this cluster.
    Member {
        /// The cluster.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
    },
}

/// Reads the identity; `None` on a fresh directory.
pub async fn read(environment: &Environment) -> io::Result<Option<Identity>> {
    file::read(environment, KIND).await
}

/// Writes the identity, durably.
pub async fn write(environment: &Environment, identity: Identity) -> io::Result<()> {
    file::write(environment, KIND, &identity).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_golden_ones() {
        let identity = Identity::Member { cluster: ClusterId(0x0123_4567_89ab_cdef), node: NodeId(3) };
        let golden = include_bytes!("../../tests/golden/identity.v1");
        assert_eq!(file::encode(KIND, &identity), golden);
        assert_eq!(file::decode::<Identity>(KIND, golden).unwrap(), identity);
    }
}
