//! Reading a tree of nodes with all that is in them, a page at a time: for the export of a table's nodes.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rekeeper_shared::domain::place::ZkPath;
use tokio::sync::mpsc;
use zookeeper_client::{Acl, Error as ClientError, Permission};

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::rights::told;

/// Nodes that are read at a time, and are in memory at a time.
const PAGE: usize = 256;
/// Names of nodes that are asked for at a time; a single longer list is asked for alone.
const NAMES: i32 = 10_000;
/// Permissions that are asked for at a time: ZooKeeper reads no more than one node's in a request.
const ACLS_IN_FLIGHT: usize = 256;

/// Why a tree was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    /// An ACL forbids to delete what is below a node.
    #[error(
        "ZooKeeper's ACL does not let this agent delete what is below {path}: see whether <identity> in the file that \
         clickhouse.config of agent.yaml names is that of the servers, or give it the right to"
    )]
    NoDelete { path: String },
    /// ZooKeeper failed.
    #[error(transparent)]
    ZooKeeper(#[from] ZkError),
}

/// A node as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZNode {
    /// Its path, below the chroot.
    pub path: String,
    /// What the node holds.
    pub data: Vec<u8>,
    /// Who may do what: `scheme:id:` and the letters of `cdrwa` (create and delete children, read, write, administer).
    pub acl: Vec<String>,
    /// Transaction that created it.
    pub czxid: i64,
    /// Transaction that last changed its content.
    pub mzxid: i64,
    /// When it was created, milliseconds since 1970.
    pub ctime: i64,
    /// When its content was changed last, milliseconds since 1970.
    pub mtime: i64,
    /// How often its content was changed.
    pub version: i32,
    /// The session that it ends with; 0: none.
    pub ephemeral_owner: i64,
}

enum Pending {
    /// A node with this many children.
    Folder(String, i32),
    /// Paths that are not read yet.
    Nodes(std::vec::IntoIter<String>),
}

impl ZooKeeper {
    /// Sends every node from `path` on, parents before their children, in pages. No transaction: only under the marker
    /// does nobody else change what it reads. What is in memory does not grow with the tree, only with its longest list
    /// of children.
    ///
    /// It ends early when nobody receives any more.
    ///
    /// # Errors
    /// [`WalkError::NoDelete`] for nodes that could not be deleted, or ZooKeeper's failure; a node that the identity may
    /// not read is [`ZkError::NoAuth`].
    pub(crate) async fn walk(&self, path: &ZkPath, into: &mpsc::Sender<Vec<ZNode>>) -> Result<(), WalkError> {
        let mut pending = vec![Pending::Nodes(vec![path.to_string()].into_iter())];
        while let Some(next) = pending.pop() {
            match next {
                Pending::Nodes(mut paths) => {
                    let page: Vec<String> = paths.by_ref().take(PAGE).collect();
                    if paths.len() > 0 {
                        pending.push(Pending::Nodes(paths));
                    }
                    let (nodes, folders) = self.page(page).await?;
                    pending.extend(folders);
                    if !nodes.is_empty() && into.send(nodes).await.is_err() {
                        return Ok(());
                    }
                }
                Pending::Folder(folder, mut names) => {
                    let mut folders = vec![folder];
                    while let Some(Pending::Folder(_, more)) = pending.last()
                        && names.saturating_add(*more) <= NAMES
                        && folders.len() < PAGE
                    {
                        names += more;
                        folders.extend(pending.pop().and_then(|next| match next {
                            Pending::Folder(folder, _) => Some(folder),
                            Pending::Nodes(_) => None,
                        }));
                    }
                    pending.push(Pending::Nodes(self.listed(folders).await?.into_iter()));
                }
            }
        }
        Ok(())
    }

    /// The nodes of a page, and which of them have children.
    async fn page(&self, paths: Vec<String>) -> Result<(Vec<ZNode>, Vec<Pending>), WalkError> {
        let contents = self.many_data(paths.clone());
        let acls = stream::iter(paths.clone())
            .map(|path| async move {
                let operation = "read the permissions of";
                let of = &path;
                let answer = self
                    .request(operation, of, |client| async move { client.get_acl(of).await })
                    .await?;
                match answer {
                    Ok((acls, _)) => Ok(Some(told(acls))),
                    Err(ClientError::NoNode) => Ok(None),
                    Err(source) => Err(ZkError::new(operation, of, source)),
                }
            })
            .buffered(ACLS_IN_FLIGHT)
            .try_collect::<Vec<Option<Vec<Acl>>>>();
        let (contents, acls) = tokio::try_join!(contents, acls)?;
        let (mut nodes, mut folders) = (Vec::with_capacity(paths.len()), Vec::new());
        for ((path, content), acls) in paths.into_iter().zip(contents).zip(acls) {
            // One that went between the two reads, as a server's ephemeral node may, is no node any more.
            let (Some((data, stat)), Some(acls)) = (content, acls) else {
                continue;
            };
            if stat.num_children > 0 {
                // Said now, and not in the middle of the deletion.
                if !self.is_granted(&acls, Permission::DELETE) {
                    return Err(WalkError::NoDelete { path });
                }
                folders.push(Pending::Folder(path.clone(), stat.num_children));
            }
            nodes.push(ZNode {
                path,
                data,
                acl: acls.iter().map(as_text).collect(),
                czxid: stat.czxid,
                mzxid: stat.mzxid,
                ctime: stat.ctime,
                mtime: stat.mtime,
                version: stat.version,
                ephemeral_owner: stat.ephemeral_owner,
            });
        }
        Ok((nodes, folders))
    }

    async fn listed(&self, folders: Vec<String>) -> Result<Vec<String>, ZkError> {
        let lists = self.many_children(folders.clone()).await?;
        let mut paths = Vec::new();
        for (folder, names) in folders.into_iter().zip(lists) {
            paths.extend(names.into_iter().flatten().map(|name| format!("{folder}/{name}")));
        }
        Ok(paths)
    }
}

/// As `zkCli.sh` writes it: `world:anyone:cdrwa`.
fn as_text(acl: &Acl) -> String {
    let letters = [
        (Permission::CREATE, 'c'),
        (Permission::DELETE, 'd'),
        (Permission::READ, 'r'),
        (Permission::WRITE, 'w'),
        (Permission::ADMIN, 'a'),
    ];
    let granted = letters
        .into_iter()
        .filter(|(permission, _)| acl.permission().has(*permission));
    let granted: String = granted.map(|(_, letter)| letter).collect();
    format!("{}:{}:{granted}", acl.scheme(), acl.id())
}
