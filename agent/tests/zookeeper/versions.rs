//! The version of a table's definition: put back or raised, and only as it was read.

use rekeeper_agent::zookeeper::{DefinitionNodes, ZooKeeper};
use rekeeper_shared::domain::place::ZkPath;
use zookeeper_client::{Acl, AuthId, Client, Permission};

use crate::start;
use crate::support::server;
use crate::support::table::{METADATA, entry, put};

async fn read(zookeeper: &ZooKeeper, path: &ZkPath) -> DefinitionNodes {
    zookeeper.definition_nodes(path).await.unwrap().unwrap()
}

/// Node, r1 and r2.
async fn versions(zookeeper: &ZooKeeper, path: &ZkPath) -> (i32, Vec<i32>) {
    let versions = read(zookeeper, path).await.versions;
    let replicas = versions.replicas.iter().map(|replica| replica.version);
    (versions.node, replicas.collect())
}

async fn write(client: &Client, path: &str, data: &str) {
    client.set_data(path, data.as_bytes(), None).await.unwrap();
}

#[tokio::test]
async fn a_version_is_raised_and_put_back_with_content_and_permissions() {
    if server::is_keeper("it keeps no entry for everybody beside another") {
        return;
    }
    let (client, zookeeper) = start("/versions").await;
    let (path, node) = (ZkPath::parse("/versions").unwrap(), "/versions/metadata");
    let own = [
        Acl::new(Permission::ALL, AuthId::anyone()),
        Acl::new(Permission::READ, AuthId::new("ip", "127.0.0.1")),
    ];
    client.set_acl(node, &own, None).await.unwrap();
    for (to, of, expected) in [(6, None, [0, 0]), (2, Some("r1"), [2, 0]), (0, None, [2, 0])] {
        let found = read(&zookeeper, &path).await;
        assert!(zookeeper.set_table_version(&path, &found, to, of).await.unwrap());
        assert_eq!(versions(&zookeeper, &path).await, (to, expected.to_vec()));
        assert_eq!(client.get_data(node).await.unwrap().0, METADATA.as_bytes());
        assert_eq!(
            format!("{:?}", client.get_acl(node).await.unwrap().0),
            format!("{own:?}")
        );
    }
    // More than one request may hold comes in several, and the replica last.
    let most = ZooKeeper::highest_settable(&path);
    let found = read(&zookeeper, &path).await;
    assert!(
        zookeeper
            .set_table_version(&path, &found, most + 3, Some("r2"))
            .await
            .unwrap()
    );
    assert_eq!(versions(&zookeeper, &path).await, (most, vec![2, 0]));
    assert_eq!(client.get_data(node).await.unwrap().0, METADATA.as_bytes());
    let found = read(&zookeeper, &path).await;
    assert!(
        zookeeper
            .set_table_version(&path, &found, most + 3, Some("r2"))
            .await
            .unwrap()
    );
    assert_eq!(versions(&zookeeper, &path).await, (most + 3, vec![2, most + 3]));
}

#[tokio::test]
async fn nothing_is_changed_once_anything_else_was() {
    let (client, zookeeper) = start("/versions-fenced").await;
    let path = ZkPath::parse("/versions-fenced").unwrap();
    // An ALTER was ordered, a replica has executed one, a replica was added.
    for changed in ["metadata", "replicas/r2/metadata_version", "replicas"] {
        write(&client, "/versions-fenced/metadata", METADATA).await;
        let found = read(&zookeeper, &path).await;
        write(&client, &format!("/versions-fenced/{changed}"), "0").await;
        let before = versions(&zookeeper, &path).await;
        for to in [0, 9] {
            assert!(
                !zookeeper.set_table_version(&path, &found, to, None).await.unwrap(),
                "{changed}"
            );
        }
        assert!(
            !zookeeper.set_replica_version(&path, &found, "r1", 9).await.unwrap(),
            "{changed}"
        );
        assert_eq!(versions(&zookeeper, &path).await, before, "{changed}");
        write(&client, "/versions-fenced/metadata", METADATA).await;
    }
    let found = read(&zookeeper, &path).await;
    assert!(zookeeper.set_replica_version(&path, &found, "r1", 9).await.unwrap());
    assert_eq!(versions(&zookeeper, &path).await.1, [9, 0]);
}

#[tokio::test]
async fn alters_that_are_not_executed_are_in_the_log_or_in_a_queue() {
    let (client, zookeeper) = start("/versions-pending").await;
    let path = ZkPath::parse("/versions-pending").unwrap();
    let alter = |version: i32| entry(&format!("alter\nalter_version\n{version}\nhave_mutation\n0\n"));
    write(&client, "/versions-pending/metadata", METADATA).await;
    // r1 has taken it and not executed it, r2 has not taken it.
    write(&client, "/versions-pending/replicas/r1/log_pointer", "20").await;
    for name in ["log/log-0000000019", "replicas/r1/queue/queue-0000000003"] {
        put(&client, &format!("/versions-pending/{name}"), alter(1).as_bytes()).await;
    }
    let pending = |found: DefinitionNodes| {
        found
            .versions
            .replicas
            .into_iter()
            .map(|r| r.pending)
            .collect::<Vec<_>>()
    };
    assert_eq!(pending(read(&zookeeper, &path).await), [Some(1), Some(1)]);
    client
        .delete("/versions-pending/replicas/r1/queue/queue-0000000003", None)
        .await
        .unwrap();
    assert_eq!(pending(read(&zookeeper, &path).await), [None, Some(1)]);
}
