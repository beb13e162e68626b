//! Inventories of a cluster that does not exist, with something of all that a plan looks at.

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::inventory::{
    Around, Careless, CarelessSetting, Disk, HostInventory, Kept, KeptKind, Neighbour, PartsGroup, PathFacts, Relation,
    ReplicaFacts, TableInventory, ZookeeperFacts,
};
use rekeeper_shared::domain::place::Place;

/// A cluster: each shard has two hosts, and each of its tables a replica on both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) shards: usize,
    pub(crate) tables: usize,
    /// Nothing is found of any table, and nothing is around it.
    pub(crate) sound: bool,
}

pub(crate) fn name(table: usize) -> TableName {
    TableName::new(format!("db{}", table % 7), format!("table_{table}"))
}

fn beside(kind: &str, table: usize) -> TableName {
    TableName::new("around", format!("{kind}_{table}"))
}

fn table(shard: usize, host: usize, number: usize) -> TableInventory {
    let replica = |host: usize| ReplicaFacts {
        name: format!("r{host}"),
        active: true,
        definition: "d".into(),
        other_version: Some(3),
    };
    TableInventory {
        name: name(number),
        uuid: format!("{shard}-{host}-{number}"),
        engine: "ReplicatedMergeTree".into(),
        database_engine: "Atomic".into(),
        place: Some(Place {
            ensemble: "default".into(),
            nodes: vec!["zk:2181".into()],
            secure: false,
            chroot: String::new(),
        }),
        zookeeper_path: format!("/tables/{shard}/{number}"),
        replica_name: format!("r{host}"),
        readonly: false,
        exception: String::new(),
        restart_changes: Vec::new(),
        lost_part_count: 0,
        disks: vec!["default".into()],
        parts: 3,
        rows: 3,
        bytes: 3,
        contents: vec![PartsGroup {
            number: 0,
            hash: host as u64,
            bytes: 3,
        }],
        patch_parts: 0,
        collisions: Vec::new(),
        mutations: Vec::new(),
        zero_copy: false,
        bytes_on: vec![("default".into(), 3)],
        stuck: Vec::new(),
        not_granted: vec!["ALTER".into()],
        written_by: vec!["view".into()],
        zookeeper: ZookeeperFacts::Present(PathFacts {
            czxid: 1,
            ctime: 1,
            definition: "d".into(),
            replicas: vec![replica(0), replica(1), replica(2)],
            forbidden: Vec::new(),
            no_admin: true,
            foreign: vec!["x".into()],
            version: Some(2),
        }),
    }
}

/// A table of which nothing is to be said.
fn sound(mut table: TableInventory) -> TableInventory {
    table.not_granted.clear();
    table.written_by.clear();
    if let ZookeeperFacts::Present(facts) = &mut table.zookeeper {
        facts.replicas.pop();
        facts.foreign.clear();
        facts.no_admin = false;
        for replica in &mut facts.replicas {
            replica.other_version = None;
        }
    }
    table
}

/// All that is around a table: what writes into it and reads from it, in ways and directly.
fn around(tables: usize) -> Around {
    let mut neighbours = Vec::new();
    for table in 0..tables {
        let mut is = |kind: &str, engine: &str, relation, of| {
            neighbours.push(Neighbour {
                name: beside(kind, table),
                engine: engine.into(),
                relation,
                of,
            });
        };
        is("buffer", "Buffer", Relation::WritesInto, beside("view", table));
        is("view", "MaterializedView", Relation::WritesInto, name(table));
        is(
            "dist",
            "Distributed",
            Relation::WritesInto,
            TableName::new("", format!("table_{table}")),
        );
        is("reads", "View", Relation::ReadsFrom, name(table));
        // One after the other, as long as the chain may be.
        let next = if table == 0 {
            name(0)
        } else {
            beside("chain", table - 1)
        };
        is("chain", "Buffer", Relation::WritesInto, next);
    }
    Around {
        disks: vec![Disk {
            name: "default".into(),
            free: 1,
            unwritable: Some("no".into()),
        }],
        distributed_pending: (0..tables).map(|table| (beside("dist", table), 1)).collect(),
        has_hook: true,
        kept: vec![Kept {
            kind: KeptKind::KeeperMap,
            name: "k".into(),
        }],
        careless: (0..tables)
            .flat_map(|number| {
                [
                    CarelessSetting::NoWaitForAsyncInsert,
                    CarelessSetting::IgnoreErrorsOfViews,
                ]
                .map(|setting| Careless {
                    setting,
                    by: "default".into(),
                    table: Some(name(number)),
                })
            })
            .collect(),
        neighbours,
        ..Around::default()
    }
}

pub(crate) fn cluster(size: Size) -> Vec<HostInventory> {
    let hosts = (0..size.shards).flat_map(|shard| [(shard, 0), (shard, 1)]);
    hosts
        .map(|(shard, host)| HostInventory {
            host: format!("ch-{shard:05}-{host}").parse().unwrap(),
            clickhouse_version: "26.9".into(),
            can_restart: true,
            tables: (0..size.tables)
                .map(|number| {
                    let found = table(shard, host, number);
                    if size.sound { sound(found) } else { found }
                })
                .collect(),
            around: if size.sound {
                Around::default()
            } else {
                around(size.tables)
            },
        })
        .collect()
}
