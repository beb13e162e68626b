//! The nodes of a replicated table, as ClickHouse 26.9 was seen to make them.

use std::collections::BTreeMap;

use futures::future::{BoxFuture, join_all};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::server;

pub(crate) const METADATA: &str = "metadata format version: 1\ndate column: \nsampling expression: \nindex granularity: 8192\n\
    mode: 0\nsign column: \nprimary key: k\ndata format version: 1\npartition key: k % 2\n\
    granularity bytes: 10485760\nmerge parameters format version: 2\n";
pub(crate) const COLUMNS: &str = "columns format version: 1\n2 columns:\n`k` UInt64\n`v` String\n";
pub(crate) const PART: &[u8] = b"part header format version: 1\n\xa5r \xff\x00\xfe\x10\x88g\t\x01pL.\x90F\xf0R7SRH";
const HEAD: &str = "format version: 4\ncreate_time: 2026-11-22 13:11:25\nsource replica: r1\nblock_id: \n";

/// A client of the tests' own, with a session of its own, at ZooKeeper itself.
pub(crate) async fn client() -> Client {
    Client::connect(&format!("127.0.0.1:{}", server::direct()))
        .await
        .unwrap()
}

/// Creates a node and what is missing above it.
pub(crate) async fn put(client: &Client, path: &str, data: &[u8]) {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    match client.create(path, data, &options).await {
        Err(Error::NoNode) => {
            let parent = path.rsplit_once('/').unwrap().0;
            client.mkdir(parent, &options).await.unwrap();
            client.create(path, data, &options).await.unwrap();
        }
        other => drop(other.unwrap()),
    }
}

/// Creates many nodes whose parents exist.
pub(crate) async fn put_all(client: &Client, nodes: Vec<(String, Vec<u8>)>) {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for some in nodes.chunks(1000) {
        let all = some.iter().map(|(path, data)| client.create(path, data, &options));
        for result in join_all(all).await {
            result.unwrap();
        }
    }
}

/// The text of an entry of the log or of a queue.
pub(crate) fn entry(body: &str) -> String {
    format!("{HEAD}{body}")
}

/// Makes a table whose replicas are not active, with this many parts each.
pub(crate) async fn make(client: &Client, path: &str, replicas: &[&str], parts: usize) {
    put(client, path, b"").await;
    let text = |names: &[(&str, &str)], below: &str| -> Vec<(String, Vec<u8>)> {
        let node = |(name, data): &(&str, &str)| (format!("{below}/{name}"), data.as_bytes().to_vec());
        names.iter().map(node).collect()
    };
    let empty = "alter_partition_version async_blocks block_numbers block_numbers/0 block_numbers/1 blocks \
                 deduplication_hashes deduplication_hashes/0_11_52 leader_election leader_election/leader_election-0 \
                 lightweight_updates lightweight_updates/in_progress log lost_part_count mutations \
                 nonincrement_block_numbers part_moves_shard quorum quorum/failed_parts quorum/last_part \
                 quorum/parallel temp temp/abandonable_lock-insert temp/abandonable_lock-other";
    let mut nodes: Vec<_> = empty
        .split_whitespace()
        .map(|name| (format!("{path}/{name}"), Vec::new()))
        .collect();
    let log = entry("get\n0_0_0_0\npart_type: Compact\n");
    let mutation = "format version: 1\ncreate time: 2026-11-22 13:11:26\nsource replica: r1\nblock numbers count: 1\n\
                    1\t4\ncommands: (UPDATE v = \\'y\\' WHERE k = 1)\nalter version: -1\n";
    nodes.extend(text(
        &[
            ("metadata", METADATA),
            ("columns", COLUMNS),
            ("pinned_part_uuids", "{\"part_uuids\":\"[]\"}"),
            ("table_shared_id", "418f5c7a-01c5-4820-b414-71a444956fe3"),
            ("mutations/0000000000", mutation),
            ("log/log-0000000017", &log),
            ("log/log-0000000018", &log),
            ("replicas", "last added replica: r1"),
        ],
        path,
    ));
    for replica in replicas {
        let below = format!("{path}/replicas/{replica}");
        nodes.push((below.clone(), Vec::new()));
        nodes.extend(text(
            &[
                ("columns", COLUMNS),
                ("creator_info", "58d09449|00000000"),
                ("flags", ""),
                ("host", "host: 127.0.0.1\nport: 29002\n"),
                ("is_lost", "0"),
                ("log_pointer", "19"),
                ("max_processed_insert_time", "1795353065"),
                ("metadata", METADATA),
                ("metadata_version", "0"),
                ("min_unprocessed_insert_time", ""),
                ("mutation_pointer", "0000000000"),
                ("parts", ""),
                ("queue", ""),
            ],
            &below,
        ));
        for n in 0..parts {
            nodes.push((format!("{below}/parts/all_{n}_{n}_0"), PART.to_vec()));
        }
    }
    put_all(client, nodes).await;
}

/// What is below a path: every node with its content and the transaction that last changed it.
pub(crate) async fn tree(client: &Client, path: &str) -> BTreeMap<String, (Vec<u8>, i64)> {
    let mut found = BTreeMap::new();
    walk(client, path.to_owned(), &mut found).await;
    found
}

fn walk<'a>(client: &'a Client, path: String, found: &'a mut BTreeMap<String, (Vec<u8>, i64)>) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let (data, stat) = match client.get_data(&path).await {
            Err(Error::NoNode) => return,
            other => other.unwrap(),
        };
        for name in client.list_children(&path).await.unwrap() {
            walk(client, format!("{path}/{name}"), found).await;
        }
        found.insert(path, (data, stat.mzxid));
    })
}
