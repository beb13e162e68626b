//! Plans are made of fresh inventories: the agents are asked, all at once.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use rekeeper_shared::domain::document::pack;
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::inventory::HostInventory;
use rekeeper_shared::domain::plan::PlanRequest;
use rekeeper_shared::domain::problem::{Code, Finding};
use rekeeper_shared::people::view::PlanView;

use super::{AskAgents, Error, Operations, beside};
use crate::agents::{NotInspected, Refused};
use crate::driver::{OperatorError, Snapshot};
use crate::plan::{Circumstances, Draft, build, remedy};

/// How long an agent may take to inspect its host.
const INSPECTION: Duration = Duration::from_secs(120);

impl<S, A: AskAgents> Operations<S, A> {
    /// Makes a plan and saves it, unless something blocks it.
    ///
    /// # Errors
    /// The name is taken or no name for a migration, or the request itself is wrong. What blocks a plan is in the answer.
    pub async fn plan(&self, name: &MigrationName, request: &PlanRequest, by: String) -> Result<PlanView, Error> {
        let connected = self.agents.connected();
        let known = self.driver.snapshot(name).await?;
        if known.migration.is_some() {
            return Err(OperatorError::Exists(name.clone()).into());
        }
        name.check_new()
            .map_err(|refused| OperatorError::Invalid(refused.to_string()))?;
        let hosts = chosen(request, connected, &known);
        let circumstances = Circumstances {
            by,
            overlaps: known.overlaps.on(&hosts),
            measured: known.measured,
            ..Circumstances::default()
        };
        let draft = self.draft(name, request, &hosts, circumstances).await?;
        let (view, saved) = beside(move || {
            let packed = draft.blockers.is_empty().then(|| pack(&draft.plan));
            (draft.view(), packed.map(|packed| (draft.plan, packed)))
        })
        .await?;
        if let Some((plan, packed)) = saved {
            let unpackable = |e: std::io::Error| OperatorError::Invalid(format!("the plan cannot be stored: {e}"));
            self.driver.save(plan, packed.map_err(unpackable)?).await?;
        }
        Ok(view)
    }

    /// What the agents of these hosts make of a request now.
    ///
    /// # Errors
    /// The request itself is wrong.
    pub(super) async fn draft(
        &self,
        name: &MigrationName,
        request: &PlanRequest,
        hosts: &[HostName],
        mut circumstances: Circumstances,
    ) -> Result<Draft, OperatorError> {
        let answers = inspect(&self.agents, hosts).await;
        let (inventories, mut findings) = heard(answers, self.agents.refused());
        if hosts.is_empty() {
            findings.push(Finding::new(Code::AgentNotConnected, "no agent is connected"));
        }
        // An agent that does not obey this coordinator need not be started.
        findings.retain(|finding| {
            let is_behind = |other: &Finding| other.code == Code::CoordinatorBehind && other.host == finding.host;
            finding.code != Code::AgentNotConnected || !circumstances.overlaps.iter().any(is_behind)
        });
        circumstances.findings = findings;
        circumstances.now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let (name, request) = (name.clone(), request.clone());
        beside(move || build(&name, &request, &inventories, circumstances))
            .await?
            .map_err(OperatorError::Invalid)
    }
}

/// The hosts of a plan: those that were named, or all whose agents are connected.
fn chosen(request: &PlanRequest, connected: Vec<HostName>, known: &Snapshot) -> Vec<HostName> {
    let hosts: BTreeSet<HostName> = if request.hosts.is_empty() {
        // An agent that does not obey this coordinator is gone at once, and a reason all the same.
        connected.into_iter().chain(known.overlaps.behind().cloned()).collect()
    } else {
        request.hosts.iter().cloned().collect()
    };
    hosts.into_iter().collect()
}

/// What an agent has answered.
type Answer = Result<HostInventory, NotInspected>;

async fn inspect<'a>(agents: &impl AskAgents, hosts: &'a [HostName]) -> Vec<(&'a HostName, Answer)> {
    let asked = hosts.iter().map(|host| {
        let answer = tokio::time::timeout(INSPECTION, agents.inspect(host));
        async move {
            let late = || NotInspected::Failed(format!("no answer within {} s", INSPECTION.as_secs()));
            (host, answer.await.unwrap_or_else(|_| Err(late())))
        }
    });
    join_all(asked).await
}

/// The inventories, and what stops a plan since there is none.
fn heard(answers: Vec<(&HostName, Answer)>, refused: Vec<Refused>) -> (Vec<HostInventory>, Vec<Finding>) {
    let (mut inventories, mut findings) = (Vec::new(), Vec::new());
    for (host, answer) in answers {
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
    for refused in refused {
        if let Some(code) = refused.code {
            findings.push(Finding::new(code, refused.message).on(&refused.host));
        }
    }
    (inventories, findings)
}
