//! What each wave of a plan will cost, from the inventories.

use std::collections::{BTreeMap, BTreeSet};

use super::rates::{HostLoad, Pace, fetched, seconds_at_pace, unavailable_seconds};
use rekeeper_shared::domain::ids::{HostName, MigrationName, TableName};
use rekeeper_shared::domain::inventory::{HostInventory, TableInventory};
use rekeeper_shared::domain::plan::{HostIx, MeasuredWave, Plan, RestartPolicy, WaveForecast};

use super::check::Chosen;
use super::planned::by_host;
use super::ties::Tie;

/// One forecast for each wave.
pub(super) fn forecasts(
    plan: &Plan,
    inventories: &[HostInventory],
    chosen: &[Chosen<'_>],
    ties: &[Tie],
    measured: &[MeasuredWave],
) -> Vec<WaveForecast> {
    let of: BTreeMap<(&str, &TableName), &TableInventory> = chosen
        .iter()
        .map(|(host, table)| ((host.as_str(), &table.name), *table))
        .collect();
    let mut loads: BTreeMap<HostIx, HostLoad> = BTreeMap::new();
    for set in &plan.sets {
        let members: Vec<(HostIx, &TableInventory)> = set
            .tables
            .iter()
            .filter_map(|&ix| {
                let table = &plan.tables[ix];
                let found = of.get(&(plan.hosts[table.host].name.as_str(), &table.name))?;
                Some((table.host, *found))
            })
            .collect();
        let replicas: Vec<&TableInventory> = members.iter().map(|(_, table)| *table).collect();
        for ((host, table), bytes) in members.iter().zip(fetched(&replicas)) {
            let load = loads.entry(*host).or_default();
            load.tables += 1;
            load.parts += table.parts;
            load.fetch_bytes += bytes;
        }
    }
    let inventories = by_host(inventories);
    for (&host, load) in &mut loads {
        let inventory = inventories.get(&plan.hosts[host].name);
        load.all_tables = inventory.map_or(0, |i| i.tables.len() as u64);
        load.restart = plan.request.restart == RestartPolicy::Once;
        load.runs_keeper = plan.hosts[host].runs_keeper;
    }
    let mut shared_in: Vec<BTreeSet<&TableName>> = vec![BTreeSet::new(); plan.waves.len()];
    for (set, of) in plan.sets.iter().enumerate() {
        if plan.set_hosts(set).len() > 1 {
            shared_in[of.wave].insert(&plan.tables[of.tables[0]].name);
        }
    }
    let mut tied_in: BTreeMap<&Vec<HostIx>, Vec<TableName>> = BTreeMap::new();
    for tie in ties {
        tied_in.entry(tie.hosts()).or_default().push(tie.table().clone());
    }
    let of_wave = |(wave, hosts): (usize, &Vec<HostIx>)| {
        let loads: Vec<HostLoad> = hosts.iter().filter_map(|host| loads.get(host).copied()).collect();
        let shared = &shared_in[wave];
        let names: BTreeSet<&HostName> = hosts.iter().map(|&host| &plan.hosts[host].name).collect();
        let pace = pace(&names, plan.request.restart, measured);
        let assumed_seconds = unavailable_seconds(&loads);
        WaveForecast {
            tied_by: tied_in.get(hosts).cloned().unwrap_or_default(),
            shared_tables: shared.len() as u64,
            shared_example: shared.first().map(|&name| name.clone()),
            fetch_bytes: loads.iter().map(|load| load.fetch_bytes).sum(),
            unavailable_seconds: pace
                .as_ref()
                .map_or(assumed_seconds, |(_, pace)| seconds_at_pace(&loads, *pace)),
            assumed_seconds,
            measured_in: pace.map(|(migration, _)| migration.clone()),
        }
    };
    plan.waves.iter().enumerate().map(of_wave).collect()
}

/// The pace of the newest migration that had any of these hosts, and restarted them or not as this one does: what its
/// waves with such hosts took.
fn pace<'a>(
    hosts: &BTreeSet<&HostName>,
    restart: RestartPolicy,
    measured: &'a [MeasuredWave],
) -> Option<(&'a MigrationName, Pace)> {
    let of_hosts = |wave: &&MeasuredWave| {
        wave.restart == restart
            && wave.took_ms > 0
            && wave.assumed_seconds > 0
            && wave.hosts.iter().any(|host| hosts.contains(host))
    };
    let newest = measured
        .iter()
        .filter(of_hosts)
        .max_by(|one, other| one.created.cmp(&other.created))?;
    let mut pace = Pace {
        took_ms: 0,
        assumed_ms: 0,
    };
    for wave in measured
        .iter()
        .filter(of_hosts)
        .filter(|wave| wave.migration == newest.migration)
    {
        pace.took_ms += wave.took_ms;
        pace.assumed_ms += wave.assumed_seconds.saturating_mul(1_000);
    }
    Some((&newest.migration, pace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_migration_of_any_of_the_hosts_tells_the_pace() {
        let wave = |migration: &str, restart, hosts: &[&str], took_ms| MeasuredWave {
            migration: migration.parse().unwrap(),
            created: format!("2026-11-2{}T00:00:00Z", migration.len()),
            restart,
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            assumed_seconds: 10,
            took_ms,
        };
        let once = RestartPolicy::Once;
        let measured = [
            wave("mm", once, &["a", "b"], 20_000),
            wave("mm", once, &["c"], 50_000),
            wave("mm", once, &["d", "a"], 40_000),
            wave("m", once, &["a", "e"], 90_000),
            wave("mmm", once, &["a"], 0),
            wave("mmmm", RestartPolicy::Never, &["a"], 1_000),
        ];
        let of = |hosts: &[&str], restart| {
            let hosts: Vec<HostName> = hosts.iter().map(|host| host.parse().unwrap()).collect();
            let found = pace(&hosts.iter().collect(), restart, &measured);
            found.map(|(migration, pace)| (migration.to_string(), pace.took_ms, pace.assumed_ms))
        };
        assert_eq!(of(&["a", "x"], once), Some(("mm".into(), 60_000, 20_000)));
        assert_eq!(of(&["e"], once), Some(("m".into(), 90_000, 10_000)));
        assert_eq!(of(&["a"], RestartPolicy::Never), Some(("mmmm".into(), 1_000, 10_000)));
        assert_eq!(of(&["x"], once), None);
    }
}
