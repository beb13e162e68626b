//! The checks before anything is changed: what stops a plan, and what to know.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::domain::inventory::{HostInventory, PathFacts, TableInventory, ZookeeperFacts};
use rekeeper_shared::domain::mutation::is_alter;
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::plan::{PlanRequest, RestartPolicy};
use rekeeper_shared::domain::problem::{Code, Finding};

use super::agree::disagreeing;

/// A table that was chosen, and its host.
pub(super) type Chosen<'a> = (&'a HostName, &'a TableInventory);

/// What identifies a replica set: the full path, and the transaction and time that made its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetKey {
    full_path: String,
    czxid: i64,
    ctime: i64,
}

/// The set that a table belongs to; none when it cannot be known.
pub(super) fn set_key(table: &TableInventory) -> Option<(SetKey, &PathFacts)> {
    let place = table.place.as_ref()?;
    let ZookeeperFacts::Present(facts) = &table.zookeeper else {
        return None;
    };
    let path = ZkPath::parse(&table.zookeeper_path).ok()?;
    let key = SetKey {
        full_path: format!("{}{path}", place.chroot),
        czxid: facts.czxid,
        ctime: facts.ctime,
    };
    Some((key, facts))
}

/// What was found of one table, before it is known of which host it is.
type Found = Vec<(Code, String)>;

/// Checks each chosen table by itself.
pub(super) fn check_tables(inventories: &[HostInventory], chosen: &[Chosen<'_>]) -> Vec<Finding> {
    let unwritable_of = unwritable_disks(inventories);
    let of = |&(host, table): &Chosen<'_>| {
        let mut found = check_nodes(table);
        found.extend(check_work(table));
        found.extend(check_storage(table, unwritable_of.get(host)));
        let finding = |(code, message)| Finding::new(code, message).on(host).of(&table.name);
        found.into_iter().map(finding).collect::<Vec<_>>()
    };
    chosen.iter().flat_map(of).collect()
}

/// Checks where the table keeps its metadata, and what is there.
fn check_nodes(table: &TableInventory) -> Found {
    let mut found = Vec::new();
    if table.database_engine == "Replicated" {
        let text = format!("database {} has engine Replicated", table.name.database);
        found.push((Code::DatabaseReplicated, text));
    }
    if let Err(e) = ZkPath::parse(&table.zookeeper_path) {
        found.push((Code::PathUnusable, e.to_string()));
    }
    if table.place.is_none() {
        let text = "the server's configuration does not name the ZooKeeper ensemble of this table";
        found.push((Code::ZookeeperUnreachable, text.to_owned()));
        return found;
    }
    match &table.zookeeper {
        ZookeeperFacts::Unreachable(why) => found.push((Code::ZookeeperUnreachable, why.clone())),
        ZookeeperFacts::Absent => found.push((Code::ReplicaUnknown, absent(table))),
        ZookeeperFacts::Present(facts) => {
            if let Some(first) = facts.forbidden.first() {
                let text = format!(
                    "no right to delete or create below {} nodes (first: {first})",
                    facts.forbidden.len()
                );
                found.push((Code::AclDenied, text));
            }
            if table.readonly {
                let text = format!("is_readonly = 1: {}", or_no_reason(&table.exception));
                found.push((Code::TableReadonly, text));
            }
            if !facts.replicas.iter().any(|r| r.name == table.replica_name) {
                let text = format!("{} has no replica {}", table.zookeeper_path, table.replica_name);
                found.push((Code::ReplicaUnknown, text));
            }
        }
    }
    found
}

/// Checks what the table has lost, and what it has not finished.
fn check_work(table: &TableInventory) -> Found {
    let mut found = Vec::new();
    if table.lost_part_count > 0 {
        let text = format!("lost_part_count = {}", table.lost_part_count);
        found.push((Code::LostParts, text));
    }
    if !table.stuck.is_empty() {
        found.push((Code::QueueStuck, table.stuck.join("; ")));
    }
    if table.patch_parts > 0 {
        let text = format!(
            "{} active patch parts; to materialise them: ALTER TABLE {} APPLY PATCHES",
            table.patch_parts,
            table.name.sql()
        );
        found.push((Code::PatchParts, text));
    }
    let mutations = table.mutations.iter().map(String::as_str);
    let (alters, others): (Vec<&str>, Vec<&str>) = mutations.partition(|command| is_alter(command));
    for (code, commands) in [(Code::AlterUnfinished, alters), (Code::MutationsUnfinished, others)] {
        if !commands.is_empty() {
            found.push((code, format!("not finished: {}", commands.join("; "))));
        }
    }
    found
}

/// Checks the disks of the table, its folders on them, and what its server will make of it after a restart.
fn check_storage(table: &TableInventory, unwritable_here: Option<&BTreeMap<&str, &str>>) -> Found {
    let mut found = Vec::new();
    if let Some(why) = unwritable_here.and_then(|disks| unwritable(disks, table)) {
        found.push((Code::DiskUnwritable, why));
    }
    if !table.restart_changes.is_empty() {
        let text = format!(
            "after the next start of its server: {}",
            table.restart_changes.join("; ")
        );
        found.push((Code::ConfigurationChanged, text));
    }
    if table.zero_copy {
        let text = "allow_remote_fs_zero_copy_replication is on";
        found.push((Code::ZeroCopy, text.to_owned()));
    }
    if let Some(first) = table.collisions.first() {
        let text = format!("{} names (first: {first})", table.collisions.len());
        found.push((Code::DetachedCollision, text));
    }
    found
}

/// The replica is a table of a host whose agent is connected: nothing is to be started, and nothing to be dropped.
fn not_chosen(table: &TableInventory, replica: &str, host: &HostName, other: &TableInventory) -> Finding {
    let message = format!(
        "replica {replica} of {} is {} on {host}, which is not planned",
        table.zookeeper_path, other.name
    );
    let fix = format!(
        "plan {} on {host} as well: all replicas of a path are moved together; nothing is to be dropped",
        other.name
    );
    Finding::new(Code::ReplicaNotPlanned, message)
        .of(&table.name)
        .with_fix(fix)
}

/// The disks of each host that take no writes, and why.
fn unwritable_disks(inventories: &[HostInventory]) -> BTreeMap<&HostName, BTreeMap<&str, &str>> {
    let mut found = BTreeMap::new();
    for inventory in inventories {
        let disks = inventory.around.disks.iter();
        let disks = disks.filter_map(|disk| Some((disk.name.as_str(), disk.unwritable.as_deref()?)));
        found.insert(&inventory.host, disks.collect());
    }
    found
}

/// The disks with parts of the table that take no writes.
fn unwritable(disks: &BTreeMap<&str, &str>, table: &TableInventory) -> Option<String> {
    let with_parts: BTreeSet<&str> = table.bytes_on.iter().map(|(disk, _)| disk.as_str()).collect();
    let found: Vec<String> = with_parts
        .into_iter()
        .filter_map(|disk| Some(format!("disk {disk} has parts of it ({})", disks.get(disk)?)))
        .collect();
    (!found.is_empty()).then(|| found.join("; "))
}

/// The path is not where the configuration says, which may be another place than where the server is.
fn absent(table: &TableInventory) -> String {
    let place = table.place.as_ref().map(ToString::to_string).unwrap_or_default();
    let text = format!("{} is not there, at {place}", table.zookeeper_path);
    if table.readonly {
        return text;
    }
    format!(
        "{text}, although the table is in service: either it was deleted just now, or the configuration names {place} and the \
         server was started with another ensemble or root"
    )
}

fn or_no_reason(text: &str) -> &str {
    if text.is_empty() {
        "the server gives no reason"
    } else {
        text
    }
}

/// The chosen tables of each set, and what is in ZooKeeper of it.
type Sets<'a> = BTreeMap<SetKey, (&'a PathFacts, Vec<Chosen<'a>>)>;

/// The tables that use each replica of the sets, on all hosts.
type Owners<'a> = HashMap<(SetKey, &'a str), Vec<Chosen<'a>>>;

/// Checks each replica set as a whole, and the paths against each other.
pub(super) fn check_sets(inventories: &[HostInventory], chosen: &[Chosen<'_>]) -> Vec<Finding> {
    let mut sets = Sets::new();
    for &(host, table) in chosen {
        if let Some((key, facts)) = set_key(table) {
            sets.entry(key).or_insert((facts, Vec::new())).1.push((host, table));
        }
    }
    let owners = owners(inventories, &sets);
    let mut found = used_twice(&owners);
    for (key, (facts, tables)) in &sets {
        found.extend(disagreeing(tables));
        found.extend(not_planned(key, facts, tables, &owners));
        found.extend(check_path(facts, tables[0]));
    }
    found.extend(nested(&sets));
    found
}

fn owners<'a>(inventories: &'a [HostInventory], sets: &Sets<'_>) -> Owners<'a> {
    let mut owners = Owners::new();
    for inventory in inventories {
        for table in &inventory.tables {
            if let Some((key, _)) = set_key(table)
                && sets.contains_key(&key)
            {
                owners
                    .entry((key, &table.replica_name))
                    .or_default()
                    .push((&inventory.host, table));
            }
        }
    }
    owners
}

/// Replicas that two tables take for theirs.
fn used_twice(owners: &Owners<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for ((_, replica), tables) in owners {
        if let [(host, table), (other_host, other), ..] = tables.as_slice() {
            let message = format!(
                "replica {replica} of {} is also used by {} on {other_host}",
                table.zookeeper_path, other.name
            );
            found.push(Finding::new(Code::ReplicaTwice, message).on(host).of(&table.name));
        }
    }
    found
}

/// Replicas that ZooKeeper knows and that were not chosen.
fn not_planned(key: &SetKey, facts: &PathFacts, tables: &[Chosen<'_>], owners: &Owners<'_>) -> Vec<Finding> {
    let (_, table) = tables[0];
    let mut found = Vec::new();
    let planned: BTreeSet<&str> = tables.iter().map(|(_, t)| t.replica_name.as_str()).collect();
    for replica in facts.replicas.iter().filter(|r| !planned.contains(r.name.as_str())) {
        let activity = if replica.active { "active" } else { "not active" };
        let owner = owners.get(&(key.clone(), replica.name.as_str()));
        found.push(match owner.and_then(|owners| owners.first()) {
            Some((on, other)) => not_chosen(table, &replica.name, on, other),
            None => {
                let message = format!(
                    "{} has replica {} ({activity}), which no planned host has",
                    table.zookeeper_path, replica.name
                );
                Finding::new(Code::ReplicaNotPlanned, message).of(&table.name)
            }
        });
    }
    found
}

/// Nodes of strangers below the path, and replicas with another definition than the path has.
fn check_path(facts: &PathFacts, (host, table): Chosen<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(first) = facts.foreign.first() {
        let message = format!(
            "{} nodes that no replicated table makes (first: {first})",
            facts.foreign.len()
        );
        found.push(Finding::new(Code::ForeignNodes, message).on(host).of(&table.name));
    }
    for replica in facts.replicas.iter().filter(|r| r.definition != facts.definition) {
        let message = format!(
            "replica {} of {} has other columns or metadata",
            replica.name, table.zookeeper_path
        );
        found.push(Finding::new(Code::DefinitionsDiffer, message).on(host).of(&table.name));
    }
    found
}

/// Paths below the path of another set: to delete the outer one deletes the inner one.
fn nested(sets: &Sets<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let paths: BTreeSet<&str> = sets.keys().map(|key| key.full_path.as_str()).collect();
    for (inner, (_, tables)) in sets {
        let (host, table) = tables[0];
        let above = inner.full_path.match_indices('/').map(|(at, _)| &inner.full_path[..at]);
        if let Some(outer) = above.rev().find(|outer| paths.contains(outer)) {
            let message = format!("{} lies below {outer}", inner.full_path);
            found.push(Finding::new(Code::PathNested, message).on(host).of(&table.name));
        }
    }
    found
}

/// Checks that every server that is to be restarted can be.
pub(super) fn check_restart(
    request: &PlanRequest,
    inventories: &[HostInventory],
    chosen: &[Chosen<'_>],
) -> Vec<Finding> {
    let hosts: BTreeSet<&HostName> = chosen.iter().map(|(host, _)| *host).collect();
    let wanting = inventories.iter().filter(|i| !i.can_restart && hosts.contains(&i.host));
    wanting
        .filter(|_| request.restart == RestartPolicy::Once)
        .map(|i| Finding::new(Code::RestartNotConfigured, "restart.command is not set in agent.yaml").on(&i.host))
        .collect()
}
