//! `rekeeper status`, with a name and without.

use serde::{Deserialize, Serialize};

use super::{Counts, Phase, State, TableStatus, Until};
use crate::domain::ids::{HostName, MigrationName};
use crate::domain::problem::{Code, Problem};

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
