//! Where the nodes' data is: a directory that stays, or a temporary one that goes with the cluster.

use super::super::failure::{Exit, Failure};
use cluster::environment::{Entropy as _, SystemEntropy};
use std::path::{Path, PathBuf};

/// The directory of a whole cluster, with one below it per node.
pub struct Directory {
    path: PathBuf,
    is_temporary: bool,
    is_fresh: bool,
}

impl Directory {
    /// The directory `given`, made if missing, or a temporary one. Refuses to start fewer nodes than it holds.
    pub fn open(given: Option<&Path>, nodes: u16) -> Result<Directory, Failure> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!("hourmark-dev-{:08x}", SystemEntropy.next_u64() as u32)),
        };
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::io(format!("creating the data directory {}", path.display()), &error))?;
        let directory = Directory { is_temporary: given.is_none(), is_fresh: !path.join("node-1").exists(), path };
        match (nodes + 1..=9).rev().find(|number| directory.of_node(*number).exists()) {
            Some(held) => Err(Failure::new(
                Exit::Usage,
                format!("{} holds {held} nodes: start it with --nodes {held}", directory.path.display()),
            )),
            None => Ok(directory),
        }
    }

    /// Whether it goes with the cluster.
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a node, from 1.
    pub fn of_node(&self, number: u16) -> PathBuf {
        self.path.join(format!("node-{number}"))
    }

    /// Whether no cluster was here before.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Where it is and what becomes of it.
    pub fn sentence(&self) -> String {
        let path = self.path.display();
        if self.is_temporary {
            format!("data in {path}, removed at the end (keep it with --data-dir DIR)")
        } else {
            format!("data in {path}, kept")
        }
    }

    /// Removes it if it is temporary.
    pub fn close(self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("removing {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_is_removed_and_a_given_one_stays() {
        let temporary = Directory::open(None, 3).unwrap();
        let path = temporary.path.clone();
        assert!(path.exists() && temporary.is_fresh());
        temporary.close();
        assert!(!path.exists());
        let given = tempfile::tempdir().unwrap();
        Directory::open(Some(given.path()), 3).unwrap().close();
        assert!(given.path().exists());
    }

    #[test]
    fn a_used_directory_is_known_and_not_started_in_part() {
        let given = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(given.path().join("node-1")).unwrap();
        std::fs::create_dir_all(given.path().join("node-3")).unwrap();
        assert!(!Directory::open(Some(given.path()), 3).unwrap().is_fresh());
        let refusal = Directory::open(Some(given.path()), 2).err().unwrap();
        assert_eq!(refusal.exit, Exit::Usage);
        assert!(refusal.message.contains("--nodes 3"), "{}", refusal.message);
    }
}
