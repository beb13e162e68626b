//! What operations ask of the agents.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::step::Command;
use rekeeper_shared::people::rehearsal::Action;

use crate::agents::{AgentsHandle, NotInspected, Refused};

/// The agents, for questions. None of them changes anything; the agent is asked by the call itself.
pub trait AskAgents: Clone + Send + Sync + 'static {
    /// The hosts whose agents are connected, by name.
    fn connected(&self) -> Vec<HostName>;

    /// Agents that were refused not long ago.
    fn refused(&self) -> Vec<Refused>;

    /// What a plan is made of, or why it is not known.
    fn inspect(&self, host: &HostName) -> BoxFuture<'static, Result<HostInventory, NotInspected>>;

    /// What a command would change if it were ordered, or why it is not known.
    fn rehearse(&self, host: &HostName, command: Command) -> BoxFuture<'static, Result<Vec<Action>, NotInspected>>;
}

impl AskAgents for AgentsHandle {
    fn connected(&self) -> Vec<HostName> {
        let connected = Self::connected(self).into_iter();
        connected.map(|connected| connected.hello.host).collect()
    }

    fn refused(&self) -> Vec<Refused> {
        Self::refused(self)
    }

    fn inspect(&self, host: &HostName) -> BoxFuture<'static, Result<HostInventory, NotInspected>> {
        Self::inspect(self, host).boxed()
    }

    fn rehearse(&self, host: &HostName, command: Command) -> BoxFuture<'static, Result<Vec<Action>, NotInspected>> {
        Self::rehearse(self, host, command).boxed()
    }
}
