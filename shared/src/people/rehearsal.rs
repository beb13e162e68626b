//! What a step would do if it were commanded now: `rekeeper start --dry-run`. Its JSON is a contract, like that of
//! `view`.

use serde::{Deserialize, Serialize};

use crate::domain::ids::HostName;

/// One thing that a step would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A statement to the host's ClickHouse server.
    Statement(String),
    /// A command of the agent's own configuration: a hook, or the restart command.
    Run(String),
    /// A node that is created, with the chroot.
    CreateNode(String),
    /// A node that is deleted, with the chroot.
    DeleteNode(String),
    /// A node whose permissions are changed, with the chroot.
    SetPermissions(String),
    /// A file of the agent that gets everything that is in the nodes.
    WriteFile(String),
}

/// One step of a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsedStep {
    /// The host whose agent would do it.
    pub host: HostName,
    /// The attempt that it would be, if nothing fails.
    pub attempt: u64,
    /// As in `events`, such as `detach`.
    pub step: String,
    /// The table as `db.table`, the path of a set, or the host.
    pub target: String,
    /// The ensemble and chroot of the plan, for steps on ZooKeeper.
    pub place: Option<String>,
    /// What it would change, in sequence; empty for a step that only reads.
    pub actions: Vec<Action>,
}

/// `rekeeper start NAME --dry-run`: the steps of each host, in the sequence in which they would be commanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRunView {
    /// The name of the plan.
    pub name: String,
    /// Host by host.
    pub hosts: Vec<RehearsedHost>,
}

/// The steps of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsedHost {
    /// Whose agent was asked.
    pub host: HostName,
    /// In the sequence in which they would be sent.
    pub steps: Vec<RehearsedStep>,
}
