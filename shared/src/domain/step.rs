//! The steps of a migration: what a coordinator commands, and what an agent answers.

mod kind;
mod outcome;

use serde::{Deserialize, Serialize};

pub use kind::{Class, Scope, StepKind, UnknownStep};
pub use outcome::{Done, Exported, Failure, Outcome, Restored};

use crate::domain::document::Packed;
use crate::domain::ids::{HostName, MigrationName, TableName};
use crate::domain::place::{Place, ZkPath};
use crate::domain::plan::{HostIx, SetIx, TableIx};
use crate::domain::unsettled::Allowed;

/// The table replica, set or host that a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Steps on the server: each replica for itself.
    Table(TableIx),
    /// Steps on ZooKeeper: once for all replicas of a path.
    Set(SetIx),
    /// The restart: once for all tables of a server.
    Host(HostIx),
}

impl Target {
    /// Of what kind it is.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::Table(_) => Scope::Table,
            Self::Set(_) => Scope::Set,
            Self::Host(_) => Scope::Host,
        }
    }
}

/// A command to one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Whose plan it is of; with the attempt it names the command.
    pub migration: MigrationName,
    /// Number of the intent; grows with every intent of a migration.
    pub attempt: u64,
    /// The step, with all that the agent needs for it.
    pub order: Order,
}

/// What to do, with all that the agent needs for it. No SQL, no shell, no free path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// See [`StepKind::Sync`].
    Sync(TableRef),
    /// See [`StepKind::Freeze`].
    Freeze(SetRef),
    /// See [`StepKind::Detach`].
    Detach(TableRef),
    /// See [`StepKind::Reattach`].
    Reattach(TableRef),
    /// See [`StepKind::Settle`].
    Settle(SetRef),
    /// See [`StepKind::Record`].
    Record(SetRef),
    /// See [`StepKind::Attest`].
    Attest {
        /// The replica whose agent compares.
        table: TableRef,
        /// Where its nodes are.
        set: SetRef,
        /// The part set of record, packed; the agent checks its digest.
        record: Packed,
    },
    /// See [`StepKind::Clean`].
    Clean(SetRef),
    /// See [`StepKind::Release`].
    Release(SetRef),
    /// See [`StepKind::Restart`].
    Restart,
    /// See [`StepKind::Witness`].
    Witness(Witness),
    /// See [`StepKind::Attach`].
    Attach {
        /// The replica, by its UUID: what has only its name is refused.
        table: TableRef,
        /// What must be readable at the server's place.
        witness: Witness,
        /// The part set of record, packed; the agent checks its digest.
        record: Packed,
        /// The manifest when it was written already; without bytes when only its digest is known.
        manifest: Option<Packed>,
    },
    /// See [`StepKind::Restore`].
    Restore {
        /// The replica, by its UUID: what has only its name is refused.
        table: TableRef,
        /// First and alone, or after the reference.
        role: Role,
        /// The table's own manifest; without bytes when only its digest is known.
        manifest: Packed,
        /// The witness, taken away by the reference.
        witness: Witness,
        /// Whether merges of the engine keep the number of rows.
        merges_keep_rows: bool,
        /// Whether the sequence of parts matters: the engine takes the later one for the newer.
        keep_order: bool,
        /// The names of all replicas of the set.
        replicas: Vec<String>,
    },
    /// See [`StepKind::Clear`].
    Clear(TableRef),
    /// See [`StepKind::Finish`].
    Finish(TableRef),
}

impl Order {
    /// The step that is commanded.
    #[must_use]
    pub fn kind(&self) -> StepKind {
        match self {
            Self::Sync(_) => StepKind::Sync,
            Self::Freeze(_) => StepKind::Freeze,
            Self::Detach(_) => StepKind::Detach,
            Self::Reattach(_) => StepKind::Reattach,
            Self::Settle(_) => StepKind::Settle,
            Self::Record(_) => StepKind::Record,
            Self::Attest { .. } => StepKind::Attest,
            Self::Clean(_) => StepKind::Clean,
            Self::Release(_) => StepKind::Release,
            Self::Restart => StepKind::Restart,
            Self::Witness(_) => StepKind::Witness,
            Self::Attach { .. } => StepKind::Attach,
            Self::Restore { .. } => StepKind::Restore,
            Self::Clear(_) => StepKind::Clear,
            Self::Finish(_) => StepKind::Finish,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn about(&self) -> About<'_> {
        match self {
            Self::Sync(table)
            | Self::Detach(table)
            | Self::Reattach(table)
            | Self::Clear(table)
            | Self::Finish(table)
            | Self::Attest { table, .. }
            | Self::Attach { table, .. }
            | Self::Restore { table, .. } => About::Table(table),
            Self::Freeze(set) | Self::Settle(set) | Self::Record(set) | Self::Clean(set) | Self::Release(set) => {
                About::Set {
                    ensemble: &set.place.ensemble,
                    path: &set.path,
                }
            }
            Self::Witness(Witness { ensemble, path, .. }) => About::Set { ensemble, path },
            Self::Restart => About::Host,
        }
    }
}

/// What an order is about, as an agent tells it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About<'a> {
    /// A table replica of its server.
    Table(&'a TableRef),
    /// The replica set at a path.
    Set {
        /// Name of the ensemble in the server's configuration.
        ensemble: &'a str,
        /// Path in ZooKeeper, without the chroot.
        path: &'a ZkPath,
    },
    /// The server of that host, with all its tables.
    Host,
}

/// A table replica as an agent finds it: by UUID, path and replica name, not by name alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRef {
    /// As the plan has it; a table that was renamed is known by its UUID.
    pub name: TableName,
    /// As `system.tables` has it; other on each host.
    pub uuid: String,
    /// The path that it was made with, macros filled in.
    pub path: ZkPath,
    /// The replica that it was made as, macros filled in.
    pub replica_name: String,
}

/// A replica set as an agent finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRef {
    /// Ensemble and chroot of the plan.
    pub place: Place,
    /// Path in ZooKeeper, without the chroot.
    pub path: ZkPath,
    /// Names of all replicas that are planned; another one at the path stops the step.
    pub replicas: Vec<String>,
    /// Findings of the plan that a person has allowed.
    pub allowed: Allowed,
    /// A marker of this migration was created on it before, and its record is saved: a path that is not
    /// there any more counts as cleaned.
    pub recorded: bool,
}

/// The node by which the servers of a set prove that they are configured for the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Name of the ensemble in the server's configuration.
    pub ensemble: String,
    /// The table's path, where nobody but the plan's own tables may be.
    pub path: ZkPath,
    /// Name of the node, directly under the chroot.
    pub node: String,
    /// Drawn at random, so that no older witness proves anything.
    pub content: String,
    /// The plan's replicas, each with the UUID of its table: what somebody restores by hand is told by them from what
    /// others have made at the path.
    pub replicas: Vec<(String, String)>,
}

/// Which replica of its set a table is restored as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// First and alone.
    Reference,
    /// After the reference.
    Follower {
        /// The packed record, which says what becomes of the replica's parts.
        record: Packed,
        /// The packed manifests of the reference and then of those that were restored before it and brought parts.
        before: Vec<Packed>,
    },
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The migration of the command.
    pub migration: MigrationName,
    /// The number of the command.
    pub attempt: u64,
    /// The step that was ordered; an agent of an older release does not tell it.
    pub step: Option<StepKind>,
    /// Done, or failed with its problem.
    pub outcome: Outcome,
    /// The document that a step made: record, manifest or account.
    pub document: Option<Packed>,
}

/// What an agent tells when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// Release of the agent, as Cargo has it.
    pub agent_version: String,
    /// The name in agent.yaml; with TLS one of its certificate.
    pub host: HostName,
    /// What tells its ClickHouse server from others: two agents of one server have the same.
    pub server_id: String,
    /// `version()` of its server; empty when it does not answer.
    pub clickhouse_version: String,
    /// Highest fencing token that it ever obeyed, and the run of the coordinator that had it.
    pub seen: SeenToken,
    /// Highest attempt that it has seen, per migration.
    pub attempts: Vec<(MigrationName, u64)>,
    /// How many tables it detaches or attaches at a time.
    pub parallel_detach: usize,
    /// How many tables it restores at a time.
    pub parallel_restore: usize,
}

/// A fencing token and the run that it belongs to; a copy of a coordinator's store has the token but not the run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeenToken {
    /// Grows with every start of a coordinator.
    pub token: u64,
    /// Drawn at every start of a coordinator.
    pub run: String,
}
