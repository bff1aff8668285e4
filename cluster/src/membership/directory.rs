//! What a data directory holds when a node starts in it: the files that say who it is belong together, or it does not start.

use super::command::NodeAddress;
use super::identity::{self, Identity};
use super::machine::{self, Stored};
use crate::config::Config;
use crate::environment::{Disk, Environment};
use crate::error::Error;
use crate::{ClusterId, NodeId};
use std::io;
use std::path::Path;

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Who the directory belongs to; `None` for a fresh one.
    pub identity: Option<Identity>,
    /// The copy of the metadata.
    pub metadata: Option<Stored>,
}

impl Found {
    /// Name and addresses under which the cluster knew this node when it last ran.
    pub fn address(&self) -> Option<&NodeAddress> {
        let metadata = self.metadata.as_ref()?;
        metadata.state.nodes.get(&metadata.node).map(|node| &node.address)
    }
}

/// Looks at the directory; refuses one whose files do not say, together, which node of which cluster it is.
pub async fn look(environment: &Environment, config: &Config) -> Result<Found, Error> {
    let identity = identity::read(environment).await.map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => Error::IdentityDamaged(source.to_string()),
        _ => Error::Disk { action: "reading the identity", source },
    })?;
    // Nothing else is written before a node knows who it is.
    if matches!(identity, None | Some(Identity::Entering { .. })) {
        let (disk, config) = (environment.disk.clone(), config.clone());
        let held = environment.tasks.blocking(move || data_of_a_node(&*disk, &config)).await;
        let held = held.map_err(|source| Error::Disk { action: "looking at the data directory", source })?;
        return match held {
            Some(held) => Err(Error::IdentityMissing { held }),
            None => Ok(Found { identity, metadata: None }),
        };
    }
    let metadata = machine::read(environment).await;
    let metadata = metadata.map_err(|source| Error::Disk { action: "reading the metadata", source })?;
    if let (Some(identity), Some(metadata)) = (identity, &metadata) {
        belong_together(identity, metadata)?;
    }
    Ok(Found { identity, metadata })
}

/// The file or directory that only a node which has run leaves behind.
fn data_of_a_node(disk: &dyn Disk, config: &Config) -> io::Result<Option<String>> {
    for directory in std::iter::once(&config.log.directory).chain(&config.store_directory) {
        if !disk.list(directory)?.is_empty() {
            return Ok(Some(format!("{}/", directory.display())));
        }
    }
    let has_metadata = disk.list(Path::new(""))?.iter().any(|name| name == machine::PATH);
    Ok(has_metadata.then(|| machine::PATH.to_owned()))
}

fn belong_together(identity: Identity, metadata: &Stored) -> Result<(), Error> {
    let own: (ClusterId, NodeId) = match identity {
        Identity::Founding { cluster } => (cluster, NodeId(1)),
        Identity::Member { cluster, node } => (cluster, node),
        Identity::Entering { .. } => return Ok(()),
    };
    // Without a first entry the metadata knows of no cluster yet.
    let cluster = metadata.state.cluster.as_ref().map_or(own.0, |cluster| cluster.id);
    match (cluster, metadata.node) {
        found if found == own => Ok(()),
        (cluster, node) => Err(Error::Mixed { own: own.0, own_node: own.1, cluster, node }),
    }
}
