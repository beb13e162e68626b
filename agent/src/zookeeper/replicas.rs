//! What a table's nodes say after its restore.

use rekeeper_shared::domain::document::{QueueEntry, QueueOrder};
use rekeeper_shared::domain::place::ZkPath;

use super::connection::ZooKeeper;
use super::error::ZkError;
use super::snapshot::{log_end, number};

/// One replica, after its restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredReplica {
    /// Below `replicas` of the path.
    pub name: String,
    /// A server has the table attached.
    pub active: bool,
    /// `log_pointer`; none when the node is empty or absent.
    pub log_pointer: Option<i64>,
    /// Queue entries other than merges and mutations.
    pub waiting: Vec<QueueEntry>,
}

/// A table's nodes, after the restore of some or all of its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredState {
    /// One more than the number of the highest log entry; 0 when the log is empty.
    pub log_end: i64,
    /// The children of `<path>/replicas`, sorted by name.
    pub replicas: Vec<RestoredReplica>,
}

impl RestoredState {
    /// What is still missing of the replicas named, by the rule of invariant 8; nothing when empty.
    #[must_use]
    pub fn missing(&self, expected: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        for name in expected {
            let Some(replica) = self.replicas.iter().find(|r| r.name == *name) else {
                found.push(format!("replica {name} is not registered"));
                continue;
            };
            if !replica.active {
                found.push(format!("replica {name} is not active"));
            }
            match replica.log_pointer {
                None => found.push(format!("replica {name} has no log pointer yet")),
                Some(pointer) if pointer < self.log_end => found.push(format!(
                    "replica {name} has taken the log up to {pointer}, and the log ends at {}",
                    self.log_end
                )),
                Some(_) => {}
            }
            if let Some(first) = replica.waiting.first() {
                let count = replica.waiting.len();
                found.push(format!(
                    "replica {name} has {count} entries queued (first: {})",
                    first.order.word()
                ));
            }
        }
        found
    }
}

impl ZooKeeper {
    /// Reads what invariant 8 asks of a table's nodes; none when the path does not exist.
    ///
    /// # Errors
    /// [`ZkError::NotATable`] when something else is there, or ZooKeeper's failure.
    pub async fn restored_state(&self, path: &ZkPath) -> Result<Option<RestoredState>, ZkError> {
        if self.path_absent(path).await? {
            return Ok(None);
        }
        let not_a_table = |missing| ZkError::NotATable {
            path: path.to_string(),
            missing,
        };
        let names = self.children(&path.child("replicas")).await?;
        let mut names = names.ok_or_else(|| not_a_table("replicas"))?;
        names.sort();
        let mut replicas = Vec::with_capacity(names.len());
        for name in names {
            let replica = path.replica(&name);
            let pointer = format!("{replica}/log_pointer");
            // The pointer before the queue: taking an entry moves both at once, and the other way round one that is
            // taken in between would show in neither.
            let log_pointer = number(&pointer, self.data(&pointer).await?)?;
            let is_active = self.stat(&format!("{replica}/is_active")).await?;
            let mut waiting = self.queue(&replica).await?;
            waiting.retain(|entry| !matches!(entry.order, QueueOrder::Merge { .. } | QueueOrder::Mutate { .. }));
            replicas.push(RestoredReplica {
                name,
                active: is_active.is_some_and(|stat| stat.ephemeral_owner != 0),
                log_pointer,
                waiting,
            });
        }
        // The log last: an entry that comes meanwhile makes a replica look behind, never finished.
        let log = self
            .children(&path.child("log"))
            .await?
            .ok_or_else(|| not_a_table("log"))?;
        Ok(Some(RestoredState {
            log_end: log_end(&log),
            replicas,
        }))
    }
}
