//! How the rest of the program talks to the driver: a handle, cheap to clone; the channel stays inside.

use std::sync::Arc;

use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::Plan;
use rekeeper_shared::people::view::{HostView, MigrationLine, State, StatusView};
use tokio::sync::{mpsc, oneshot, watch};

use super::snapshot::Snapshot;
use crate::progress::{OperatorOrder, Progress};

/// Why an operator does not get what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// There is no such migration.
    #[error("there is no migration {0}; `rekeeper status` lists them")]
    Unknown(MigrationName),
    /// The name is taken.
    #[error("there is a migration {0} already; choose another name")]
    Exists(MigrationName),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A check stops it.
    #[error("blocked: {0}")]
    Blocked(String),
    /// It does not fit the migration's state.
    #[error("{0}")]
    State(String),
    /// The coordinator is stopping.
    #[error("the coordinator is stopping")]
    Stopping,
}

/// What can be asked of the driver.
pub enum Request {
    /// Each host that has an agent, and what it is doing.
    Hosts(oneshot::Sender<Vec<HostView>>),
    /// A line for every migration, the oldest first.
    Migrations(oneshot::Sender<Vec<MigrationLine>>),
    /// All that people see of a migration; none when there is none of that name.
    Status(MigrationName, oneshot::Sender<Option<StatusView>>),
    /// The plan of a migration, and its state.
    Plan(MigrationName, oneshot::Sender<Option<(Arc<Plan>, State)>>),
    /// The plan of a migration, and how far it is.
    Progress(MigrationName, oneshot::Sender<Option<(Arc<Plan>, Box<Progress>)>>),
    /// All that a plan of that name rests on.
    Snapshot(MigrationName, oneshot::Sender<Box<Snapshot>>),
    /// Save a plan, which is packed already: that takes a while, and everybody would wait.
    Save(Box<Plan>, Packed, oneshot::Sender<Result<(), OperatorError>>),
    /// Order something of a migration; the answer is for people.
    Order {
        /// The migration that has to exist.
        name: MigrationName,
        /// The person, as the log will name them: from the certificate, or as the command line says.
        by: String,
        /// What they order; what is written down may say more.
        order: OperatorOrder,
        /// Words for the person, or why the order is refused.
        answer: oneshot::Sender<Result<String, OperatorError>>,
    },
}

/// The driver, for the rest of the program.
#[derive(Clone)]
pub struct DriverHandle {
    requests: mpsc::Sender<Request>,
    changed: watch::Receiver<u64>,
}

impl DriverHandle {
    pub(super) fn new(requests: mpsc::Sender<Request>, changed: watch::Receiver<u64>) -> Self {
        Self { requests, changed }
    }

    /// Changes whenever something was written down.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, OperatorError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(request(answer))
            .await
            .map_err(|_| OperatorError::Stopping)?;
        answered.await.map_err(|_| OperatorError::Stopping)
    }

    /// Each host that has an agent, and what it is doing.
    ///
    /// # Errors
    /// [`OperatorError::Stopping`].
    pub async fn hosts(&self) -> Result<Vec<HostView>, OperatorError> {
        self.ask(Request::Hosts).await
    }

    /// Every migration, the oldest first.
    ///
    /// # Errors
    /// [`OperatorError::Stopping`].
    pub async fn migrations(&self) -> Result<Vec<MigrationLine>, OperatorError> {
        self.ask(Request::Migrations).await
    }

    /// All that people see of a migration.
    ///
    /// # Errors
    /// [`OperatorError::Unknown`].
    pub async fn status(&self, name: &MigrationName) -> Result<StatusView, OperatorError> {
        self.ask(|answer| Request::Status(name.clone(), answer))
            .await?
            .ok_or_else(|| OperatorError::Unknown(name.clone()))
    }

    /// The plan of a migration, and its state.
    ///
    /// # Errors
    /// [`OperatorError::Stopping`].
    pub async fn plan(&self, name: &MigrationName) -> Result<Option<(Arc<Plan>, State)>, OperatorError> {
        self.ask(|answer| Request::Plan(name.clone(), answer)).await
    }

    /// The plan of a migration, and how far it is.
    ///
    /// # Errors
    /// [`OperatorError::Unknown`].
    pub async fn progress(&self, name: &MigrationName) -> Result<(Arc<Plan>, Box<Progress>), OperatorError> {
        self.ask(|answer| Request::Progress(name.clone(), answer))
            .await?
            .ok_or_else(|| OperatorError::Unknown(name.clone()))
    }

    /// All that a plan of that name, or its start, rests on, as it is at one moment.
    ///
    /// # Errors
    /// [`OperatorError::Stopping`].
    pub async fn snapshot(&self, name: &MigrationName) -> Result<Box<Snapshot>, OperatorError> {
        self.ask(|answer| Request::Snapshot(name.clone(), answer)).await
    }

    /// Saves a plan, as it is and packed.
    ///
    /// # Errors
    /// [`OperatorError::Exists`].
    pub async fn save(&self, plan: Plan, packed: Packed) -> Result<(), OperatorError> {
        self.ask(|answer| Request::Save(Box::new(plan), packed, answer)).await?
    }

    /// Orders something; answers a notice for people, empty when there is nothing to say.
    ///
    /// # Errors
    /// Any [`OperatorError`]; nothing has changed then.
    pub async fn order(&self, name: &MigrationName, by: String, order: OperatorOrder) -> Result<String, OperatorError> {
        self.ask(|answer| Request::Order {
            name: name.clone(),
            by,
            order,
            answer,
        })
        .await?
    }
}
