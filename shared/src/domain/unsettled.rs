//! What keeps a replica set from being settled, and what of it operators may allow. The rule that looks for it is the
//! agent's.

use serde::{Deserialize, Serialize};

/// One thing that keeps a set from being settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "reason")]
#[allow(missing_docs, reason = "the message names each field")]
pub enum Unsettled {
    /// ZooKeeper knows a replica that the plan does not, or the reverse.
    #[error("ZooKeeper has the replicas [{found}], the plan has [{planned}]")]
    Replicas { found: String, planned: String },
    /// A server has the table attached.
    #[error("replica {replica} is active: a server has the table attached")]
    Active {
        /// The replica that has a live `is_active`.
        replica: String,
    },
    /// ClickHouse marked the replica as lost.
    #[error("replica {replica} is marked as lost (is_lost)")]
    Lost { replica: String },
    /// The replica has entries to execute that are no merges.
    #[error("replica {replica} has {entries} queue entries that are no merges (first: {first})")]
    Queue {
        /// The replica that has still to execute them.
        replica: String,
        entries: usize,
        first: String,
    },
    /// The replica has not taken all log entries.
    #[error("replica {replica} has taken the log up to {pointer}, and the log ends at {end}")]
    Log {
        /// The replica that has not read them.
        replica: String,
        pointer: i64,
        end: i64,
    },
    /// The replica's definition is not the table's.
    #[error("replica {replica} has other {what} than the table (an ALTER that it has not applied)")]
    Definition {
        /// The replica that differs from the path.
        replica: String,
        what: String,
    },
    /// The replica gave up parts.
    #[error("replica {replica} has lost {count} parts (lost_part_count)")]
    LostParts { replica: String, count: u64 },
    /// A part that one replica has and another has not, merges under way considered.
    #[error("replica {has} has {count} parts that {lacks} has not (first: {part})")]
    Parts {
        has: String,
        lacks: String,
        count: usize,
        part: String,
    },
    /// The same name, another content: split brain.
    #[error("part {part} differs between replica {one} and {other}: the same name, another content")]
    Content {
        one: String,
        /// The replica whose part has other content.
        other: String,
        part: String,
    },
    /// The replica has patch parts (lightweight UPDATE), which do not apply any more once part names have shifted.
    #[error(
        "replica {replica} has {count} patch parts (first: {part}), whose values a restore would lose: ALTER TABLE ... \
         APPLY PATCHES, and wait until system.parts has no active part with a partition_id of patch-..."
    )]
    PatchParts {
        replica: String,
        count: usize,
        part: String,
    },
    /// A mutation that must not be forgotten has not reached every part of the replica.
    #[error(
        "replica {replica} has not run mutation {mutation} on all of its parts (first: {part}): {commands}; do not KILL it: \
         SYSTEM START MERGES, and let it finish"
    )]
    Mutation {
        /// The replica on which a part is not mutated yet.
        replica: String,
        mutation: String,
        part: String,
        commands: String,
    },
    /// What a replica has and the others have not, and nothing proves what to do with it.
    #[error("part {part} of replica {replica}: {why}")]
    Undecided {
        replica: String,
        /// Whose rows nothing in ZooKeeper tells.
        part: String,
        why: String,
    },
}

impl Unsettled {
    /// Whether replication can mend it when the tables are attached again for a while.
    #[must_use]
    pub fn may_catch_up(&self) -> bool {
        match self {
            Self::Queue { .. }
            | Self::Log { .. }
            | Self::Definition { .. }
            | Self::Parts { .. }
            | Self::Mutation { .. }
            | Self::Active { .. }
            | Self::Lost { .. } => true,
            Self::Replicas { .. }
            | Self::LostParts { .. }
            | Self::Content { .. }
            | Self::PatchParts { .. }
            | Self::Undecided { .. } => false,
        }
    }

    /// Whether `--allow DIVERGED` may go on in spite of it: the parts differ, and the union of them is to be made. What
    /// the table is, and that nobody uses it, is never left open.
    #[must_use]
    pub fn may_diverge(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Queue { .. } | Self::Log { .. } | Self::Parts { .. } | Self::Content { .. } => {
                true
            }
            Self::Replicas { .. }
            | Self::Active { .. }
            | Self::Definition { .. }
            | Self::LostParts { .. }
            | Self::Mutation { .. }
            | Self::PatchParts { .. }
            | Self::Undecided { .. } => false,
        }
    }
}

/// What may differ because the operator allowed it when the plan was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allowed {
    /// `--allow LOST_PARTS`.
    pub lost_parts: bool,
    /// `--allow MUTATIONS_UNFINISHED`: mutations that are queued are forgotten.
    pub mutations: bool,
    /// `--allow DIVERGED`, once the set did not settle otherwise.
    pub diverged: bool,
    /// `--allow FOREIGN_NODES`: nodes below the path that no ReplicatedMergeTree makes are deleted with it.
    #[serde(default)]
    pub foreign_nodes: bool,
}
