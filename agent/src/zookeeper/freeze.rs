//! Freezing a table's log: while its replicas catch up before they are detached, nobody can add to it.
//!
//! Every INSERT, ALTER and merge of a ReplicatedMergeTree ends in a multi that creates an entry in `<path>/log`; to
//! fetch a part that is in the log already needs no new one. So without the permission CREATE on that node replicas
//! catch up with each other and nothing new comes in. Measured on 26.9: an INSERT waits and is refused with 242 when
//! the table is detached, with nothing written; ALTER, DROP PARTITION and OPTIMIZE are refused with 999 at once;
//! SYSTEM SYNC REPLICA ... LIGHTWEIGHT ends. The log's own permissions are kept in a node beside it and put back when
//! the set is let go.

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::step::SetRef;
use serde::{Deserialize, Serialize};
use zookeeper_client::{Acl, AuthId, Error as ClientError, Permission};

use super::connection::ZooKeeper;
use super::error::{CleanError, ZkError};
use super::marker::NOTE;
use super::may_delete::is_planned_place;
use super::request::TRIES;
use super::rights::told;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    migration: MigrationName,
    permissions: Vec<Permitted>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Permitted {
    scheme: String,
    id: String,
    read: bool,
    write: bool,
    create: bool,
    delete: bool,
    admin: bool,
}

impl Permitted {
    fn from(acl: &Acl) -> Self {
        let has = |permission| acl.permission().has(permission);
        Self {
            scheme: acl.scheme().to_owned(),
            id: acl.id().to_owned(),
            read: has(Permission::READ),
            write: has(Permission::WRITE),
            create: has(Permission::CREATE),
            delete: has(Permission::DELETE),
            admin: has(Permission::ADMIN),
        }
    }

    fn acl(&self, create: bool) -> Acl {
        let bits = [
            (self.read, Permission::READ),
            (self.write, Permission::WRITE),
            (self.create && create, Permission::CREATE),
            (self.delete, Permission::DELETE),
            (self.admin, Permission::ADMIN),
        ];
        let granted = bits.into_iter().filter(|(granted, _)| *granted);
        let permission = granted.fold(Permission::NONE, |all, (_, permission)| all | permission);
        Acl::new(permission, AuthId::new(&self.scheme, &self.id))
    }
}

impl ZooKeeper {
    /// Takes the permission to add to the table's log away from everybody. A log that this migration froze stays so.
    ///
    /// # Errors
    /// [`CleanError::NotFrozen`] when ZooKeeper did not keep the permissions; the log has its own again then.
    /// [`CleanError::Foreign`] when another migration froze it, [`CleanError::Absent`] when the table is not there, or
    /// ZooKeeper's failure: NoAuth when the identity has no right to change permissions.
    pub async fn freeze(&self, set: &SetRef, migration: &MigrationName) -> Result<(), CleanError> {
        is_planned_place(set, self.place())?;
        let (log, note_path) = (set.path.child("log"), set.path.child(NOTE));
        for _ in 0..TRIES {
            let note = match self.note(set, migration).await? {
                Some(note) => note,
                None => {
                    let acls = self.acl_of(&log).await?;
                    let permissions = acls.iter().map(Permitted::from).collect();
                    let note = Note {
                        migration: migration.clone(),
                        permissions,
                    };
                    // Before the change, so that a crash between the two forgets nothing.
                    if !self.create(&note_path, &content(&note)).await? {
                        continue;
                    }
                    note
                }
            };
            let without_create: Vec<Acl> = note.permissions.iter().map(|p| p.acl(false)).collect();
            self.set_acl_of(&log, &without_create).await?;
            // ClickHouse Keeper before 25.7 keeps no entry for everybody, and none at all where it is told to ignore them.
            if self
                .acl_of(&log)
                .await?
                .iter()
                .any(|acl| acl.permission().has(Permission::CREATE))
            {
                self.thaw(set, migration).await?;
                return Err(CleanError::NotFrozen { path: log });
            }
            return Ok(());
        }
        Err(CleanError::Busy {
            path: set.path.to_string(),
        })
    }

    /// Gives the log its own permissions back, if this migration froze it.
    ///
    /// # Errors
    /// As for [`Self::freeze`]; the note stays until the permissions are back.
    pub async fn thaw(&self, set: &SetRef, migration: &MigrationName) -> Result<(), CleanError> {
        is_planned_place(set, self.place())?;
        let Some(note) = self.note(set, migration).await? else {
            return Ok(());
        };
        let own: Vec<Acl> = note.permissions.iter().map(|p| p.acl(true)).collect();
        self.set_acl_of(&set.path.child("log"), &own).await?;
        self.remove(&set.path.child(NOTE)).await?;
        Ok(())
    }

    async fn note(&self, set: &SetRef, migration: &MigrationName) -> Result<Option<Note>, CleanError> {
        let path = set.path.child(NOTE);
        let Some((bytes, _)) = self.data(&path).await? else {
            return Ok(None);
        };
        let foreign = || CleanError::Foreign {
            path: set.path.to_string(),
            marker: NOTE.to_owned(),
        };
        let note: Note = serde_json::from_slice(&bytes).map_err(|_| foreign())?;
        if note.migration == *migration {
            Ok(Some(note))
        } else {
            Err(foreign())
        }
    }

    async fn acl_of(&self, path: &str) -> Result<Vec<Acl>, ZkError> {
        let owned = path.to_owned();
        let (acls, _) = self
            .request("read the permissions of", path, |client| async move {
                client.get_acl(&owned).await
            })
            .await?
            .map_err(|source: ClientError| ZkError::new("read the permissions of", path, source))?;
        Ok(told(acls))
    }

    async fn set_acl_of(&self, path: &str, acls: &[Acl]) -> Result<(), ZkError> {
        let (owned, acls) = (path.to_owned(), acls.to_vec());
        self.request("change the permissions of", path, |client| async move {
            client.set_acl(&owned, &acls, None).await
        })
        .await?
        .map_err(|source: ClientError| ZkError::new("change the permissions of", path, source))?;
        Ok(())
    }
}

/// A note as it stands in its node.
fn content(note: &Note) -> String {
    // Names and booleans: writing them as JSON cannot fail.
    serde_json::to_string(note).unwrap_or_default()
}
