//! What people and their scripts see: the documents of `-o json` and `-o yaml`. Their fields are a contract.

mod status;

use serde::{Deserialize, Serialize};

pub use status::{
    ExportStatus, HostStatus, MigrationLine, RetryStatus, RunningStep, SetStatus, StatusView, TableStatusView,
    WaveStatus,
};

use crate::domain::ids::{HostName, MigrationName};
use crate::domain::problem::Finding;

/// One host, of `rekeeper hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// The name in agent.yaml.
    pub host: HostName,
    /// Whether its agent is connected.
    pub connected: bool,
    /// The agent's release.
    pub agent_version: String,
    /// The server's version.
    pub clickhouse_version: String,
    /// What it is doing, if anything.
    pub doing: Option<String>,
    /// Why an agent that says it is this host's was refused within the last two minutes: its certificate, its protocol,
    /// or its server has another agent.
    #[serde(default)]
    pub refused: Option<String>,
}

/// Callers that were refused in the TLS handshake, of `rekeeper hosts --refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalView {
    /// Where they called from, without the port.
    pub address: String,
    /// Why, with what their certificate says of them.
    pub reason: String,
    /// When the first of them was refused, RFC 3339 UTC.
    pub first: String,
    /// When the last of them was, RFC 3339 UTC.
    pub last: String,
    /// How many there were since the first.
    pub count: u64,
}

/// A plan, of `rekeeper plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// As it was given to `rekeeper plan`; a migration is called like its plan.
    pub name: MigrationName,
    /// With one of these nothing is saved.
    pub blockers: Vec<Finding>,
    /// What to know before starting.
    pub warnings: Vec<Finding>,
    /// Names of the hosts of each wave.
    pub waves: Vec<Vec<HostName>>,
    /// What each of them takes along, and is expected to cost.
    #[serde(default)]
    pub forecast: Vec<WaveView>,
    /// One for each ZooKeeper path.
    pub replica_sets: Vec<PlannedSetView>,
}

/// A wave of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveView {
    /// They move together, since they share tables.
    pub hosts: Vec<HostName>,
    /// How many replica sets it moves.
    pub replica_sets: u64,
    /// Table replicas, not tables.
    pub tables: u64,
    /// Tables without each of which it would fall apart into several waves.
    pub tied_by: Vec<String>,
    /// Tables with replicas on more than one of its hosts: together they tie them.
    pub shared_tables: u64,
    /// A table that ties the hosts of the wave together.
    pub shared_example: Option<String>,
    /// Bytes that followers will fetch, at most.
    pub fetch_bytes: u64,
    /// How long its tables will be unavailable, in seconds.
    pub unavailable_seconds: u64,
    /// The earlier migration by whose pace that was corrected; none: by assumed rates.
    #[serde(default)]
    pub measured_in: Option<MigrationName>,
}

/// A replica set of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSetView {
    /// Path in ZooKeeper, without the chroot.
    pub zookeeper_path: String,
    /// One for each replica that ZooKeeper knows.
    pub replicas: Vec<PlannedReplicaView>,
}

/// A table replica of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedReplicaView {
    /// The host that has this replica.
    pub host: HostName,
    /// The database, without quotes.
    pub database: String,
    /// The table, without its database and without quotes.
    pub table: String,
    /// Its name below `replicas` of the path.
    pub replica_name: String,
}

/// State of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Planned, never started.
    Planned,
    /// Something goes on, or will as soon as an agent is back.
    Running,
    /// Stopped by `pause`, or at the barrier of `--until`.
    Paused,
    /// Every table is restored (or skipped).
    Completed,
    /// Nothing can go on without `retry`, `skip` or `abort`.
    Failed,
    /// Given up: what was not cleaned is in service, what was is restored.
    Aborted,
}

impl State {
    /// The state as people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "PLANNED",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Aborted => "ABORTED",
        }
    }

    /// Whether nothing will ever happen again under this name.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Aborted)
    }
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Tables are being detached.
    Detach,
    /// The sets' nodes are being read and compared.
    Settle,
    /// Nodes are being recorded and deleted.
    Clean,
    /// Servers are being restarted.
    Restart,
    /// Tables are being attached, read-only.
    Attach,
    /// Replicas are being restored.
    Restore,
    /// Nothing is left to do.
    Done,
}

/// Where `--until` stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// All tables detached and all sets settled, nothing deleted.
    Detached,
    /// All sets cleaned.
    ZkCleaned,
    /// All servers restarted.
    Restarted,
    /// To the end.
    Restored,
}

impl Until {
    /// The barrier as people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::ZkCleaned => "zk-cleaned",
            Self::Restarted => "restarted",
            Self::Restored => "restored",
        }
    }
}

/// Status of a table replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TableStatus {
    /// In service on its old metadata.
    #[serde(rename = "INIT")]
    Init,
    /// Detached, permanently.
    #[serde(rename = "DETACHED")]
    Detached,
    /// Its set's nodes are deleted.
    #[serde(rename = "ZK_CLEANED")]
    ZkCleaned,
    /// Restored and accounted for.
    #[serde(rename = "RESTORED")]
    Restored,
}

/// How many tables have which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// In service on their old metadata.
    #[serde(rename = "INIT")]
    pub init: u64,
    /// Detached.
    #[serde(rename = "DETACHED")]
    pub detached: u64,
    /// Cleaned.
    #[serde(rename = "ZK_CLEANED")]
    pub zk_cleaned: u64,
    /// Restored.
    #[serde(rename = "RESTORED")]
    pub restored: u64,
    /// With a problem; also counted under their status.
    pub failed: u64,
}

impl Counts {
    /// Counts one table.
    pub fn add(&mut self, status: TableStatus, failed: bool) {
        match status {
            TableStatus::Init => self.init += 1,
            TableStatus::Detached => self.detached += 1,
            TableStatus::ZkCleaned => self.zk_cleaned += 1,
            TableStatus::Restored => self.restored += 1,
        }
        self.failed += u64::from(failed);
    }

    /// All tables.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.init + self.detached + self.zk_cleaned + self.restored
    }
}

/// One line of `rekeeper events -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When it was written down, RFC 3339 UTC.
    pub time: String,
    /// `ordered` (by a person), `intent`, `done` or `failed`.
    pub kind: String,
    /// The attempt, for intents and their outcomes.
    pub attempt: Option<u64>,
    /// As in `events`, such as `detach`.
    pub step: Option<String>,
    /// The host that does it.
    pub host: Option<HostName>,
    /// The table as `db.table`, or the path of a set.
    pub target: Option<String>,
    /// Who ordered it, what was found, or what failed.
    pub text: String,
}
