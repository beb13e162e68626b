//! The operator's service: decode, call an operation, encode its answer or map its error, and no more.

mod access;
mod decode;

use std::pin::Pin;
use std::time::SystemTime;

use futures::{Stream, StreamExt as _};
use rekeeper_proto::reason::Reason;
use rekeeper_proto::v1::operator_server::{Operator, OperatorServer};
use rekeeper_proto::v1::{self, Accepted, View};
use rekeeper_shared::people::view::RefusalView;
use rekeeper_tls::Refusals;
use serde::Serialize;
use tonic::{Request, Response, Status, async_trait};

use crate::driver::OperatorError;
use crate::operations::{Error, Operations, Pieces};
use crate::progress::OperatorOrder;
use crate::store::Store;

pub use access::Guarded;
use access::caller;
use decode::{host_name, left_out, migration_name, plan_request, start_request, unless_empty};

/// The service of the operator's command line.
pub struct OperatorService<S> {
    operations: Operations<S>,
    refusals: Refusals,
}

impl<S: Store> OperatorService<S> {
    /// A service of these operations, which also tells whom the listener refused.
    pub fn new(operations: Operations<S>, refusals: Refusals) -> OperatorServer<Self> {
        let service = Self { operations, refusals };
        OperatorServer::new(service)
            .max_decoding_message_size(rekeeper_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(rekeeper_proto::MAX_MESSAGE_BYTES)
    }

    async fn order(&self, name: &str, by: String, order: OperatorOrder) -> Result<Response<Accepted>, Status> {
        accepted(self.operations.order(&migration_name(name)?, by, order).await)
    }
}

/// The only place where an error becomes a status.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Refused(refused) => reason(&refused).status(text),
            Error::NotOneTable(_) => Self::invalid_argument(text),
            Error::NotRehearsed(_) => Self::failed_precondition(text),
            Error::Stalled { .. } => Self::unavailable(text),
            Error::Store(_) => Self::internal(text),
        }
    }
}

fn reason(refused: &OperatorError) -> Reason {
    match refused {
        OperatorError::Unknown(_) => Reason::Unknown,
        OperatorError::Exists(_) => Reason::Exists,
        OperatorError::Invalid(_) => Reason::Invalid,
        OperatorError::Blocked(_) => Reason::Blocked,
        OperatorError::State(_) => Reason::State,
        OperatorError::Stopping => Reason::Stopping,
    }
}

/// Documents, one after the other.
type Views = Pin<Box<dyn Stream<Item = Result<View, Status>> + Send>>;

#[async_trait]
impl<S: Store> Operator for OperatorService<S> {
    async fn hosts(&self, _: Request<v1::HostsRequest>) -> Result<Response<View>, Status> {
        view(&self.operations.hosts().await?)
    }

    async fn refusals(&self, _: Request<v1::RefusalsRequest>) -> Result<Response<View>, Status> {
        let shown = |time| humantime::format_rfc3339_seconds(time).to_string();
        let refusals = self.refusals.list(SystemTime::now()).into_iter();
        let refusals: Vec<RefusalView> = refusals
            .map(|refusal| RefusalView {
                address: refusal.address.to_string(),
                reason: refusal.reason,
                first: shown(refusal.first),
                last: shown(refusal.last),
                count: refusal.count,
            })
            .collect();
        view(&refusals)
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<View>, Status> {
        let by = caller(&request);
        let (name, request) = plan_request(request.into_inner())?;
        let plan = self.operations.plan(&name, &request, by).await?;
        // A plan may have very many tables.
        let encoded = tokio::task::spawn_blocking(move || view(&plan)).await;
        encoded.unwrap_or_else(|_| Err(Error::from(OperatorError::Stopping).into()))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        let (name, until) = start_request(request.into_inner())?;
        accepted(self.operations.start(&name, by, until).await)
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<View>, Status> {
        let name = request.into_inner().name;
        if name.is_empty() {
            return view(&self.operations.migrations().await?);
        }
        view(&self.operations.status(&migration_name(&name)?).await?)
    }

    async fn pause(&self, request: Request<v1::MigrationRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        self.order(&request.into_inner().name, by, OperatorOrder::Pause).await
    }

    async fn resume(&self, request: Request<v1::MigrationRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        self.order(&request.into_inner().name, by, OperatorOrder::Resume).await
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        let v1::RetryRequest { name, table, host } = request.into_inner();
        let (name, table) = (migration_name(&name)?, unless_empty(&table));
        let host = unless_empty(&host).map(host_name).transpose()?;
        accepted(self.operations.retry(&name, by, table, host).await)
    }

    async fn skip(&self, request: Request<v1::SkipRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        let (name, what) = left_out(request.into_inner())?;
        accepted(self.operations.skip(&name, by, what).await)
    }

    async fn abort(&self, request: Request<v1::MigrationRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        self.order(&request.into_inner().name, by, OperatorOrder::Abort).await
    }

    type DryRunStream = Views;

    async fn dry_run(&self, request: Request<v1::StartRequest>) -> Result<Response<Views>, Status> {
        let (name, until) = start_request(request.into_inner())?;
        Ok(views(self.operations.dry_run(&name, until).await?))
    }

    type EventsStream = Views;

    async fn events(&self, request: Request<v1::EventsRequest>) -> Result<Response<Views>, Status> {
        let v1::EventsRequest { name, after, follow } = request.into_inner();
        let name = migration_name(&name)?;
        Ok(views(self.operations.events(&name, after, follow).await?))
    }

    type ReportStream = Views;

    async fn report(&self, request: Request<v1::MigrationRequest>) -> Result<Response<Views>, Status> {
        let name = migration_name(&request.into_inner().name)?;
        Ok(views(self.operations.report(&name).await?))
    }
}

fn accepted(notice: Result<String, Error>) -> Result<Response<Accepted>, Status> {
    let notice = notice?;
    Ok(Response::new(Accepted { notice }))
}

fn view(document: &impl Serialize) -> Result<Response<View>, Status> {
    json(document).map(Response::new)
}

fn views<T: Serialize + 'static>(pieces: Pieces<T>) -> Response<Views> {
    Response::new(pieces.map(|piece| json(&piece?)).boxed())
}

fn json(document: &impl Serialize) -> Result<View, Status> {
    let json = serde_json::to_string(document).map_err(|e| Status::internal(e.to_string()))?;
    Ok(View { json })
}
