//! The plan as data: what will be done, immutable once made.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::allowances::Allowances;
use crate::domain::ids::{HostName, MigrationName, TableName};
use crate::domain::place::{Place, ZkPath};
use crate::domain::problem::{Code, Finding};
use crate::domain::unsettled::Allowed;

/// Index of a table replica in [`Plan::tables`].
pub type TableIx = usize;
/// Index of a replica set in [`Plan::sets`].
pub type SetIx = usize;
/// Index of a host in [`Plan::hosts`].
pub type HostIx = usize;

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name, and that of its migration.
    pub name: MigrationName,
    /// When it was made, RFC 3339 UTC.
    pub created: String,
    /// Name in the certificate of who planned.
    pub created_by: String,
    /// The arguments of `plan`, as they came.
    pub request: PlanRequest,
    /// The hosts, sorted by name.
    pub hosts: Vec<PlannedHost>,
    /// The table replicas, sorted by (database, table, host).
    pub tables: Vec<PlannedTable>,
    /// The replica sets, sorted by path.
    pub sets: Vec<PlannedSet>,
    /// Hosts that share replica sets, in the sequence in which the waves run.
    pub waves: Vec<Vec<HostIx>>,
    /// What was warned of when it was made.
    pub warnings: Vec<Finding>,
    /// What each wave was expected to cost when it was made; empty in a plan of an older release.
    #[serde(default)]
    pub forecasts: Vec<WaveForecast>,
    /// The agent of each replica attests the record before anything is deleted; not in a plan of an older
    /// release, whose log has no such step.
    #[serde(default)]
    pub attested: bool,
}

/// What a wave is expected to cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveForecast {
    /// Tables without each of which the wave would fall apart into several.
    pub tied_by: Vec<TableName>,
    /// Tables with replicas on more than one of its hosts: together they tie them.
    pub shared_tables: u64,
    /// A table that ties the hosts of the wave together, for people.
    pub shared_example: Option<TableName>,
    /// Bytes that followers will fetch, at most, since the parts that they have are others.
    pub fetch_bytes: u64,
    /// How long its tables will be unavailable, in seconds.
    pub unavailable_seconds: u64,
    /// The same by the rates that are assumed of any host; 0 in plans of a release that knew no others.
    #[serde(default)]
    pub assumed_seconds: u64,
    /// The earlier migration by whose pace the former was corrected.
    #[serde(default)]
    pub measured_in: Option<MigrationName>,
}

/// What a wave of an earlier migration took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredWave {
    /// The earlier migration of one of the hosts that had this pace.
    pub migration: MigrationName,
    /// When its plan was made, RFC 3339 UTC.
    pub created: String,
    /// Whether its hosts were restarted.
    pub restart: RestartPolicy,
    /// The hosts that it restarted together.
    pub hosts: Vec<HostName>,
    /// What it was to take by the assumed rates, in seconds.
    pub assumed_seconds: u64,
    /// What it took, in milliseconds.
    pub took_ms: u64,
}

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlanRequest {
    /// `--database` patterns; empty: all.
    pub databases: Vec<String>,
    /// `--table` patterns; empty: all.
    pub tables: Vec<String>,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// `--disk`.
    pub disk: Option<String>,
    /// `--host` names; empty: all that are connected.
    pub hosts: Vec<HostName>,
    /// `--restart`.
    pub restart: RestartPolicy,
    /// `--allow`.
    pub allow: Allowances,
    /// Which way the replica sets go; a plan of an older release knew one only.
    #[serde(default)]
    pub mode: Mode,
}

/// Which way the replica sets of a plan go: which steps, in which sequence (coordinator, progress/modes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The metadata is deleted and made anew from the replicas, which are detached meanwhile.
    #[default]
    Rebuild,
}

/// Whether the servers are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Each once, after its tables are cleaned.
    #[default]
    Once,
    /// Not at all.
    Never,
}

/// A host of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedHost {
    /// As in agent.yaml; the same in every migration.
    pub name: HostName,
    /// Version of its server when the plan was made.
    pub clickhouse_version: String,
    /// Its agent had a hook when the plan was made, which may move the whole server.
    #[serde(default)]
    pub has_hook: bool,
    /// Its server ran a node of ClickHouse Keeper when the plan was made: no two such servers are restarted together.
    #[serde(default)]
    pub runs_keeper: bool,
}

/// A table replica of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTable {
    /// The host that has this replica.
    pub host: HostIx,
    /// Its name when the plan was made.
    pub name: TableName,
    /// By which a step knows the table again: another one under its name is TABLE_CHANGED.
    pub uuid: String,
    /// Decides whether the sequence of parts matters, and whether merges keep the rows.
    pub engine: String,
    /// The set with which it is cleaned.
    pub set: SetIx,
    /// Under which ZooKeeper has it below `replicas`.
    pub replica_name: String,
}

impl PlannedTable {
    /// Whether merges of this engine keep the number of rows. Plain MergeTree does, unless rows expire (TTL) or are
    /// deleted; every other engine may lower it.
    #[must_use]
    pub fn merges_keep_rows(&self) -> bool {
        self.is_plain()
    }

    fn is_plain(&self) -> bool {
        self.engine == "ReplicatedMergeTree"
    }
}

/// A replica set of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSet {
    /// Ensemble and chroot from which it is cleaned, whatever a hook makes of the configuration later.
    pub place: Place,
    /// Path in ZooKeeper, without the chroot.
    pub path: ZkPath,
    /// One for each replica that ZooKeeper knows.
    pub tables: Vec<TableIx>,
    /// Index into [`Plan::waves`].
    pub wave: usize,
}

impl Plan {
    /// The hosts of a set, each once, in the set's sequence.
    #[must_use]
    pub fn set_hosts(&self, set: SetIx) -> Vec<HostIx> {
        let mut seen = BTreeSet::new();
        let hosts = self.sets[set].tables.iter().map(|&table| self.tables[table].host);
        hosts.filter(|host| seen.insert(*host)).collect()
    }

    /// The sets that have a table replica on the host.
    pub fn sets_on(&self, host: HostIx) -> impl Iterator<Item = SetIx> + '_ {
        self.sets
            .iter()
            .enumerate()
            .filter(move |(_, set)| set.tables.iter().any(|&t| self.tables[t].host == host))
            .map(|(ix, _)| ix)
    }

    /// The sets that have a table replica of that name.
    pub fn sets_of(&self, table: &TableName) -> impl Iterator<Item = SetIx> + '_ {
        let is_it: Vec<bool> = self.tables.iter().map(|t| t.name == *table).collect();
        (0..self.sets.len()).filter(move |&set| self.sets[set].tables.iter().any(|&t| is_it[t]))
    }

    /// Index of the host of that name.
    #[must_use]
    pub fn host_ix(&self, name: &HostName) -> Option<HostIx> {
        self.hosts.iter().position(|h| h.name == *name)
    }

    /// What the plan lets a set differ in: what was allowed for one of its tables.
    #[must_use]
    pub fn allowed(&self, set: SetIx) -> Allowed {
        let tables = self.sets[set].tables.iter();
        let names: Vec<String> = tables.map(|&t| self.tables[t].name.to_string()).collect();
        let allows = |code| names.iter().any(|name| self.request.allow.allows(code, Some(name)));
        Allowed {
            lost_parts: allows(Code::LostParts),
            mutations: allows(Code::MutationsUnfinished),
            diverged: allows(Code::Diverged),
            foreign_nodes: allows(Code::ForeignNodes),
        }
    }

    /// Whether the parts of the table have to come in sequence: every engine but plain MergeTree may take the later
    /// part for the newer one.
    #[must_use]
    pub fn keep_order(&self, table: TableIx) -> bool {
        let planned = &self.tables[table];
        let name = planned.name.to_string();
        !planned.is_plain() && !self.request.allow.allows(Code::PartsOutOfOrder, Some(&name))
    }

    /// The names of the set's replicas, as they must stand under `<path>/replicas`.
    #[must_use]
    pub fn replica_names(&self, set: SetIx) -> Vec<String> {
        self.sets[set]
            .tables
            .iter()
            .map(|&t| self.tables[t].replica_name.clone())
            .collect()
    }
}
