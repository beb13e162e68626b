//! The nodes that have the version of a table's definition, and how they are changed: only as they were read.

use crate::rules::versions::{ReplicaVersion, Versions};
use rekeeper_shared::domain::place::ZkPath;
use zookeeper_client::{Acl, Error as ClientError};

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::fence::may_be_repeated;
use super::log_entry::alter_version;
use super::request::{MULTI_BYTES, MULTI_OPERATIONS, MultiError, Operation, RECONNECT};
use super::snapshot::{log_number, number, text};

/// What one operation takes of a request besides its path, at most.
const OPERATION_BYTES: usize = 64;

/// The versions of a table as they were read, with all that a change of them depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionNodes {
    /// Those of the nodes that a change is decided by.
    pub versions: Versions,
    /// The content of `<path>/metadata`.
    content: String,
    /// Who is a replica, and what each of them has: nodes with their versions.
    fence: Vec<(String, i32)>,
}

impl ZooKeeper {
    /// Reads the versions; none when there is no table.
    ///
    /// # Errors
    /// [`ZkError::Unreadable`] when a node does not hold what it should, or ZooKeeper's failure.
    pub async fn definition_nodes(&self, path: &ZkPath) -> Result<Option<DefinitionNodes>, ZkError> {
        // First of all: whoever orders an ALTER from now on changes it.
        let Some((content, metadata)) = self.data(&path.child("metadata")).await? else {
            return Ok(None);
        };
        let folder = path.child("replicas");
        // ClickHouse writes into this node whenever it adds a replica.
        let Some(made) = self.stat(&folder).await? else {
            return Ok(None);
        };
        let mut names = self.children(&folder).await?.unwrap_or_default();
        names.sort();
        let mut found = DefinitionNodes {
            versions: Versions {
                node: metadata.version,
                replicas: Vec::with_capacity(names.len()),
            },
            content: String::from_utf8_lossy(&content).into_owned(),
            fence: vec![(folder, made.version)],
        };
        let mut pointers = Vec::with_capacity(names.len());
        for name in names {
            let replica = path.replica(&name);
            let nodes = ["metadata_version", "is_lost", "is_active", "log_pointer"];
            let wanted = nodes.map(|node| format!("{replica}/{node}")).to_vec();
            let mut contents = self.many_data(wanted).await?.into_iter();
            let mut content = || contents.next().flatten();
            let (own, is_lost, is_active, pointer) = (content(), content(), content(), content());
            // A replica that is just being dropped, or of a server before 20.4.
            let Some((bytes, stat)) = own else {
                continue;
            };
            let node = format!("{replica}/metadata_version");
            let version = number(&node, Some((bytes, stat)))?.and_then(|version| i32::try_from(version).ok());
            let Some(version) = version else {
                continue;
            };
            pointers.push(number(&format!("{replica}/log_pointer"), pointer)?.unwrap_or(0));
            found.fence.push((node, stat.version));
            found.versions.replicas.push(ReplicaVersion {
                name,
                version,
                pending: None,
                lost: text(is_lost).trim() == "1",
                started: is_active.is_some_and(|(_, active)| active.czxid > stat.mzxid),
            });
        }
        if !found.versions.are_one() {
            self.read_pending(path, &mut found.versions, &pointers).await?;
        }
        Ok(Some(found))
    }

    /// The ALTERs that replicas have still to execute. Where each of them was in the log was read before: what it has
    /// taken since is in its queue, or executed.
    async fn read_pending(&self, path: &ZkPath, versions: &mut Versions, pointers: &[i64]) -> Result<(), ZkError> {
        for replica in &mut versions.replicas {
            let queue = self.queue(&path.replica(&replica.name)).await?;
            replica.pending = queue.iter().filter_map(|entry| alter_version(&entry.content)).max();
        }
        let folder = path.child("log");
        let names = self.children(&folder).await?.unwrap_or_default();
        let contents = names.iter().map(|name| format!("{folder}/{name}")).collect();
        let contents = self.many_data(contents).await?;
        for (name, content) in names.iter().zip(contents) {
            let (Some(entry), Some(version)) = (log_number(name), alter_version(&text(content))) else {
                continue;
            };
            for (replica, pointer) in versions.replicas.iter_mut().zip(pointers) {
                if entry >= *pointer {
                    replica.pending = replica.pending.max(Some(version));
                }
            }
        }
        Ok(())
    }

    /// The highest version to which the node of a table can be put back in one request.
    #[must_use]
    pub fn highest_settable(path: &ZkPath) -> i32 {
        let bytes = path.child("metadata").len() + OPERATION_BYTES;
        // The first half is for the fence and the content.
        i32::try_from((MULTI_BYTES / 2 / bytes).min(MULTI_OPERATIONS / 2)).unwrap_or(i32::MAX)
    }

    /// Gives the table's node another version: a higher one by writing it again and again, in several requests if need be,
    /// a lower one by making it anew, which nobody sees half done. The node of `own` gets it in the same request. False when anything is not as it was read:
    /// look again.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn set_table_version(
        &self,
        path: &ZkPath,
        found: &DefinitionNodes,
        version: i32,
        own: Option<&str>,
    ) -> Result<bool, ZkError> {
        let node = path.child("metadata");
        let now = found.versions.node;
        let mut operations = found.unchanged();
        operations.push(check(&node, now));
        let mut at = now;
        if version < now {
            let Some(acl) = self.permissions(&node).await? else {
                return Ok(false);
            };
            operations.push(Operation::Delete { path: node.clone() });
            operations.push(made_anew(&node, &found.content, acl));
            at = 0;
        }
        let most = Self::highest_settable(path).max(1);
        let last = version.min(at.saturating_add(most));
        for number in at..last {
            // Nobody sees what is written in between.
            let data = if number + 1 == last { found.content.as_str() } else { "" };
            operations.push(Operation::Set {
                path: node.clone(),
                data: data.to_owned(),
            });
        }
        if let Some(replica) = own.filter(|_| last == version) {
            operations.push(replica_version(path, replica, version));
        }
        self.change(&operations).await
    }

    /// Gives a replica's node the version. False when anything is not as it was read: look again.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn set_replica_version(
        &self,
        path: &ZkPath,
        found: &DefinitionNodes,
        replica: &str,
        version: i32,
    ) -> Result<bool, ZkError> {
        let mut operations = found.unchanged();
        // Every ALTER that is ordered changes it.
        operations.push(check(&path.child("metadata"), found.versions.node));
        operations.push(replica_version(path, replica, version));
        self.change(&operations).await
    }

    async fn change(&self, operations: &[Operation]) -> Result<bool, ZkError> {
        match self.multi(operations).await {
            Ok(()) => Ok(true),
            Err(MultiError::Refused {
                source: ClientError::NoNode | ClientError::NodeExists | ClientError::BadVersion,
                ..
            }) => Ok(false),
            Err(error) => {
                let error = error.into_zk(operations);
                if may_be_repeated(&error) && self.reconnected(RECONNECT).await {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        }
    }
}

impl DefinitionNodes {
    /// No replica has come or gone, and none has executed an ALTER.
    fn unchanged(&self) -> Vec<Operation> {
        self.fence.iter().map(|(path, version)| check(path, *version)).collect()
    }
}

fn check(path: &str, version: i32) -> Operation {
    Operation::Check {
        path: path.to_owned(),
        version: Some(version),
    }
}

fn replica_version(path: &ZkPath, replica: &str, version: i32) -> Operation {
    Operation::Set {
        path: format!("{}/metadata_version", path.replica(replica)),
        data: version.to_string(),
    }
}

fn made_anew(path: &str, data: &str, acl: Vec<Acl>) -> Operation {
    Operation::CreateAs {
        path: path.to_owned(),
        data: data.to_owned(),
        acl,
    }
}
