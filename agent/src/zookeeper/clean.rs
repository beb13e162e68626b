//! Deleting a table's nodes under the attempt's marker, in ClickHouse's own sequence (invariants 3, 4 and 5). Whether
//! they may be deleted is decided by `may_delete`.
//!
//! The sequence makes a deletion that was cut off heal: whoever creates the table later finishes it. Per replica its
//! `metadata` first, then the rest of it; when no replica is left, one multi replaces `replicas` by `dropped` and its
//! lock; then all the rest; last one multi takes away lock, `dropped`, the marker and the path itself.

use std::sync::atomic::Ordering;

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::SetRef;

use super::connection::ZooKeeper;
use super::error::CleanError;
use super::fence::may_be_repeated;
use super::holds::Markers;
use super::marker::Marker;
use super::may_delete::{Of, is_planned_place};
use super::request::{Operation, RECONNECT, TRIES};
use super::stage::Stage;
use super::sweep::Sweep;

/// How often a lost connection is waited for before the attempt is given up.
const RECONNECTS: usize = 5;

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
        is_planned_place(set, self.place())?;
        let marker = Marker::new(migration, attempt);
        let sweep = Sweep::new(self, set, &marker, &|_| {});
        if (Deletion { sweep }).take_over().await? {
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
        is_planned_place(set, self.place())?;
        let marker = Marker::new(migration, attempt);
        let deletion = Deletion {
            sweep: Sweep::new(self, set, &marker, progress),
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
    sweep: Sweep<'a>,
}

impl Deletion<'_> {
    async fn children(&self) -> Result<Option<Vec<String>>, CleanError> {
        Ok(self.sweep.zookeeper.children(self.sweep.set.path.as_str()).await?)
    }

    async fn attempt(&self) -> Result<(), CleanError> {
        let path = || self.sweep.set.path.to_string();
        if !self.take_over().await? {
            return if self.sweep.set.recorded {
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
        let path = &self.sweep.set.path;
        let text = || path.to_string();
        for _ in 0..TRIES {
            let Some(children) = self.children().await? else {
                return Ok(false);
            };
            let (zookeeper, mine) = (self.sweep.zookeeper, self.sweep.marker);
            let nested = zookeeper.nested(path, &children).await?;
            let foreign = zookeeper.foreign_nodes(path, &children).await?;
            self.sweep.may_delete(Of::Table {
                children: &children,
                nested: nested.as_deref(),
                foreign: &foreign,
                replicas: &zookeeper.holds(path, mine).await?,
            })?;
            let markers = Markers::among(path, &children, mine)?;
            let operations = markers.take_over(path, mine);
            if operations.is_empty() || zookeeper.applied(&operations).await? {
                return Ok(true);
            }
        }
        Err(CleanError::Busy { path: text() })
    }

    /// Deletes all replicas and replaces `replicas` by `dropped`; false when it has to be looked at again.
    async fn delete_replicas(&self, children: &[String]) -> Result<bool, CleanError> {
        let path = &self.sweep.set.path;
        let replicas = self.sweep.zookeeper.holds(path, self.sweep.marker).await?;
        self.sweep.may_delete(Of::Replicas(&replicas))?;
        let names: Vec<String> = replicas.into_iter().map(|(name, _)| name).collect();
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
        self.sweep.may_delete(Of::Replica {
            node: replica,
            children: &children,
        })?;
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
        let folder = self.sweep.set.path.child("dropped");
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
        let folder = self.sweep.set.path.child("dropped");
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
                    path: self.sweep.set.path.to_string(),
                });
            }
            operations.push(Operation::Delete { path: lock });
        }
        operations.extend(self.drop_lock(!children.iter().any(|name| name == "dropped")));
        Ok(self.sweep.guarded(operations).await?.is_ok())
    }

    /// Deletes what is left, and the path; false when it has to be looked at again.
    async fn delete_rest(&self) -> Result<bool, CleanError> {
        let path = &self.sweep.set.path;
        let marker = self.sweep.marker.to_string();
        let Some(children) = self.children().await? else {
            return Ok(true);
        };
        if children.iter().any(|name| name == "replicas") {
            return Ok(false);
        }
        self.sweep.may_delete(Of::Rest { children: &children })?;
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
