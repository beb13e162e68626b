//! The marker of an attempt in a table's path, and the `is_active` nodes under its replicas: who holds a path.

use rekeeper_shared::domain::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::{CleanError, ZkError};
use super::marker::Marker;
use super::request::Operation;

/// The markers of one migration on a path.
#[derive(Debug)]
pub(super) struct Markers {
    /// Those of earlier attempts.
    pub(super) older: Vec<Marker>,
    /// Whether this attempt's own is there.
    pub(super) mine: bool,
}

impl Markers {
    /// Finds them among a path's children; another's or a newer one is an error.
    pub(super) fn among(path: &ZkPath, children: &[String], mine: &Marker) -> Result<Self, CleanError> {
        let mut found = Self {
            older: Vec::new(),
            mine: false,
        };
        for marker in children.iter().filter_map(|name| Marker::parse(name)) {
            let (path, name) = (path.to_string(), marker.to_string());
            if marker.migration != mine.migration {
                return Err(CleanError::Foreign { path, marker: name });
            }
            match marker.attempt.cmp(&mine.attempt) {
                std::cmp::Ordering::Less => found.older.push(marker),
                std::cmp::Ordering::Equal => found.mine = true,
                std::cmp::Ordering::Greater => return Err(CleanError::Superseded { path, marker: name }),
            }
        }
        Ok(found)
    }

    /// Deletes the older ones and creates the own one, unless it is there.
    pub(super) fn take_over(&self, path: &ZkPath, mine: &Marker) -> Vec<Operation> {
        let mut operations = self.deletes(path);
        if !self.mine {
            operations.push(Operation::Create {
                path: path.child(&mine.to_string()),
                data: String::new(),
                ephemeral: false,
            });
        }
        operations
    }

    /// Deletes the older ones.
    pub(super) fn deletes(&self, path: &ZkPath) -> Vec<Operation> {
        let delete = |marker: &Marker| Operation::Delete {
            path: path.child(&marker.to_string()),
        };
        self.older.iter().map(delete).collect()
    }
}

/// What is under a replica as `is_active`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hold {
    Nothing,
    /// A living server has the replica.
    Server,
    /// A hold of this migration.
    Ours,
    /// A persistent node of somebody else.
    Foreign(String),
}

/// A replica that this migration does not hold is another's, and not to be touched.
pub(super) fn refuse_unless_ours(path: &ZkPath, replica: &str, hold: &Hold) -> Result<(), CleanError> {
    let (path, replica) = (path.to_string(), replica.to_owned());
    match hold {
        Hold::Ours => Ok(()),
        Hold::Nothing => Err(CleanError::Appeared { path, replica }),
        Hold::Server => Err(CleanError::Active { path, replica }),
        Hold::Foreign(content) => Err(CleanError::ForeignHold {
            path,
            replica,
            content: content.clone(),
        }),
    }
}

impl ZooKeeper {
    /// What is under each replica as `is_active`; no replica when there is no `replicas`.
    pub(super) async fn holds(&self, path: &ZkPath, mine: &Marker) -> Result<Vec<(String, Hold)>, ZkError> {
        let mut names = self.children(&path.child("replicas")).await?.unwrap_or_default();
        names.sort();
        let nodes = names
            .iter()
            .map(|name| format!("{}/is_active", path.replica(name)))
            .collect();
        let found = self.many_data(nodes).await?;
        let hold = |content: Option<(Vec<u8>, zookeeper_client::Stat)>| match content {
            None => Hold::Nothing,
            Some((_, stat)) if stat.ephemeral_owner != 0 => Hold::Server,
            Some((bytes, _)) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if Marker::parse(&text).is_some_and(|marker| marker.migration == mine.migration) {
                    Hold::Ours
                } else {
                    Hold::Foreign(text)
                }
            }
        };
        Ok(names.into_iter().zip(found.into_iter().map(hold)).collect())
    }
}
