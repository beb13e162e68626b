//! What the agents say, on its way to the driver, with what it holds of the limits.

use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::FromAgents;
use crate::limits::Hold;

/// What was said, and the room that its message takes until the driver has it.
pub(super) type Told = (FromAgents, Option<Hold>);

/// What the agents say, in the order in which it is to be heard.
#[derive(Debug)]
pub struct Heard(Receiver<Told>);

impl Heard {
    pub(super) fn new(told: Receiver<Told>) -> Self {
        Self(told)
    }

    /// Waits for what is said next; none when nobody can say anything any more.
    pub async fn recv(&mut self) -> Option<FromAgents> {
        self.0.recv().await.map(|(said, _hold)| said)
    }

    /// What is said next, if it was said already.
    ///
    /// # Errors
    /// When nothing was said, or nobody can say anything any more.
    pub fn try_recv(&mut self) -> Result<FromAgents, TryRecvError> {
        self.0.try_recv().map(|(said, _hold)| said)
    }
}
