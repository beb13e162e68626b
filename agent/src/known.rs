//! The tables that this host's own ClickHouse has ever told of, and where: nothing else is touched, whoever commands it
//! (invariant 12). On disk, since the server tells little of a table that is detached; a list that was lost is learned
//! again.

mod learn;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Order, SetRef, TableRef, Witness};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use self::learn::learn;
use crate::clickhouse::{ClickHouse, Error};
use crate::state::{StateError, read_note, write_note};
use crate::steps::state_failed;
use crate::words::in_full;

const FILE: &str = "known-tables.json";
/// How long the server may be away when it has to be asked.
const AWAY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(300);

/// The tables that the server has told of: no other one is touched.
#[derive(Debug)]
pub struct Known {
    state_dir: PathBuf,
    file: PathBuf,
    tables: Mutex<BTreeSet<KnownTable>>,
    /// Held by whoever asks the server.
    learning: tokio::sync::Mutex<()>,
}

/// One table replica, as it was told once. What changes is kept beside what it was: a migration may be about
/// either, and the steps find out which is true.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownTable {
    name: TableName,
    uuid: String,
    path: ZkPath,
    replica_name: String,
    place: Option<Place>,
}

impl Known {
    /// Reads what the state folder has of it.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let file = state_dir.join(FILE);
        let tables = read_note(&file)?.unwrap_or_default();
        Ok(Self {
            state_dir: state_dir.to_owned(),
            file,
            tables: Mutex::new(tables),
            learning: tokio::sync::Mutex::default(),
        })
    }

    /// Adds the tables of an inspection; they are on disk when this answers.
    ///
    /// # Errors
    /// When the disk refuses; then nothing is added.
    pub fn add(&self, inventory: &HostInventory) -> Result<(), StateError> {
        // A path that is not usable gets a blocker, not a command.
        let found = inventory.tables.iter().filter_map(|table| {
            Some(KnownTable {
                name: table.name.clone(),
                uuid: table.uuid.clone(),
                path: ZkPath::parse(&table.zookeeper_path).ok()?,
                replica_name: table.replica_name.clone(),
                place: table.place.clone(),
            })
        });
        self.extend(found)
    }

    fn extend(&self, found: impl IntoIterator<Item = KnownTable>) -> Result<(), StateError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = tables.clone();
        all.extend(found);
        if all != *tables {
            write_note(&self.state_dir, &self.file, &all)?;
            *tables = all;
        }
        Ok(())
    }

    /// A table whose path is this one, or lies above or below it, in whichever place.
    #[must_use]
    pub fn near(&self, path: &ZkPath) -> Option<TableName> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let is_near = |known: &&KnownTable| {
            known.path == *path || known.path.is_parent_of(path) || path.is_parent_of(&known.path)
        };
        tables.iter().find(is_near).map(|known| known.name.clone())
    }

    /// The same as [`Self::check`]; of what is not known the server is asked, which `config` is the configuration of.
    ///
    /// # Errors
    /// COMMAND_REFUSED; CLICKHOUSE_AWAY, which may pass.
    pub async fn check_or_learn(&self, order: &Order, clickhouse: &ClickHouse, config: &Path) -> Result<(), Failure> {
        if self.check(order).is_ok() {
            return Ok(());
        }
        let _turn = self.learning.lock().await;
        if self.check(order).is_ok() {
            return Ok(()); // Learned meanwhile.
        }
        let deadline = Instant::now() + AWAY;
        let (found, unread) = loop {
            match learn(clickhouse, config).await {
                Ok(learned) => break learned,
                Err(Error::Unreachable { .. } | Error::Unknown { .. }) if Instant::now() < deadline => {
                    sleep(POLL).await
                }
                Err(error) => {
                    let failure = error.into_failure(Code::CommandRefused);
                    let fix = "mend what the server answers, for the user of agent.yaml, then rekeeper retry";
                    return Err(match failure.problem.code {
                        Code::CommandRefused => failure.with_fix(fix),
                        _ => failure,
                    });
                }
            }
        };
        tracing::warn!(step = %order.kind(), tables = found.len(), "asked the server for the tables of this host");
        let added = self.extend(found);
        added.map_err(|error| {
            if error.code().is_some() {
                return state_failed(Code::CommandRefused)(error);
            }
            let fix = "see whether the agent can write into its state_dir (rights), then rekeeper retry";
            Failure::passing(Code::CommandRefused, in_full(&error)).with_fix(fix)
        })?;
        self.check(order).map_err(|unknown| refused(unknown, &unread))
    }

    /// Whether a command is about a table of this host.
    ///
    /// # Errors
    /// Why it is not, for people.
    pub fn check(&self, order: &Order) -> Result<(), String> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let any = |is: &dyn Fn(&KnownTable) -> bool| tables.iter().any(is);
        let is_known = match order {
            Order::Sync(table)
            | Order::Detach(table)
            | Order::Reattach(table)
            | Order::Clear(table)
            | Order::Finish(table) => any(&|known| known.is_table(table)),
            Order::Attest { table, set, .. } => {
                any(&|known| known.is_table(table) && known.is_of_set(set)) && set.path == table.path
            }
            Order::Attach { table, witness, .. } | Order::Restore { table, witness, .. } => {
                any(&|known| known.is_table(table)) && witness.path == table.path
            }
            Order::Freeze(set) | Order::Settle(set) | Order::Record(set) | Order::Clean(set) | Order::Release(set) => {
                any(&|known| known.is_of_set(set))
            }
            Order::Witness(Witness { path, .. }) => any(&|known| known.path == *path),
            Order::Restart => true,
        };
        if is_known {
            return Ok(());
        }
        Err(format!(
            "the ClickHouse server of this host has not told this agent of the table that the order is about ({})",
            order.kind()
        ))
    }
}

/// The refusal of a command, `unread` being the detached tables of which the agent cannot tell: one of them may be it.
fn refused(unknown: String, unread: &[String]) -> Failure {
    let (why, fix) = match unread {
        [] => (
            unknown,
            "see whether this agent runs on the host that the plan means, and whether its server still has the table \
             (system.tables, system.detached_tables); if it was dropped or renamed: rekeeper skip, or abort and plan anew; \
             then rekeeper retry",
        ),
        unread => (
            format!("{unknown}; the agent cannot tell of {}", unread.join("; of ")),
            "let the agent read the metadata files that the message names (as root, or as ClickHouse's user), or bring the \
             macro back that is missing: by them it knows a detached table; then rekeeper retry",
        ),
    };
    Failure::lasting(Code::CommandRefused, why).with_fix(fix)
}

impl KnownTable {
    fn is_table(&self, table: &TableRef) -> bool {
        self.name == table.name
            && self.uuid == table.uuid
            && self.path == table.path
            && self.replica_name == table.replica_name
    }

    fn is_of_set(&self, set: &SetRef) -> bool {
        self.path == set.path && self.place.as_ref() == Some(&set.place) && set.replicas.contains(&self.replica_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekeeper_shared::domain::inventory::{Around, TableInventory, ZookeeperFacts};
    use rekeeper_shared::domain::unsettled::Allowed;

    fn place(chroot: &str) -> Place {
        Place {
            ensemble: "default".into(),
            nodes: vec!["zk:2181".into()],
            secure: false,
            chroot: chroot.into(),
        }
    }

    fn inventory() -> HostInventory {
        HostInventory {
            host: "ch-1".parse().unwrap(),
            clickhouse_version: "26.9".into(),
            can_restart: true,
            tables: vec![TableInventory {
                name: TableName::new("d", "t"),
                uuid: "u".into(),
                engine: "ReplicatedMergeTree".into(),
                database_engine: "Atomic".into(),
                place: Some(place("")),
                zookeeper_path: "/t/".into(),
                replica_name: "r1".into(),
                readonly: false,
                exception: String::new(),
                lost_part_count: 0,
                disks: vec![],
                parts: 0,
                rows: 0,
                bytes: 0,
                contents: Vec::new(),
                patch_parts: 0,
                collisions: vec![],
                mutations: vec![],
                zero_copy: false,
                bytes_on: vec![],
                stuck: vec![],
                not_granted: Vec::new(),
                restart_changes: Vec::new(),
                written_by: vec![],
                zookeeper: ZookeeperFacts::Absent,
            }],
            around: Around::default(),
        }
    }

    fn table() -> TableRef {
        TableRef {
            name: TableName::new("d", "t"),
            uuid: "u".into(),
            path: ZkPath::parse("/t").unwrap(),
            replica_name: "r1".into(),
        }
    }

    fn set() -> SetRef {
        SetRef {
            place: place(""),
            path: ZkPath::parse("/t").unwrap(),
            replicas: vec!["r1".into(), "r2".into()],
            allowed: Allowed::default(),
            recorded: false,
        }
    }

    #[test]
    fn a_refusal_has_the_remedy_of_its_cause() {
        let missing = refused("not told".into(), &[]).problem;
        assert!(
            missing.fix.contains("rekeeper skip") && !missing.fix.contains("metadata files"),
            "{missing:?}"
        );
        let unread = refused(
            "not told".into(),
            &["d.t, whose definition is in /m/t.sql: denied".into()],
        )
        .problem;
        assert!(unread.message.contains("/m/t.sql: denied"), "{unread:?}");
        assert!(
            unread.fix.contains("metadata files") && !unread.fix.contains("skip"),
            "{unread:?}"
        );
    }

    #[test]
    fn only_what_the_server_reported_is_touched_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::open(folder.path()).unwrap();
        assert!(known.check(&Order::Detach(table())).is_err());
        known.add(&inventory()).unwrap();
        // A later inspection does not see the tables that are detached by then.
        let mut later = inventory();
        later.tables.clear();
        known.add(&later).unwrap();
        drop(known);

        let known = Known::open(folder.path()).unwrap();
        assert_eq!(known.check(&Order::Detach(table())), Ok(()));
        assert_eq!(known.check(&Order::Clean(set())), Ok(()));
        let changes: [fn(&mut TableRef); 4] = [
            |t| t.name.table = "other".into(),
            |t| t.uuid = "other".into(),
            |t| t.path = ZkPath::parse("/other").unwrap(),
            |t| t.replica_name = "other".into(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = table();
            change(&mut other);
            assert!(known.check(&Order::Detach(other)).is_err(), "{number}");
        }
        let changes: [fn(&mut SetRef); 3] = [
            |s| s.path = ZkPath::parse("/other").unwrap(),
            |s| s.place = place("/root"),
            |s| s.replicas = vec!["r2".into()],
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = set();
            change(&mut other);
            assert!(known.check(&Order::Clean(other)).is_err(), "{number}");
        }
    }
}
