//! What the hosts of a replica set say of its replicas has to agree: whoever claims to have one makes the others detach
//! their tables, and wait for it.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::domain::inventory::TableInventory;
use rekeeper_shared::domain::problem::{Code, Finding};

use super::check::{Chosen, set_key};

/// The tables of one set whose hosts read other replicas in ZooKeeper than the most of them do. Where as many say one thing
/// as the other, all are named: who is right is not known here.
pub(super) fn disagreeing(tables: &[Chosen<'_>]) -> Vec<Finding> {
    let mut by_names: BTreeMap<BTreeSet<&str>, Vec<Chosen<'_>>> = BTreeMap::new();
    for &(host, table) in tables {
        by_names.entry(read(table)).or_default().push((host, table));
    }
    let mut read: Vec<(String, Vec<Chosen<'_>>)> = by_names
        .into_iter()
        .map(|(names, tables)| (names.into_iter().collect::<Vec<_>>().join(", "), tables))
        .collect();
    read.sort_by_key(|(_, tables)| std::cmp::Reverse(tables.len()));
    let [(usual, most), (other, fewer), ..] = read.as_slice() else {
        return Vec::new();
    };
    let is_usual = most.len() > fewer.len();
    let finding = |names: &str, (host, table): Chosen<'_>| {
        let (against, on) = if names == usual { (other, fewer) } else { (usual, most) };
        let message = format!(
            "of {} this host reads the replicas {names}, and {} reads {against}",
            table.zookeeper_path, on[0].0
        );
        Finding::new(Code::ReplicasDisagree, message).on(host).of(&table.name)
    };
    let named = read.iter().skip(usize::from(is_usual));
    named
        .flat_map(|(names, tables)| tables.iter().map(|&chosen| finding(names, chosen)))
        .collect()
}

fn read(table: &TableInventory) -> BTreeSet<&str> {
    let facts = set_key(table).map(|(_, facts)| facts.replicas.as_slice());
    let replicas = facts.unwrap_or_default().iter();
    replicas.map(|replica| replica.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::ids::{HostName, TableName};
    use rekeeper_shared::domain::inventory::{Around, HostInventory, PathFacts, ReplicaFacts, ZookeeperFacts};
    use rekeeper_shared::domain::place::Place;

    use super::super::check::check_sets;
    use super::*;

    /// A host that has replica `own` of the set, and reads these in ZooKeeper.
    fn host(name: &str, own: &str, replicas: &[&str]) -> HostInventory {
        let facts = |name: &&str| ReplicaFacts {
            name: (*name).to_owned(),
            active: true,
            definition: "d".into(),
            other_version: None,
        };
        let table = TableInventory {
            name: TableName::new("d", "t"),
            uuid: "u".into(),
            engine: "ReplicatedMergeTree".into(),
            database_engine: "Atomic".into(),
            place: Some(Place {
                ensemble: "default".into(),
                nodes: vec![],
                secure: false,
                chroot: String::new(),
            }),
            zookeeper_path: "/t".into(),
            replica_name: own.into(),
            readonly: false,
            exception: String::new(),
            lost_part_count: 0,
            disks: vec![],
            parts: 0,
            rows: 0,
            bytes: 0,
            contents: vec![],
            patch_parts: 0,
            collisions: vec![],
            mutations: vec![],
            zero_copy: false,
            bytes_on: vec![],
            stuck: vec![],
            written_by: vec![],
            not_granted: vec![],
            restart_changes: vec![],
            zookeeper: ZookeeperFacts::Present(PathFacts {
                czxid: 7,
                ctime: 7,
                definition: "d".into(),
                replicas: replicas.iter().map(facts).collect(),
                forbidden: vec![],
                no_admin: false,
                foreign: vec![],
                version: None,
            }),
        };
        HostInventory {
            host: name.parse().unwrap(),
            clickhouse_version: "26.9".into(),
            can_restart: true,
            tables: vec![table],
            around: Around::default(),
        }
    }

    /// The hosts that the plan is blocked for.
    fn blocked(inventories: &[HostInventory]) -> Vec<(Code, Option<HostName>)> {
        let tables = inventories.iter();
        let chosen: Vec<Chosen<'_>> = tables.map(|host| (&host.host, &host.tables[0])).collect();
        let found = check_sets(inventories, &chosen).into_iter();
        found.map(|finding| (finding.code, finding.host)).collect()
    }

    #[test]
    fn a_host_that_claims_a_replica_of_a_foreign_set_blocks_the_plan() {
        let all = ["r1", "r2"];
        let (h1, h2) = (host("h1", "r1", &all), host("h2", "r2", &all));
        assert_eq!(blocked(&[h1.clone(), h2.clone()]), []);
        let name = |name: &str| Some(name.parse().unwrap());
        let of = |host: &str| (Code::ReplicasDisagree, name(host));
        // Wherever it stands among the hosts: what the first says is believed of the others.
        for claims in ["h0", "h9"] {
            let liar = host(claims, "r9", &["r1", "r2", "r9"]);
            let mut hosts = vec![h1.clone(), h2.clone(), liar];
            hosts.sort_by(|a, b| a.host.cmp(&b.host));
            assert_eq!(blocked(&hosts), [of(claims)]);
        }
        // Of one against one nobody knows.
        let alone = host("h1", "r1", &["r1"]);
        let liar = host("h9", "r9", &["r1", "r9"]);
        assert_eq!(blocked(&[alone, liar]), [of("h1"), of("h9")]);
    }
}
