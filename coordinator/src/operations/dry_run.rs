//! `start --dry-run`: the way that a migration would go, each step told by the agent that would do it. Nothing is written
//! down, nothing is ordered.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::plan::{Plan, SetIx};
use rekeeper_shared::domain::step::{Command, StepKind, Target};
use rekeeper_shared::people::rehearsal::{Action, RehearsedStep};
use rekeeper_shared::people::view::Until;

use super::{AskAgents, Error, Operations, Pieces, beside};
use crate::driver::{build_without_documents, name_of};
use crate::progress::{Intent, Progress, rehearse};

/// Questions to agents that are open at a time.
const ASKED: usize = 16;

impl<S, A: AskAgents> Operations<S, A> {
    /// The steps of a migration from here on, host by host, each in the order in which it would be ordered.
    ///
    /// # Errors
    /// As `start`: what is unknown, or blocked by a check.
    pub async fn dry_run(&self, name: &MigrationName, until: Option<Until>) -> Result<Pieces<RehearsedStep>, Error> {
        let (plan, progress) = self.checked(name).await?;
        let connected = self.agents.connected();
        let for_steps = Arc::clone(&plan);
        let steps = beside(move || steps(*progress, &for_steps, until, &connected)).await?;
        let agents = self.agents.clone();
        // The agents answer in any order, and are listened to in that of the steps.
        let asked = stream::iter(steps).map(move |(intent, command)| {
            let (plan, agents) = (Arc::clone(&plan), agents.clone());
            async move { ask(&plan, &agents, intent, command).await.map(|step| (intent, step)) }
        });
        let mut markers = Markers::default();
        let told = asked.buffered(ASKED).map(move |answer| {
            let (intent, mut step) = answer?;
            markers.hand_over(intent, &mut step.actions);
            Ok(step)
        });
        Ok(told.boxed())
    }
}

/// A step on the way and what its agent is asked, or why it cannot be.
type Asked = (Intent, Result<Command, String>);

fn steps(progress: Progress, plan: &Plan, until: Option<Until>, connected: &[HostName]) -> Vec<Asked> {
    let mut steps = Vec::new();
    let is_connected = |host: usize| connected.contains(&plan.hosts[host].name);
    rehearse(progress, plan, until, is_connected, |at, intent| {
        let command = build_without_documents(plan, at, intent);
        steps.push((intent, command.map_err(|failure| failure.problem.message)));
    });
    // Stable: within a host the order stays.
    steps.sort_by_key(|(intent, _)| intent.host);
    steps
}

async fn ask(
    plan: &Plan,
    agents: &impl AskAgents,
    intent: Intent,
    command: Result<Command, String>,
) -> Result<RehearsedStep, Error> {
    let host = &plan.hosts[intent.host].name;
    let target = name_of(plan, intent.target);
    let failed = |why: String| Error::NotRehearsed(format!("{} of {target} on {host}: {why}", intent.step));
    let command = command.map_err(failed)?;
    let actions = agents
        .rehearse(host, command)
        .await
        .map_err(|e| failed(e.to_string()))?;
    let place = match intent.target {
        // A witness is written at another place, which only the host knows.
        Target::Set(set) if intent.step != StepKind::Witness => Some(plan.sets[set].place.to_string()),
        Target::Set(_) | Target::Table(_) | Target::Host(_) => None,
    };
    Ok(RehearsedStep {
        host: host.clone(),
        attempt: intent.attempt,
        step: intent.step.to_string(),
        target,
        place,
        actions,
    })
}

/// The nodes that hold a set between two steps: one makes them, the next takes them away, and finds none when it is asked.
#[derive(Default)]
struct Markers(HashMap<SetIx, Vec<String>>);

impl Markers {
    fn hand_over(&mut self, intent: Intent, actions: &mut Vec<Action>) {
        match (intent.step, intent.target) {
            (StepKind::Record, Target::Set(set)) => {
                let created = actions.iter().filter_map(|action| match action {
                    Action::CreateNode(node) => Some(node.clone()),
                    Action::Statement(_)
                    | Action::Run(_)
                    | Action::DeleteNode(_)
                    | Action::SetPermissions(_)
                    | Action::WriteFile(_) => None,
                });
                self.0.insert(set, created.collect());
            }
            (StepKind::Clean, Target::Set(set)) => {
                let mut left = self.0.remove(&set).unwrap_or_default();
                left.retain(|node| !actions.contains(&Action::DeleteNode(node.clone())));
                actions.splice(0..0, left.into_iter().map(Action::DeleteNode));
            }
            _ => {}
        }
    }
}
