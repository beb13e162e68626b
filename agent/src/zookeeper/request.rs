//! The few requests that everything here is made of: reads, many at a time, and multis.

use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use zookeeper_client::{Acl, Acls, CreateMode, Error as ClientError, MultiReadResult, MultiWriteError, Stat};

use super::connection::ZooKeeper;
use super::error::ZkError;

/// How many operations one multi has at most, and how many bytes: ZooKeeper drops the connection above 1 MiB.
pub(super) const MULTI_OPERATIONS: usize = 500;
/// Far below 1 MiB, since `jute.maxbuffer` of a server may be smaller (it then ends the connection, and nobody says why); as
/// many paths as one multi may have mostly take less.
pub(super) const MULTI_BYTES: usize = 64 * 1024;
/// Multis that are under way at a time.
pub(super) const MULTIS_IN_FLIGHT: usize = 4;
/// Single reads that are under way at a time, where multiRead is missing.
const READS_IN_FLIGHT: usize = 256;
/// How often to look again after something changed between looking and acting.
pub(super) const TRIES: usize = 5;
/// How long to wait for a connection that was lost.
pub(super) const RECONNECT: Duration = Duration::from_secs(30);

/// One operation of a multi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Check {
        path: String,
        version: Option<i32>,
    },
    Create {
        path: String,
        data: String,
        ephemeral: bool,
    },
    /// With these permissions, and not with those that nodes get by default.
    CreateAs {
        path: String,
        data: String,
        acl: Vec<Acl>,
    },
    Set {
        path: String,
        data: String,
    },
    Delete {
        path: String,
    },
}

impl Operation {
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Check { path, .. }
            | Self::Create { path, .. }
            | Self::CreateAs { path, .. }
            | Self::Set { path, .. }
            | Self::Delete { path } => path,
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Self::Check { .. } => "check",
            Self::Create { .. } | Self::CreateAs { .. } => "create",
            Self::Set { .. } => "write",
            Self::Delete { .. } => "delete",
        }
    }
}

/// Why a multi was not applied, or may not have been.
#[derive(Debug)]
pub(super) enum MultiError {
    /// The operation at this index was refused, and so all of them were.
    Refused { index: usize, source: ClientError },
    /// The request failed as a whole.
    Failed(ZkError),
}

impl MultiError {
    /// The error of a multi whose refusals have no meaning of their own to the caller.
    pub(super) fn into_zk(self, operations: &[Operation]) -> ZkError {
        match self {
            Self::Failed(error) => error,
            Self::Refused { index, source } => match operations.get(index) {
                Some(operation) => ZkError::new(operation.verb(), operation.path(), source),
                None => ZkError::new("change", "", source),
            },
        }
    }
}

/// Cuts paths into pieces that fit one request each.
pub(super) fn batches(paths: Vec<String>) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut batch: Vec<String> = Vec::new();
    let mut bytes = 0;
    for path in paths {
        let size = path.len() + 64;
        if batch.len() >= MULTI_OPERATIONS || (bytes + size > MULTI_BYTES && !batch.is_empty()) {
            all.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(path);
    }
    if !batch.is_empty() {
        all.push(batch);
    }
    all
}

impl ZooKeeper {
    /// Content and stat of a node; none when it does not exist.
    pub(super) async fn data(&self, path: &str) -> Result<Option<(Vec<u8>, Stat)>, ZkError> {
        let answer = self
            .request("read", path, |client| async move { client.get_data(path).await })
            .await?;
        absent_is_none("read", path, answer)
    }

    /// Stat of a node; none when it does not exist.
    pub(super) async fn stat(&self, path: &str) -> Result<Option<Stat>, ZkError> {
        let answer = self
            .request("look at", path, |client| async move { client.check_stat(path).await })
            .await?;
        answer.map_err(|source| ZkError::new("look at", path, source))
    }

    /// Names of a node's children; none when it does not exist. This client takes lists of any length.
    pub(super) async fn children(&self, path: &str) -> Result<Option<Vec<String>>, ZkError> {
        let answer = self
            .request("list", path, |client| async move { client.list_children(path).await })
            .await?;
        absent_is_none("list", path, answer)
    }

    /// Content and stat of many nodes, in their sequence.
    pub(super) async fn many_data(&self, paths: Vec<String>) -> Result<Vec<Option<(Vec<u8>, Stat)>>, ZkError> {
        let found = self.read_many(paths, Read::Data).await?;
        Ok(found
            .into_iter()
            .map(|one| match one {
                Some(Found::Data(data, stat)) => Some((data, stat)),
                Some(Found::Children(_)) | None => None,
            })
            .collect())
    }

    /// Names of the children of many nodes, in their sequence.
    pub(super) async fn many_children(&self, paths: Vec<String>) -> Result<Vec<Option<Vec<String>>>, ZkError> {
        let found = self.read_many(paths, Read::Children).await?;
        Ok(found
            .into_iter()
            .map(|one| match one {
                Some(Found::Children(names)) => Some(names),
                Some(Found::Data(..)) | None => None,
            })
            .collect())
    }

    async fn read_many(&self, paths: Vec<String>, what: Read) -> Result<Vec<Option<Found>>, ZkError> {
        let parts: Vec<Vec<Option<Found>>> = stream::iter(batches(paths))
            .map(|batch| async move { self.read_batch(batch, what).await })
            .buffered(MULTIS_IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(parts.into_iter().flatten().collect())
    }

    async fn read_batch(&self, batch: Vec<String>, what: Read) -> Result<Vec<Option<Found>>, ZkError> {
        if self.has_multi_read() && batch.len() > 1 {
            match self.multi_read(&batch, what).await? {
                Ok(found) => return Ok(found),
                // The server is another one now than when this was tried.
                Err(ClientError::Unimplemented | ClientError::MarshallingError) => self.give_up_multi_read(),
                Err(source) => return Err(ZkError::new("read", &batch[0], source)),
            }
        }
        stream::iter(batch)
            .map(|path| async move {
                Ok(match what {
                    Read::Data => self.data(&path).await?.map(|(data, stat)| Found::Data(data, stat)),
                    Read::Children => self.children(&path).await?.map(Found::Children),
                })
            })
            .buffered(READS_IN_FLIGHT)
            .try_collect()
            .await
    }

    /// Tries multiRead, and gives it up where the server says that it does not know it, as ZooKeeper before 3.6 does.
    ///
    /// # Errors
    /// ZooKeeper's failure: a server may also end the connection.
    pub(super) async fn knows_multi_read(&self) -> Result<(), ZkError> {
        // Of nodes that are not there nobody is refused the answer.
        let batch = ["/rekeeper-is-not-there", "/rekeeper-is-not-there/either"].map(str::to_owned);
        match self.multi_read(&batch, Read::Data).await? {
            Ok(_) => Ok(()),
            Err(ClientError::Unimplemented | ClientError::MarshallingError) => {
                self.give_up_multi_read();
                Ok(())
            }
            Err(source) => Err(ZkError::new("try to read at", &batch[0], source)),
        }
    }

    async fn multi_read(
        &self,
        batch: &[String],
        what: Read,
    ) -> Result<Result<Vec<Option<Found>>, ClientError>, ZkError> {
        let answer = self
            .request("read", &batch[0], |client| async move {
                let commit = {
                    let mut reader = client.new_multi_reader();
                    for path in batch {
                        match what {
                            Read::Data => reader.add_get_data(path)?,
                            Read::Children => reader.add_get_children(path)?,
                        }
                    }
                    reader.commit()
                };
                commit.await
            })
            .await?;
        let results = match answer {
            Ok(results) => results,
            Err(error) => return Ok(Err(error)),
        };
        let mut found = Vec::with_capacity(batch.len());
        for (path, result) in batch.iter().zip(results) {
            found.push(match result {
                MultiReadResult::Data { data, stat } => Some(Found::Data(data, stat)),
                MultiReadResult::Children { children } => Some(Found::Children(children)),
                MultiReadResult::Error {
                    err: ClientError::NoNode,
                } => None,
                MultiReadResult::Error { err } => return Err(ZkError::new("read", path, err)),
                _ => None,
            });
        }
        if found.len() == batch.len() {
            Ok(Ok(found))
        } else {
            Ok(Err(ClientError::Unimplemented))
        }
    }

    /// Applies all operations or none.
    pub(super) async fn multi(&self, operations: &[Operation]) -> Result<(), MultiError> {
        let Some(first) = operations.first() else {
            return Ok(());
        };
        let persistent = CreateMode::Persistent.with_acls(self.acls());
        let ephemeral = CreateMode::Ephemeral.with_acls(self.acls());
        let (persistent, ephemeral) = (&persistent, &ephemeral);
        let answer = self
            .request("change", first.path(), |client| async move {
                let commit = {
                    let mut writer = client.new_multi_writer();
                    for operation in operations {
                        match operation {
                            Operation::Check { path, version } => {
                                writer.add_check_version(path, version.unwrap_or(-1))?;
                            }
                            Operation::Create {
                                path,
                                data,
                                ephemeral: is_ephemeral,
                            } => {
                                let options = if *is_ephemeral { ephemeral } else { persistent };
                                writer.add_create(path, data.as_bytes(), options)?;
                            }
                            Operation::CreateAs { path, data, acl } => {
                                let options = CreateMode::Persistent.with_acls(Acls::from(acl.as_slice()));
                                writer.add_create(path, data.as_bytes(), &options)?;
                            }
                            Operation::Set { path, data } => writer.add_set_data(path, data.as_bytes(), None)?,
                            Operation::Delete { path } => writer.add_delete(path, None)?,
                        }
                    }
                    writer.commit()
                };
                commit.await
            })
            .await
            .map_err(MultiError::Failed)?;
        match answer {
            Ok(_) => Ok(()),
            Err(MultiWriteError::OperationFailed { index, source }) => Err(MultiError::Refused { index, source }),
            Err(MultiWriteError::RequestFailed { source }) => {
                Err(MultiError::Failed(ZkError::new("change", first.path(), source)))
            }
        }
    }

    /// Creates a persistent node; false when it exists.
    pub(super) async fn create(&self, path: &str, data: &str) -> Result<bool, ZkError> {
        let operation = Operation::Create {
            path: path.to_owned(),
            data: data.to_owned(),
            ephemeral: false,
        };
        match self.multi(std::slice::from_ref(&operation)).await {
            Ok(()) => Ok(true),
            Err(MultiError::Refused {
                source: ClientError::NodeExists,
                ..
            }) => Ok(false),
            Err(error) => Err(error.into_zk(&[operation])),
        }
    }

    /// Replaces a node's content; false when it does not exist.
    pub(super) async fn set(&self, path: &str, data: &str) -> Result<bool, ZkError> {
        let answer = self
            .request("write", path, |client| async move {
                client.set_data(path, data.as_bytes(), None).await
            })
            .await?;
        Ok(absent_is_none("write", path, answer)?.is_some())
    }

    /// Deletes a node; false when it does not exist.
    pub(super) async fn remove(&self, path: &str) -> Result<bool, ZkError> {
        let answer = self
            .request("delete", path, |client| async move { client.delete(path, None).await })
            .await?;
        Ok(absent_is_none("delete", path, answer)?.is_some())
    }
}

#[derive(Clone, Copy)]
enum Read {
    Data,
    Children,
}

enum Found {
    Data(Vec<u8>, Stat),
    Children(Vec<String>),
}

fn absent_is_none<T>(
    operation: &'static str,
    path: &str,
    answer: Result<T, ClientError>,
) -> Result<Option<T>, ZkError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ClientError::NoNode) => Ok(None),
        Err(source) => Err(ZkError::new(operation, path, source)),
    }
}
