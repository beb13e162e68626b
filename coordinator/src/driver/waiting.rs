//! The line that says what is being waited for: what, where, how long already, until when.

use std::time::Duration;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Target;
use rekeeper_shared::people::view::{RetryStatus, RunningStep, State, StatusView};
use tokio::time::Instant;

use super::behind::behind;
use super::hosts::Hosts;
use super::migration::{Migration, Retry};
use crate::progress::MAX_FAILURES;
use crate::progress::modes::Needs;
use crate::progress::next::Proposal;

/// What the migration waits for; none when it does not run.
pub(super) fn waiting_for(migration: &Migration, hosts: &Hosts, has_room: bool) -> Option<String> {
    let state = migration.progress.state(&migration.plan);
    let now = Instant::now();
    if !matches!(state, State::Running | State::Paused) {
        return None;
    }
    if let Some(finding) = behind(migration, hosts) {
        let host = finding.host.as_ref().map(ToString::to_string).unwrap_or_default();
        return Some(format!("nothing: {} on {host}: {}", finding.code, finding.message));
    }
    if let Some((attempt, since)) = migration.longest()
        && let Some(intent) = migration.progress.in_flight.get(&attempt)
    {
        let host = &migration.plan.hosts[intent.host].name;
        let target = migration.name_of(intent.target);
        let what = if target == host.as_str() {
            format!("{} of {host}", intent.step)
        } else {
            format!("{} of {target} on {host}", intent.step)
        };
        if let Some(away) = away(hosts, host, now) {
            return Some(format!("{what}: {away}"));
        }
        let doing = hosts
            .text_of(host, &migration.plan.name, attempt)
            .map(|text| format!(" ({text})"));
        let for_ = rounded(now - since);
        return Some(format!(
            "{what}{}, for {for_}, {}",
            doing.unwrap_or_default(),
            intent.step.time_limit()
        ));
    }
    let proposal = migration.progress.proposals(&migration.plan).into_iter().next()?;
    if !has_room && proposal.row.needs >= Needs::Room {
        let target = proposal.members.first().map(|(target, _)| migration.name_of(*target));
        let (code, target) = (Code::StateDirFull, target.unwrap_or_default());
        return Some(format!(
            "{} of {target}: {code}: no room on the disk of the coordinator's data_dir: ordered once there is, no limit",
            proposal.row.step
        ));
    }
    Some(not_ordered(migration, hosts, &proposal, now))
}

/// Says which hosts cannot be reached that something waits for, and which tables wait.
pub(super) fn name_the_absent(view: &mut StatusView, migration: &Migration, hosts: &Hosts) {
    if !matches!(view.state, State::Running | State::Paused) {
        return;
    }
    let (plan, progress, now) = (&migration.plan, &migration.progress, Instant::now());
    let absent: Vec<Option<String>> = plan.hosts.iter().map(|host| away(hosts, &host.name, now)).collect();
    for set in (0..plan.sets.len()).filter(|&set| !progress.is_over(plan, set)) {
        let of_set = progress.hosts_of(plan, set);
        let Some(host) = of_set.into_iter().find(|&host| absent[host].is_some()) else {
            continue;
        };
        view.hosts[host].away.clone_from(&absent[host]);
        for &table in &plan.sets[set].tables {
            if !progress.is_left_out(plan, table) {
                view.tables[table].waits_for = Some(plan.hosts[host].name.clone());
            }
        }
    }
}

/// The steps under way, the one that takes longest first.
pub(super) fn running(migration: &Migration, hosts: &Hosts) -> Vec<RunningStep> {
    let now = Instant::now();
    let mut steps: Vec<RunningStep> = migration
        .progress
        .in_flight
        .values()
        .map(|intent| {
            let host = &migration.plan.hosts[intent.host].name;
            let doing = hosts.text_of(host, &migration.plan.name, intent.attempt);
            RunningStep {
                attempt: intent.attempt,
                step: intent.step.to_string(),
                host: host.clone(),
                target: migration.name_of(intent.target),
                seconds: migration
                    .since(intent.attempt)
                    .map_or(0, |since| (now - since).as_secs()),
                doing: away(hosts, host, now).or_else(|| doing.map(str::to_owned)),
            }
        })
        .collect();
    steps.sort_by_key(|step| (std::cmp::Reverse(step.seconds), step.attempt));
    steps
}

/// The steps that failed and are tried again, the next one first.
pub(super) fn retries(migration: &Migration) -> Vec<RetryStatus> {
    let now = Instant::now();
    let of = |(target, retry): (Target, &Retry)| RetryStatus {
        step: retry.step.to_string(),
        host: migration.plan.hosts[retry.host].name.clone(),
        target: migration.name_of(target),
        failures: migration.progress.failures_of(target),
        most: MAX_FAILURES,
        code: retry.problem.code,
        reason: retry.problem.message.clone(),
        next_seconds: (!migration.progress.is_busy(target))
            .then(|| retry.next.saturating_duration_since(now).as_secs()),
    };
    let mut all: Vec<RetryStatus> = migration.retries().map(of).collect();
    all.sort_by(|a, b| (a.next_seconds, &a.target, &a.host).cmp(&(b.next_seconds, &b.target, &b.host)));
    all
}

fn not_ordered(migration: &Migration, hosts: &Hosts, proposal: &Proposal, now: Instant) -> String {
    let silent = proposal.members.iter().find_map(|(target, _)| {
        let host = hosts.unheard(migration, proposal.row.step, *target)?;
        Some(format!(
            "{} of {}: {}",
            proposal.row.step,
            migration.name_of(*target),
            away(hosts, host, now)?
        ))
    });
    if let Some(silent) = silent {
        return silent;
    }
    let Some((target, candidates)) = proposal.members.iter().find(|(_, candidates)| {
        candidates
            .iter()
            .all(|&host| hosts.connection(&migration.plan.hosts[host].name).is_none())
    }) else {
        let next = proposal
            .members
            .iter()
            .filter_map(|(target, _)| migration.not_before(*target, now))
            .max();
        let failed = proposal.members.iter().find_map(|(target, _)| {
            let retry = migration.retry_of(*target)?;
            Some((*target, format!(" ({})", retry.problem)))
        });
        let first = proposal.members.first().map(|(target, _)| *target);
        let (target, why) = match (failed, first) {
            (Some((target, why)), _) => (migration.name_of(target), why),
            (None, first) => (
                first.map(|target| migration.name_of(target)).unwrap_or_default(),
                String::new(),
            ),
        };
        return match next {
            Some(next) => {
                format!(
                    "{} of {target}: it failed{why}, and is tried again in {}",
                    proposal.row.step,
                    rounded(next - now)
                )
            }
            None => format!("{} of {target}: ordered next", proposal.row.step),
        };
    };
    let what = format!("{} of {}", proposal.row.step, migration.name_of(*target));
    let host = &migration.plan.hosts[candidates[0]].name;
    match away(hosts, host, now) {
        Some(away) => format!("{what}: {away}"),
        None => format!("{what}: ordered next"),
    }
}

/// Why nothing can be ordered of the host, if so.
fn away(hosts: &Hosts, name: &rekeeper_shared::domain::ids::HostName, now: Instant) -> Option<String> {
    let Some(host) = hosts.get(name) else {
        return Some(format!(
            "the agent of {name} has not connected since the coordinator started, no limit"
        ));
    };
    if let Some(reason) = &host.blocked {
        return Some(format!("nothing is ordered of {name}: {reason}"));
    }
    (!host.is_connected()).then(|| {
        format!(
            "the agent of {name} is not connected, for {}, no limit",
            rounded(now - host.since)
        )
    })
}

/// A duration as people read it, in whole seconds.
pub(super) fn rounded(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
