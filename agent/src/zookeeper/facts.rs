//! What a plan needs to know of a table's path.

use futures::stream::{self, StreamExt as _};
use rekeeper_shared::inventory::{PathFacts, ReplicaFacts};
use rekeeper_shared::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::snapshot::short_digest;

/// Paths that are looked at at a time; each is a handful of requests.
const PATHS_IN_FLIGHT: usize = 32;

impl ZooKeeper {
    /// What a plan needs to know of one path; none when it does not exist.
    ///
    /// # Errors
    /// [`ZkError::NotATable`] when something else is there, or ZooKeeper's failure.
    pub async fn path_facts(&self, path: &ZkPath) -> Result<Option<PathFacts>, ZkError> {
        let Some(node) = self.stat(path.as_str()).await? else {
            return Ok(None);
        };
        let names = self.children(&path.child("replicas")).await?;
        let mut names = names.ok_or_else(|| ZkError::NotATable {
            path: path.to_string(),
            missing: "replicas",
        })?;
        names.sort();
        let mut wanted = vec![path.child("metadata"), path.child("columns")];
        for name in &names {
            let replica = path.replica(name);
            wanted.extend(["metadata", "columns", "is_active"].map(|node| format!("{replica}/{node}")));
        }
        let mut found = self.many_data(wanted).await?.into_iter();
        let mut next = || found.next().flatten();
        let (Some((metadata, _)), Some((columns, _))) = (next(), next()) else {
            return Err(ZkError::NotATable {
                path: path.to_string(),
                missing: "metadata or columns",
            });
        };
        let forbidden = self.forbidden(path, &names).await?;
        let children = self.children(path.as_str()).await?.unwrap_or_default();
        let foreign = self.foreign_nodes(path, &children).await?;
        let replicas = names
            .into_iter()
            .map(|name| {
                let (metadata, columns, is_active) = (next(), next(), next());
                ReplicaFacts {
                    name,
                    active: is_active.is_some_and(|(_, stat)| stat.ephemeral_owner != 0),
                    definition: match (metadata, columns) {
                        (Some((metadata, _)), Some((columns, _))) => short_digest(&[&metadata, &columns]),
                        _ => String::new(),
                    },
                }
            })
            .collect();
        Ok(Some(PathFacts {
            czxid: node.czxid,
            ctime: node.ctime,
            definition: short_digest(&[&metadata, &columns]),
            replicas,
            forbidden: forbidden.below,
            no_admin: forbidden.no_admin,
            foreign,
        }))
    }

    /// The same for many paths, in their order, many at a time.
    pub async fn facts_of_paths(&self, paths: &[ZkPath]) -> Vec<Result<Option<PathFacts>, ZkError>> {
        stream::iter(paths.to_vec())
            .map(|path| async move { self.path_facts(&path).await })
            .buffered(PATHS_IN_FLIGHT)
            .collect()
            .await
    }
}
