//! What an agent answers to a command.

use serde::{Deserialize, Serialize};

use crate::domain::problem::{Code, Problem};
use crate::domain::unsettled::Unsettled;

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The step is done: it was done now, or found done.
    Done(Done),
    /// The step was not done, or not whole; the failure tells whether it may pass.
    Failed(Failure),
}

/// What a finished step tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Nothing more than that it is done.
    Plain,
    /// Settle: what keeps the set from being settled, if anything.
    Settled(Vec<Unsettled>),
    /// Record: under the marker the set was still settled, or its union could be decided, and its record is
    /// saved; or not, and the marker is gone again.
    Recorded {
        /// Digest of the document; none when nothing was saved.
        digest: Option<String>,
        /// What keeps the set from being settled.
        unsettled: Vec<Unsettled>,
        /// The names of the replicas in the sequence in which they are to be restored; empty when nothing was saved.
        order: Vec<String>,
        /// A replica after the first brings parts of its own, so that they are restored one after another.
        one_by_one: bool,
        /// Where the agent has exported the nodes to; none when nothing was saved.
        #[serde(default)]
        export: Option<Exported>,
    },
    /// Clean: the path is gone.
    Cleaned {
        /// Nodes that this attempt deleted.
        znodes: u64,
        /// Where the agent has exported the nodes to; none when another host's agent had begun the deletion.
        #[serde(default)]
        export: Option<Exported>,
    },
    /// Restart: a new server answers.
    Restarted {
        /// When it started, RFC 3339 UTC, by the agent's clock.
        at: String,
    },
    /// Attach: the table is attached, read-only, its manifest written.
    Attached {
        /// Digest of the manifest.
        digest: String,
        /// Active parts.
        parts: u64,
        /// Rows of these parts.
        rows: u64,
    },
    /// Restore: every part is accounted for.
    Restored {
        /// How many parts came back in which way.
        counts: Restored,
        /// Digest of the whole account ([`crate::domain::account::RestoreAccount`]).
        account: String,
    },
}

/// A file that has everything that was under a table's path before it was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The file, on the host of the agent.
    pub file: String,
    /// How many nodes are in it.
    pub nodes: u64,
    /// Size of the file on disk, packed.
    pub bytes: u64,
    /// SHA-256 of its lines, as `rekeeper-agent znodes --verify` prints it; empty for one of an older agent.
    #[serde(default)]
    pub sha256: String,
}

/// How the parts of a table replica came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restored {
    /// Found active.
    pub active: u64,
    /// Attached again from `detached/`.
    pub attached_again: u64,
    /// Active, and attached by RESTORE or again: the agent's note of that was lost.
    #[serde(default)]
    pub unclear: u64,
    /// Covered by a part of the reference.
    pub covered: u64,
    /// Merged since.
    pub merged: u64,
    /// Dropped by a user since, or gone from the reference since.
    pub dropped: u64,
    /// Without rows.
    pub empty: u64,
    /// Not of the manifest: on the disk, but not on record, and so set aside before it was written.
    #[serde(default)]
    pub set_aside: u64,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What to tell people; its remedy may be the agent's own words ([`Problem::told_by`]).
    pub problem: Problem,
    /// Trying again may help without anybody doing anything.
    pub retry: bool,
}

impl Failure {
    /// A failure that may pass.
    #[must_use]
    pub fn passing(code: Code, message: impl Into<String>) -> Self {
        Self {
            problem: Problem::new(code, message),
            retry: true,
        }
    }

    /// A failure that somebody has to look at.
    #[must_use]
    pub fn lasting(code: Code, message: impl Into<String>) -> Self {
        Self {
            problem: Problem::new(code, message),
            retry: false,
        }
    }

    /// The same failure with a remedy of its own, instead of the one that its code has.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.problem.fix = fix.into();
        self
    }
}
