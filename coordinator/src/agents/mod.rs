//! The connected agents: who they are, what they say, and how to tell them something.
//!
//! What to order and what an event means is not decided here (see `driver` and `progress`). The registry never waits
//! for an agent: one that does not take what is sent to it loses its connection, and gets it again after it is back.

mod admission;
mod evidence;
mod handle;
mod heard;
mod outgoing;
mod registry;
mod service;
mod stream;

use std::fmt;

use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Event, Hello};

pub use evidence::{Subject, refused, rests_on};
pub use handle::AgentsHandle;
pub use heard::Heard;
pub use outgoing::Outgoing;
pub use service::{AgentsService, new, server_builder};

/// One connection of one agent; a later one has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happens on the agents' streams. Of one host the order is always: connected, what it says, gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromAgents {
    /// An agent was accepted: one connection for each host at a time.
    Connected(Connected),
    /// A step ended. To be acknowledged when it is on disk.
    Event {
        /// The host of the agent that says it; it need not be of any plan.
        host: HostName,
        /// On which of the host's connections: what an older one still says is told apart by it.
        connection: ConnectionId,
        /// Its number in the connection.
        sequence: u64,
        /// The event. Its document is there only when it is what the outcome rests on, and is about what was ordered of
        /// the host.
        event: Event,
    },
    /// What a step is doing, for people.
    Doing {
        /// The host of the agent that says it; it need not be of any plan.
        host: HostName,
        /// On which of the host's connections: what an older one still says is told apart by it.
        connection: ConnectionId,
        /// Of which migration the step is, as the agent says.
        migration: MigrationName,
        /// The attempt of the intent that ordered the step.
        attempt: u64,
        /// A few words for `status`; not believed, only shown.
        text: String,
    },
    /// A connection ended: nothing more comes on it.
    Gone {
        /// The host of the agent that says it; it need not be of any plan.
        host: HostName,
        /// On which of the host's connections: what an older one still says is told apart by it.
        connection: ConnectionId,
        /// The agent said goodbye: it was stopped on purpose. Otherwise the connection was lost, replaced or closed.
        goodbye: bool,
    },
}

/// An agent that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Given by the coordinator; a host that connects again gets another one.
    pub connection: ConnectionId,
    /// What the agent told of itself and of its server when it connected.
    pub hello: Hello,
    /// Set when the agent has obeyed a coordinator that knows more than this one: nothing may be ordered then, and
    /// [`AgentsHandle::send`] does not.
    pub ahead: Option<String>,
}

/// An agent that was refused when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The host name that it gave.
    pub host: HostName,
    /// [`Code::AgentDuplicate`] or [`Code::AgentProtocol`], which stop a plan; none when its certificate does not let it
    /// speak for the host, which says nothing about the host.
    pub code: Option<Code>,
    /// What to tell people; the agent was told the same.
    pub message: String,
}

/// Why a host could not be inspected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotInspected {
    /// It has no connected agent.
    #[error("no agent of {0} is connected")]
    NotConnected(HostName),
    /// Its agent went before it answered.
    #[error("the connection to the agent of {0} was lost before it answered")]
    Lost(HostName),
    /// Its agent could not inspect it.
    #[error("{0}")]
    Failed(String),
}
