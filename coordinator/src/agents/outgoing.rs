//! What one agent is sent, as the stream that tonic asks for.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use rekeeper_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::Status;

/// What an agent is sent. A connection that is closed ends at once, whatever still waits in its queue.
#[derive(Debug)]
pub struct Outgoing {
    closing: WatchStream<Option<Status>>,
    queue: ReceiverStream<v1::FromCoordinator>,
    ended: bool,
}

impl Outgoing {
    pub(super) fn new(queue: mpsc::Receiver<v1::FromCoordinator>, closing: watch::Receiver<Option<Status>>) -> Self {
        Self {
            closing: WatchStream::new(closing),
            queue: ReceiverStream::new(queue),
            ended: false,
        }
    }
}

impl Stream for Outgoing {
    type Item = Result<v1::FromCoordinator, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        while let Poll::Ready(Some(closing)) = Pin::new(&mut self.closing).poll_next(cx) {
            if let Some(status) = closing {
                self.ended = true;
                return Poll::Ready(Some(Err(status)));
            }
        }
        let next = Pin::new(&mut self.queue).poll_next(cx);
        self.ended = matches!(next, Poll::Ready(None));
        next.map(|message| message.map(Ok))
    }
}
