//! What people can ask of the coordinator: plans, starts, orders, dry runs, events, reports. Nothing here knows how the
//! questions come in: `grpc` decodes them, encodes the answers, and makes a status of each [`Error`].

mod ask;
mod dry_run;
mod events;
mod hosts;
mod orders;
mod planning;
mod report;
mod starting;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::people::view::{MigrationLine, StatusView};

use crate::agents::AgentsHandle;
use crate::driver::{DriverHandle, OperatorError};
use crate::store::StoreError;

pub use ask::AskAgents;
pub use orders::LeftOut;

/// What is answered piece by piece; an error is its end.
pub type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>;

/// Why an operation does not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum Error {
    /// It is refused: by the driver, or by a check before the driver is asked.
    #[error(transparent)]
    Refused(#[from] OperatorError),
    /// Words that do not mean one table of the plan.
    #[error("{0}")]
    NotOneTable(String),
    /// A step of a dry run of which its agent does not tell what it would do.
    #[error("{0}")]
    NotRehearsed(String),
    /// Somebody follows events and takes none.
    #[error("no event was taken for {seconds} s, so the following has ended; ask again for the rest")]
    Stalled { seconds: u64 },
    /// The store was not read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything that people can ask. Cheap to clone.
pub struct Operations<S, A = AgentsHandle> {
    driver: DriverHandle,
    agents: A,
    store: Arc<S>,
}

impl<S, A: AskAgents> Operations<S, A> {
    /// Operations on what this driver owns; agents and store are asked for what it does not know.
    pub fn new(driver: DriverHandle, agents: A, store: Arc<S>) -> Self {
        Self { driver, agents, store }
    }

    /// Every migration, the oldest first.
    ///
    /// # Errors
    /// The coordinator is stopping.
    pub async fn migrations(&self) -> Result<Vec<MigrationLine>, Error> {
        Ok(self.driver.migrations().await?)
    }

    /// How far a migration is.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn status(&self, name: &MigrationName) -> Result<StatusView, Error> {
        Ok(self.driver.status(name).await?)
    }
}

/// Beside the runtime: with very many tables it takes seconds, in which its threads are to answer others.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OperatorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| OperatorError::Stopping)
}
