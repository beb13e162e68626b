//! From inventories to a plan.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::domain::ids::{HostName, MigrationName, TableName};
use rekeeper_shared::domain::inventory::{HostInventory, is_too_old};
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::plan::{
    HostIx, MeasuredWave, Plan, PlanRequest, PlannedHost, PlannedSet, PlannedTable, TableIx,
};
use rekeeper_shared::domain::problem::{Code, Finding};
use rekeeper_shared::people::view::{PlanView, PlannedReplicaView, PlannedSetView, WaveView};

use super::around::{check_around, check_hooks, check_keepers, some_of};
use super::check::{Chosen, SetKey, check_restart, check_sets, check_tables, set_key};
use super::forecast::forecasts;
use super::neighbours::check_writers;
use super::pattern::Selection;
use super::planned::{Planned, by_host};
use super::ties::ties;
use super::user::check_users;
use super::versions::{check_ensembles, check_versions};

/// What is known beside the inventories.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// The person who asks, for the plan's `created_by`.
    pub by: String,
    /// Now, RFC 3339 UTC.
    pub now: String,
    /// Blockers of the hosts as such: not connected, not inspected, two agents.
    pub findings: Vec<Finding>,
    /// Other migrations under way, each with a host that it has. Their tables may be detached, and so not be seen.
    pub overlaps: Vec<Finding>,
    /// What waves of earlier migrations took.
    pub measured: Vec<MeasuredWave>,
}

/// A plan that was made, and what was found; it may be saved only when nothing blocks it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The plan, as far as it could be made.
    pub plan: Plan,
    /// What stops it and was not allowed; with any the plan is not saved.
    pub blockers: Vec<Finding>,
}

/// Makes a plan of what the agents reported.
///
/// # Errors
/// What is wrong with the request itself, for people: a bad pattern, or one that matches nothing.
pub fn build(
    name: &MigrationName,
    request: &PlanRequest,
    inventories: &[HostInventory],
    mut circumstances: Circumstances,
) -> Result<Draft, String> {
    let selection = Selection::parse(request)?;
    let every: Vec<_> = inventories.iter().flat_map(|i| &i.tables).collect();
    // What is too old to be inspected has no tables to choose from.
    let old = inventories.iter().any(|i| is_too_old(&i.clickhouse_version));
    let refused = inventories.iter().any(|i| i.around.user.refused.is_some());
    let inspected_all = circumstances.findings.is_empty() && circumstances.overlaps.is_empty() && !old && !refused;
    let unmatched = selection.unmatched(&every);
    if inspected_all && !unmatched.is_empty() {
        return Err(format!(
            "no attached replicated table matches {}; nothing was planned{}",
            some_of(&unmatched),
            unseen(inventories)
        ));
    }
    let chosen: Vec<Chosen<'_>> = inventories
        .iter()
        .flat_map(|inventory| inventory.tables.iter().map(move |table| (&inventory.host, table)))
        .filter(|(_, table)| selection.takes(table))
        .collect();
    if inspected_all && chosen.is_empty() {
        return Err(format!(
            "no attached replicated table is selected; nothing was planned{}",
            unseen(inventories)
        ));
    }
    let (too_old, mut warnings) = check_versions(inventories, &chosen);
    let mut blockers = std::mem::take(&mut circumstances.findings);
    let planned = Planned::of(&chosen);
    let is_chosen = |host: &HostName| chosen.is_empty() || planned.on(host).is_some();
    let overlaps = circumstances.overlaps.drain(..);
    blockers.extend(overlaps.filter(|finding| finding.host.as_ref().is_none_or(is_chosen)));
    blockers.extend(too_old);
    blockers.extend(check_users(inventories, &chosen));
    blockers.extend(check_restart(request, inventories, &chosen));
    blockers.extend(check_tables(inventories, &chosen));
    blockers.extend(check_sets(inventories, &chosen));
    blockers.extend(check_writers(request, inventories, &planned));
    let (allowed, mut blockers): (Vec<_>, Vec<_>) = blockers
        .into_iter()
        .partition(|finding| request.allow.allows(finding.code, finding.table.as_deref()));
    warnings.extend(allowed);
    if !chosen.is_empty() {
        warnings.push(Finding::new(
            Code::DeduplicationForgotten,
            Code::DeduplicationForgotten.cause(),
        ));
    }
    warnings.extend(check_around(inventories, &chosen, &planned));
    warnings.extend(check_ensembles(inventories));
    warnings.extend(check_hooks(request, inventories, &planned));
    warnings.extend(check_keepers(request, inventories, &planned));
    warnings.sort();
    blockers.sort();
    let plan = assemble(
        Header {
            name,
            request,
            circumstances,
            warnings,
        },
        &planned_hosts(inventories, &planned),
        inventories,
        &chosen,
    );
    Ok(Draft { plan, blockers })
}

/// The tables that a pattern may be meant for and that are not attached.
fn unseen(inventories: &[HostInventory]) -> String {
    let of = |inventory: &HostInventory| {
        let on = |table: &TableName| format!("{table} on {}", inventory.host);
        inventory.around.detached.iter().map(on).collect::<Vec<_>>()
    };
    let unseen: Vec<String> = inventories.iter().flat_map(of).collect();
    if unseen.is_empty() {
        return String::new();
    }
    format!(
        "; detached permanently are {} (`rekeeper explain {}`)",
        some_of(&unseen),
        Code::TableDetached
    )
}

struct Header<'a> {
    name: &'a MigrationName,
    request: &'a PlanRequest,
    circumstances: Circumstances,
    warnings: Vec<Finding>,
}

/// The hosts with chosen tables, sorted by name.
fn planned_hosts(inventories: &[HostInventory], planned: &Planned<'_>) -> Vec<PlannedHost> {
    let inventories = by_host(inventories);
    let of = |name: &HostName| {
        let inventory = inventories.get(name);
        PlannedHost {
            name: name.clone(),
            clickhouse_version: inventory.map(|i| i.clickhouse_version.clone()).unwrap_or_default(),
            has_hook: inventory.is_some_and(|i| i.around.has_hook),
            runs_keeper: inventory.is_some_and(|i| i.around.runs_keeper),
        }
    };
    planned.hosts().map(of).collect()
}

/// Puts the chosen tables into sets, of which the waves are not known yet.
fn into_sets(hosts: &[PlannedHost], chosen: &[Chosen<'_>]) -> (Vec<PlannedTable>, Vec<PlannedSet>) {
    let mut by_set: BTreeMap<SetKey, (Place, ZkPath, Vec<Chosen<'_>>)> = BTreeMap::new();
    for &(host, table) in chosen {
        let (Some((key, _)), Some(place), Ok(path)) =
            (set_key(table), &table.place, ZkPath::parse(&table.zookeeper_path))
        else {
            continue; // A blocker names it.
        };
        by_set
            .entry(key)
            .or_insert_with(|| (place.clone(), path, Vec::new()))
            .2
            .push((host, table));
    }
    let mut tables = Vec::new();
    let mut sets = Vec::new();
    for (place, path, mut members) in by_set.into_values() {
        members.sort_by(|(host, table), (other_host, other)| (host, &table.name).cmp(&(other_host, &other.name)));
        let first: TableIx = tables.len();
        for (host, table) in members {
            let Ok(host) = hosts.binary_search_by(|h| h.name.cmp(host)) else {
                continue;
            };
            tables.push(PlannedTable {
                host,
                name: table.name.clone(),
                uuid: table.uuid.clone(),
                engine: table.engine.clone(),
                set: sets.len(),
                replica_name: table.replica_name.clone(),
            });
        }
        sets.push(PlannedSet {
            place,
            path,
            tables: (first..tables.len()).collect(),
            wave: 0,
        });
    }
    (tables, sets)
}

/// Puts the chosen tables into sets and the hosts into waves.
fn assemble(header: Header<'_>, hosts: &[PlannedHost], inventories: &[HostInventory], chosen: &[Chosen<'_>]) -> Plan {
    let (tables, mut sets) = into_sets(hosts, chosen);
    let hosts_of = |set: &PlannedSet| set.tables.iter().map(|&t| tables[t].host).collect::<Vec<_>>();
    let waves = super::waves::waves(hosts.len(), sets.iter().map(hosts_of));
    let wave_of = wave_of(&waves, hosts.len());
    let mut warnings = header.warnings;
    let names_of = |set: &PlannedSet| set.tables.iter().map(|&t| &tables[t].name).collect::<BTreeSet<_>>();
    let tied: Vec<(Vec<usize>, BTreeSet<&TableName>)> = sets.iter().map(|set| (hosts_of(set), names_of(set))).collect();
    let ties = ties(&waves, &tied);
    warnings.extend(ties.iter().map(|tie| tie.finding(hosts)));
    warnings.sort();
    for set in &mut sets {
        set.wave = wave_of[tables[set.tables[0]].host];
    }
    let Header {
        name,
        request,
        circumstances,
        ..
    } = header;
    let mut plan = Plan {
        name: name.clone(),
        created: circumstances.now,
        created_by: circumstances.by,
        request: request.clone(),
        hosts: hosts.to_vec(),
        tables,
        sets,
        waves,
        warnings,
        forecasts: Vec::new(),
        attested: true,
    };
    plan.forecasts = forecasts(&plan, inventories, chosen, &ties, &circumstances.measured);
    plan
}

/// The wave of each host.
pub(super) fn wave_of(waves: &[Vec<HostIx>], hosts: usize) -> Vec<usize> {
    let mut of = vec![0; hosts];
    for (wave, members) in waves.iter().enumerate() {
        for &host in members {
            of[host] = wave;
        }
    }
    of
}

/// The views of all waves.
fn forecast_views(plan: &Plan) -> Vec<WaveView> {
    let mut sets = vec![(0, 0); plan.waves.len()];
    for set in &plan.sets {
        let (of_sets, tables) = &mut sets[set.wave];
        *of_sets += 1;
        *tables += set.tables.len() as u64;
    }
    let of = |(wave, (sets, tables))| forecast_view(plan, wave, sets, tables);
    sets.into_iter().enumerate().map(of).collect()
}

fn forecast_view(plan: &Plan, wave: usize, replica_sets: u64, tables: u64) -> WaveView {
    let forecast = plan.forecasts.get(wave);
    WaveView {
        hosts: plan.waves[wave]
            .iter()
            .map(|&host| plan.hosts[host].name.clone())
            .collect(),
        replica_sets,
        tables,
        tied_by: forecast.map_or_else(Vec::new, |f| f.tied_by.iter().map(ToString::to_string).collect()),
        shared_tables: forecast.map_or(0, |f| f.shared_tables),
        shared_example: forecast
            .and_then(|f| f.shared_example.as_ref())
            .map(ToString::to_string),
        fetch_bytes: forecast.map_or(0, |f| f.fetch_bytes),
        unavailable_seconds: forecast.map_or(0, |f| f.unavailable_seconds),
        measured_in: forecast.and_then(|f| f.measured_in.clone()),
    }
}

impl Draft {
    /// The document that people see.
    #[must_use]
    pub fn view(&self) -> PlanView {
        let plan = &self.plan;
        PlanView {
            name: plan.name.clone(),
            blockers: self.blockers.clone(),
            warnings: plan.warnings.clone(),
            waves: plan
                .waves
                .iter()
                .map(|wave| wave.iter().map(|&host| plan.hosts[host].name.clone()).collect())
                .collect(),
            forecast: forecast_views(plan),
            replica_sets: plan
                .sets
                .iter()
                .map(|set| PlannedSetView {
                    zookeeper_path: set.path.to_string(),
                    replicas: set
                        .tables
                        .iter()
                        .map(|&table| PlannedReplicaView {
                            host: plan.hosts[plan.tables[table].host].name.clone(),
                            database: plan.tables[table].name.database.clone(),
                            table: plan.tables[table].name.table.clone(),
                            replica_name: plan.tables[table].replica_name.clone(),
                        })
                        .collect(),
                })
                .collect(),
        }
    }

    /// What keeps an older plan from being started: something of it is not as it was. Empty when both say the same.
    #[must_use]
    pub fn differences_from(&self, saved: &Plan) -> Vec<Finding> {
        let of = |plan: &Plan| -> BTreeMap<String, (Finding, String)> {
            plan.tables
                .iter()
                .map(|t| {
                    let host = &plan.hosts[t.host].name;
                    let finding = Finding::new(Code::TableChanged, String::new()).on(host).of(&t.name);
                    let set = &plan.sets[t.set];
                    let identity = format!(
                        "uuid {}, path {}, replica {}, at {}",
                        t.uuid, set.path, t.replica_name, set.place
                    );
                    (format!("{host} {}", t.name), (finding, identity))
                })
                .collect()
        };
        let (before, now) = (of(saved), of(&self.plan));
        let mut found = Vec::new();
        for (key, (finding, identity)) in &before {
            let what = match now.get(key) {
                Some((_, same)) if same == identity => continue,
                Some((_, other)) => format!("planned with {identity}, found with {other}"),
                None => "planned, and not found any more".to_owned(),
            };
            found.push(Finding {
                message: what,
                ..finding.clone()
            });
        }
        let new = now.iter().filter(|(key, _)| !before.contains_key(*key));
        found.extend(new.map(|(_, (finding, _))| Finding {
            message: "created since the plan was made".to_owned(),
            ..finding.clone()
        }));
        found
    }
}
