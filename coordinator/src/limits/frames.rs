//! The body of a call as gRPC has it: messages, each with a head that says its size. A size that is too large is refused
//! when its head comes, before memory is taken for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::future::BoxFuture;
use http_body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use super::Limits;
use super::budget::{Budget, Caller, Held, Hold};
use super::measured::Calls;

/// Whether it is compressed, and its size.
const HEAD: usize = 5;
/// How long a message may take to come once it has begun and there is room for it.
const WITHIN: Duration = Duration::from_secs(60);

/// A body whose messages are measured.
pub(super) struct Frames {
    body: Body,
    calls: Calls,
    budget: Arc<Budget>,
    caller: Arc<Caller>,
    held: Held,
    /// What came and was not looked at yet.
    came: Bytes,
    /// The head of the message that comes, and its first byte, which tells its kind.
    head: Vec<u8>,
    /// How much of the message that comes is still to be let through.
    left: usize,
    room: Option<BoxFuture<'static, Result<Hold, Status>>>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Frames {
    pub(super) fn new(body: Body, calls: Calls, budget: Arc<Budget>, caller: Arc<Caller>, held: Held) -> Self {
        Self {
            body,
            calls,
            budget,
            caller,
            held,
            came: Bytes::new(),
            head: Vec::new(),
            left: 0,
            room: None,
            late: None,
        }
    }

    /// What may be let through of what came: never more than to the end of a message, so that whoever reads has dealt
    /// with it before there has to be room for the next one.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        if self.left > 0 {
            let now = self.left.min(self.came.len());
            self.left -= now;
            if self.left == 0 {
                self.late = None;
            }
            return Ok((now > 0).then(|| self.came.split_to(now)));
        }
        let size = |head: &[u8]| match head {
            [_, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d]) as usize),
            _ => None,
        };
        while self.came.has_remaining() {
            self.head.push(self.came.get_u8());
            match size(&self.head) {
                Some(bytes) if bytes == 0 || self.head.len() > HEAD => {
                    self.calls
                        .check(bytes, self.head.get(HEAD).copied(), self.budget.limits())?;
                    let (budget, caller) = (Arc::clone(&self.budget), Arc::clone(&self.caller));
                    self.room = Some(Box::pin(budget.hold(caller, bytes)));
                    self.left = bytes - (self.head.len() - HEAD);
                    return Ok(None);
                }
                Some(_) | None => {}
            }
        }
        Ok(None)
    }

    fn is_in_a_message(&self) -> bool {
        self.left > 0 || !self.head.is_empty()
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(room) = &mut this.room {
                let hold = ready!(room.as_mut().poll(cx))?;
                this.room = None;
                this.held.push(hold);
                let head = Bytes::from(std::mem::take(&mut this.head));
                return Poll::Ready(Some(Ok(Frame::data(head))));
            }
            if this.came.has_remaining() {
                if let Some(bytes) = this.cut()? {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                continue;
            }
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.came = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending if this.is_in_a_message() => {
                    let late = this.late.get_or_insert_with(|| Box::pin(sleep(WITHIN)));
                    ready!(late.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                        "a message began and did not come to its end within {} s",
                        WITHIN.as_secs()
                    )))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Calls {
    /// Refuses a message that is larger than one of its kind may be.
    fn check(self, bytes: usize, first: Option<u8>, limits: &Limits) -> Result<(), Status> {
        let (limit, field, what) = match (self, first) {
            (Self::OfPeople, _) => (limits.call_bytes, "call_bytes", "what is asked"),
            (Self::OfAgents, Some(0x12 | 0x22 | 0x32)) => {
                (limits.message_bytes, "message_bytes", "a message with a document")
            }
            (Self::OfAgents, _) => (
                limits.hello_bytes,
                "hello_bytes",
                "a hello, or a message without a document,",
            ),
        };
        if bytes <= limit {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "{what} has {bytes} bytes, and {limit} are allowed (limits.{field} in coordinator.yaml)"
        )))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use rekeeper_proto::v1::{Event, FromAgent, Goodbye, Hello, Inspected, Rehearsed, from_agent::Kind};

    use super::*;

    #[test]
    fn messages_with_documents_may_be_larger_and_are_told_by_their_first_byte() {
        let limits = Limits::default();
        let kinds = [
            (Kind::Event(Event::default()), true),
            (Kind::Inspected(Inspected::default()), true),
            (Kind::Rehearsed(Rehearsed::default()), true),
            (Kind::Hello(Hello::default()), false),
            (Kind::Goodbye(Goodbye {}), false),
        ];
        for (kind, is_large) in kinds {
            let encoded = FromAgent { kind: Some(kind) }.encode_to_vec();
            let first = encoded.first().copied();
            let checked = Calls::OfAgents.check(limits.hello_bytes + 1, first, &limits);
            assert_eq!(checked.is_ok(), is_large, "{first:?}");
            assert!(Calls::OfAgents.check(limits.message_bytes + 1, first, &limits).is_err());
            assert!(Calls::OfAgents.check(limits.hello_bytes, first, &limits).is_ok());
        }
        let refused = Calls::OfPeople
            .check(limits.call_bytes + 1, Some(0x12), &limits)
            .unwrap_err();
        assert!(refused.message().contains("limits.call_bytes"), "{refused}");
    }
}
