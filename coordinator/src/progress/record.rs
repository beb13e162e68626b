//! What is written down of a migration: orders of people, intents before commands, events of agents.

use rekeeper_shared::domain::ids::{HostName, TableName};
use rekeeper_shared::domain::plan::HostIx;
use rekeeper_shared::domain::step::{Outcome, StepKind, Target};
use rekeeper_shared::people::view::Until;
use serde::{Deserialize, Serialize};

/// One entry of a migration's log. The log is the truth; everything else is derived from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Record {
    /// A person ordered something.
    Ordered {
        /// Name in the certificate of who gave the order.
        by: String,
        /// With all that was in force when it was given, so that it can be applied again.
        order: OperatorOrder,
    },
    /// A step is about to be ordered. On disk before the command leaves.
    Intent(Intent),
    /// A step ended, well or not. On disk before the agent hears that it was taken.
    Event {
        /// The number that the intent gave it.
        attempt: u64,
        /// What the agent said, checked against the intent.
        outcome: Outcome,
    },
}

/// The durable record that a step was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its number: grows by one with every intent of a migration.
    pub attempt: u64,
    /// The host whose agent does it.
    pub host: HostIx,
    /// One step, of those of the mode.
    pub step: StepKind,
    /// Host, set or table, as the step demands.
    pub target: Target,
}

/// What a person can order of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum OperatorOrder {
    /// Go, up to a barrier or to the end.
    Start {
        /// How far to go; to the end when it is absent.
        until: Option<Until>,
    },
    /// Send no new command.
    Pause,
    /// Go on, to the barrier that was given last.
    Resume,
    /// Forget the problems of a table, of a host, or all.
    Retry {
        /// Only of this table.
        table: Option<TableName>,
        /// Only on this host.
        host: Option<HostName>,
    },
    /// Leave a table out from here on, with its whole replica set.
    Skip {
        /// Any table of the set: the others go with it.
        table: TableName,
    },
    /// Leave a host out for good: what is cleaned goes on without its replicas, what is not goes back into service.
    Leave {
        /// Whatever its agent says later is not heeded.
        host: HostName,
    },
    /// Leave one table replica out for good, which is not what was planned any more: its set is cleaned, and goes on with
    /// the others.
    LeaveTable {
        /// Database and table.
        table: TableName,
        /// Only here: the replicas of other hosts go on.
        host: HostName,
    },
    /// Put back what is not cleaned, carry forward what is.
    Abort,
}
