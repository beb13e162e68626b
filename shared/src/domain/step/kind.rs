//! The kinds of steps, a row each: what a step is about, what it counts against, and what people are told of it. Which
//! of them a migration goes through, in which sequence and under which guards, is said by its mode (coordinator,
//! progress/modes).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::problem::Code;

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// On the server: each replica for itself.
    Table,
    /// On ZooKeeper: once for all replicas of a path.
    Set,
    /// Once for all tables of a server.
    Host,
}

/// Which of a host's limits a step counts against: so many of a class are under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Short statements of a table.
    Tables,
    /// RESTORE, which the server has its own limit for.
    Restores,
    /// Waiting for statements of others; must not keep another table from its steps.
    Clears,
    /// Work in ZooKeeper.
    Sets,
    /// The server itself: one at a time.
    Server,
}

/// Steps on tables that are under way for each that may burden the server: the others look at their tables meanwhile,
/// which costs little because they do it together, or are on their way.
const STEPS_PER_TURN: usize = 8;

impl Class {
    /// How many steps of it one host does at a time, where so many tables may be detached or attached, and so many
    /// restored, at once (`parallel` of the agent's configuration). Said here alone: the agent keeps to it, and the
    /// coordinator orders by it.
    #[must_use]
    pub fn at_a_time(self, detach: usize, restore: usize) -> usize {
        match self {
            Self::Tables => detach.saturating_mul(STEPS_PER_TURN),
            Self::Restores => restore.saturating_mul(STEPS_PER_TURN),
            // Mostly they wait, all by the same question.
            Self::Clears => 256,
            Self::Sets => 8,
            Self::Server => 1,
        }
    }
}

/// A text that names no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no step")]
pub struct UnknownStep(String);

impl FromStr for StepKind {
    type Err = UnknownStep;

    fn from_str(text: &str) -> Result<Self, UnknownStep> {
        let mut kinds = Self::ALL.iter().copied();
        kinds
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownStep(text.chars().take(40).collect()))
    }
}

macro_rules! steps {
    ($($(#[$doc:meta])* $variant:ident $word:literal $scope:ident $class:ident $takes:literal $code:ident;)*) => {
        /// The smallest idempotent actions of an agent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum StepKind { $($(#[$doc])* $variant,)* }

        impl StepKind {
            /// Every kind.
            pub const ALL: &'static [StepKind] = &[$(StepKind::$variant),*];

            /// The kind as people and logs name it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// What it is about.
            #[must_use]
            pub fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope),* }
            }

            /// What it counts against.
            #[must_use]
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),* }
            }

            /// How long it may take, for people.
            #[must_use]
            pub fn time_limit(self) -> &'static str {
                match self { $(Self::$variant => $takes),* }
            }

            /// The code of one that failed for no better known reason.
            #[must_use]
            pub fn failure_code(self) -> Code {
                match self { $(Self::$variant => Code::$code),* }
            }
        }
    };
}

steps! {
    /// SYSTEM SYNC REPLICA ... LIGHTWEIGHT, bounded.
    Sync "sync" Table Tables "10 min at most" SyncFailed;
    /// Take away the permission to add to the table's log, so that its replicas catch up under inserts.
    Freeze "freeze" Set Sets "no limit" FreezeFailed;
    /// DETACH TABLE ... PERMANENTLY SYNC.
    Detach "detach" Table Tables "no limit" DetachFailed;
    /// ATTACH TABLE on metadata that is still there, back into service.
    Reattach "reattach" Table Tables "1 min at most" AttachFailed;
    /// Read the nodes, judge; changes nothing.
    Settle "settle" Set Sets "no limit" RecordFailed;
    /// Marker, judge again under it, record.
    Record "record" Set Sets "no limit" RecordFailed;
    /// Its own agent compares the record with what it reads itself, under the marker of the record.
    Attest "attest" Table Sets "no limit" RecordFailed;
    /// Delete the nodes, under the attempt's own marker.
    Clean "clean" Set Sets "no limit" CleanFailed;
    /// Take marker, held `is_active` and frozen log away, when nothing was deleted.
    Release "release" Set Sets "no limit" ReleaseFailed;
    /// Hook, restart command, wait for a new server.
    Restart "restart" Host Server "as long as restart.timeout of the host" RestartFailed;
    /// Create the witness node at the place that the server is configured for.
    Witness "witness" Set Sets "no limit" WitnessFailed;
    /// Witness, ATTACH TABLE without metadata, merges stopped, manifest.
    Attach "attach" Table Tables "no limit" AttachFailed;
    /// SYSTEM RESTORE REPLICA and everything until all parts are accounted for.
    Restore "restore" Table Restores "no limit" RestoreFailed;
    /// Caches dropped, once no statement runs any more that knows its parts by former names.
    Clear "clear" Table Clears "30 min at most for other statements" RestoreFailed;
    /// SYSTEM START MERGES.
    Finish "finish" Table Tables "no limit" MergesFailed;
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
