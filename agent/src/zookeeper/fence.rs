//! Holding a table's path for one attempt, and letting it go again (invariants 3 and 4).
//!
//! The fence is two kinds of nodes: the marker in the path, which every deleting multi checks, and a persistent
//! `is_active` under every replica, on which a server that starts finds that it cannot become active.

use rekeeper_shared::ids::MigrationName;
use rekeeper_shared::place::ZkPath;
use rekeeper_shared::step::SetRef;
use zookeeper_client::Error as ClientError;

use super::connection::ZooKeeper;
use super::error::{CleanError, Outcome, ZkError};
use super::foreign::{is_of_clickhouse, is_of_table};
use super::marker::Marker;
use super::request::{MultiError, Operation, RECONNECT};

/// How often to look again after something changed between looking and acting.
pub(super) const TRIES: usize = 5;
/// Nodes without which a path is no whole table.
const ESSENTIAL: [&str; 4] = ["metadata", "columns", "log", "replicas"];
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

    fn deletes(&self, path: &ZkPath) -> Vec<Operation> {
        let delete = |marker: &Marker| Operation::Delete {
            path: path.child(&marker.to_string()),
        };
        self.older.iter().map(delete).collect()
    }
}

/// What is under a replica as `is_active`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Nothing,
    /// A server.
    Server,
    /// A hold of this migration.
    Ours,
    /// A persistent node of somebody else.
    Foreign(String),
}

impl ZooKeeper {
    /// Takes the path for this attempt: in one multi, older markers of the migration go, the attempt's own is created,
    /// and every replica that nobody holds gets a persistent `is_active`. Nothing is changed when a server is active,
    /// or when a newer attempt or another migration holds the path. A path that this attempt holds already stays so.
    ///
    /// # Errors
    /// [`CleanError`] says what stands in the way.
    pub async fn fence(&self, set: &SetRef, migration: &MigrationName, attempt: u64) -> Result<(), CleanError> {
        self.refuse_other_place(set)?;
        let path = &set.path;
        let mine = Marker::new(migration, attempt);
        for _ in 0..TRIES {
            let Some(children) = self.children(path.as_str()).await? else {
                return Err(CleanError::Absent { path: path.to_string() });
            };
            let markers = Markers::among(path, &children, &mine)?;
            if let Some(missing) = not_whole(&children) {
                return Err(CleanError::NotTableShaped {
                    path: path.to_string(),
                    missing,
                });
            }
            self.refuse_nested(path, &children).await?;
            self.refuse_foreign(set, &children).await?;
            // ClickHouse writes into this node whenever it adds a replica: its version tells of one that we did not see.
            let folder = path.child("replicas");
            let Some(seen) = self.stat(&folder).await? else {
                continue;
            };
            let mut operations = markers.take_over(path, &mine);
            for (replica, hold) in self.holds(path, &mine).await? {
                match hold {
                    Hold::Nothing => operations.push(Operation::Create {
                        path: format!("{}/is_active", path.replica(&replica)),
                        data: mine.to_string(),
                        ephemeral: false,
                    }),
                    hold => refuse_unless_ours(path, &replica, hold)?,
                }
            }
            if operations.is_empty() {
                return Ok(());
            }
            operations.insert(
                0,
                Operation::Check {
                    path: folder,
                    version: Some(seen.version),
                },
            );
            if self.applied(&operations).await? {
                return Ok(());
            }
        }
        Err(CleanError::Busy { path: path.to_string() })
    }

    /// Lets the path go: markers of this migration up to this attempt, and the holds of this migration. A path that is
    /// not there, or bears none of them, is let go already.
    ///
    /// # Errors
    /// [`CleanError::HalfDeleted`] when deletion has begun, since servers must not be let in then;
    /// [`CleanError::Superseded`] when a newer attempt holds the path.
    pub async fn release(&self, set: &SetRef, migration: &MigrationName, attempt: u64) -> Result<(), CleanError> {
        self.refuse_other_place(set)?;
        let path = &set.path;
        let mine = Marker::new(migration, attempt);
        for _ in 0..TRIES {
            let Some(children) = self.children(path.as_str()).await? else {
                return Ok(());
            };
            let markers = Markers::among(path, &children, &mine)?;
            let mut operations = markers.deletes(path);
            if markers.mine {
                operations.push(Operation::Delete {
                    path: path.child(&mine.to_string()),
                });
            }
            let holds = self.holds(path, &mine).await?;
            for (replica, _) in holds.iter().filter(|(_, hold)| *hold == Hold::Ours) {
                operations.push(Operation::Delete {
                    path: format!("{}/is_active", path.replica(replica)),
                });
            }
            if operations.is_empty() {
                return Ok(());
            }
            self.refuse_half_deleted(path, &children, &holds).await?;
            if self.applied(&operations).await? {
                return Ok(());
            }
        }
        Err(CleanError::Busy { path: path.to_string() })
    }

    /// Nothing is changed anywhere but in the ensemble and chroot that the plan recorded.
    pub(super) fn refuse_other_place(&self, set: &SetRef) -> Result<(), CleanError> {
        if self.place() == &set.place {
            return Ok(());
        }
        Err(CleanError::OtherPlace {
            path: set.path.to_string(),
            planned: set.place.to_string(),
            connected: self.place().to_string(),
        })
    }

    async fn refuse_half_deleted(
        &self,
        path: &ZkPath,
        children: &[String],
        holds: &[(String, Hold)],
    ) -> Result<(), CleanError> {
        let half = |missing: String| CleanError::HalfDeleted {
            path: path.to_string(),
            missing,
        };
        if let Some(missing) = not_whole(children) {
            return Err(half(missing));
        }
        for (replica, _) in holds {
            let metadata = format!("{}/metadata", path.replica(replica));
            if self.stat(&metadata).await?.is_none() {
                return Err(half(metadata));
            }
        }
        Ok(())
    }

    /// Applies a multi; false when something changed since it was looked at, or when it is not known whether it was
    /// applied: look again.
    pub(super) async fn applied(&self, operations: &[Operation]) -> Result<bool, CleanError> {
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
                    Err(error.into())
                }
            }
        }
    }

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

    /// Looks below every child that ClickHouse does not make for another table's path.
    pub(super) async fn refuse_nested(&self, path: &ZkPath, children: &[String]) -> Result<(), CleanError> {
        let strange = |name: &&String| !is_of_table(name);
        let mut level: Vec<String> = children.iter().filter(strange).map(|name| path.child(name)).collect();
        while !level.is_empty() {
            let lists = self.many_children(level.clone()).await?;
            let mut below = Vec::new();
            for (node, names) in level.into_iter().zip(lists) {
                let names = names.unwrap_or_default();
                refuse_table(path, &node, &names)?;
                below.extend(names.into_iter().map(|name| format!("{node}/{name}")));
            }
            level = below;
        }
        Ok(())
    }
}

/// What a whole table has and this path has not.
pub(super) fn not_whole(children: &[String]) -> Option<String> {
    if children.iter().any(|name| name == "dropped") {
        return Some("replicas, but a node dropped".to_owned());
    }
    let missing = ESSENTIAL.iter().find(|node| !children.iter().any(|name| name == *node));
    missing.map(|node| (*node).to_owned())
}

/// Whether at least one child is one that ClickHouse makes, or nothing is there but markers.
pub(super) fn is_table_or_rest(children: &[String]) -> bool {
    children.iter().any(|name| is_of_clickhouse(name)) || children.iter().all(|name| Marker::parse(name).is_some())
}

/// A node below the path that is itself a table's path.
pub(super) fn refuse_table(path: &ZkPath, node: &str, names: &[String]) -> Result<(), CleanError> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has("replicas") && (has("log") || has("metadata")) {
        return Err(CleanError::Nested {
            path: path.to_string(),
            nested: node.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn refuse_unless_ours(path: &ZkPath, replica: &str, hold: Hold) -> Result<(), CleanError> {
    let (path, replica) = (path.to_string(), replica.to_owned());
    match hold {
        Hold::Ours => Ok(()),
        Hold::Nothing => Err(CleanError::Appeared { path, replica }),
        Hold::Server => Err(CleanError::Active { path, replica }),
        Hold::Foreign(content) => Err(CleanError::ForeignHold { path, replica, content }),
    }
}

/// Whether the same session may look again and go on.
pub(super) fn may_be_repeated(error: &ZkError) -> bool {
    match error.outcome() {
        Outcome::Unknown => true,
        Outcome::NotApplied => matches!(error, ZkError::Disconnected { .. }),
        Outcome::Terminal => false,
    }
}
