//! A coordinator that answers with canned documents. A fake only for these fast tests of the command line: what a real
//! one answers is held by the tests with real programs.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use rekeeper_proto::reason::Reason;
use rekeeper_proto::v1;
use rekeeper_proto::v1::operator_server::{Operator, OperatorServer};
use rekeeper_shared::people::rehearsal::RehearsedStep;
use rekeeper_shared::people::report::ReportView;
use rekeeper_shared::people::view::{EventView, HostView, MigrationLine, PlanView, RefusalView, StatusView};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// What it answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Canned {
    pub(crate) hosts: Vec<HostView>,
    /// Instead of the hosts.
    pub(crate) odd_hosts: Option<String>,
    pub(crate) refusals: Vec<RefusalView>,
    pub(crate) plan: Option<PlanView>,
    /// One after the other; the last one stays.
    pub(crate) statuses: VecDeque<StatusView>,
    pub(crate) lines: Vec<MigrationLine>,
    pub(crate) events: Vec<EventView>,
    pub(crate) steps: Vec<RehearsedStep>,
    pub(crate) report: Option<ReportView>,
    pub(crate) notice: String,
    /// Instead of any answer.
    pub(crate) refusal: Option<(Code, String)>,
    /// The same, with its reason.
    pub(crate) reason: Option<(Reason, String)>,
    /// Each call in one line, without the polls.
    pub(crate) calls: Vec<String>,
    pub(crate) callers: Vec<String>,
    pub(crate) polls: usize,
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<Canned>>);

impl Service {
    fn asked<T>(&self, request: &Request<T>, call: String) -> Result<std::sync::MutexGuard<'_, Canned>, Status> {
        let mut canned = self.0.lock().unwrap();
        let caller = request
            .metadata()
            .get("rekeeper-caller")
            .map(|value| value.to_str().unwrap().to_owned());
        canned.callers.push(caller.unwrap_or_default());
        if call == "status" {
            canned.polls += 1;
        } else {
            canned.calls.push(call);
        }
        if let Some((reason, message)) = &canned.reason {
            return Err(reason.status(message));
        }
        match &canned.refusal {
            Some((code, message)) => Err(Status::new(*code, message.clone())),
            None => Ok(canned),
        }
    }

    fn accept<T>(&self, request: &Request<T>, call: String) -> Answer<v1::Accepted> {
        let notice = self.asked(request, call)?.notice.clone();
        Ok(Response::new(v1::Accepted { notice }))
    }
}

fn view<T: Serialize>(document: &T) -> v1::View {
    v1::View {
        json: serde_json::to_string(document).unwrap(),
    }
}

#[tonic::async_trait]
impl Operator for Service {
    type EventsStream = Pin<Box<dyn Stream<Item = Result<v1::View, Status>> + Send>>;

    async fn hosts(&self, request: Request<v1::HostsRequest>) -> Answer<v1::View> {
        let canned = self.asked(&request, "hosts".into())?;
        let odd = canned.odd_hosts.clone().map(|json| v1::View { json });
        Ok(Response::new(odd.unwrap_or_else(|| view(&canned.hosts))))
    }

    async fn refusals(&self, request: Request<v1::RefusalsRequest>) -> Answer<v1::View> {
        let canned = self.asked(&request, "refusals".into())?;
        Ok(Response::new(view(&canned.refusals)))
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Answer<v1::View> {
        let canned = self.asked(&request, format!("{:?}", request.get_ref()))?;
        Ok(Response::new(view(canned.plan.as_ref().unwrap())))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Answer<v1::Accepted> {
        self.accept(&request, format!("{:?}", request.get_ref()))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::View> {
        let mut canned = self.asked(&request, "status".into())?;
        if request.get_ref().name.is_empty() {
            return Ok(Response::new(view(&canned.lines)));
        }
        let status = canned.statuses.front().cloned();
        if canned.statuses.len() > 1 {
            canned.statuses.pop_front();
        }
        let status = status.ok_or_else(|| Status::not_found("there is no migration \"m1\""))?;
        Ok(Response::new(view(&status)))
    }

    async fn pause(&self, request: Request<v1::MigrationRequest>) -> Answer<v1::Accepted> {
        self.accept(&request, format!("pause {}", request.get_ref().name))
    }

    async fn resume(&self, request: Request<v1::MigrationRequest>) -> Answer<v1::Accepted> {
        self.accept(&request, format!("resume {}", request.get_ref().name))
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Answer<v1::Accepted> {
        self.accept(&request, format!("{:?}", request.get_ref()))
    }

    async fn skip(&self, request: Request<v1::SkipRequest>) -> Answer<v1::Accepted> {
        self.accept(&request, format!("{:?}", request.get_ref()))
    }

    async fn abort(&self, request: Request<v1::MigrationRequest>) -> Answer<v1::Accepted> {
        self.accept(&request, format!("abort {}", request.get_ref().name))
    }

    type DryRunStream = Self::EventsStream;

    async fn dry_run(&self, request: Request<v1::StartRequest>) -> Answer<Self::DryRunStream> {
        let canned = self.asked(&request, format!("dry run {:?}", request.get_ref()))?;
        let steps: Vec<_> = canned.steps.iter().map(|step| Ok(view(step))).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(steps))))
    }

    async fn events(&self, request: Request<v1::EventsRequest>) -> Answer<Self::EventsStream> {
        let canned = self.asked(&request, format!("{:?}", request.get_ref()))?;
        let after = request.get_ref().after;
        let events: Vec<_> = canned
            .events
            .iter()
            .filter(|event| event.seq > after)
            .map(|event| Ok(view(event)))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    type ReportStream = Pin<Box<dyn Stream<Item = Result<v1::View, Status>> + Send>>;

    async fn report(&self, request: Request<v1::MigrationRequest>) -> Answer<Self::ReportStream> {
        let canned = self.asked(&request, format!("report {}", request.get_ref().name))?;
        let mut head = canned.report.clone().unwrap();
        let tables = std::mem::take(&mut head.tables);
        let mut pieces = vec![Ok(view(&head))];
        for table in tables {
            head.tables = vec![table];
            pieces.push(Ok(view(&head)));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }
}

/// The fake, running; it can be lost and come back under the same address.
pub(crate) struct Fake {
    service: Service,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) fn new(canned: Canned) -> Self {
        let mut fake = Self {
            service: Service(Arc::new(Mutex::new(canned))),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            runtime: None,
        };
        fake.start();
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Reads or changes what is canned.
    pub(crate) fn with<T>(&self, access: impl FnOnce(&mut Canned) -> T) -> T {
        access(&mut self.service.0.lock().unwrap())
    }

    /// Connections break, nobody listens.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    pub(crate) fn start(&mut self) {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(self.address)).unwrap();
        self.address = listener.local_addr().unwrap();
        let service = OperatorServer::new(self.service.clone());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        self.runtime = Some(runtime);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}
