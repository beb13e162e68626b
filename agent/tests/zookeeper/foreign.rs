//! Nodes below a table's path that are another application's: never deleted with the table, unless that was allowed.

use rekeeper_agent::zookeeper::CleanError;
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::step::SetRef;

use crate::support::proxy::{Fault, Proxy};
use crate::support::server;
use crate::support::table::{put, tree};
use crate::{delete, exists, fence, migration, set, start, through, with_all_below};

fn named(error: &CleanError) -> &str {
    match error {
        CleanError::ForeignNodes { nodes, .. } => nodes,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_not_the_tables_is_refused_and_named_before_anything_is_changed() {
    for (n, below) in ["locks/leader", "replicas/r2/offsets", "rekeeper-backup"]
        .into_iter()
        .enumerate()
    {
        let path = format!("/foreign/t{n}");
        let (direct, zookeeper) = start(&path).await;
        let facts = zookeeper.path_facts(&ZkPath::parse(&path).unwrap()).await.unwrap();
        assert_eq!(facts.unwrap().foreign, Vec::<String>::new());
        put(&direct, &format!("{path}/{below}"), b"precious").await;
        let first = format!("{path}/{}", below.trim_end_matches("/leader"));
        let facts = zookeeper.path_facts(&ZkPath::parse(&path).unwrap()).await.unwrap();
        assert_eq!(facts.unwrap().foreign, [first.as_str()]);
        let before = tree(&direct, &path).await;
        assert_eq!(named(&fence(&zookeeper, &path, 1).await.unwrap_err()), first);
        assert_eq!(tree(&direct, &path).await, before);
        // It came after the set was recorded.
        let away = before.keys().rev().filter(|node| node.starts_with(&first));
        for node in away.clone() {
            direct.delete(node, None).await.unwrap();
        }
        fence(&zookeeper, &path, 2).await.unwrap();
        put(&direct, &format!("{path}/{below}"), b"precious").await;
        let before = tree(&direct, &path).await;
        assert_eq!(named(&delete(&zookeeper, &path, 3).await.unwrap_err()), first);
        assert_eq!(tree(&direct, &path).await, before);
        // Moved away, or allowed.
        if n == 0 {
            for node in away {
                direct.delete(node, None).await.unwrap();
            }
            delete(&zookeeper, &path, 4).await.unwrap();
        } else {
            let set = with_all_below(set(&zookeeper, &path, &["r1", "r2"]));
            zookeeper.delete(&set, &migration(), 4, &|_| {}).await.unwrap();
        }
        assert!(!exists(&direct, &path).await);
    }
}

#[tokio::test]
async fn what_comes_while_the_table_is_deleted_is_left_there() {
    // The first multi takes the marker over, the second deletes the metadata of the replicas.
    for (n, below) in ["replicas/r1/offsets", "replicas/r2/offsets", "locks"]
        .into_iter()
        .enumerate()
    {
        let path = format!("/foreign/late{n}");
        let (direct, zookeeper) = start(&path).await;
        fence(&zookeeper, &path, 1).await.unwrap();
        let proxy = Proxy::start(server::port(), Fault::Hold(2)).await;
        let slow = through(proxy.port).await;
        let set = SetRef {
            place: slow.place().clone(),
            ..set(&slow, &path, &["r1", "r2"])
        };
        let (move_1, node) = (migration(), format!("{path}/{below}"));
        let deleted = slow.delete(&set, &move_1, 2, &|_| {});
        let meanwhile = async {
            proxy.reached().await;
            put(&direct, &node, b"precious").await;
            proxy.resume();
        };
        let (deleted, ()) = tokio::join!(deleted, meanwhile);
        assert_eq!(named(&deleted.unwrap_err()), node);
        assert_eq!(direct.get_data(&node).await.unwrap().0, b"precious");
        // Forward is the only way, and it is refused until somebody has moved it.
        assert_eq!(named(&delete(&zookeeper, &path, 3).await.unwrap_err()), node);
        direct.delete(&node, None).await.unwrap();
        delete(&zookeeper, &path, 4).await.unwrap();
        assert!(!exists(&direct, &path).await);
    }
}
