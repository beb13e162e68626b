//! Deletions that are cut, frozen, overtaken or mixed with what others make.

use std::collections::BTreeSet;

use rekeeper_agent::zookeeper::{Access, CleanError, ZkError, ZooKeeper};
use rekeeper_shared::domain::place::ZkPath;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::support::proxy::{Fault, Proxy};
use crate::support::server;
use crate::support::table::{client, make, put, tree};
use crate::{activate, delete, exists, fence, place, start, through};

/// Whatever is left at any moment must be what ClickHouse itself can finish.
fn in_clickhouse_order(left: &BTreeSet<String>, path: &str) {
    let has = |name: &str| left.contains(&format!("{path}/{name}"));
    for replica in ["r1", "r2"].map(|r| format!("replicas/{r}")) {
        let begun = has(&replica) && !has(&format!("{replica}/parts/all_0_0_0"));
        assert!(
            !begun || !has(&format!("{replica}/metadata")),
            "metadata goes first: {left:?}"
        );
        assert_eq!(
            has(&replica),
            has(&format!("{replica}/is_active")),
            "the hold goes last: {left:?}"
        );
    }
    assert!(left.is_empty() || has("replicas") != has("dropped/lock"), "{left:?}");
    assert!(
        !has("replicas") || has("log/log-0000000017"),
        "replicas go before the table: {left:?}"
    );
}

#[tokio::test]
async fn a_crash_before_or_after_any_multi_is_resumed_by_the_next_attempt() {
    let port = server::port();
    let direct = client().await;
    type Cut = fn(usize) -> Fault;
    for (name, cut) in [("before", Fault::CrashBefore as Cut), ("after", Fault::CrashAfter)] {
        let mut crashes = 0;
        for n in 1.. {
            let path = format!("/crash/{name}/t{n}");
            make(&direct, &path, &["r1", "r2"], 3).await;
            put(&direct, &format!("{path}/replicas/r2/parts/all_7_7_0/columns"), b"c").await;
            let zookeeper = through(port).await;
            fence(&zookeeper, &path, 1).await.unwrap();
            let proxy = Proxy::start(port, cut(n)).await;
            let crashing = through(proxy.port).await;
            // Dropped like a killed agent: its session, and its ephemeral lock, live on.
            let crashed = tokio::select! {
                done = delete(&crashing, &path, 2) => { done.unwrap(); false }
                () = proxy.reached() => true,
            };
            drop(crashing);
            in_clickhouse_order(&tree(&direct, &path).await.into_keys().collect(), &path);
            delete(&zookeeper, &path, 3).await.unwrap();
            assert!(!exists(&direct, &path).await, "{name} {n}");
            if !crashed {
                break;
            }
            crashes += 1;
        }
        assert!(crashes > 8, "{name}: {crashes}");
    }
}

#[tokio::test]
async fn an_answer_that_was_lost_is_looked_up_by_the_same_attempt() {
    if server::is_keeper("a session ends with its connection, so the command fails and is sent again") {
        return;
    }
    let port = server::port();
    let direct = client().await;
    for n in 1.. {
        let path = format!("/lost/t{n}");
        make(&direct, &path, &["r1", "r2"], 3).await;
        let zookeeper = through(port).await;
        fence(&zookeeper, &path, 1).await.unwrap();
        let proxy = Proxy::start(port, Fault::LoseAnswer(n)).await;
        let unlucky = through(proxy.port).await;
        delete(&unlucky, &path, 2).await.unwrap();
        assert!(!exists(&direct, &path).await, "{n}");
        if proxy.multis() < n {
            break;
        }
    }
}

#[tokio::test]
async fn a_frozen_attempt_deletes_nothing_of_what_was_made_since() {
    let port = server::port();
    let direct = client().await;
    for n in 2.. {
        let path = format!("/frozen/t{n}");
        make(&direct, &path, &["r1", "r2"], 3).await;
        let zookeeper = through(port).await;
        fence(&zookeeper, &path, 1).await.unwrap();
        let proxy = Proxy::start(port, Fault::Hold(n)).await;
        let frozen = through(proxy.port).await;
        let old = delete(&frozen, &path, 2);
        let since = async {
            proxy.reached().await;
            delete(&zookeeper, &path, 3).await.unwrap();
            make(&direct, &path, &["r1", "r2"], 5).await;
            let before = tree(&direct, &path).await;
            proxy.resume();
            before
        };
        tokio::pin!(old, since);
        let before = tokio::select! {
            done = &mut old => { done.unwrap(); break; }
            before = &mut since => before,
        };
        let error = old.await.unwrap_err();
        assert!(matches!(error, CleanError::FenceLost { .. }), "{n}: {error}");
        assert_eq!(tree(&direct, &path).await, before, "{n}");
        // And one that begins only now.
        assert!(matches!(
            delete(&frozen, &path, 2).await,
            Err(CleanError::NotFenced { .. })
        ));
        assert_eq!(tree(&direct, &path).await, before, "{n}");
    }
}

#[tokio::test]
async fn a_frozen_attempt_deletes_nothing_once_a_newer_one_holds_the_path() {
    let path = "/taken/t";
    let (direct, zookeeper) = start(path).await;
    fence(&zookeeper, path, 1).await.unwrap();
    let proxy = Proxy::start(server::port(), Fault::Hold(2)).await;
    let frozen = through(proxy.port).await;
    let old = delete(&frozen, path, 2);
    let since = async {
        proxy.reached().await;
        fence(&zookeeper, path, 3).await.unwrap();
        let before = tree(&direct, path).await;
        proxy.resume();
        before
    };
    let (old, before) = tokio::join!(old, since);
    assert!(matches!(old, Err(CleanError::FenceLost { .. })), "{old:?}");
    assert_eq!(tree(&direct, path).await, before);
    assert!(exists(&direct, &format!("{path}/replicas/r1/metadata")).await);
}

#[tokio::test]
async fn what_appears_during_the_deletion_is_deleted_unless_it_is_a_replica() {
    let port = server::port();
    let direct = client().await;
    for n in 2..10 {
        let path = format!("/meanwhile/t{n}");
        make(&direct, &path, &["r1", "r2"], 3).await;
        let zookeeper = through(port).await;
        fence(&zookeeper, &path, 1).await.unwrap();
        let proxy = Proxy::start(port, Fault::Hold(n)).await;
        let slow = through(proxy.port).await;
        let deletion = delete(&slow, &path, 2);
        let meanwhile = async {
            proxy.reached().await;
            put(&direct, &format!("{path}/temp/x{n}/y/z"), b"").await;
            let new = exists(&direct, &format!("{path}/replicas")).await && n % 2 == 0;
            if new {
                put(&direct, &format!("{path}/replicas/r3/metadata"), b"").await;
            }
            proxy.resume();
            new
        };
        let (deleted, new_replica) = tokio::join!(deletion, meanwhile);
        if new_replica {
            assert!(matches!(deleted, Err(CleanError::Appeared { .. })), "{n}: {deleted:?}");
            assert!(exists(&direct, &format!("{path}/replicas/r3/metadata")).await);
        } else {
            deleted.unwrap();
            assert!(!exists(&direct, &path).await, "{n}");
        }
    }
}

#[tokio::test]
async fn a_replica_under_its_old_name_is_seen_by_the_hold_that_it_lacks() {
    let path = "/again/t";
    let (direct, zookeeper) = start(path).await;
    fence(&zookeeper, path, 1).await.unwrap();
    direct
        .delete(&format!("{path}/replicas/r2/is_active"), None)
        .await
        .unwrap();
    let before = tree(&direct, path).await;
    let error = delete(&zookeeper, path, 2).await.unwrap_err();
    assert!(matches!(error, CleanError::Appeared { .. }), "{error}");
    activate(&direct, path, "r2").await;
    assert!(matches!(
        delete(&zookeeper, path, 2).await,
        Err(CleanError::Active { .. })
    ));
    direct
        .delete(&format!("{path}/replicas/r2/is_active"), None)
        .await
        .unwrap();
    assert_eq!(tree(&direct, path).await, before);
}

#[tokio::test]
async fn a_server_that_finishes_the_deletion_itself_is_left_to_it() {
    let path = "/finishing/t";
    let (direct, zookeeper) = start(path).await;
    fence(&zookeeper, path, 1).await.unwrap();
    let nodes: Vec<String> = tree(&direct, &format!("{path}/replicas"))
        .await
        .into_keys()
        .rev()
        .collect();
    for node in nodes {
        direct.delete(&node, None).await.unwrap();
    }
    put(&direct, &format!("{path}/dropped"), b"").await;
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let lock = format!("{path}/dropped/lock");
    direct.create(&lock, b"", &options).await.unwrap();
    let error = delete(&zookeeper, path, 2).await.unwrap_err();
    assert!(
        matches!(error, CleanError::BeingDropped { .. }) && error.may_pass(),
        "{error}"
    );
    assert!(exists(&direct, &format!("{path}/log")).await);
    direct.delete(&lock, None).await.unwrap();
    delete(&zookeeper, path, 3).await.unwrap();
    assert!(!exists(&direct, path).await);
}

#[tokio::test]
async fn a_node_that_an_acl_protects_is_named() {
    let path = "/acl/t";
    let (direct, zookeeper) = start(path).await;
    fence(&zookeeper, path, 1).await.unwrap();
    // Deleting a node is a right on its parent.
    let some = [Acl::new(Permission::ALL, AuthId::anyone())];
    let none = [
        Acl::new(Permission::READ, AuthId::anyone()),
        Acl::new(Permission::ADMIN, AuthId::anyone()),
    ];
    let parts = format!("{path}/replicas/r2/parts");
    direct.set_acl(&parts, &none, None).await.unwrap();
    let error = delete(&zookeeper, path, 2).await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("delete {parts}/all_0_0_0")),
        "{error}"
    );
    assert!(!error.may_pass());
    direct.set_acl(&parts, &some, None).await.unwrap();
    delete(&zookeeper, path, 3).await.unwrap();
    assert!(!exists(&direct, path).await);
}

#[tokio::test]
async fn what_the_identity_of_the_configuration_made_only_it_may_delete() {
    let path = "/identity/t";
    let (direct, zookeeper) = start(path).await;
    let port = server::port();
    let access = Access {
        identity: Some("clickhouse:secret".into()),
        ..Access::default()
    };
    let known = ZooKeeper::connect(&place(port), &access).await.unwrap();
    let owner = Client::connector().with_auth("digest", b"clickhouse:secret");
    let owner = owner.connect(&format!("127.0.0.1:{port}")).await.unwrap();
    for node in tree(&direct, path).await.into_keys() {
        owner
            .set_acl(&node, &[Acl::new(Permission::ALL, AuthId::authed())], None)
            .await
            .unwrap();
    }
    let error = fence(&zookeeper, path, 1).await.unwrap_err();
    assert!(
        matches!(error, CleanError::ZooKeeper(ZkError::NoAuth { .. })),
        "{error}"
    );
    fence(&known, path, 1).await.unwrap();
    assert!(
        direct
            .list_children(&format!("{path}/rekeeper-move-1-1"))
            .await
            .is_err()
    );
    delete(&known, path, 2).await.unwrap();
    assert!(!exists(&direct, path).await);
}

/// Steps run on tokio's threads.
#[tokio::test]
async fn a_deletion_can_be_spawned() {
    let path = "/spawned/t";
    let (direct, zookeeper) = start(path).await;
    let task = tokio::spawn(async move {
        fence(&zookeeper, path, 1).await?;
        let facts = zookeeper.facts_of_paths(&[ZkPath::parse(path).unwrap()]).await;
        assert!(facts[0].is_ok() && zookeeper.snapshot(&ZkPath::parse(path).unwrap()).await.is_ok());
        assert!(zookeeper.restored_state(&ZkPath::parse(path).unwrap()).await.is_ok());
        delete(&zookeeper, path, 2).await
    });
    task.await.unwrap().unwrap();
    assert!(!exists(&direct, path).await);
}
