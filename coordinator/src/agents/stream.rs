//! One agent's stream: what it says is decoded and handed on; what it is sent comes out of a queue (`outgoing`).

use std::sync::Arc;

use rekeeper_proto::convert::{BadMessage, parse};
use rekeeper_proto::v1::{self, from_agent::Kind};
use rekeeper_shared::domain::document::{self, BadDocument, Packed};
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::step::{Event, Hello};
use rekeeper_shared::people::rehearsal::Action;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::evidence::{self, Subject, Whose, rests_on};
use super::heard::Told;
use super::registry::{Admitted, Registry};
use super::{Connected, FromAgents};
use crate::limits::{Held, Hold};

/// Reads what an agent must say first.
pub(super) async fn first(incoming: &mut Streaming<v1::FromAgent>) -> Result<Hello, Status> {
    let hello_first = || Status::failed_precondition("the first message of the stream must be hello");
    match incoming.message().await?.and_then(|message| message.kind) {
        Some(Kind::Hello(hello)) => Hello::try_from(hello).map_err(bad),
        _ => Err(hello_first()),
    }
}

/// Characters of what a step is doing that are kept.
const DOING: usize = 1_024;

/// What an agent says after its hello.
pub(super) struct Incoming {
    pub(super) messages: Streaming<v1::FromAgent>,
    /// The room that the messages take, in their order.
    pub(super) held: Held,
    /// Most bytes of an inventory once it is unpacked.
    pub(super) inventory_bytes: u64,
}

/// How a stream ended.
enum End {
    /// The agent said that it goes.
    Goodbye,
    /// The connection broke, or ended without a word, which a lost one does too.
    Lost,
    /// The registry closed it, or nobody listens to what the agents say.
    Closed,
    /// The agent said something that cannot be understood.
    Bad(Status),
}

/// Tells what happens on a stream, from `Connected` to `Gone`.
pub(super) async fn attend(registry: Arc<Registry>, told: mpsc::Sender<Told>, admitted: Admitted, incoming: Incoming) {
    if let Some(replaced) = admitted.replaced {
        // It is dropped, not sent, when the connection that was replaced is over.
        drop(replaced.await);
    }
    let connected = admitted.connected;
    let host = connected.hello.host.clone();
    let connection = connected.connection;
    tracing::info!(host = %host, connection = %connection, ahead = connected.ahead, "agent connected");
    if told
        .send((FromAgents::Connected(connected.clone()), None))
        .await
        .is_ok()
    {
        let mut reader = Reader {
            registry: &registry,
            connected: &connected,
            told: &told,
            last_sequence: 0,
            inventory_bytes: incoming.inventory_bytes,
        };
        let mut closing = admitted.closing;
        let end = tokio::select! {
            biased;
            // Either the registry closed the connection, or it has forgotten it.
            _ = closing.wait_for(Option::is_some) => End::Closed,
            end = reader.read(incoming) => end,
        };
        let (goodbye, status) = match end {
            End::Goodbye => (true, None),
            End::Lost | End::Closed => (false, None),
            End::Bad(status) => {
                tracing::warn!(host = %host, connection = %connection, "agent's message refused: {}", status.message());
                (false, Some(status))
            }
        };
        registry.leave(&connected, status);
        tracing::info!(host = %host, connection = %connection, goodbye, "agent gone");
        let gone = FromAgents::Gone {
            host,
            connection,
            goodbye,
        };
        drop(told.send((gone, None)).await);
    } else {
        registry.leave(&connected, None);
    }
    drop(admitted.told);
}

struct Reader<'a> {
    registry: &'a Registry,
    connected: &'a Connected,
    told: &'a mpsc::Sender<Told>,
    last_sequence: u64,
    inventory_bytes: u64,
}

impl Reader<'_> {
    async fn read(&mut self, mut incoming: Incoming) -> End {
        loop {
            let message = match incoming.messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return End::Lost,
                Err(status) => {
                    // Of the limits: the agent is told, and so are people.
                    if status.code() == Code::ResourceExhausted {
                        return End::Bad(status);
                    }
                    tracing::debug!(host = %self.host(), error = %status, "stream broke");
                    return End::Lost;
                }
            };
            let hold: Option<Hold> = incoming.held.take();
            let said = match message.kind {
                Some(Kind::Goodbye(v1::Goodbye {})) => return End::Goodbye,
                Some(Kind::Hello(_)) => Err(Status::invalid_argument("hello comes only once, as the first message")),
                Some(Kind::Event(event)) => self.event(event).await.map(Some),
                Some(Kind::Doing(doing)) => self.doing(doing).map(Some),
                Some(Kind::Inspected(inspected)) => self.inspected(inspected).await.map(|()| None),
                Some(Kind::Rehearsed(rehearsed)) => self.rehearsed(rehearsed).await.map(|()| None),
                None => Err(bad(BadMessage::missing("kind"))),
            };
            match said {
                Ok(None) => {}
                Ok(Some(said)) => {
                    if self.told.send((said, hold)).await.is_err() {
                        return End::Closed;
                    }
                }
                Err(status) => return End::Bad(status),
            }
        }
    }

    fn host(&self) -> &HostName {
        &self.connected.hello.host
    }

    async fn event(&mut self, event: v1::Event) -> Result<FromAgents, Status> {
        let sequence = event.sequence;
        // One acknowledgement stands for all events up to its number, so numbers must grow.
        if sequence <= self.last_sequence {
            return Err(bad(BadMessage {
                field: "sequence",
                what: format!("not acceptable: {sequence} came after {}", self.last_sequence),
            }));
        }
        self.last_sequence = sequence;
        let mut event = Event::try_from(event).map_err(bad)?;
        let document = event.document.take().filter(|_| rests_on(&event.outcome).is_some());
        // Nothing is unpacked, or kept, for what nobody has ordered; the driver hears it, and leaves it alone.
        let ordered = self.registry.ordered(self.host(), &event.migration, event.attempt);
        if let Some((document, subject)) = document.zip(ordered) {
            event = examined(self.host().clone(), event, document, subject).await?;
        }
        Ok(FromAgents::Event {
            host: self.host().clone(),
            connection: self.connected.connection,
            sequence,
            event,
        })
    }

    fn doing(&self, doing: v1::Doing) -> Result<FromAgents, Status> {
        Ok(FromAgents::Doing {
            host: self.host().clone(),
            connection: self.connected.connection,
            migration: parse("migration", &doing.migration).map_err(bad)?,
            attempt: doing.attempt,
            text: doing.text.chars().take(DOING).collect(),
        })
    }

    async fn inspected(&self, inspected: v1::Inspected) -> Result<(), Status> {
        if !self.registry.asks(self.connected, inspected.request) {
            return Ok(());
        }
        let result = if inspected.error.is_empty() {
            let unpacked = unpack::<HostInventory>(inspected.inventory, self.inventory_bytes);
            let inventory = match unpacked.await? {
                Ok(inventory) => inventory,
                Err(error @ BadDocument::TooLarge { .. }) => {
                    let why =
                        format!("its inventory is too large: {error} (limits.inventory_bytes in coordinator.yaml)");
                    self.registry.inspected(self.connected, inspected.request, Err(why));
                    return Ok(());
                }
                Err(error) => return Err(unreadable("inventory", &error)),
            };
            if inventory.host != *self.host() {
                return Err(bad(BadMessage {
                    field: "inventory.host",
                    what: format!("{}, and the agent is that of {}", inventory.host, self.host()),
                }));
            }
            Ok(inventory)
        } else {
            Err(inspected.error)
        };
        self.registry.inspected(self.connected, inspected.request, result);
        Ok(())
    }

    async fn rehearsed(&self, rehearsed: v1::Rehearsed) -> Result<(), Status> {
        if !self.registry.asks(self.connected, rehearsed.request) {
            return Ok(());
        }
        let result = if rehearsed.error.is_empty() {
            let actions = unpack::<Vec<Action>>(rehearsed.actions, self.inventory_bytes).await?;
            Ok(actions.map_err(|e| unreadable("actions", &e))?)
        } else {
            Err(rehearsed.error)
        };
        self.registry.rehearsed(self.connected, rehearsed.request, result);
        Ok(())
    }
}

/// The event with its document, or, where that is no evidence, the failure of its attempt. Beside the runtime: a document
/// of a million parts takes a while.
async fn examined(host: HostName, event: Event, document: Packed, subject: Arc<Subject>) -> Result<Event, Status> {
    let examined = tokio::task::spawn_blocking(move || {
        let whose = Whose {
            host: &host,
            migration: &event.migration,
            attempt: event.attempt,
            subject: &subject,
        };
        let (outcome, document) = match evidence::examine(whose, &event.outcome, &document) {
            Ok(()) => (event.outcome, Some(document)),
            Err(why) => (evidence::refused(&host, &why), None),
        };
        Event {
            outcome,
            document,
            ..event
        }
    });
    examined.await.map_err(|_| Status::unavailable("the coordinator stops"))
}

/// Unpacks beside the runtime: a document of a million parts takes a while.
async fn unpack<T: DeserializeOwned + Send + 'static>(
    bytes: Vec<u8>,
    limit: u64,
) -> Result<Result<T, BadDocument>, Status> {
    tokio::task::spawn_blocking(move || document::unpack_at_most(&bytes, None, limit))
        .await
        .map_err(|_| Status::unavailable("the coordinator stops"))
}

fn unreadable(field: &'static str, error: &BadDocument) -> Status {
    bad(BadMessage {
        field,
        what: format!("not acceptable: {error}"),
    })
}

fn bad(error: BadMessage) -> Status {
    Status::invalid_argument(error.to_string())
}
