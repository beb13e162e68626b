//! Versions of ClickHouse: which were tested, and what a plan says of the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::inventory::{HostInventory, is_too_old, version};
use rekeeper_shared::domain::problem::{Code, Finding};

use super::around::some_of;
use super::check::{Chosen, SetKey, set_key};

/// The releases that the tests run on: real servers, and the last two embedded. A test compares them with those of the rig;
/// README.md says which tests run on which.
const TESTED: [(u32, u32); 4] = [(24, 8), (25, 8), (26, 3), (26, 9)];

/// How a node of the ensemble of the tests says what it is.
const TESTED_ENSEMBLE: &str = "ZooKeeper 3.8.";

/// What says that it is another ZooKeeper, or a ClickHouse Keeper: once for each, whoever has asked it.
pub(super) fn check_ensembles(inventories: &[HostInventory]) -> Option<Finding> {
    let nodes = inventories.iter().flat_map(|inventory| &inventory.around.nodes);
    let untested: BTreeSet<String> = nodes
        .filter_map(|node| Some((node, node.software.as_ref()?)))
        .filter(|(_, software)| !software.starts_with(TESTED_ENSEMBLE))
        .map(|(node, software)| format!("{} is {software}", node.node))
        .collect();
    let untested: Vec<String> = untested.into_iter().collect();
    (!untested.is_empty()).then(|| Finding::new(Code::EnsembleUntested, some_of(&untested)))
}

/// Checks the versions of the servers: blockers, and warnings.
pub(super) fn check_versions(inventories: &[HostInventory], chosen: &[Chosen<'_>]) -> (Vec<Finding>, Vec<Finding>) {
    let (mut blockers, mut warnings) = (Vec::new(), Vec::new());
    for inventory in inventories {
        let text = inventory.clickhouse_version.as_str();
        if is_too_old(text) {
            let why = format!("the server is {text}");
            blockers.push(Finding::new(Code::ClickhouseTooOld, why).on(&inventory.host));
        } else if let Some(where_it_stands) = untested(version(text)) {
            let why = format!("the server is {text}, {where_it_stands}");
            warnings.push(Finding::new(Code::ClickhouseUntested, why).on(&inventory.host));
        }
    }
    warnings.extend(mixed(inventories, chosen));
    (blockers, warnings)
}

/// Where a version stands among those that were tested; nothing of one that was.
fn untested(version: Option<(u32, u32)>) -> Option<String> {
    let tested: Vec<String> = TESTED.iter().map(|(year, month)| format!("{year}.{month}")).collect();
    let tested = tested.join(", ");
    let where_it_stands = match version {
        Some(version) if TESTED.contains(&version) => return None,
        None => "which is no version that is known here",
        Some(version) if TESTED.iter().all(|tested| version < *tested) => "older than each of them",
        Some(version) if TESTED.iter().all(|tested| version > *tested) => "newer than each of them",
        Some(_) => "between two of them",
    };
    Some(format!("{where_it_stands}: {tested}"))
}

/// Versions that differ within a set.
fn mixed(inventories: &[HostInventory], chosen: &[Chosen<'_>]) -> Vec<Finding> {
    let of_host = |i: &'_ HostInventory| (i.host.clone(), i.clickhouse_version.clone());
    let versions: HashMap<HostName, String> = inventories.iter().map(of_host).collect();
    let mut of_set: BTreeMap<SetKey, BTreeSet<&str>> = BTreeMap::new();
    for (host, table) in chosen {
        if let (Some((key, _)), Some(version)) = (set_key(table), versions.get(*host)) {
            of_set.entry(key).or_default().insert(version);
        }
    }
    let mixed: BTreeSet<String> = of_set
        .into_values()
        .filter(|versions| versions.len() > 1)
        .map(|versions| versions.into_iter().collect::<Vec<_>>().join(", "))
        .collect();
    let told = |versions| Finding::new(Code::VersionsDiffer, format!("within a set: {versions}"));
    mixed.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_where_it_stands() {
        for (version, expected) in [
            (Some((25, 8)), None),
            (Some((21, 8)), Some("older than each of them")),
            (Some((25, 3)), Some("between two of them")),
            (Some((26, 10)), Some("newer than each of them")),
            (None, Some("no version that is known here")),
        ] {
            let told = untested(version);
            match expected {
                None => assert_eq!(told, None),
                Some(words) => assert!(told.as_ref().is_some_and(|told| told.contains(words)), "{told:?}"),
            }
        }
    }

    #[test]
    fn tested_is_what_the_rig_has() {
        let rig = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/rig/");
        let read = |file: &str| std::fs::read_to_string(format!("{rig}{file}")).unwrap();
        let (servers, packages) = (read("wheels.py"), read("requirements.txt"));
        // "24.8": ("chdb==...", digest); and the engine of the rig's own environment.
        let servers = servers.lines().filter(|line| line.contains("(\"chdb"));
        let servers = servers.filter_map(|line| line.trim().strip_prefix('"')?.split_once('"'));
        let embedded = packages.lines().find_map(|line| line.strip_prefix("chdb-core=="));
        let versions = servers.map(|(name, _)| name).chain(embedded);
        assert_eq!(versions.filter_map(version).collect::<Vec<_>>(), TESTED);
    }
}
