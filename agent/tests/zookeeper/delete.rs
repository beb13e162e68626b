//! Deleting a table's nodes, whole and undisturbed, or refused.

use std::sync::Mutex;

use rekeeper_agent::zookeeper::CleanError;
use rekeeper_shared::domain::step::SetRef;
use zookeeper_client::Client;

use crate::support::server;
use crate::support::table::{client, make, put, put_all, tree};
use crate::{delete, exists, fence, migration, set, start, through, with_all_below};

/// A table with all that may be found in one: old part nodes, locks in partitions, leftovers, strange nodes.
pub(crate) async fn make_rich(direct: &Client, path: &str) {
    make(direct, path, &["r1", "r2"], 700).await;
    let mut nodes = Vec::new();
    for n in 1000..1600 {
        let part = format!("{path}/replicas/r1/parts/all_{n}_{n}_0");
        nodes.extend([part.clone(), format!("{part}/columns"), format!("{part}/checksums")]);
    }
    for n in 0..700 {
        nodes.push(format!("{path}/block_numbers/0/block-{n:010}"));
        nodes.push(format!("{path}/blocks/0_{n}_{n}"));
    }
    nodes.extend(
        [
            "/temp/strange",
            "/temp/strange/a",
            "/temp/strange/a/b",
            "/temp/strange/a/b/c",
            "/temp/strange/ü ß",
        ]
        .map(|n| format!("{path}{n}")),
    );
    put_all(direct, nodes.into_iter().map(|node| (node, Vec::new())).collect()).await;
}

#[tokio::test]
async fn the_whole_table_goes_and_nothing_else() {
    let (direct, zookeeper) = start("/all/t2").await;
    make_rich(&direct, "/all/t").await;
    put(&direct, "/all/t/zero_copy_s3", b"").await;
    put(&direct, "/all/t/allowed/a", b"").await;
    let set = with_all_below(set(&zookeeper, "/all/t", &["r1", "r2"]));
    zookeeper.fence(&set, &migration(), 4).await.unwrap();
    let nodes = tree(&direct, "/all/t").await.len() as u64;
    let others = tree(&direct, "/all/t2").await;
    let told = Mutex::new(Vec::new());
    let tell = |n| told.lock().unwrap().push(n);
    let deleted = zookeeper.delete(&set, &migration(), 5, &tell).await.unwrap();
    // All but the older marker, which was replaced.
    assert_eq!(deleted, nodes - 1);
    assert_eq!(told.lock().unwrap().iter().max(), Some(&deleted));
    assert!(!exists(&direct, "/all/t").await);
    assert_eq!(tree(&direct, "/all/t2").await, others);
    // Once more: it is done, and that is on record.
    assert_eq!(delete(&zookeeper, "/all/t", 6).await.unwrap(), 0);
    let unrecorded = SetRef { recorded: false, ..set };
    let error = zookeeper
        .delete(&unrecorded, &migration(), 7, &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, CleanError::Absent { .. }));
}

#[tokio::test]
async fn nothing_is_deleted_that_was_not_recorded_and_fenced() {
    let path = "/unfenced/t";
    let (direct, zookeeper) = start(path).await;
    let before = tree(&direct, path).await;
    assert!(matches!(
        delete(&zookeeper, path, 1).await,
        Err(CleanError::NotFenced { .. })
    ));
    assert_eq!(tree(&direct, path).await, before);
    fence(&zookeeper, path, 1).await.unwrap();
    let before = tree(&direct, path).await;
    let unrecorded = SetRef {
        recorded: false,
        ..set(&zookeeper, path, &["r1", "r2"])
    };
    let error = zookeeper
        .delete(&unrecorded, &migration(), 2, &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, CleanError::NotRecorded { .. }));
    // A replica of which the plan does not know.
    let smaller = set(&zookeeper, path, &["r1"]);
    let error = zookeeper.delete(&smaller, &migration(), 2, &|_| {}).await.unwrap_err();
    assert!(matches!(error, CleanError::Appeared { replica, .. } if replica == "r2"));
    assert_eq!(tree(&direct, path).await, before);
    // Something that only bears the marker.
    put(&direct, "/unfenced/other/rekeeper-move-1-1", b"").await;
    put(&direct, "/unfenced/other/precious", b"").await;
    assert!(matches!(
        delete(&zookeeper, "/unfenced/other", 2).await,
        Err(CleanError::NotTableShaped { .. })
    ));
    assert!(exists(&direct, "/unfenced/other/precious").await);
}

#[tokio::test]
async fn another_table_below_is_never_touched() {
    let port = server::port();
    let (direct, zookeeper) = (client().await, through(port).await);
    // Made since the fence; once where strangers are looked for, and twice where nobody would put it.
    for (n, below) in ["strange/inner", "temp/inner", "replicas/r1/parts/all_9_9_0/inner"]
        .into_iter()
        .enumerate()
    {
        let path = format!("/nested/t{n}");
        make(&direct, &path, &["r1", "r2"], 3).await;
        fence(&zookeeper, &path, 1).await.unwrap();
        let inner = format!("{path}/{below}");
        make(&direct, &inner, &["x"], 2).await;
        let (before, whole) = (tree(&direct, &inner).await, tree(&direct, &path).await);
        let error = delete(&zookeeper, &path, 2).await.unwrap_err();
        assert!(
            matches!(&error, CleanError::Nested { nested, .. } if *nested == inner),
            "{inner}: {error}"
        );
        assert_eq!(tree(&direct, &inner).await, before);
        if below.starts_with("strange") {
            let left = tree(&direct, &path).await;
            assert_eq!(left, whole, "found before the first node is deleted");
        }
        // Somebody moves the inner table away.
        for node in before.keys().rev() {
            direct.delete(node, None).await.unwrap();
        }
        let set = with_all_below(set(&zookeeper, &path, &["r1", "r2"]));
        zookeeper.delete(&set, &migration(), 3, &|_| {}).await.unwrap();
        assert!(!exists(&direct, &path).await);
    }
}
