//! A migration, for people: whole, as a summary, or as much as fits on a screen.

use std::fmt::Write as _;

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::people::view::{
    Counts, HostStatus, MigrationLine, Phase, RunningStep, State, StatusView, TableStatus, Until,
};

use super::causes;
use super::hosts::yes;
use super::problems;
use super::retries;
use super::text::{self, Paint, Section, Table, WIDTH};

/// Tables that are listed before it is said how to see all.
const TABLES: usize = 50;
/// Sets and problems that are listed.
const FEW: usize = 20;

/// One line for each migration.
pub(crate) fn list(lines: &[MigrationLine]) -> String {
    let mut table = Table::new(&["NAME", "STATE", "PHASE", ">RESTORED", ">FAILED", "CREATED"]);
    for line in lines {
        table.row([
            line.name.as_str(),
            line.state.as_str(),
            phase(line.phase),
            &format!("{} of {}", line.counts.restored, line.counts.total()),
            &line.counts.failed.to_string(),
            &line.created,
        ]);
    }
    table.render()
}

/// Everything that a person wants to see at once.
pub(crate) fn table(status: &StatusView) -> String {
    let mut out = summary(status);
    waves(&mut out, status);
    unsettled(&mut out, status);
    let retries = retries::lines(status, Paint::of_stdout());
    if !retries.is_empty() {
        let _ = writeln!(out, "\nFailed, and tried again: {}", steps(status.retries.len()));
        for line in retries.iter().take(FEW) {
            out.push_str(&text::wrap(line, "  ", WIDTH));
        }
    }
    let problems = problems::items(&problems::rows(status));
    if !problems.is_empty() {
        let _ = writeln!(out, "\nProblems:");
        out.push_str(&causes::table(&problems, causes::Limit::FEW, "", Paint::of_stdout()));
    }
    if !status.tables.is_empty() {
        out.push('\n');
        out.push_str(&tables(status));
    }
    out
}

/// Head, counts and hosts.
pub(crate) fn summary(status: &StatusView) -> String {
    let mut out = head(status, WIDTH);
    if !status.hosts.is_empty() {
        out.push('\n');
        out.push_str(&hosts(&status.hosts));
    }
    out
}

/// What is worth seeing again and again, within so many columns and lines: the state, then problems, what is under way,
/// and the hosts, each as far as there is room.
pub(crate) fn screen(status: &StatusView, columns: usize, lines: usize) -> String {
    let paint = Paint::of_stdout();
    // No more than half of the screen, or a name that is very long would hide everything else.
    let head = text::fit(&head(status, columns), columns, lines.div_ceil(2));
    let failed = problems::items(&problems::rows(status));
    let problems = Section {
        head: format!(
            "Problems: {} (rekeeper problems {})",
            tables_of(failed.len()),
            status.name
        ),
        lines: causes::lines(&failed, paint),
    };
    let again = Section {
        head: format!("Failed, and tried again: {}", steps(status.retries.len())),
        lines: retries::lines(status, paint),
    };
    let running = Section {
        head: format!("Under way: {}", steps(status.running.len())),
        lines: status.running.iter().map(running_step).collect(),
    };
    let below = text::share(
        &[problems, again, running, hosts_section(status, columns)],
        lines.saturating_sub(head.lines().count()),
    );
    text::fit(&format!("{head}{below}"), columns, lines)
}

fn steps(number: usize) -> String {
    text::count(number, "step")
}

fn running_step(step: &RunningStep) -> String {
    let on = text::on(&step.host, &step.target);
    let doing = step
        .doing
        .as_ref()
        .map(|doing| format!(": {doing}"))
        .unwrap_or_default();
    text::escape(&format!(
        "{:>5} s  {} of {}{on}{doing}",
        step.seconds, step.step, step.target
    ))
}

/// The hosts, those first that somebody has to look after.
fn hosts_section(status: &StatusView, columns: usize) -> Section {
    const HEADS: [&str; 7] = ["HOST", "UP", ">INIT", ">DETACHED", ">CLEANED", ">RESTORED", ">FAILED"];
    /// What the other columns take at most.
    const OTHERS: usize = 49;
    let mut all: Vec<&HostStatus> = status.hosts.iter().collect();
    all.sort_by_key(|host| (host.connected, host.counts.failed == 0, is_through(host)));
    let mut table = Table::new(&HEADS);
    for host in all {
        table.row([
            &console::truncate_str(host.host.as_str(), columns.saturating_sub(OTHERS).max(8), "…"),
            yes(host.connected),
            &host.counts.init.to_string(),
            &host.counts.detached.to_string(),
            &host.counts.zk_cleaned.to_string(),
            &host.counts.restored.to_string(),
            &host.counts.failed.to_string(),
        ]);
    }
    let table = table.render();
    let mut lines = table.lines().map(str::to_owned);
    Section {
        head: lines.next().unwrap_or_default(),
        lines: lines.collect(),
    }
}

fn is_through(host: &HostStatus) -> bool {
    host.counts.restored == host.counts.total()
}

/// `3 INIT, 4 DETACHED, ...`: the counts in one line.
pub(crate) fn counts(counts: &Counts) -> String {
    let Counts {
        init,
        detached,
        zk_cleaned,
        restored,
        failed,
    } = counts;
    let problems = if *failed > 0 {
        format!("; {failed} with a problem")
    } else {
        String::new()
    };
    format!("{init} INIT, {detached} DETACHED, {zk_cleaned} ZK_CLEANED, {restored} RESTORED{problems}")
}

fn head(status: &StatusView, columns: usize) -> String {
    let mut out = format!(
        "Migration {}: {}, phase {}",
        status.name,
        state(status.state, Paint::of_stdout()),
        phase(status.phase)
    );
    if let Some(barrier) = status.until {
        let _ = write!(out, ", until {}", until(barrier));
    }
    out.push('\n');
    let skipped = match skipped(status) {
        0 => String::new(),
        number => format!("; {number} skipped"),
    };
    let total = tables_of(usize::try_from(status.counts.total()).unwrap_or(usize::MAX));
    out.push_str(&text::wrap(
        &format!("{total}: {}{skipped}", counts(&status.counts)),
        "",
        columns,
    ));
    if let Some(waiting_for) = &status.waiting_for {
        out.push_str(&text::hanging(&format!("Waiting for: {waiting_for}"), "", columns));
    }
    out
}

fn state(state: State, paint: Paint) -> String {
    match state {
        State::Completed => paint.good(state.as_str()),
        State::Failed => paint.bad(state.as_str()),
        State::Paused | State::Aborted => paint.held(state.as_str()),
        State::Planned | State::Running => state.as_str().to_owned(),
    }
}

/// How many tables were left out.
pub(crate) fn skipped(status: &StatusView) -> u64 {
    status.tables.iter().filter(|table| table.skipped).count() as u64
}

fn hosts(hosts: &[HostStatus]) -> String {
    const HEADS: [&str; 8] = [
        "HOST",
        "UP",
        ">INIT",
        ">DETACHED",
        ">ZK_CLEANED",
        ">RESTORED",
        ">FAILED",
        "RESTARTED",
    ];
    let mut table = Table::new(&HEADS);
    for host in hosts {
        table.row([
            host.host.as_str(),
            yes(host.connected),
            &host.counts.init.to_string(),
            &host.counts.detached.to_string(),
            &host.counts.zk_cleaned.to_string(),
            &host.counts.restored.to_string(),
            &host.counts.failed.to_string(),
            host.restarted_at.as_deref().unwrap_or("-"),
        ]);
    }
    table.render()
}

/// The waves, where there is more than one, or something to say of the one.
fn waves(out: &mut String, status: &StatusView) {
    if status.waves.is_empty() {
        return;
    }
    out.push('\n');
    let seconds = |seconds: Option<u64>| seconds.map_or_else(|| "-".to_owned(), text::seconds);
    let mut table = Table::new(&["WAVE", "HOSTS", ">TABLES", ">RESTORED", ">UNAVAILABLE", ">EXPECTED"]);
    for (number, wave) in status.waves.iter().take(FEW).enumerate() {
        let hosts = match wave.hosts.as_slice() {
            [] => String::new(),
            [one] => one.to_string(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
        };
        table.row([
            &(number + 1).to_string(),
            &hosts,
            &wave.counts.total().to_string(),
            &wave.counts.restored.to_string(),
            &seconds(wave.measured_seconds),
            &seconds(wave.expected_seconds),
        ]);
    }
    out.push_str(&table.render());
    if status.waves.len() > FEW {
        let _ = writeln!(out, "... and {} more; -o json lists all", status.waves.len() - FEW);
    }
}

/// Sets that were read and found wanting; one that was not read yet has no reason.
fn unsettled(out: &mut String, status: &StatusView) {
    let sets: Vec<_> = status
        .replica_sets
        .iter()
        .filter(|set| !set.settled && set.reason.is_some())
        .collect();
    if sets.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nReplica sets that are not settled:");
    for set in sets.iter().take(FEW) {
        let _ = writeln!(out, "  {}", text::escape(&set.zookeeper_path));
        out.push_str(&text::hanging(set.reason.as_deref().unwrap_or_default(), "    ", WIDTH));
    }
    if sets.len() > FEW {
        let _ = writeln!(out, "  ... and {} more; -o json lists all", sets.len() - FEW);
    }
}

fn tables(status: &StatusView) -> String {
    let mut table = Table::new(&["TABLE", "HOST", "STATUS", ">PARTS", ">ROWS", "PROBLEM"]);
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for row in status.tables.iter().take(TABLES) {
        let problem = match &row.problem {
            Some(problem) => problem.code.as_str(),
            None if row.skipped => "(skipped)",
            None => "",
        };
        let aside = match row.set_aside {
            None | Some(0) => String::new(),
            Some(parts) => format!("({parts} set aside)"),
        };
        table.row([
            &TableName::new(&row.database, &row.table).to_string(),
            row.host.as_str(),
            status_word(row.status),
            &number(row.parts),
            &number(row.rows),
            format!("{problem} {aside}").trim(),
        ]);
    }
    let mut out = table.render();
    if status.tables.iter().any(|row| row.set_aside > Some(0)) {
        out.push_str("(set aside: parts that are not on the record, in detached/; rekeeper report)\n");
    }
    if status.tables.len() > TABLES {
        let _ = writeln!(out, "... and {} more; -o json lists all", status.tables.len() - TABLES);
    }
    out
}

pub(crate) fn tables_of(number: usize) -> String {
    text::count(number, "table")
}

pub(crate) fn status_word(status: TableStatus) -> &'static str {
    match status {
        TableStatus::Init => "INIT",
        TableStatus::Detached => "DETACHED",
        TableStatus::ZkCleaned => "ZK_CLEANED",
        TableStatus::Restored => "RESTORED",
    }
}

pub(crate) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Detach => "detach",
        Phase::Settle => "settle",
        Phase::Clean => "clean",
        Phase::Restart => "restart",
        Phase::Attach => "attach",
        Phase::Restore => "restore",
        Phase::Done => "done",
    }
}

pub(crate) fn until(until: Until) -> &'static str {
    match until {
        Until::Detached => "detached",
        Until::ZkCleaned => "zk-cleaned",
        Until::Restarted => "restarted",
        Until::Restored => "restored",
    }
}
