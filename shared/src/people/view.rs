//! What people and their scripts see: the documents of `-o json` and `-o yaml`. Their fields are a contract.

use serde::{Deserialize, Serialize};

use crate::domain::ids::{HostName, MigrationName};
use crate::domain::problem::{Code, Finding, Problem};

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

/// One line of `rekeeper status` without a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationLine {
    /// As it was given to `rekeeper plan`; a migration is called like its plan.
    pub name: MigrationName,
    /// Whether something goes on, and how it ended.
    pub state: State,
    /// That of the table that is furthest behind.
    pub phase: Phase,
    /// How many table replicas have each status.
    pub counts: Counts,
    /// When its plan was made, RFC 3339 UTC.
    pub created: String,
}

/// `rekeeper status NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// As it was given to `rekeeper plan`; a migration is called like its plan.
    pub name: MigrationName,
    /// Whether something goes on, and how it ended.
    pub state: State,
    /// That of the table that is furthest behind.
    pub phase: Phase,
    /// The barrier at which it will pause, or paused.
    pub until: Option<Until>,
    /// What is being waited for: what, where, how long already, until when.
    pub waiting_for: Option<String>,
    /// The steps under way, the one that takes longest first.
    #[serde(default)]
    pub running: Vec<RunningStep>,
    /// Steps that failed and are tried again, the next one first.
    #[serde(default)]
    pub retries: Vec<RetryStatus>,
    /// Table replicas by status.
    pub counts: Counts,
    /// The waves, in their sequence.
    #[serde(default)]
    pub waves: Vec<WaveStatus>,
    /// By name.
    pub hosts: Vec<HostStatus>,
    /// One for each ZooKeeper path of the plan.
    pub replica_sets: Vec<SetStatus>,
    /// One for each table and host.
    pub tables: Vec<TableStatusView>,
}

/// A wave in a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveStatus {
    /// They move together, since they share tables.
    pub hosts: Vec<HostName>,
    /// Table replicas of the wave by status.
    pub counts: Counts,
    /// How long its tables are expected to be unavailable, in seconds: the plan's forecast, corrected by what the waves
    /// before it took; none in a plan of an older release.
    pub expected_seconds: Option<u64>,
    /// For how long any of them was unavailable while something was done for them and the migration was not paused, so far;
    /// none before that.
    pub measured_seconds: Option<u64>,
    /// Bytes that followers fetch, at most, by the plan.
    pub fetch_bytes: u64,
}

/// A step under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningStep {
    /// As `events` has it; grows with every command of the migration.
    pub attempt: u64,
    /// As in `events`, such as `detach`.
    pub step: String,
    /// The host that does it.
    pub host: HostName,
    /// The table as `db.table`, the path of a set, or the host.
    pub target: String,
    /// Whole seconds since it was commanded, or since the coordinator started.
    pub seconds: u64,
    /// The agent's own words, some of them seconds old.
    pub doing: Option<String>,
}

/// A step that failed with what may pass, and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryStatus {
    /// The step that failed.
    pub step: String,
    /// The host that did it.
    pub host: HostName,
    /// The table as `db.table`, the path of a set, or the host.
    pub target: String,
    /// How often in a row.
    pub failures: u32,
    /// After how many failures it is a problem.
    pub most: u32,
    /// The code that the problem would have.
    pub code: Code,
    /// Why it failed the last time.
    pub reason: String,
    /// Whole seconds until it is tried again, 0 as soon as it can be commanded; none while that is under way.
    pub next_seconds: Option<u64>,
}

/// A host in a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The name in agent.yaml.
    pub host: HostName,
    /// Whether its agent is connected.
    pub connected: bool,
    /// The server's version.
    pub version: String,
    /// When its server was restarted for this migration, RFC 3339 UTC.
    pub restarted_at: Option<String>,
    /// How many of its table replicas have each status.
    pub counts: Counts,
    /// It was left out with `skip --host`.
    #[serde(default)]
    pub skipped: bool,
    /// Since when it cannot be reached, and why, if anything waits for it.
    #[serde(default)]
    pub away: Option<String>,
}

/// A replica set in a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStatus {
    /// Path in ZooKeeper, without the chroot.
    pub zookeeper_path: String,
    /// Whether it was found settled.
    pub settled: bool,
    /// The replica that is restored first.
    pub reference: Option<HostName>,
    /// Why that one; or why it is not settled.
    pub reason: Option<String>,
    /// Nodes deleted so far.
    pub znodes_deleted: u64,
    /// The file that has all nodes that were there; none before the set is recorded.
    #[serde(default)]
    pub export: Option<ExportStatus>,
}

/// Where the nodes of a replica set are exported to, for `rekeeper-agent znodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// The host that has it.
    pub host: HostName,
    /// Its path on that host.
    pub file: String,
    /// Nodes in it.
    pub nodes: u64,
    /// Size of the file on disk, packed.
    pub bytes: u64,
    /// SHA-256 of its lines, as `rekeeper-agent znodes --verify` prints it; empty for one of an older agent.
    #[serde(default)]
    pub sha256: String,
}

/// A table replica in a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatusView {
    /// The host that has this replica.
    pub host: HostName,
    /// The database, without quotes.
    pub database: String,
    /// The table, without its database and without quotes.
    pub table: String,
    /// As ClickHouse prints it.
    pub uuid: String,
    /// The path that it shares with the other replicas of its set.
    pub zookeeper_path: String,
    /// Its name below `replicas` of the path.
    pub replica_name: String,
    /// INIT, DETACHED, ZK_CLEANED or RESTORED.
    pub status: TableStatus,
    /// How many commands were sent for it.
    pub attempts: u64,
    /// Parts in its manifest.
    pub parts: Option<u64>,
    /// Rows in its manifest.
    pub rows: Option<u64>,
    /// Parts that were set aside since they are not on record; none before it is restored.
    #[serde(default)]
    pub set_aside: Option<u64>,
    /// It was left out with `skip`: it goes back into service, or is there.
    #[serde(default)]
    pub skipped: bool,
    /// The host without which its set does not go on, and that cannot be reached.
    #[serde(default)]
    pub waits_for: Option<HostName>,
    /// Why the last attempt failed; absent again when one succeeds.
    pub problem: Option<Problem>,
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
