//! What a plan needs to know of a table's path.

use futures::stream::{self, StreamExt as _};
use rekeeper_shared::domain::inventory::{PathFacts, ReplicaFacts};
use rekeeper_shared::domain::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::snapshot::{Content, short_digest};

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
            let nodes = ["metadata", "columns", "is_active", "metadata_version"];
            wanted.extend(nodes.map(|node| format!("{replica}/{node}")));
        }
        let mut found = self.many_data(wanted).await?.into_iter();
        let mut next = || found.next().flatten();
        let (Some((metadata, stat)), Some((columns, _))) = (next(), next()) else {
            return Err(ZkError::NotATable {
                path: path.to_string(),
                missing: "metadata or columns",
            });
        };
        let forbidden = self.forbidden(path, &names).await?;
        let children = self.children(path.as_str()).await?.unwrap_or_default();
        let foreign = self.foreign_nodes(path, &children).await?;
        let is_other = |found: &Content| {
            let version = found
                .as_ref()
                .map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned());
            version.is_some_and(|version| version.trim() != stat.version.to_string())
        };
        let mut differ = false;
        let mut replicas: Vec<ReplicaFacts> = names
            .into_iter()
            .map(|name| {
                let (metadata, columns, is_active) = (next(), next(), next());
                differ |= is_other(&next());
                ReplicaFacts {
                    name,
                    active: is_active.is_some_and(|(_, stat)| stat.ephemeral_owner != 0),
                    definition: match (metadata, columns) {
                        (Some((metadata, _)), Some((columns, _))) => short_digest(&[&metadata, &columns]),
                        _ => String::new(),
                    },
                    other_version: None,
                }
            })
            .collect();
        if differ {
            self.read_other_versions(path, &mut replicas).await?;
        }
        Ok(Some(PathFacts {
            czxid: node.czxid,
            ctime: node.ctime,
            definition: short_digest(&[&metadata, &columns]),
            replicas,
            forbidden: forbidden.below,
            no_admin: forbidden.no_admin,
            foreign,
            version: Some(stat.version),
        }))
    }

    /// Which replicas are of another version than the table, and not because of an ALTER that they have still to execute.
    async fn read_other_versions(&self, path: &ZkPath, replicas: &mut [ReplicaFacts]) -> Result<(), ZkError> {
        let Some(found) = self.definition_nodes(path).await? else {
            return Ok(());
        };
        let versions = found.versions;
        for of in versions.replicas {
            let comes = of.pending == Some(versions.node);
            if of.version != versions.node
                && !comes
                && let Some(replica) = replicas.iter_mut().find(|replica| replica.name == of.name)
            {
                replica.other_version = Some(of.version);
            }
        }
        Ok(())
    }

    /// The same for many paths, in their sequence, many at a time.
    pub async fn facts_of_paths(&self, paths: &[ZkPath]) -> Vec<Result<Option<PathFacts>, ZkError>> {
        stream::iter(paths.to_vec())
            .map(|path| async move { self.path_facts(&path).await })
            .buffered(PATHS_IN_FLIGHT)
            .collect()
            .await
    }
}
