//! A caller that keeps to no limit.

use std::time::Duration;

use rekeeper_proto::MAX_MESSAGE_BYTES;
use rekeeper_proto::v1::agents_client::AgentsClient;
use rekeeper_proto::v1::{self, FromAgent, from_agent, from_coordinator};
use rekeeper_shared::PROTOCOL_VERSION;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::program::Program;

/// Two GiB of blanks, with which JSON may begin, in a few hundred KiB of zstd.
pub(crate) fn bomb() -> Vec<u8> {
    let frame = zstd::encode_all(vec![b' '; 128 << 20].as_slice(), 3).unwrap();
    let bomb = frame.repeat(16);
    assert!(bomb.len() < 400 << 10, "{}", bomb.len());
    bomb
}

pub(crate) fn hello(host: &str) -> v1::Hello {
    v1::Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: "0".into(),
        host: host.into(),
        server_id: host.into(),
        clickhouse_version: "26.9".into(),
        parallel_detach: 8,
        parallel_restore: 16,
        ..v1::Hello::default()
    }
}

/// An agent's stream.
pub(crate) struct Caller {
    outgoing: mpsc::Sender<FromAgent>,
    incoming: Streaming<v1::FromCoordinator>,
}

impl Caller {
    pub(crate) async fn attend(program: &Program, host: &str) -> Result<Self, Status> {
        Self::begin(program, hello(host)).await
    }

    pub(crate) async fn begin(program: &Program, hello: v1::Hello) -> Result<Self, Status> {
        let mut client = AgentsClient::new(program.channel().await)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outgoing, messages) = mpsc::channel(4);
        let kind = Some(from_agent::Kind::Hello(hello));
        outgoing.send(FromAgent { kind }).await.unwrap();
        let mut incoming = client.attend(ReceiverStream::new(messages)).await?.into_inner();
        incoming.message().await?;
        Ok(Self { outgoing, incoming })
    }

    pub(crate) async fn say(&self, kind: from_agent::Kind) {
        self.try_say(kind).await.unwrap();
    }

    /// Fails when the coordinator has ended the stream.
    pub(crate) async fn try_say(&self, kind: from_agent::Kind) -> Result<(), ()> {
        let sent = self.outgoing.send(FromAgent { kind: Some(kind) });
        let sent = tokio::time::timeout(Duration::from_secs(60), sent).await;
        sent.expect("the coordinator takes nothing").map_err(drop)
    }

    /// Waits until it is asked to inspect its host.
    pub(crate) async fn is_inspected(&mut self) -> u64 {
        loop {
            let message = self.incoming.message().await.unwrap().unwrap();
            if let Some(from_coordinator::Kind::Inspect(v1::Inspect { request })) = message.kind {
                return request;
            }
        }
    }
}
