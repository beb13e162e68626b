//! Whoever has the key of one agent, for the end-to-end tests: it stands between a real agent and the coordinator, and
//! tells the coordinator something else than the agent did.
//!
//!     relay PORT http://127.0.0.1:COORDINATOR FORGERY
//!
//! It listens on the port. The forgeries are: `record` (two parts of every replica are missing in the part set of record),
//! `manifest` (the first part is missing in every manifest), `nothing`.

use anyhow::{Context as _, bail};
use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::v1::agents_client::AgentsClient;
use rekeeper_proto::v1::agents_server::{Agents, AgentsServer};
use rekeeper_proto::v1::event::Outcome;
use rekeeper_proto::v1::{self, FromAgent, FromCoordinator, from_agent};
use rekeeper_shared::domain::document::{Manifest, PartSetOfRecord, pack, unpack};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug, Clone, Copy)]
enum Forgery {
    Record,
    Manifest,
    Nothing,
}

struct Relay {
    coordinator: String,
    forgery: Forgery,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, coordinator, forgery] = arguments.as_slice() else {
        bail!("relay PORT COORDINATOR FORGERY");
    };
    let forgery = match forgery.as_str() {
        "record" => Forgery::Record,
        "manifest" => Forgery::Manifest,
        "nothing" => Forgery::Nothing,
        other => bail!("no forgery {other}"),
    };
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    let relay = Relay {
        coordinator: coordinator.clone(),
        forgery,
    };
    let service = AgentsServer::new(relay)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = tonic::transport::Server::builder().add_service(service);
    server.serve_with_incoming(TcpListenerStream::new(listener)).await?;
    Ok(())
}

#[tonic::async_trait]
impl Agents for Relay {
    type AttendStream = ReceiverStream<Result<FromCoordinator, Status>>;

    async fn attend(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::AttendStream>, Status> {
        let client = AgentsClient::connect(self.coordinator.clone()).await;
        let mut client = client
            .map_err(|e| Status::unavailable(e.to_string()))?
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (up, messages) = mpsc::channel(64);
        let mut said = request.into_inner();
        let forgery = self.forgery;
        tokio::spawn(async move {
            while let Some(Ok(message)) = said.next().await {
                let message = match forged(message.clone(), forgery) {
                    Ok(forged) => forged,
                    Err(error) => {
                        eprintln!("not forged: {error:#}");
                        message
                    }
                };
                if up.send(message).await.is_err() {
                    return;
                }
            }
        });
        let mut ordered = client.attend(ReceiverStream::new(messages)).await?.into_inner();
        let (down, answers) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(message) = ordered.next().await {
                if down.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn forged(mut message: FromAgent, forgery: Forgery) -> anyhow::Result<FromAgent> {
    let Some(from_agent::Kind::Event(event)) = &mut message.kind else {
        return Ok(message);
    };
    let (document, outcome) = (&mut event.document, &mut event.outcome);
    match (forgery, outcome, document) {
        (Forgery::Record, Some(Outcome::Recorded(recorded)), Some(document)) if !recorded.digest.is_empty() => {
            let mut record: PartSetOfRecord = unpack(&document.packed, None)?;
            for replica in &mut record.snapshot.replicas {
                let kept = replica.parts.len().checked_sub(2).context("too few parts")?;
                replica.parts.truncate(kept);
            }
            *document = v1::Document::from(pack(&record)?);
            recorded.digest.clone_from(&document.digest);
            eprintln!("forged a part set of record");
        }
        (Forgery::Manifest, Some(Outcome::Attached(attached)), Some(document)) => {
            let mut manifest: Manifest = unpack(&document.packed, None)?;
            let gone = manifest.parts.remove(0);
            (attached.parts, attached.rows) = (attached.parts - 1, attached.rows - gone.rows);
            *document = v1::Document::from(pack(&manifest)?);
            attached.digest.clone_from(&document.digest);
            eprintln!("forged a manifest");
        }
        _ => {}
    }
    Ok(message)
}
