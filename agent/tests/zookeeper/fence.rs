//! Holding a path and letting it go.

use rekeeper_agent::zookeeper::CleanError;
use zookeeper_client::{Acls, CreateMode};

use crate::support::proxy::{Fault, Proxy};
use crate::support::server;
use crate::support::table::{make, put, tree};
use crate::{activate, delete, exists, fence, migration, release, set, start, through};

#[tokio::test]
async fn a_fence_holds_every_replica_and_is_taken_over_and_released() {
    let path = "/fence/t";
    let (direct, zookeeper) = start(path).await;
    let before = tree(&direct, path).await;
    for _ in 0..2 {
        fence(&zookeeper, path, 3).await.unwrap();
    }
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    for replica in ["r1", "r2"] {
        let node = format!("{path}/replicas/{replica}/is_active");
        let (content, stat) = direct.get_data(&node).await.unwrap();
        assert_eq!(
            (content.as_slice(), stat.ephemeral_owner),
            (&b"rekeeper-move-1-3"[..], 0)
        );
        // What a server does when it attaches the table.
        assert!(direct.create(&node, b"", &options).await.is_err());
    }
    fence(&zookeeper, path, 10).await.unwrap();
    assert!(!exists(&direct, &format!("{path}/rekeeper-move-1-3")).await);
    assert!(exists(&direct, &format!("{path}/rekeeper-move-1-10")).await);
    // 9 is older than 10, although its name sorts behind.
    assert!(matches!(
        fence(&zookeeper, path, 9).await,
        Err(CleanError::Superseded { .. })
    ));
    assert!(matches!(
        release(&zookeeper, path, 9).await,
        Err(CleanError::Superseded { .. })
    ));
    assert!(matches!(
        delete(&zookeeper, path, 9).await,
        Err(CleanError::Superseded { .. })
    ));
    assert!(exists(&direct, &format!("{path}/rekeeper-move-1-10")).await);
    for _ in 0..2 {
        release(&zookeeper, path, 11).await.unwrap();
        assert_eq!(tree(&direct, path).await, before);
    }
    release(&zookeeper, "/fence/none", 11).await.unwrap();
}

#[tokio::test]
async fn a_fence_that_is_refused_changes_nothing() {
    let (direct, zookeeper) = start("/refused/active").await;
    for name in ["foreign", "hold", "nested", "half", "shape"] {
        make(&direct, &format!("/refused/{name}"), &["r1", "r2"], 1).await;
    }
    activate(&direct, "/refused/active", "r2").await;
    put(&direct, "/refused/foreign/rekeeper-move-5", b"").await;
    put(&direct, "/refused/hold/replicas/r1/is_active", b"rekeeper-move-1").await;
    make(&direct, "/refused/nested/strange/deep/inner", &["r1"], 1).await;
    put(&direct, "/refused/half/dropped", b"").await;
    direct.delete("/refused/shape/columns", None).await.unwrap();
    let before = tree(&direct, "/refused").await;
    for (path, wanted) in [
        ("active", "is active"),
        ("foreign", "another migration (rekeeper-move-5)"),
        ("hold", "did not make"),
        ("nested", "at /refused/nested/strange/deep/inner"),
        ("half", "dropped"),
        ("shape", "no columns"),
        ("none", "does not exist"),
    ] {
        let error = fence(&zookeeper, &format!("/refused/{path}"), 7).await.unwrap_err();
        assert!(error.to_string().contains(wanted), "{path}: {error}");
    }
    assert!(matches!(
        fence(&zookeeper, "/refused", 7).await,
        Err(CleanError::NotTableShaped { .. })
    ));
    let mut elsewhere = set(&zookeeper, "/refused/shape", &["r1"]);
    elsewhere.place.chroot = "/other".into();
    let error = zookeeper.fence(&elsewhere, &migration(), 7).await.unwrap_err();
    assert!(matches!(error, CleanError::OtherPlace { .. }));
    assert_eq!(tree(&direct, "/refused").await, before);
}

#[tokio::test]
async fn a_replica_that_is_added_while_the_fence_is_made_is_held_too() {
    let path = "/race/t";
    let (direct, _) = start(path).await;
    let proxy = Proxy::start(server::port(), Fault::Hold(1)).await;
    let slow = through(proxy.port).await;
    let fenced = fence(&slow, path, 1);
    let meanwhile = async {
        proxy.reached().await;
        // What ClickHouse does: it names the new replica in `replicas` itself.
        direct
            .set_data(&format!("{path}/replicas"), b"last added replica: r3", None)
            .await
            .unwrap();
        put(&direct, &format!("{path}/replicas/r3/metadata"), b"").await;
        proxy.resume();
    };
    let (fenced, ()) = tokio::join!(fenced, meanwhile);
    fenced.unwrap();
    assert!(exists(&direct, &format!("{path}/replicas/r3/is_active")).await);
    assert_eq!(proxy.multis(), 2);
}

#[tokio::test]
async fn a_release_leaves_the_holds_of_others_and_never_opens_what_is_half_deleted() {
    let path = "/release/t";
    let (direct, zookeeper) = start(path).await;
    fence(&zookeeper, path, 1).await.unwrap();
    let hold = format!("{path}/replicas/r2/is_active");
    direct.set_data(&hold, b"rekeeper-move-1", None).await.unwrap();
    direct
        .delete(&format!("{path}/replicas/r1/metadata"), None)
        .await
        .unwrap();
    let before = tree(&direct, path).await;
    assert!(matches!(
        release(&zookeeper, path, 1).await,
        Err(CleanError::HalfDeleted { .. })
    ));
    assert_eq!(tree(&direct, path).await, before);
    put(&direct, &format!("{path}/replicas/r1/metadata"), b"").await;
    release(&zookeeper, path, 1).await.unwrap();
    assert!(exists(&direct, &hold).await);
    assert!(!exists(&direct, &format!("{path}/replicas/r1/is_active")).await);
}
