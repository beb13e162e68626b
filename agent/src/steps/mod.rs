//! The steps that an agent takes with its ClickHouse server: one idempotent attempt each.
//!
//! Every step begins by looking at what is really there, so that it may be ordered any number of times. Which step
//! comes when is the coordinator's business.

mod attach;
mod attest;
mod cause;
mod clear;
mod detach;
mod finish;
mod reattach;
mod rehearse;
mod restart;
mod restore;
pub mod set;
mod shared;
mod sync;

use std::fmt;
use std::sync::Arc;

use rekeeper_shared::document::Packed;
use rekeeper_shared::ids::{HostName, MigrationName};
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::{Done, Failure};

pub use attach::attach;
pub use attest::attest;
pub use cause::by_cause;
pub use clear::clear;
pub(crate) use clear::may_read;
pub use detach::detach;
pub use finish::finish;
pub use reattach::reattach;
pub use rehearse::{Configured, rehearse};
pub use restart::{Hooks, RestartCommand, restart};
pub use restore::{Restore, restore};
pub use shared::names::collisions;
pub use shared::place::ServerPlaces;
pub use sync::sync;

use crate::clickhouse::{ClickHouse, Error};
use crate::state::{State, StateError};

/// What an attempt works with.
#[derive(Clone)]
pub struct Context {
    /// The server, tagged with the attempt.
    pub clickhouse: ClickHouse,
    /// ZooKeeper, as the server is configured for it now.
    pub zookeeper: ServerPlaces,
    /// The agent's state folder.
    pub state: State,
    /// The agent's host.
    pub host: HostName,
    /// The migration.
    pub migration: MigrationName,
    /// The attempt.
    pub attempt: u64,
    /// How many bytes the export of a set's nodes may take.
    pub export_limit: u64,
    /// Takes what is being done, for people.
    pub report: Arc<dyn Fn(String) + Send + Sync>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("host", &self.host)
            .field("migration", &self.migration)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl Context {
    fn doing(&self, text: impl Into<String>) {
        (self.report)(text.into());
    }
}

/// A step that is done, and the document that it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What it tells.
    pub done: Done,
    /// The manifest of an attach, the account of a restore.
    pub document: Option<Packed>,
}

impl From<Done> for Finished {
    fn from(done: Done) -> Self {
        Self { done, document: None }
    }
}

/// What a step comes to.
pub type StepResult = Result<Finished, Failure>;

/// A failed statement as the failure of a step with that code.
fn failed(code: Code) -> impl Fn(Error) -> Failure {
    move |error| error.into_failure(code)
}

/// A state folder that cannot be relied on as the failure of a step with that code; STATE_DIR_FULL and STATE_DAMAGED where
/// it is that.
pub(crate) fn state_failed(code: Code) -> impl Fn(StateError) -> Failure {
    move |error| {
        let text = crate::words::in_full(&error);
        match (error.code(), error.remedy()) {
            (Some(own), Some(remedy)) => Failure::lasting(own, text).with_fix(format!("on this host: {remedy}")),
            _ => Failure::lasting(code, text),
        }
    }
}
