//! Plans are made of fresh inventories: the agents are asked, all at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::plan::remedy;
use futures::future::join_all;
use rekeeper_proto::v1::View;
use rekeeper_shared::domain::document::pack;
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::plan::{MeasuredWave, Plan, PlanRequest};
use rekeeper_shared::domain::problem::{Code, Finding};
use rekeeper_shared::people::causes::{Cause, Item, grouped};

use crate::agents::{AgentsHandle, NotInspected};
use crate::driver::{DriverHandle, OperatorError};
use crate::grpc::json;
use crate::plan::{Circumstances, Draft, build};
use crate::progress::Progress;

/// How long an agent may take to inspect its host.
const INSPECTION: Duration = Duration::from_secs(120);
/// Causes in the message of a start that is blocked. It travels in a header of HTTP/2: with a finding for each of 1,000
/// tables the connection was ended for "too_many_continuations", and nobody learned why.
const SHOWN: usize = 20;
/// Tables that are named with each.
const NAMED: usize = 3;

/// Makes a plan and saves it, unless something blocks it.
pub(crate) async fn plan(
    driver: &DriverHandle,
    agents: &AgentsHandle,
    name: &MigrationName,
    request: &PlanRequest,
    by: String,
) -> Result<View, OperatorError> {
    if driver.plan(name).await?.is_some() {
        return Err(OperatorError::Exists(name.clone()));
    }
    name.check_new()
        .map_err(|refused| OperatorError::Invalid(refused.to_string()))?;
    let hosts: Vec<HostName> = if request.hosts.is_empty() {
        let connected = agents.connected().into_iter().map(|connected| connected.hello.host);
        let mut hosts: BTreeSet<HostName> = connected.collect();
        // An agent that does not obey this coordinator is gone at once, and a reason all the same.
        hosts.extend(behind(driver, name).await?);
        hosts.into_iter().collect()
    } else {
        let hosts: BTreeSet<HostName> = request.hosts.iter().cloned().collect();
        hosts.into_iter().collect()
    };
    let overlaps = driver.overlaps(name, hosts.clone()).await?;
    let measured = driver.measured().await?;
    let draft = draft(agents, name, request, &hosts, Known { by, overlaps, measured }).await?;
    let (view, saved) = beside(move || {
        let view = json(&draft.view());
        let packed = draft.blockers.is_empty().then(|| pack(&draft.plan));
        (view, packed.map(|packed| (draft.plan, packed)))
    })
    .await?;
    if let Some((plan, packed)) = saved {
        let unpackable = |e: std::io::Error| OperatorError::Invalid(format!("the plan cannot be stored: {e}"));
        driver.save(plan, packed.map_err(unpackable)?).await?;
    }
    view.map_err(|e| OperatorError::Invalid(format!("the plan cannot be shown: {e}")))
}

/// Beside the runtime: with very many tables it takes seconds, in which its threads are to answer others.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OperatorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| OperatorError::Stopping)
}

/// The hosts whose agents have seen more than this coordinator knows.
async fn behind(driver: &DriverHandle, name: &MigrationName) -> Result<Vec<HostName>, OperatorError> {
    let seen = driver.hosts().await?.into_iter().map(|view| view.host).collect();
    let found = driver.overlaps(name, seen).await?.into_iter();
    Ok(found
        .filter(|finding| finding.code == Code::CoordinatorBehind)
        .filter_map(|finding| finding.host)
        .collect())
}

/// Makes every check of a plan again, before it is started. What is found of a table that is skipped stops nothing.
pub(crate) async fn check_again(
    driver: &DriverHandle,
    agents: &AgentsHandle,
    plan: &Arc<Plan>,
    progress: &Progress,
) -> Result<(), OperatorError> {
    let hosts: Vec<HostName> = plan.hosts.iter().map(|host| host.name.clone()).collect();
    let overlaps = driver.overlaps(&plan.name, hosts.clone()).await?;
    let known = Known {
        overlaps,
        ..Known::default()
    };
    let draft = draft(agents, &plan.name, &plan.request, &hosts, known)
        .await
        .map_err(|e| match e {
            // A pattern that matches nothing any more is no wrong usage now: the tables are gone.
            OperatorError::Invalid(why) => OperatorError::Blocked(why),
            other => other,
        })?;
    let skipped = skipped(plan, progress);
    let plan = Arc::clone(plan);
    let blocked = beside(move || {
        let stops = |finding: &Finding| finding.table.as_ref().is_none_or(|table| !skipped.contains(table));
        let mut found: Vec<Finding> = draft.blockers.iter().filter(|f| stops(f)).cloned().collect();
        if found.is_empty() {
            found = draft.differences_from(&plan);
            found.retain(stops);
        }
        (!found.is_empty()).then(|| message(&found))
    })
    .await?;
    blocked.map_or(Ok(()), |why| Err(OperatorError::Blocked(why)))
}

/// What blocks a start, a line for each cause, as far as it fits.
fn message(found: &[Finding]) -> String {
    let items: Vec<Item> = found.iter().map(Item::from).collect();
    let blocks = grouped(&items);
    let causes: Vec<&Cause<'_>> = blocks.iter().flat_map(|block| &block.causes).collect();
    let mut lines: Vec<String> = causes.iter().take(SHOWN).map(|cause| line(cause)).collect();
    if let Some(more @ 1..) = causes.len().checked_sub(SHOWN) {
        lines.push(format!("and {more} more; rekeeper plan under another name shows all"));
    }
    lines.join("\n")
}

/// The names of the tables of which every replica set is skipped.
fn skipped(plan: &Plan, progress: &Progress) -> BTreeSet<String> {
    let is_skipped = |skipped: bool| {
        let of = plan
            .tables
            .iter()
            .filter(move |t| progress.sets[t.set].skipped == skipped);
        of.map(|t| t.name.to_string()).collect::<BTreeSet<_>>()
    };
    &is_skipped(true) - &is_skipped(false)
}

fn line(cause: &Cause<'_>) -> String {
    let first = cause.items[0];
    let (places, more) = cause.places(NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let space = if places.is_empty() { "" } else { " " };
    format!(
        "{}{space}{}{more}: {}; {}",
        first.code,
        places.join(", "),
        first.message,
        first.fix
    )
}

/// What is known of a plan before anybody is asked.
#[derive(Default)]
struct Known {
    by: String,
    overlaps: Vec<Finding>,
    measured: Vec<MeasuredWave>,
}

async fn draft(
    agents: &AgentsHandle,
    name: &MigrationName,
    request: &PlanRequest,
    hosts: &[HostName],
    known: Known,
) -> Result<Draft, OperatorError> {
    let (inventories, mut findings) = inspect(agents, hosts).await;
    if hosts.is_empty() {
        findings.push(Finding::new(Code::AgentNotConnected, "no agent is connected"));
    }
    // An agent that does not obey this coordinator need not be started.
    findings.retain(|finding| {
        let is_behind = |other: &Finding| other.code == Code::CoordinatorBehind && other.host == finding.host;
        finding.code != Code::AgentNotConnected || !known.overlaps.iter().any(is_behind)
    });
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let circumstances = Circumstances {
        by: known.by,
        now,
        findings,
        overlaps: known.overlaps,
        measured: known.measured,
    };
    let (name, request) = (name.clone(), request.clone());
    beside(move || build(&name, &request, &inventories, circumstances))
        .await?
        .map_err(OperatorError::Invalid)
}

async fn inspect(agents: &AgentsHandle, hosts: &[HostName]) -> (Vec<HostInventory>, Vec<Finding>) {
    let asked = hosts.iter().map(|host| async move {
        match tokio::time::timeout(INSPECTION, agents.inspect(host)).await {
            Ok(answer) => (host, answer),
            Err(_) => (
                host,
                Err(NotInspected::Failed(format!(
                    "no answer within {} s",
                    INSPECTION.as_secs()
                ))),
            ),
        }
    });
    let (mut inventories, mut findings) = (Vec::new(), Vec::new());
    for (host, answer) in join_all(asked).await {
        match answer {
            Ok(inventory) => inventories.push(inventory),
            Err(why @ (NotInspected::NotConnected(_) | NotInspected::Lost(_))) => {
                findings.push(Finding::new(Code::AgentNotConnected, why.to_string()).on(host));
            }
            Err(NotInspected::Failed(why)) => {
                let fix = remedy::of_inspection(&why);
                let finding = Finding::new(Code::InspectionFailed, why).on(host);
                findings.push(match fix {
                    Some(fix) => finding.with_fix(fix),
                    None => finding,
                });
            }
        }
    }
    for refused in agents.refused() {
        if let Some(code) = refused.code {
            findings.push(Finding::new(code, refused.message).on(&refused.host));
        }
    }
    (inventories, findings)
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::ids::TableName;

    use super::*;

    #[test]
    fn what_blocks_a_start_fits_into_a_header_however_much_it_is() {
        let change = |number: usize| Finding::new(Code::TableChanged, format!("{number} {}", "x".repeat(100)));
        let found: Vec<Finding> = (0..10_000).map(change).collect();
        let all = message(&found);
        assert!(all.len() < 16 << 10, "{}", all.len());
        assert!(all.ends_with("and 9980 more; rekeeper plan under another name shows all"));
        assert_eq!(message(&found[..SHOWN]).lines().count(), SHOWN);
    }

    #[test]
    fn what_blocks_many_tables_is_said_once() {
        let table = |number: usize| TableName::new("d", format!("t{number}"));
        let gone =
            |number: usize| Finding::new(Code::ReplicaUnknown, format!("/t/t{number} is not there")).of(&table(number));
        let found: Vec<Finding> = (0..1_000).map(gone).collect();
        let told = message(&found);
        assert!(
            told.starts_with("REPLICA_UNKNOWN d.t0, d.t1, d.t2 and 997 more: /t/t0 is not there; "),
            "{told}"
        );
        assert_eq!(told.lines().count(), 1);
    }
}
