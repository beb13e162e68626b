//! Making a tree of nodes anew at a path where nothing is: what puts exported nodes back for inspection.

use rekeeper_shared::domain::place::ZkPath;
use zookeeper_client::{CreateMode, Error as ClientError, MultiWriteError};

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::request::{MULTI_BYTES, MULTI_OPERATIONS};

/// Why nodes were not made.
#[derive(Debug, thiserror::Error)]
pub enum PlantError {
    /// The first of them is there already: nothing was changed.
    #[error("{0} exists: choose a path where nothing is")]
    Exists(ZkPath),
    /// ZooKeeper failed.
    #[error(transparent)]
    ZooKeeper(#[from] ZkError),
}

impl ZooKeeper {
    /// Creates the node from which a tree is to grow, and what is missing above it.
    ///
    /// # Errors
    /// [`PlantError::Exists`], or ZooKeeper's failure.
    pub async fn plant(&self, path: &ZkPath, data: &[u8]) -> Result<(), PlantError> {
        let options = CreateMode::Persistent.with_acls(self.acls());
        let parent = path.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        if !parent.is_empty() && self.stat(parent).await?.is_none() {
            let options = &options;
            let made = self
                .request(
                    "create",
                    parent,
                    |client| async move { client.mkdir(parent, options).await },
                )
                .await?;
            made.map_err(|source| ZkError::new("create", parent, source))?;
        }
        let (path_text, options) = (path.as_str(), &options);
        let made = self
            .request("create", path_text, |client| async move {
                client.create(path_text, data, options).await
            })
            .await?;
        match made {
            Ok(_) => Ok(()),
            Err(ClientError::NodeExists) => Err(PlantError::Exists(path.clone())),
            Err(source) => Err(ZkError::new("create", path_text, source).into()),
        }
    }

    /// Creates persistent nodes, parents before their children, in as few requests as they fit into.
    ///
    /// # Errors
    /// ZooKeeper's failure; the nodes before are there then.
    pub async fn grow(&self, nodes: &[(String, Vec<u8>)]) -> Result<(), ZkError> {
        let mut rest = nodes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(path, data): &&(String, Vec<u8>)| {
                bytes += path.len() + data.len() + 128;
                bytes <= MULTI_BYTES
            };
            let count = rest.iter().take(MULTI_OPERATIONS).take_while(fits).count().max(1);
            let (batch, after) = rest.split_at(count);
            self.create_all(batch).await?;
            rest = after;
        }
        Ok(())
    }

    async fn create_all(&self, batch: &[(String, Vec<u8>)]) -> Result<(), ZkError> {
        let options = CreateMode::Persistent.with_acls(self.acls());
        let (first, options) = (&batch[0].0, &options);
        let answer = self
            .request("create", first, |client| async move {
                let commit = {
                    let mut writer = client.new_multi_writer();
                    for (path, data) in batch {
                        writer.add_create(path, data, options)?;
                    }
                    writer.commit()
                };
                commit.await
            })
            .await?;
        match answer {
            Ok(_) => Ok(()),
            Err(MultiWriteError::OperationFailed { index, source }) => {
                let path = batch.get(index).map_or(first, |(path, _)| path);
                Err(ZkError::new("create", path, source))
            }
            Err(MultiWriteError::RequestFailed { source }) => Err(ZkError::new("create", first, source)),
        }
    }
}
