//! The operator's service: decode, call the handle, map the error, and no more.

mod access;

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures::Stream;
use rekeeper_proto::convert::parse;
use rekeeper_proto::reason::Reason;
use rekeeper_proto::v1::operator_server::{Operator, OperatorServer};
use rekeeper_proto::v1::{self, Accepted, View};
use rekeeper_shared::domain::allowances::Allowances;
use rekeeper_shared::domain::ids::{HostName, MigrationName, TableName};
use rekeeper_shared::domain::plan::{Mode, PlanRequest, RestartPolicy};
use rekeeper_shared::people::view::{HostView, RefusalView, State, Until};
use rekeeper_tls::Refusals;
use serde::Serialize;
use tonic::{Request, Response, Status, async_trait};

use crate::agents::AgentsHandle;
use crate::driver::{DriverHandle, OperatorError};
use crate::operations::{dry_run, events, planning, report};
use crate::progress::OperatorOrder;
use crate::store::Store;

pub use access::Guarded;
use access::caller;

/// The service of the operator's command line.
pub struct OperatorService<S> {
    driver: DriverHandle,
    agents: AgentsHandle,
    store: Arc<S>,
    refusals: Refusals,
}

impl<S: Store> OperatorService<S> {
    /// A service that asks this driver, and tells whom the listener refused.
    pub fn new(driver: DriverHandle, agents: AgentsHandle, store: Arc<S>, refusals: Refusals) -> OperatorServer<Self> {
        let service = Self {
            driver,
            agents,
            store,
            refusals,
        };
        OperatorServer::new(service)
            .max_decoding_message_size(rekeeper_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(rekeeper_proto::MAX_MESSAGE_BYTES)
    }

    async fn order(&self, name: &str, by: String, order: OperatorOrder) -> Result<Response<Accepted>, Status> {
        let notice = self.driver.order(&migration_name(name)?, by, order).await?;
        Ok(Response::new(Accepted { notice }))
    }
}

impl From<OperatorError> for Status {
    fn from(error: OperatorError) -> Self {
        let text = error.to_string();
        let reason = match error {
            OperatorError::Unknown(_) => Reason::Unknown,
            OperatorError::Exists(_) => Reason::Exists,
            OperatorError::Invalid(_) => Reason::Invalid,
            OperatorError::Blocked(_) => Reason::Blocked,
            OperatorError::State(_) => Reason::State,
            OperatorError::Stopping => Reason::Stopping,
        };
        reason.status(text)
    }
}

#[async_trait]
impl<S: Store> Operator for OperatorService<S> {
    async fn hosts(&self, _: Request<v1::HostsRequest>) -> Result<Response<View>, Status> {
        let mut hosts = self.driver.hosts().await?;
        for refused in self.agents.refused() {
            match hosts.iter_mut().find(|host| host.host == refused.host) {
                Some(host) => host.refused = Some(refused.message),
                None => hosts.push(HostView {
                    host: refused.host,
                    connected: false,
                    agent_version: String::new(),
                    clickhouse_version: String::new(),
                    doing: None,
                    refused: Some(refused.message),
                }),
            }
        }
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        view(&hosts)
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
        let view = planning::plan(&self.driver, &self.agents, &name, &request, by).await?;
        Ok(Response::new(view))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        let (name, until) = start_request(request.into_inner())?;
        let (plan, progress) = self.driver.progress(&name).await?;
        if progress.state(&plan) == State::Planned {
            planning::check_again(&self.driver, &self.agents, &plan, &progress).await?;
        }
        self.order(name.as_str(), by, OperatorOrder::Start { until }).await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<View>, Status> {
        let name = request.into_inner().name;
        if name.is_empty() {
            return view(&self.driver.migrations().await?);
        }
        view(&self.driver.status(&migration_name(&name)?).await?)
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
        let table = if table.is_empty() {
            None
        } else {
            Some(self.planned_table(&name, &table).await?)
        };
        let host = if host.is_empty() { None } else { Some(host_name(&host)?) };
        self.order(&name, by, OperatorOrder::Retry { table, host }).await
    }

    async fn skip(&self, request: Request<v1::SkipRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        let v1::SkipRequest { name, table, host } = request.into_inner();
        let order = match (table.is_empty(), host.is_empty()) {
            (false, true) => OperatorOrder::Skip {
                table: self.planned_table(&name, &table).await?,
            },
            (true, false) => OperatorOrder::Leave {
                host: host_name(&host)?,
            },
            (false, false) => OperatorOrder::LeaveTable {
                table: self.planned_table(&name, &table).await?,
                host: host_name(&host)?,
            },
            (true, true) => return Err(Status::invalid_argument("name a table or a host")),
        };
        self.order(&name, by, order).await
    }

    async fn abort(&self, request: Request<v1::MigrationRequest>) -> Result<Response<Accepted>, Status> {
        let by = caller(&request);
        self.order(&request.into_inner().name, by, OperatorOrder::Abort).await
    }

    type DryRunStream = Pin<Box<dyn Stream<Item = Result<View, Status>> + Send>>;

    async fn dry_run(&self, request: Request<v1::StartRequest>) -> Result<Response<Self::DryRunStream>, Status> {
        let (name, until) = start_request(request.into_inner())?;
        let steps = dry_run::stream(&self.driver, &self.agents, &name, until).await?;
        Ok(Response::new(steps))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<View, Status>> + Send>>;

    async fn events(&self, request: Request<v1::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let v1::EventsRequest { name, after, follow } = request.into_inner();
        let name = migration_name(&name)?;
        let (plan, _) = self.driver.plan(&name).await?.ok_or(OperatorError::Unknown(name))?;
        Ok(Response::new(events::stream(
            Arc::clone(&self.store),
            self.driver.clone(),
            plan,
            after,
            follow,
        )))
    }

    type ReportStream = Pin<Box<dyn Stream<Item = Result<View, Status>> + Send>>;

    async fn report(&self, request: Request<v1::MigrationRequest>) -> Result<Response<Self::ReportStream>, Status> {
        let name = migration_name(&request.into_inner().name)?;
        let (plan, progress) = self.driver.progress(&name).await?;
        Ok(Response::new(report::stream(Arc::clone(&self.store), &plan, &progress)))
    }
}

impl<S: Store> OperatorService<S> {
    /// The one table of the plan that a person means by `db.table`.
    async fn planned_table(&self, name: &str, text: &str) -> Result<TableName, Status> {
        let name = migration_name(name)?;
        let (plan, _) = self.driver.plan(&name).await?.ok_or(OperatorError::Unknown(name))?;
        let pattern = crate::plan::Pattern::parse(text).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut found: Vec<&TableName> = plan
            .tables
            .iter()
            .map(|t| &t.name)
            .filter(|t| pattern.matches(t))
            .collect();
        found.dedup();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Status::invalid_argument(format!("the plan has no table {text}"))),
            [one, other, ..] => Err(Status::invalid_argument(format!(
                "{text} is not one table of the plan (it means {one} and {other}); name one, or leave --table away"
            ))),
        }
    }
}

/// Hosts that a plan may name.
const HOSTS: usize = 10_000;

fn plan_request(wire: v1::PlanRequest) -> Result<(MigrationName, PlanRequest), Status> {
    if wire.hosts.len() > HOSTS {
        let given = wire.hosts.len();
        return Err(Status::invalid_argument(format!(
            "{given} times --host, and {HOSTS} are possible"
        )));
    }
    let hosts = wire
        .hosts
        .iter()
        .map(|host| host_name(host))
        .collect::<Result<_, _>>()?;
    let request = PlanRequest {
        databases: wire.databases,
        tables: wire.tables,
        exclude: wire.exclude,
        disk: (!wire.disk.is_empty()).then_some(wire.disk),
        hosts,
        restart: if wire.restart_never {
            RestartPolicy::Never
        } else {
            RestartPolicy::Once
        },
        allow: Allowances::parse(wire.allow).map_err(OperatorError::Invalid)?,
        mode: Mode::Rebuild,
    };
    Ok((migration_name(&wire.name)?, request))
}

fn migration_name(text: &str) -> Result<MigrationName, Status> {
    parse("name", text).map_err(|e| Status::invalid_argument(e.to_string()))
}

fn host_name(text: &str) -> Result<HostName, Status> {
    parse("host", text).map_err(|e| Status::invalid_argument(e.to_string()))
}

fn start_request(v1::StartRequest { name, until }: v1::StartRequest) -> Result<(MigrationName, Option<Until>), Status> {
    let until = if until.is_empty() {
        None
    } else {
        Some(parse_until(&until)?)
    };
    Ok((migration_name(&name)?, until))
}

fn parse_until(text: &str) -> Result<Until, Status> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        Status::invalid_argument(format!(
            "{text:?} is no barrier: detached, zk-cleaned, restarted, restored"
        ))
    })
}

fn view(document: &impl Serialize) -> Result<Response<View>, Status> {
    let view = json(document).map_err(|e| Status::internal(e.to_string()))?;
    Ok(Response::new(view))
}

pub(crate) fn json(document: &impl Serialize) -> serde_json::Result<View> {
    let json = serde_json::to_string(document)?;
    Ok(View { json })
}
