//! Deleting a table's nodes under the attempt's marker, in ClickHouse's own order (invariants 3, 4 and 5).
//!
//! The order makes a deletion that was cut off heal: whoever creates the table later finishes it. Per replica its
//! `metadata` first, then the rest of it; when no replica is left, one multi replaces `replicas` by `dropped` and its
//! lock; then all the rest; last one multi takes away lock, `dropped`, the marker and the path itself.

use std::sync::atomic::Ordering;

use rekeeper_shared::ids::MigrationName;
use rekeeper_shared::step::SetRef;

use super::connection::ZooKeeper;
use super::error::{CleanError, ZkError};
use super::fence::{Markers, TRIES, is_table_or_rest, may_be_repeated, not_whole, refuse_unless_ours};
use super::foreign::refuse_foreign_children;
use super::marker::Marker;
use super::request::{Operation, RECONNECT};
use super::sweep::Sweep;

/// How often a lost connection is waited for before the attempt is given up.
const RECONNECTS: usize = 5;

/// How far the deletion of a table's nodes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No node is deleted.
    Whole {
        /// The transaction by which the path has been held since: another one means that it was let go in between.
        held: i64,
    },
    /// At least one node is deleted.
    Begun {
        /// As for a whole one; none when no replica is left.
        held: Option<i64>,
    },
    /// The path is gone.
    Gone,
}

impl ZooKeeper {
    /// Takes the fence over for this attempt, as [`Self::delete`] does first, and deletes nothing.
    ///
    /// # Errors
    /// As for [`Self::delete`].
    pub async fn begin_deletion(
        &self,
        set: &SetRef,
        migration: &MigrationName,
        attempt: u64,
    ) -> Result<Stage, CleanError> {
        self.refuse_other_place(set)?;
        let marker = Marker::new(migration, attempt);
        let sweep = Sweep::new(self, &set.path, &marker, &|_| {});
        if (Deletion { set, sweep }).take_over().await? {
            return Ok(self.stage(set).await?);
        }
        if set.recorded {
            Ok(Stage::Gone)
        } else {
            Err(CleanError::Absent {
                path: set.path.to_string(),
            })
        }
    }

    /// How far the deletion of a set is. To be asked under the attempt's own marker: an older attempt may be deleting
    /// otherwise. What is deleted first is the `metadata` of every replica.
    ///
    /// # Errors
    /// ZooKeeper's failure.
    pub async fn stage(&self, set: &SetRef) -> Result<Stage, ZkError> {
        let path = &set.path;
        let Some(children) = self.children(path.as_str()).await? else {
            return Ok(Stage::Gone);
        };
        let nodes = |name: &str| {
            let nodes = set
                .replicas
                .iter()
                .map(|replica| format!("{}/{name}", path.replica(replica)));
            nodes.collect()
        };
        let metadata = self.many_data(nodes("metadata")).await?;
        let holds = self.many_data(nodes("is_active")).await?;
        let held = holds.iter().flatten().map(|(_, stat)| stat.czxid).max();
        let is_whole = not_whole(&children).is_none() && metadata.iter().chain(&holds).all(Option::is_some);
        match held {
            Some(held) if is_whole => Ok(Stage::Whole { held }),
            _ => Ok(Stage::Begun { held }),
        }
    }

    /// Deletes the table's nodes: takes the fence over for this attempt, and goes on wherever an earlier one stopped.
    /// Answers how many nodes it deleted, and tells `progress` on the way (an answer that was lost is not counted).
    ///
    /// Only a path that bears a marker of this migration is deleted: one that was made anew since does not, so that
    /// an attempt that was frozen for hours finds nothing to delete.
    ///
    /// # Errors
    /// [`CleanError`] says what stands in the way; after [`CleanError::FenceLost`] nothing more was done.
    pub async fn delete(
        &self,
        set: &SetRef,
        migration: &MigrationName,
        attempt: u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64, CleanError> {
        self.refuse_other_place(set)?;
        let marker = Marker::new(migration, attempt);
        let deletion = Deletion {
            set,
            sweep: Sweep::new(self, &set.path, &marker, progress),
        };
        for reconnects in 0.. {
            match deletion.attempt().await {
                Ok(()) => break,
                // What became of the requests under way is not known: everything is looked at again.
                Err(CleanError::ZooKeeper(error))
                    if may_be_repeated(&error) && reconnects < RECONNECTS && self.reconnected(RECONNECT).await => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deletion.sweep.deleted.load(Ordering::Relaxed))
    }
}

struct Deletion<'a> {
    set: &'a SetRef,
    sweep: Sweep<'a>,
}

impl Deletion<'_> {
    async fn children(&self) -> Result<Option<Vec<String>>, CleanError> {
        Ok(self.sweep.zookeeper.children(self.set.path.as_str()).await?)
    }

    async fn attempt(&self) -> Result<(), CleanError> {
        let path = || self.set.path.to_string();
        if !self.take_over().await? {
            return if self.set.recorded {
                Ok(())
            } else {
                Err(CleanError::Absent { path: path() })
            };
        }
        for _ in 0..TRIES {
            let Some(children) = self.children().await? else {
                return Ok(());
            };
            let has_replicas = children.iter().any(|name| name == "replicas");
            if has_replicas && !self.delete_replicas(&children).await? {
                continue;
            }
            if !has_replicas && !self.lock(&children).await? {
                continue;
            }
            if self.delete_rest().await? {
                return Ok(());
            }
        }
        Err(CleanError::Busy { path: path() })
    }

    /// Makes the marker this attempt's own; false when the path is not there.
    async fn take_over(&self) -> Result<bool, CleanError> {
        let path = &self.set.path;
        let text = || path.to_string();
        for _ in 0..TRIES {
            let Some(children) = self.children().await? else {
                return Ok(false);
            };
            if !self.set.recorded {
                return Err(CleanError::NotRecorded { path: text() });
            }
            let markers = Markers::among(path, &children, self.sweep.marker)?;
            if markers.older.is_empty() && !markers.mine {
                return Err(CleanError::NotFenced { path: text() });
            }
            if !is_table_or_rest(&children) {
                return Err(CleanError::NotTableShaped {
                    path: text(),
                    missing: "node that ClickHouse makes".to_owned(),
                });
            }
            self.sweep.zookeeper.refuse_nested(path, &children).await?;
            self.sweep.zookeeper.refuse_foreign(self.set, &children).await?;
            self.refuse_strangers().await?;
            let operations = markers.take_over(path, self.sweep.marker);
            if operations.is_empty() || self.sweep.zookeeper.applied(&operations).await? {
                return Ok(true);
            }
        }
        Err(CleanError::Busy { path: text() })
    }

    /// Every replica must be the plan's and held by this migration: each was, when the path was fenced, and loses its
    /// hold only together with its own node. The names that are there.
    async fn refuse_strangers(&self) -> Result<Vec<String>, CleanError> {
        let path = &self.set.path;
        let holds = self.sweep.zookeeper.holds(path, self.sweep.marker).await?;
        let mut names = Vec::with_capacity(holds.len());
        for (replica, hold) in holds {
            refuse_unless_ours(path, &replica, hold)?;
            if !self.set.replicas.contains(&replica) {
                return Err(CleanError::Appeared {
                    path: path.to_string(),
                    replica,
                });
            }
            names.push(replica);
        }
        Ok(names)
    }

    /// Deletes all replicas and replaces `replicas` by `dropped`; false when it has to be looked at again.
    async fn delete_replicas(&self, children: &[String]) -> Result<bool, CleanError> {
        let path = &self.set.path;
        let names = self.refuse_strangers().await?;
        let metadata = names.iter().map(|name| format!("{}/metadata", path.replica(name)));
        self.sweep.remove(metadata.collect()).await?;
        for name in &names {
            if !self.delete_replica(&path.replica(name)).await? {
                return Ok(false);
            }
        }
        let mut operations = vec![Operation::Delete {
            path: path.child("replicas"),
        }];
        operations.extend(self.drop_lock(!children.iter().any(|name| name == "dropped")));
        let replaced = self.sweep.guarded(operations).await?.is_ok();
        if replaced {
            self.sweep.count(1);
        }
        Ok(replaced)
    }

    /// Empties a replica; its hold and its own node go last, together.
    async fn delete_replica(&self, replica: &str) -> Result<bool, CleanError> {
        let Some(children) = self.sweep.zookeeper.children(replica).await? else {
            return Ok(true);
        };
        refuse_foreign_children(self.set, replica, true, &children)?;
        let nodes: Vec<String> = children
            .iter()
            .filter(|name| *name != "is_active")
            .map(|name| format!("{replica}/{name}"))
            .collect();
        self.sweep.empty(nodes.clone()).await?;
        self.sweep.remove(nodes).await?;
        let last = [format!("{replica}/is_active"), replica.to_owned()];
        let operations = last.map(|path| Operation::Delete { path }).to_vec();
        let gone = self.sweep.guarded(operations).await?.is_ok();
        if gone {
            self.sweep.count(2);
        }
        Ok(gone)
    }

    fn drop_lock(&self, create_folder: bool) -> Vec<Operation> {
        let folder = self.set.path.child("dropped");
        let lock = Operation::Create {
            path: format!("{folder}/lock"),
            data: self.sweep.marker.to_string(),
            ephemeral: true,
        };
        let folder = Operation::Create {
            path: folder,
            data: String::new(),
            ephemeral: false,
        };
        if create_folder { vec![folder, lock] } else { vec![lock] }
    }

    /// Holds `dropped/lock`, by which ClickHouse knows that somebody finishes the deletion; false when it has to be
    /// looked at again. A lock that an earlier attempt of this migration left behind is taken over at once.
    async fn lock(&self, children: &[String]) -> Result<bool, CleanError> {
        let folder = self.set.path.child("dropped");
        let lock = format!("{folder}/lock");
        let mut operations = Vec::new();
        if let Some((content, stat)) = self.sweep.zookeeper.data(&lock).await? {
            if stat.ephemeral_owner == self.sweep.zookeeper.session_id() {
                return Ok(true);
            }
            let owner = Marker::parse(&String::from_utf8_lossy(&content));
            let mine = self.sweep.marker;
            if !owner.is_some_and(|m| m.migration == mine.migration && m.attempt <= mine.attempt) {
                return Err(CleanError::BeingDropped {
                    path: self.set.path.to_string(),
                });
            }
            operations.push(Operation::Delete { path: lock });
        }
        operations.extend(self.drop_lock(!children.iter().any(|name| name == "dropped")));
        Ok(self.sweep.guarded(operations).await?.is_ok())
    }

    /// Deletes what is left, and the path; false when it has to be looked at again.
    async fn delete_rest(&self) -> Result<bool, CleanError> {
        let path = &self.set.path;
        let marker = self.sweep.marker.to_string();
        let Some(children) = self.children().await? else {
            return Ok(true);
        };
        if children.iter().any(|name| name == "replicas") {
            return Ok(false);
        }
        refuse_foreign_children(self.set, path.as_str(), false, &children)?;
        let nodes: Vec<String> = children
            .iter()
            .filter(|name| *name != "dropped" && **name != marker)
            .map(|name| path.child(name))
            .collect();
        self.sweep.empty(nodes.clone()).await?;
        self.sweep.remove(nodes).await?;
        let beside_lock = self
            .sweep
            .zookeeper
            .children(&path.child("dropped"))
            .await?
            .unwrap_or_default();
        let beside_lock = beside_lock.iter().filter(|name| *name != "lock");
        let beside_lock = beside_lock.map(|name| path.child(&format!("dropped/{name}"))).collect();
        self.sweep.remove(beside_lock).await?;
        let last = [path.child("dropped/lock"), path.child("dropped"), path.child(&marker)];
        let mut operations: Vec<Operation> = last.into_iter().map(|path| Operation::Delete { path }).collect();
        operations.push(Operation::Delete { path: path.to_string() });
        let gone = self.sweep.guarded(operations).await?.is_ok();
        if gone {
            self.sweep.count(1);
        }
        Ok(gone)
    }
}
