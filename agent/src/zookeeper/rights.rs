//! Whether the identity may do to a table's nodes what a migration does to them, told from their permissions: nothing is
//! tried. What only ZooKeeper can judge (addresses, certificates, Kerberos) counts as permitted; a deletion that is
//! refused all the same leaves the set where it is.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rekeeper_shared::domain::place::ZkPath;
use zookeeper_client::{Acl, AuthId, Error as ClientError, Permission};

use super::connection::ZooKeeper;
use super::error::ZkError;

/// Nodes that are asked about at a time.
const IN_FLIGHT: usize = 64;
/// Folders below a table's path from which nodes are deleted, and below each replica.
const FOLDERS: [&str; 5] = ["replicas", "log", "blocks", "mutations", "block_numbers"];
const REPLICA_FOLDERS: [&str; 3] = ["", "/parts", "/queue"];

/// What the identity may not do.
#[derive(Debug, Default)]
pub(super) struct Forbidden {
    /// Nodes below which it may not delete or create.
    pub(super) below: Vec<String>,
    /// It may not change the permissions of the log.
    pub(super) no_admin: bool,
}

/// The permissions as ZooKeeper would tell them: of a node that is open to everybody, ClickHouse Keeper gives an empty list
/// (`ACLMap.cpp`; ClickHouse #120177). ZooKeeper itself never does.
pub(super) fn told(acls: Vec<Acl>) -> Vec<Acl> {
    if acls.is_empty() {
        vec![Acl::new(Permission::ALL, AuthId::anyone())]
    } else {
        acls
    }
}

impl ZooKeeper {
    pub(super) async fn forbidden(&self, path: &ZkPath, replicas: &[String]) -> Result<Forbidden, ZkError> {
        let parent = path.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = if parent.is_empty() { "/" } else { parent };
        let both = Permission::DELETE | Permission::CREATE;
        let mut wanted = vec![(parent.to_owned(), Permission::DELETE), (path.to_string(), both)];
        wanted.extend(FOLDERS.map(|folder| (path.child(folder), Permission::DELETE)));
        for replica in replicas {
            let replica = path.replica(replica);
            wanted.extend(REPLICA_FOLDERS.map(|folder| {
                let needed = if folder.is_empty() { both } else { Permission::DELETE };
                (format!("{replica}{folder}"), needed)
            }));
        }
        let answers: Vec<(String, bool, bool)> = stream::iter(wanted)
            .map(|(node, needed)| async move {
                let acls = self.permissions(&node).await?;
                let has = |permission| acls.as_ref().is_none_or(|acls| self.is_granted(acls, permission));
                let is_log = node.ends_with("/log") && !has(Permission::ADMIN);
                Ok::<_, ZkError>((node, has(needed), is_log))
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(Forbidden {
            no_admin: answers
                .iter()
                .any(|(node, _, no_admin)| *no_admin && *node == path.child("log")),
            below: answers
                .into_iter()
                .filter(|(_, granted, _)| !granted)
                .map(|(node, ..)| node)
                .collect(),
        })
    }

    /// The permissions of a node; none when it is not there.
    pub(super) async fn permissions(&self, path: &str) -> Result<Option<Vec<Acl>>, ZkError> {
        let owned = path.to_owned();
        let operation = "read the permissions of";
        let answer = self
            .request(operation, path, |client| async move { client.get_acl(&owned).await })
            .await?;
        match answer {
            Ok((acls, _)) => Ok(Some(told(acls))),
            Err(ClientError::NoNode) => Ok(None),
            // Who may not even read them is granted nothing.
            Err(ClientError::NoAuth) => Ok(Some(Vec::new())),
            Err(source) => Err(ZkError::new(operation, path, source)),
        }
    }

    /// Whether all of `needed` is granted to this session.
    pub(super) fn is_granted(&self, acls: &[Acl], needed: Permission) -> bool {
        let user = self.user();
        let applies = |acl: &&Acl| match acl.scheme() {
            "world" => acl.id() == "anyone",
            // The hash of the password is not compared: a wrong one is refused when the session is made use of.
            "digest" => acl.id().split_once(':').map(|(name, _)| name) == user,
            _ => true,
        };
        let granted = acls.iter().filter(applies);
        let granted = granted.fold(Permission::NONE, |all, acl| all | acl.permission());
        user == Some("super") || granted.has(needed)
    }
}
