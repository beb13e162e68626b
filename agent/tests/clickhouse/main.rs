//! The steps against a real ClickHouse engine and a real ZooKeeper: what they share.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod all_the_way;
mod attested;
mod detach;
mod killed;
mod leftovers;
mod manifest;
mod refused;
#[path = "../rig/mod.rs"]
mod rig;
mod turns;

use std::path::PathBuf;

use rekeeper_agent::state::{AttestedNote, State};
use rekeeper_agent::steps::{self, Restore};
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, Restored, Role, TableRef, Witness};

use rig::{Rig, migration, witness};

/// A name that has to be quoted, and the same in ZooKeeper's path.
pub(crate) fn quoted() -> TableName {
    TableName::new("d`1", "it's a `tab\\le")
}

pub(crate) async fn create(rig: &Rig, name: &TableName, path: &str) {
    for host in 0..rig.hosts.len() {
        rig.sql(
            host,
            &format!(
                "CREATE DATABASE IF NOT EXISTS {}",
                rekeeper_shared::domain::ids::quote_identifier(&name.database)
            ),
        )
        .await;
        rig.sql(
            host,
            &format!(
                "CREATE TABLE {} (p UInt8, x UInt64, s String DEFAULT toString(x)) \
                 ENGINE = ReplicatedMergeTree('/tables/{{shard}}/{path}', '{{replica}}') PARTITION BY p ORDER BY x",
                name.sql()
            ),
        )
        .await;
    }
}

/// Parts in two partitions, `rows` rows each.
pub(crate) async fn insert(rig: &Rig, name: &TableName, parts: std::ops::Range<u64>, rows: u64) {
    for n in parts {
        let values = format!("SELECT {n} % 2, number + {n} * 1000 FROM numbers({rows})");
        rig.sql(0, &format!("INSERT INTO {} (p, x) {values}", name.sql())).await;
    }
}

/// A number that every change of the rows changes.
pub(crate) async fn checksum(rig: &Rig, host: usize, name: &TableName) -> u64 {
    rig.number(
        host,
        &format!("SELECT sum(cityHash64(p, x, s)) + count() FROM {}", name.sql()),
    )
    .await
}

pub(crate) async fn restore(
    rig: &Rig,
    state: &State,
    host: usize,
    attempt: u64,
    table: &TableRef,
    own: &Packed,
    role: Role,
) -> Result<Restored, Failure> {
    let order = Restore {
        table,
        role: &role,
        manifest: own,
        witness: &witness(table),
        merges_keep_rows: true,
        keep_order: false,
        replicas: &["r1".to_owned(), "r2".to_owned()],
    };
    match steps::restore(&rig.context(state, host, attempt), &order).await?.done {
        Done::Restored { counts, .. } => Ok(counts),
        other => panic!("{other:?}"),
    }
}

/// Attaches and answers the manifest; the record has no part that is not there.
pub(crate) async fn attach(
    rig: &Rig,
    state: &State,
    host: usize,
    table: &TableRef,
    record: &Packed,
    known: Option<&Packed>,
) -> Packed {
    let context = rig.context(state, host, 20);
    let finished = steps::attach(&context, table, &witness(table), record, known)
        .await
        .unwrap();
    assert!(matches!(&finished.done, Done::Attached { .. }), "{finished:?}");
    finished.document.unwrap()
}

pub(crate) async fn write_witness(rig: &Rig, witness: &Witness) {
    rig.zookeeper(0).await.write_witness(witness).await.unwrap();
}

pub(crate) fn code(outcome: Result<impl std::fmt::Debug, Failure>) -> Code {
    outcome.unwrap_err().problem.code
}

/// A table that is detached, cleaned and attached again, and its manifest.
pub(crate) async fn attached_without_metadata(rig: &Rig, state: &State, name: &TableName) -> (TableRef, Packed) {
    let table = rig.table(0, name).await;
    steps::detach(&rig.context(state, 0, 10), &table).await.unwrap();
    let record = rig.clean(&table, &["r1"]).await;
    attested(state, &table, &record);
    write_witness(rig, &witness(&table)).await;
    let manifest = attach(rig, state, 0, &table, &record, None).await;
    (table, manifest)
}

/// As if the agent had compared the record with the nodes before they were deleted.
pub(crate) fn attested(state: &State, table: &TableRef, record: &Packed) {
    let note = AttestedNote {
        record: record.digest.clone(),
    };
    state.note_attested(&migration(), table, &note).unwrap();
}

pub(crate) async fn part_folder(rig: &Rig, name: &TableName, part: &str) -> PathBuf {
    let client = clickhouse::Client::default().with_url(&rig.hosts[0].url);
    let path: String = client
        .query_raw(
            "SELECT path FROM system.parts WHERE database = {d:String} AND table = {t:String} AND name = {p:String}",
        )
        .param("d", &name.database)
        .param("t", &name.table)
        .param("p", part)
        .fetch_one()
        .await
        .unwrap();
    path.trim_end_matches('/').into()
}
