//! What every attempt works with, and what it comes to.

use std::fmt;
use std::sync::Arc;

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure};

use super::place::ServerPlaces;
use crate::clickhouse::{ClickHouse, Error};
use crate::state::{State, StateError};
use crate::words::in_full;

/// What an attempt works with.
#[derive(Clone)]
pub struct Context {
    /// The server, tagged with the attempt.
    pub clickhouse: ClickHouse,
    /// ZooKeeper, as the server is configured for it now.
    pub zookeeper: ServerPlaces,
    /// Notes of what was done, which outlive the agent.
    pub state: State,
    /// As in agent.yaml and in the plan.
    pub host: HostName,
    /// For whom the step is done.
    pub migration: MigrationName,
    /// The number of the command: markers and query ids have it.
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
    pub(in crate::steps) fn doing(&self, text: impl Into<String>) {
        (self.report)(text.into());
    }
}

/// A step that is done, and the document that it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Goes to the coordinator with the event.
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
pub(in crate::steps) fn failed(code: Code) -> impl Fn(Error) -> Failure {
    move |error| error.into_failure(code)
}

/// A state folder that cannot be relied on as the failure of a step with that code; STATE_DIR_FULL and STATE_DAMAGED where
/// it is that.
pub(crate) fn state_failed(code: Code) -> impl Fn(StateError) -> Failure {
    move |error| {
        let text = in_full(&error);
        match (error.code(), error.remedy()) {
            (Some(own), Some(remedy)) => Failure::lasting(own, text).with_fix(format!("on this host: {remedy}")),
            _ => Failure::lasting(code, text),
        }
    }
}
