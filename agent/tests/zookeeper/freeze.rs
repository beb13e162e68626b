//! Freezing the log of a table, and giving its permissions back.

use rekeeper_agent::zookeeper::CleanError;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Error, Permission};

use crate::support::server;
use crate::support::table::put;
use crate::{delete, exists, fence, migration, release, set, start};

async fn add_to_log(client: &Client, path: &str) -> Result<(), Error> {
    let options = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
    client
        .create(&format!("{path}/log/log-"), b"", &options)
        .await
        .map(|_| ())
}

fn texts(acls: &[Acl]) -> Vec<String> {
    acls.iter().map(|acl| format!("{acl:?}")).collect()
}

#[tokio::test]
async fn nothing_is_added_to_a_frozen_log_and_its_own_permissions_come_back() {
    if server::is_keeper("it keeps no entry for everybody beside another") {
        return;
    }
    let path = "/frozen";
    let (client, zookeeper) = start(path).await;
    let log = format!("{path}/log");
    let own = [
        Acl::new(Permission::ALL, AuthId::anyone()),
        Acl::new(Permission::READ | Permission::CREATE, AuthId::new("ip", "127.0.0.1")),
    ];
    client.set_acl(&log, &own, None).await.unwrap();
    let set = set(&zookeeper, path, &["r1", "r2"]);
    // Twice: a command may be sent any number of times.
    for _ in 0..2 {
        zookeeper.freeze(&set, &migration()).await.unwrap();
        assert_eq!(add_to_log(&client, path).await, Err(Error::NoAuth));
    }
    for _ in 0..2 {
        zookeeper.thaw(&set, &migration()).await.unwrap();
        assert_eq!(texts(&client.get_acl(&log).await.unwrap().0), texts(&own));
        add_to_log(&client, path).await.unwrap();
    }
    assert!(!exists(&client, &format!("{path}/frozen-by-rekeeper")).await);
}

#[tokio::test]
async fn a_freeze_that_was_cut_after_its_note_forgets_nothing() {
    let path = "/frozen-cut";
    let (client, zookeeper) = start(path).await;
    let set = set(&zookeeper, path, &["r1", "r2"]);
    let own = texts(&client.get_acl(&format!("{path}/log")).await.unwrap().0);
    zookeeper.freeze(&set, &migration()).await.unwrap();
    // As if the agent had died between the note and the change: the note alone is there.
    let all = [Acl::new(Permission::ALL, AuthId::anyone())];
    client.set_acl(&format!("{path}/log"), &all, None).await.unwrap();
    zookeeper.freeze(&set, &migration()).await.unwrap();
    assert_eq!(add_to_log(&client, path).await, Err(Error::NoAuth));
    zookeeper.thaw(&set, &migration()).await.unwrap();
    assert_eq!(texts(&client.get_acl(&format!("{path}/log")).await.unwrap().0), own);
}

#[tokio::test]
async fn what_another_migration_froze_is_left_to_it() {
    let path = "/frozen-by-another";
    let (client, zookeeper) = start(path).await;
    let set = set(&zookeeper, path, &["r1", "r2"]);
    let note = r#"{"migration":"another","permissions":[]}"#;
    put(&client, &format!("{path}/frozen-by-rekeeper"), note.as_bytes()).await;
    for outcome in [
        zookeeper.freeze(&set, &migration()).await,
        zookeeper.thaw(&set, &migration()).await,
    ] {
        assert!(matches!(outcome, Err(CleanError::Foreign { .. })), "{outcome:?}");
    }
    add_to_log(&client, path).await.unwrap();
}

#[tokio::test]
async fn a_frozen_table_is_fenced_released_and_deleted_like_any_other() {
    let path = "/frozen-deleted";
    let (client, zookeeper) = start(path).await;
    let set = set(&zookeeper, path, &["r1", "r2"]);
    zookeeper.freeze(&set, &migration()).await.unwrap();
    fence(&zookeeper, path, 1).await.unwrap();
    release(&zookeeper, path, 2).await.unwrap();
    fence(&zookeeper, path, 3).await.unwrap();
    delete(&zookeeper, path, 4).await.unwrap();
    assert!(!exists(&client, path).await);
}
