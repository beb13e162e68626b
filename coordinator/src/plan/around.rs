//! What to know before starting that stops nothing: disks, what else writes, and what else keeps things in ZooKeeper.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::domain::ids::{HostName, TableName};
use rekeeper_shared::domain::inventory::{HostInventory, Kept, KeptKind, TableInventory, ZookeeperFacts};
use rekeeper_shared::domain::plan::{PlanRequest, RestartPolicy};
use rekeeper_shared::domain::problem::{Code, Finding};

use super::check::Chosen;
use super::neighbours::{check_readers, pending};
use super::planned::Planned;

/// Looks at the hosts of the plan, and around its tables.
pub(super) fn check_around(
    inventories: &[HostInventory],
    chosen: &[Chosen<'_>],
    planned: &Planned<'_>,
) -> Vec<Finding> {
    let mut found = detached(
        inventories
            .iter()
            .filter(|i| chosen.is_empty() || planned.on(&i.host).is_some()),
    );
    let mut needed_on = planned_bytes(chosen);
    for inventory in inventories {
        let Some(here) = planned.on(&inventory.host) else {
            continue;
        };
        let needed = needed_on.remove(&inventory.host).unwrap_or_default();
        found.extend(check_disks(inventory, needed));
        found.extend(check_waiting(inventory, planned));
        found.extend(check_long(inventory, here));
        found.extend(check_readers(inventory, here));
    }
    for (host, table) in chosen {
        let mut find = |code: Code, message: String| found.push(Finding::new(code, message).on(host).of(&table.name));
        if !table.written_by.is_empty() {
            find(Code::WrittenByView, table.written_by.join("; "));
        }
        if let ZookeeperFacts::Present(facts) = &table.zookeeper
            && facts.no_admin
        {
            find(
                Code::AclNoAdmin,
                format!("no right to change the permissions of {}/log", table.zookeeper_path),
            );
        }
    }
    found.extend(versions(chosen));
    found
}

/// Disks with less free space than the planned tables hold on them.
fn check_disks(inventory: &HostInventory, needed: BTreeMap<&str, u64>) -> Vec<Finding> {
    let disks = inventory.around.disks.iter();
    let free: BTreeMap<&str, u64> = disks.map(|d| (d.name.as_str(), d.free)).collect();
    let of = |(disk, needed)| {
        let &free = free.get(disk).filter(|free| **free < needed)?;
        let text = format!(
            "disk {disk} has {} free, and the planned tables hold {} on it",
            bytes(free),
            bytes(needed)
        );
        Some(Finding::new(Code::DiskSpace, text).on(&inventory.host))
    };
    needed.into_iter().filter_map(of).collect()
}

/// What waits on the server: blocks that are not sent, statements ON CLUSTER; and users that are kept in ZooKeeper.
fn check_waiting(inventory: &HostInventory, planned: &Planned<'_>) -> Vec<Finding> {
    let around = &inventory.around;
    let mut found = Vec::new();
    let mut find = |code: Code, message: String| found.push(Finding::new(code, message).on(&inventory.host));
    for (table, blocks) in pending(inventory, planned) {
        find(
            Code::DistributedPending,
            format!("{blocks} blocks of {table} are not sent yet"),
        );
    }
    if !around.users_in_zookeeper.is_empty() {
        find(
            Code::UsersInZookeeper,
            format!("user directories: {}", around.users_in_zookeeper.join(", ")),
        );
    }
    if let Some(first) = around.ddl_pending.first() {
        find(
            Code::DdlPending,
            format!("{} not finished (first: {first})", around.ddl_pending.len()),
        );
    }
    found
}

/// Statements that have run for long and may read a planned table: its DETACH waits for them.
fn check_long(inventory: &HostInventory, here: &BTreeSet<&TableName>) -> Vec<Finding> {
    let mut found = Vec::new();
    for statement in &inventory.around.long {
        let mut planned = statement.tables.iter().filter(|table| here.contains(table));
        if let Some(first) = planned.next() {
            let more = planned.count();
            let more = if more == 0 {
                String::new()
            } else {
                format!(" and {more} more")
            };
            let text = format!(
                "{} has run for {} s and may read {first}{more}: {}",
                statement.query_id, statement.seconds, statement.query
            );
            found.push(Finding::new(Code::LongStatements, text).on(&inventory.host));
        }
    }
    found
}

/// Tables of which ZooKeeper counts other ALTERs than their replicas.
fn versions(chosen: &[Chosen<'_>]) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (host, table) in chosen {
        let ZookeeperFacts::Present(facts) = &table.zookeeper else {
            continue;
        };
        let others = facts.replicas.iter();
        let others = others.filter_map(|replica| Some(format!("{} {}", replica.name, replica.other_version?)));
        let others: Vec<String> = others.collect();
        let (Some(node), [_, ..]) = (facts.version, others.as_slice()) else {
            continue;
        };
        if !seen.insert((&table.place, &table.zookeeper_path)) {
            continue;
        }
        let text = format!(
            "{}/metadata has version {node}, and the replicas have others ({}): ALTER is refused with 517; the migration \
             mends it",
            table.zookeeper_path,
            others.join(", ")
        );
        found.push(
            Finding::new(Code::MetadataVersionDiffers, text)
                .on(host)
                .of(&table.name),
        );
    }
    found
}

/// What a hook does with the rest of its server, or does not do. It is known that there is one, not what it changes.
pub(super) fn check_hooks(request: &PlanRequest, inventories: &[HostInventory], planned: &Planned<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for inventory in inventories.iter().filter(|i| i.around.has_hook) {
        let Some(here) = planned.on(&inventory.host) else {
            continue;
        };
        let ensemble = |table: &TableInventory| table.place.as_ref().map(|place| place.ensemble.clone());
        let is_chosen = |table: &&TableInventory| here.contains(&table.name);
        let (planned, others): (Vec<_>, Vec<_>) = inventory.tables.iter().partition(is_chosen);
        if request.restart == RestartPolicy::Never {
            let text = "hooks.before_restart is set in agent.yaml, and no server is restarted";
            found.push(Finding::new(Code::HookNotRun, text).on(&inventory.host));
            continue;
        }
        if !inventory.around.kept.is_empty() {
            found.push(Finding::new(Code::HookLeavesBehind, left_behind(&inventory.around.kept)).on(&inventory.host));
        }
        let moved: BTreeSet<_> = planned.iter().filter_map(|table| ensemble(table)).collect();
        let left = others
            .into_iter()
            .filter(|table| ensemble(table).is_some_and(|it| moved.contains(&it)));
        let left: Vec<String> = left.map(|table| table.name.to_string()).collect();
        if !left.is_empty() {
            let text = format!(
                "hooks.before_restart is set in agent.yaml, and {} of its replicated tables are not planned: {}",
                left.len(),
                some_of(&left)
            );
            found.push(Finding::new(Code::HookLeavesTables, text).on(&inventory.host));
        }
    }
    found
}

/// Servers that are restarted, and nodes of ClickHouse Keeper with them.
pub(super) fn check_keepers(
    request: &PlanRequest,
    inventories: &[HostInventory],
    planned: &Planned<'_>,
) -> Vec<Finding> {
    if request.restart == RestartPolicy::Never {
        return Vec::new();
    }
    let with = |i: &&HostInventory| i.around.runs_keeper && planned.on(&i.host).is_some();
    let finding = |i: &HostInventory| {
        Finding::new(Code::KeeperRestarted, "its <keeper_server> is restarted with it, alone").on(&i.host)
    };
    inventories.iter().filter(with).map(finding).collect()
}

/// What stays where it is, and what to do with each kind.
fn left_behind(kept: &[Kept]) -> String {
    let mut by_kind: BTreeMap<KeptKind, Vec<String>> = BTreeMap::new();
    for kept in kept {
        by_kind.entry(kept.kind).or_default().push(kept.name.clone());
    }
    let texts = by_kind.into_iter().map(|(kind, names)| {
        let (what, remedy) = match kind {
            KeptKind::KeeperMap => (
                "KeeperMap tables",
                "copy their rows into another table, and create them anew afterwards",
            ),
            KeptKind::Queue => (
                "S3Queue and AzureQueue tables",
                "what they have read is forgotten: detach them, copy their nodes to the new place, then attach them",
            ),
            KeptKind::Database => (
                "Replicated databases",
                "copy their nodes to the new place while nobody changes a table",
            ),
            KeptKind::Functions => ("functions below", "copy the nodes, or CREATE FUNCTION them anew"),
            KeptKind::Users => ("users below", "export them (SHOW ACCESS) and create them anew"),
            KeptKind::NamedCollections => ("named collections below", "copy the nodes, or create them anew"),
            KeptKind::DdlQueue => (
                "statements ON CLUSTER below",
                "let them finish, and start none until all hosts have moved",
            ),
        };
        format!("{what} {}: {remedy}", some_of(&names))
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// Some of the names, and how many more there are.
pub(super) fn some_of(names: &[impl ToString]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    let shown = shown.join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        Some(0) | None => shown,
    }
}

/// Tables that nobody sees.
fn detached<'a>(inventories: impl Iterator<Item = &'a HostInventory>) -> Vec<Finding> {
    let of = |inventory: &'a HostInventory| {
        inventory.around.detached.iter().map(|table| {
            let text = format!("{table} is detached permanently: ATTACH TABLE {}", table.sql());
            Finding::new(Code::TableDetached, text).on(&inventory.host).of(table)
        })
    };
    inventories.flat_map(of).collect()
}

/// Bytes that the chosen tables of each host hold on each disk.
fn planned_bytes<'a>(chosen: &[Chosen<'a>]) -> BTreeMap<&'a HostName, BTreeMap<&'a str, u64>> {
    let mut sums: BTreeMap<&HostName, BTreeMap<&str, u64>> = BTreeMap::new();
    for (host, table) in chosen {
        let of_host = sums.entry(host).or_default();
        for (disk, bytes) in &table.bytes_on {
            let sum = of_host.entry(disk).or_default();
            *sum = sum.saturating_add(*bytes);
        }
    }
    sums
}

/// Bytes as people read them.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, shift)| number >= 1 << shift);
    unit.map_or_else(
        || format!("{number} bytes"),
        |(unit, shift)| {
            let tenths = (u128::from(number) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }
}
