//! A plan, for people: what stands in its way, and what it takes in.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rekeeper_shared::domain::ids::{HostName, TableName};
use rekeeper_shared::domain::problem::Finding;
use rekeeper_shared::people::causes::Item;
use rekeeper_shared::people::view::{PlanView, PlannedSetView, WaveView};

use super::causes;
use super::text::{self, Paint, Table, WIDTH};

/// Sets that are listed before it is said how to see all.
const SETS: usize = 50;

pub(crate) fn table(plan: &PlanView) -> String {
    let mut out = String::new();
    let tables: usize = plan.replica_sets.iter().map(|set| set.replicas.len()).sum();
    let hosts: BTreeSet<&HostName> = plan.waves.iter().flatten().collect();
    let _ = writeln!(
        out,
        "Plan {}: {} in {} on {}, {}",
        plan.name,
        text::count(tables, "table replica"),
        text::count(plan.replica_sets.len(), "replica set"),
        text::count(hosts.len(), "host"),
        text::count(plan.waves.len(), "wave"),
    );
    findings(&mut out, "Blockers", &plan.blockers);
    findings(&mut out, "Warnings", &plan.warnings);
    if !plan.waves.is_empty() {
        out.push_str("\nWaves:\n");
        for (number, wave) in plan.waves.iter().enumerate() {
            let names: Vec<&str> = wave.iter().map(HostName::as_str).collect();
            let moved = moved_with(plan, wave);
            out.push_str(&text::wrap(
                &format!("{}. {}: {moved}", number + 1, names.join(", ")),
                "  ",
                WIDTH,
            ));
            if let Some(forecast) = plan.forecast.get(number) {
                let lines = [tied(forecast), Some(unavailable(forecast)), Some(fetched(forecast))];
                for line in lines.iter().flatten() {
                    out.push_str(&text::wrap(line, "     ", WIDTH));
                }
            }
        }
    }
    if !plan.replica_sets.is_empty() {
        out.push('\n');
        let mut sets = Table::new(&["TABLE", ">REPLICAS", "ZOOKEEPER PATH"]);
        for set in plan.replica_sets.iter().take(SETS) {
            let names: BTreeSet<String> = set
                .replicas
                .iter()
                .map(|r| TableName::new(&r.database, &r.table).to_string())
                .collect();
            let names: Vec<String> = names.into_iter().collect();
            sets.row([&names.join(", "), &set.replicas.len().to_string(), &set.zookeeper_path]);
        }
        out.push_str(&sets.render());
        if plan.replica_sets.len() > SETS {
            let _ = writeln!(
                out,
                "... and {} more; -o json lists all",
                plan.replica_sets.len() - SETS
            );
        }
    }
    out
}

/// Which tables make the hosts of a wave move together.
fn tied(wave: &WaveView) -> Option<String> {
    const NAMED: usize = 5;
    if wave.hosts.len() < 2 {
        return None;
    }
    let (named, more) = wave.tied_by.split_at(wave.tied_by.len().min(NAMED));
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(" and {} more", more.len())
    };
    let example = wave.shared_example.as_deref().unwrap_or_default();
    Some(match (named, wave.shared_tables) {
        ([], 1) => format!("tied together by {example}"),
        ([], shared) => format!("tied together by {shared} tables, such as {example}"),
        (names, _) => format!(
            "tied together by {}{more}: without it these would be several waves",
            names.join(", ")
        ),
    })
}

/// How long it is expected to take, and who says so.
fn unavailable(wave: &WaveView) -> String {
    let pace = wave.measured_in.as_ref().map_or_else(
        || "by assumed rates".to_owned(),
        |name| format!("at the pace of migration {name}"),
    );
    format!(
        "unavailable for about {} ({pace})",
        text::seconds(wave.unavailable_seconds)
    )
}

/// What goes over the network.
fn fetched(wave: &WaveView) -> String {
    let rate = if wave.fetch_bytes == 0 {
        ""
    } else {
        " (taken for 1 Gbit/s: assumed)"
    };
    format!("fetched again: at most {}{rate}", text::bytes(wave.fetch_bytes))
}

/// What is unavailable while a wave moves.
fn moved_with(plan: &PlanView, wave: &[HostName]) -> String {
    let of_wave = |set: &&PlannedSetView| set.replicas.iter().any(|replica| wave.contains(&replica.host));
    let sets: Vec<_> = plan.replica_sets.iter().filter(of_wave).collect();
    let replicas = sets.iter().map(|set| set.replicas.len()).sum();
    format!(
        "{} ({})",
        text::count(sets.len(), "replica set"),
        text::count(replicas, "table replica")
    )
}

fn findings(out: &mut String, title: &str, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}: {}", findings.len());
    let items: Vec<Item> = findings.iter().map(Item::from).collect();
    out.push_str(&causes::table(&items, causes::Limit::NONE, "  ", Paint::Plain));
}
