//! What the system tables tell of a table: its replica, its parts, what is detached.

use std::path::PathBuf;

use rekeeper_shared::domain::inventory::ActivePart;

/// A row of `system.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// `is_readonly`.
    pub readonly: bool,
    /// `is_session_expired`.
    pub session_expired: bool,
    /// `zookeeper_path`, macros expanded.
    pub path: String,
    /// `replica_name`.
    pub replica_name: String,
    /// `zookeeper_exception`.
    pub zookeeper_exception: String,
    /// `last_queue_update_exception`.
    pub queue_exception: String,
    /// `queue_size`.
    pub queue_size: u64,
    /// The replica holds its `is_active`.
    pub active: bool,
}

impl Replica {
    /// Whether it does its work: `is_readonly` alone tells nothing, since it is 1 for a moment after every start.
    #[must_use]
    pub fn is_in_service(&self) -> bool {
        !self.readonly && !self.session_expired && self.active && self.zookeeper_exception.is_empty()
    }

    /// Whether it is read-only because its session with ZooKeeper has ended. One that has no metadata never gets another
    /// by itself: RESTORE answers 999 "Session expired" until the replica is started anew (measured on 26.9).
    #[must_use]
    pub fn has_lost_its_session(&self) -> bool {
        self.readonly && self.session_expired
    }

    /// What keeps it from its work, for people.
    #[must_use]
    pub fn state(&self) -> String {
        let mut words = Vec::new();
        if self.readonly {
            words.push("read-only".to_owned());
        }
        if self.session_expired {
            words.push("session expired".to_owned());
        }
        if !self.active {
            words.push("not active in ZooKeeper".to_owned());
        }
        for exception in [&self.zookeeper_exception, &self.queue_exception] {
            if !exception.is_empty() {
                words.push(exception.clone());
            }
        }
        words.join(", ")
    }
}

/// A row of `system.detached_tables`, or that the server does not have this table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetachedTable {
    /// The server knows no detached table of that name.
    None,
    /// The server tells nothing of detached tables.
    NotTold,
    /// It is detached.
    Is {
        /// By which it is known again.
        uuid: String,
        /// Also over a restart.
        permanently: bool,
    },
}

/// A part as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name, rows and hash.
    pub part: ActivePart,
    /// On the disk that has it; absolute.
    pub folder: PathBuf,
    /// Otherwise it is outdated, and still on the disk.
    pub active: bool,
}

/// A folder under `detached/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedPart {
    /// Name of its folder below `detached/`.
    pub name: String,
    /// On the disk that has it; absolute.
    pub path: PathBuf,
}
