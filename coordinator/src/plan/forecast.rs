//! What each wave of a plan will cost, from the inventories.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::forecast::{HostLoad, fetched, unavailable_seconds};
use rekeeper_shared::ids::TableName;
use rekeeper_shared::inventory::{HostInventory, TableInventory};
use rekeeper_shared::plan::{HostIx, Plan, RestartPolicy, WaveForecast};

use super::check::Chosen;
use super::ties::Tie;

/// One forecast for each wave.
pub(super) fn forecasts(
    plan: &Plan,
    inventories: &[HostInventory],
    chosen: &[Chosen<'_>],
    ties: &[Tie],
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
    for (&host, load) in &mut loads {
        let inventory = inventories.iter().find(|i| i.host == plan.hosts[host].name);
        load.all_tables = inventory.map_or(0, |i| i.tables.len() as u64);
        load.restart = plan.request.restart == RestartPolicy::Once;
    }
    let of_wave = |(wave, hosts): (usize, &Vec<HostIx>)| {
        let loads: Vec<HostLoad> = hosts.iter().filter_map(|host| loads.get(host).copied()).collect();
        let shared: BTreeSet<&TableName> = (0..plan.sets.len())
            .filter(|&set| plan.sets[set].wave == wave && plan.set_hosts(set).len() > 1)
            .map(|set| &plan.tables[plan.sets[set].tables[0]].name)
            .collect();
        let tied_by = ties.iter().filter(|tie| tie.hosts() == hosts);
        WaveForecast {
            tied_by: tied_by.map(|tie| tie.table().clone()).collect(),
            shared_tables: shared.len() as u64,
            shared_example: shared.first().map(|&name| name.clone()),
            fetch_bytes: loads.iter().map(|load| load.fetch_bytes).sum(),
            unavailable_seconds: unavailable_seconds(&loads),
        }
    };
    plan.waves.iter().enumerate().map(of_wave).collect()
}
