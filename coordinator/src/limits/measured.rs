//! A service whose callers are held to the limits.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use rekeeper_tls::Peer;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::budget::{Budget, Held};
use super::frames::Frames;

/// Whose calls a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Streams of agents.
    OfAgents,
    /// Questions and orders of people.
    OfPeople,
}

/// A service that refuses what is too large or too much, before it is read.
#[derive(Debug, Clone)]
pub struct Measured<S> {
    service: S,
    calls: Calls,
    budget: Arc<Budget>,
}

impl<S> Measured<S> {
    /// Puts the limits in front of a service.
    pub fn new(service: S, calls: Calls, budget: Arc<Budget>) -> Self {
        Self { service, calls, budget }
    }
}

impl<S: NamedService> NamedService for Measured<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Measured<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let caller = self.budget.caller(request.extensions().get::<Peer>());
        let call = match self.budget.begin(&caller) {
            Ok(call) => call,
            Err(refusal) => return Box::pin(async move { Ok(refusal.into_http()) }),
        };
        let held = Held::default();
        request.extensions_mut().insert(held.clone());
        let (calls, budget) = (self.calls, Arc::clone(&self.budget));
        let request = request.map(|body| Body::new(Frames::new(body, calls, budget, caller, held)));
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Body::new(Answer { body, _call: call })))
        })
    }
}

/// What is answered: the call is open until all of it was, or nobody reads it any more.
struct Answer {
    body: Body,
    _call: OwnedSemaphorePermit,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
