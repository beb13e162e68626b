//! The words in which orders are answered. What the answer is, is decided in [`crate::progress::orders`]; here also what an
//! order is about may stop it: a table that the plan does not have, one whose deletion was ordered.

use std::collections::BTreeSet;

use rekeeper_shared::domain::ids::{HostName, MigrationName, TableName};
use rekeeper_shared::domain::plan::RestartPolicy;
use rekeeper_shared::people::view::Until;

use super::OperatorError;
use super::migration::Migration;
use crate::progress::orders::{Already, Effect, Refusal, Standing};
use crate::progress::{Intent, OperatorOrder};

/// What comes of an order that is taken; empty when there is nothing to say.
///
/// # Errors
/// What it is about stops it.
pub(super) fn taken(
    migration: &Migration,
    standing: Standing,
    order: &OperatorOrder,
    effect: Effect,
) -> Result<String, OperatorError> {
    let name = &migration.plan.name;
    Ok(match effect {
        Effect::Starts => String::new(),
        Effect::GoesOn(until) => match until {
            // Who gave it knows; who did not, has to.
            Some(until) => format!("migration {name} goes on, until {}", until.as_str()),
            None => String::new(),
        },
        Effect::StaysAt(until) => format!(
            "migration {name} is paused no more, and stands at its barrier {} now: give the order again to go beyond it",
            until.as_str()
        ),
        Effect::StopsAt(until) => format!(
            "migration {name} is running: from now on it stops at the barrier {}{}",
            until.as_str(),
            instead_of(migration.progress.until)
        ),
        Effect::WillStopAt(until) => format!(
            "migration {name} has failed: what `rekeeper retry {name}` sets going stops at the barrier {}{}",
            until.as_str(),
            instead_of(migration.progress.until)
        ),
        Effect::LiftsBarrier => format!(
            "migration {name} goes to the end{}",
            instead_of(migration.progress.until)
        ),
        Effect::GoesOnAborting => format!("migration {name} goes on being aborted"),
        Effect::Pauses => {
            let tables = count(migration.progress.unavailable(), "table", "tables");
            format!("no new command is sent; unavailable meanwhile: {tables}")
        }
        Effect::Retries | Effect::RetriesLater | Effect::LeavesOut => about(migration, standing, order)?,
        Effect::AbortsPlanned => "it was never started: nothing had to be put back".to_owned(),
        Effect::Aborts => abort_notice(migration),
    })
}

fn about(migration: &Migration, standing: Standing, order: &OperatorOrder) -> Result<String, OperatorError> {
    match order {
        OperatorOrder::Retry { table, host } => {
            let told = retried(migration, table.as_ref(), host.as_ref())?;
            Ok(format!("{told}{}", how_far(migration, standing)))
        }
        OperatorOrder::Skip { table } => skipped(migration, table),
        OperatorOrder::Leave { host } => host_left(migration, host),
        OperatorOrder::LeaveTable { table, host } => replica_left(migration, table, host),
        OperatorOrder::Start { .. } | OperatorOrder::Pause | OperatorOrder::Resume | OperatorOrder::Abort => {
            Ok(String::new())
        }
    }
}

/// Where what is tried again stops.
fn how_far(migration: &Migration, standing: Standing) -> String {
    let name = &migration.plan.name;
    match (standing, migration.progress.until) {
        (Standing::Paused | Standing::AbortPaused, _) => format!("; it is paused: `rekeeper resume {name}` goes on"),
        (_, Some(until)) if until != Until::Restored => format!("; it stops at the barrier {}", until.as_str()),
        (_, Some(_) | None) => String::new(),
    }
}

fn instead_of(until: Option<Until>) -> String {
    match until {
        Some(until) if until != Until::Restored => format!(", and no more at {}", until.as_str()),
        Some(_) | None => String::new(),
    }
}

/// That it is so already.
pub(super) fn already(name: &MigrationName, so: Already, until: Option<Until>) -> String {
    match so {
        Already::Running => match until.filter(|&until| until != Until::Restored) {
            Some(until) => format!(
                "migration {name} is running already, until {0}: following it (to go beyond {0}: --until restored)",
                until.as_str()
            ),
            None => format!("migration {name} is running already: following it"),
        },
        Already::At(until) => format!(
            "migration {name} stands at its barrier {} already; `rekeeper start {name}` goes beyond it",
            until.as_str()
        ),
        Already::Failed => {
            format!("migration {name} has failed: see `rekeeper problems {name}`, then `rekeeper retry {name}`")
        }
        Already::Completed => format!("migration {name} is completed already"),
        Already::Aborting => format!("migration {name} is being aborted"),
        Already::AbortFailed => format!(
            "migration {name} is being aborted, and a problem holds it: see `rekeeper problems {name}`, then `rekeeper retry \
             {name}`"
        ),
        Already::Paused => format!("migration {name} is paused already"),
    }
}

/// Why it is refused.
pub(super) fn refused(migration: &Migration, why: Refusal) -> String {
    let name = &migration.plan.name;
    match why {
        Refusal::NotStarted => format!("migration {name} was never started, so it is not running and not paused"),
        Refusal::NotRunning => format!(
            "migration {name} has failed, so it is not running: nothing is ordered before `rekeeper retry {name}`"
        ),
        Refusal::NotPaused => format!("migration {name} is not paused, so it cannot be resumed"),
        Refusal::Beyond(
            until,
            Intent {
                attempt,
                host,
                step,
                target,
            },
        ) => format!(
            "migration {name} cannot stop at the barrier {} any more: {step} of {} on {} was ordered already (attempt \
             {attempt}); nothing has changed; to stop it where it is: rekeeper pause {name}",
            until.as_str(),
            migration.name_of(target),
            migration.plan.hosts[host].name
        ),
        Refusal::BarrierWhileAborting => format!(
            "migration {name} is being aborted: what is cleaned goes to its end, and stops at no barrier; nothing has changed"
        ),
        Refusal::Completed => format!("migration {name} is completed already"),
        Refusal::Aborted => {
            format!("migration {name} was aborted, and its name is used up: plan anew under another name")
        }
    }
}

fn retried(migration: &Migration, table: Option<&TableName>, host: Option<&HostName>) -> Result<String, OperatorError> {
    let plan = &migration.plan;
    let chosen: Vec<usize> = (0..plan.tables.len())
        .filter(|&t| table.is_none_or(|name| *name == plan.tables[t].name))
        .filter(|&t| host.is_none_or(|name| *name == plan.hosts[plan.tables[t].host].name))
        .collect();
    if chosen.is_empty() {
        return Err(OperatorError::Invalid(
            "the plan has no such table on such a host".to_owned(),
        ));
    }
    let with = chosen
        .iter()
        .filter(|&&t| migration.progress.problem_of(plan, t).is_some())
        .count();
    Ok(format!(
        "tried again: {}",
        count(with, "table with a problem", "tables with a problem")
    ))
}

fn skipped(migration: &Migration, table: &TableName) -> Result<String, OperatorError> {
    let (plan, progress) = (&migration.plan, &migration.progress);
    let (open, cleaned): (Vec<usize>, Vec<usize>) = plan.sets_of(table).partition(|&set| progress.may_be_skipped(set));
    let paths = |sets: &[usize]| {
        let paths: Vec<&str> = sets.iter().map(|&set| plan.sets[set].path.as_str()).collect();
        paths.join(", ")
    };
    let forward = format!(
        "forward is the only way for {table} ({}), since its deletion was ordered already: mend what holds it (`rekeeper \
         problems {name}` says how, also by hand), then `rekeeper retry {name} --table {table}`",
        paths(&cleaned),
        name = plan.name
    );
    if open.is_empty() {
        return Err(OperatorError::State(forward));
    }
    let left = format!(
        "left out from here on and put back into service: {table}, {} ({}){}",
        count(open.len(), "replica set", "replica sets"),
        paths(&open),
        left_behind(migration, &open)
    );
    Ok(if cleaned.is_empty() {
        left
    } else {
        format!("{left}; {forward}")
    })
}

/// What a hook does to tables that stay on their old metadata.
fn left_behind(migration: &Migration, sets: &[usize]) -> String {
    let plan = &migration.plan;
    let restarts = |host: usize| {
        let has_hook = plan.hosts[host].has_hook && plan.request.restart == RestartPolicy::Once;
        has_hook && plan.sets_on(host).any(|set| !sets.contains(&set))
    };
    let hosts: BTreeSet<&str> = (sets.iter().flat_map(|&set| plan.set_hosts(set)))
        .filter(|&host| restarts(host))
        .map(|host| plan.hosts[host].name.as_str())
        .collect();
    if hosts.is_empty() {
        return String::new();
    }
    let hosts: Vec<&str> = hosts.into_iter().collect();
    format!(
        "; if the hook of {} moves its server to another place, it is read-only from the restart on (docs/runbook.md, `Tables \
         that a hook has left behind`)",
        hosts.join(", ")
    )
}

fn host_left(migration: &Migration, host: &HostName) -> Result<String, OperatorError> {
    let (plan, progress) = (&migration.plan, &migration.progress);
    let Some(ix) = plan.host_ix(host) else {
        return Err(OperatorError::Invalid(format!("the plan has no host {host}")));
    };
    if let Some(set) = progress.may_not_be_left(plan, ix) {
        return Err(OperatorError::State(format!(
            "{host} cannot be left out: the replicas of {} were not equal, and it may have what no other has; bring the \
             host back",
            plan.sets[set].path
        )));
    }
    let (forward, back): (Vec<usize>, Vec<usize>) = plan
        .sets_on(ix)
        .filter(|&set| !progress.is_over(plan, set))
        .partition(|&set| progress.sets[set].is_irreversible());
    Ok(format!(
        "{host} is left out for good; without its replicas {} go on, and {} go back into service; its own tables stay as \
         they are, and `rekeeper problems {}` says how they come back",
        count(forward.len(), "replica set", "replica sets"),
        count(back.len(), "replica set", "replica sets"),
        plan.name
    ))
}

fn replica_left(migration: &Migration, table: &TableName, host: &HostName) -> Result<String, OperatorError> {
    let plan = &migration.plan;
    let replica = |&ix: &usize| plan.tables[ix].name == *table && plan.hosts[plan.tables[ix].host].name == *host;
    let Some(ix) = (0..plan.tables.len()).find(replica) else {
        return Err(OperatorError::Invalid(format!(
            "the plan has no table {table} on {host}"
        )));
    };
    if let Err(why) = migration.progress.may_be_left_alone(plan, ix) {
        return Err(OperatorError::State(format!(
            "{table} on {host} is not left out: {why}"
        )));
    }
    Ok(format!(
        "{table} on {host} is left out for good; the other replicas of {} go on, with the same parts",
        plan.sets[plan.tables[ix].set].path
    ))
}

fn abort_notice(migration: &Migration) -> String {
    let (plan, progress) = (&migration.plan, &migration.progress);
    let forward: Vec<usize> = (0..plan.sets.len())
        .filter(|&s| progress.sets[s].is_irreversible())
        .collect();
    if forward.is_empty() {
        return "every table is put back into service on its old metadata".to_owned();
    }
    let has_problem = |set: usize| {
        let tables = &plan.sets[set].tables;
        tables.iter().any(|&t| progress.problem_of(plan, t).is_some())
    };
    let held = forward.iter().filter(|&&set| has_problem(set)).count();
    let retry = if held > 0 {
        format!(" ({held} of them once `rekeeper retry {}` is ordered)", plan.name)
    } else {
        String::new()
    };
    let sets = count(forward.len(), "replica set", "replica sets");
    format!("carried forward, since cleaned already: {sets}{retry}; the others are put back")
}

fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}
