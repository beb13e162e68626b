//! From what is on the wire to what operations take; what cannot be is refused with the name of its field.

use rekeeper_proto::convert::parse;
use rekeeper_proto::v1;
use rekeeper_shared::domain::allowances::Allowances;
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::plan::{Mode, PlanRequest, RestartPolicy};
use rekeeper_shared::people::view::Until;
use tonic::Status;

use crate::driver::OperatorError;
use crate::operations::{Error, LeftOut};

/// Hosts that a plan may name.
const HOSTS: usize = 10_000;

pub(super) fn plan_request(wire: v1::PlanRequest) -> Result<(MigrationName, PlanRequest), Status> {
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
        allow: Allowances::parse(wire.allow).map_err(invalid)?,
        mode: Mode::Rebuild,
    };
    Ok((migration_name(&wire.name)?, request))
}

fn invalid(why: String) -> Status {
    Error::from(OperatorError::Invalid(why)).into()
}

pub(super) fn migration_name(text: &str) -> Result<MigrationName, Status> {
    parse("name", text).map_err(|e| Status::invalid_argument(e.to_string()))
}

pub(super) fn host_name(text: &str) -> Result<HostName, Status> {
    parse("host", text).map_err(|e| Status::invalid_argument(e.to_string()))
}

pub(super) fn unless_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn start_request(wire: v1::StartRequest) -> Result<(MigrationName, Option<Until>), Status> {
    let until = unless_empty(&wire.until).map(parse_until).transpose()?;
    Ok((migration_name(&wire.name)?, until))
}

fn parse_until(text: &str) -> Result<Until, Status> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        Status::invalid_argument(format!(
            "{text:?} is no barrier: detached, zk-cleaned, restarted, restored"
        ))
    })
}

pub(super) fn left_out(wire: v1::SkipRequest) -> Result<(MigrationName, LeftOut), Status> {
    let v1::SkipRequest { name, table, host } = wire;
    let what = match (table.is_empty(), host.is_empty()) {
        (false, true) => LeftOut::Table(table),
        (true, false) => LeftOut::Host(host_name(&host)?),
        (false, false) => LeftOut::Replica(table, host_name(&host)?),
        (true, true) => return Err(Status::invalid_argument("name a table or a host")),
    };
    Ok((migration_name(&name)?, what))
}
