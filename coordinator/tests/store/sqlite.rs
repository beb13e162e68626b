//! What the embedded store holds beside what every store must: damage of its files is noticed.

use std::path::Path;

use rekeeper_coordinator::store::{SqliteStore, Store as _, StoreError};
use rekeeper_shared::domain::ids::MigrationName;

use super::support::{self, append, save, some_document};

const FILE: &str = "rekeeper.sqlite";

fn open(folder: &Path) -> Result<SqliteStore, StoreError> {
    support::open(folder)
}

fn open_error(folder: &Path) -> StoreError {
    support::open_error::<SqliteStore>(folder)
}

/// Changes the database behind the store's back.
fn tamper(folder: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(folder.join(FILE)).unwrap();
    connection.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn appends_that_wait_share_a_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    save(&store, "a").await.unwrap();
    let agents = (0..64).map(|_| async {
        for attempt in 0..25 {
            store.append(vec![append("a", attempt)]).await.unwrap();
        }
    });
    futures::future::join_all(agents).await;
    let appends = 64 * 25;
    assert!(
        store.commits() * 4 < appends,
        "{} commits for {appends} appends",
        store.commits()
    );
    assert_eq!(
        store.records(&"a".parse().unwrap(), 0, usize::MAX).await.unwrap().len(),
        1_600
    );
}

#[tokio::test]
async fn what_was_changed_behind_its_back_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let packed = some_document(1);
    {
        let (store, _) = SqliteStore::open(folder.path()).unwrap();
        save(&store, "a").await.unwrap();
        let mut with_document = append("a", 1);
        with_document.document = Some(packed.clone());
        store
            .append(vec![with_document, append("a", 2), append("a", 3)])
            .await
            .unwrap();
    }
    let other = some_document(2)
        .bytes
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect::<String>();
    tamper(folder.path(), &format!("UPDATE document SET bytes = x'{other}'"));
    tamper(folder.path(), &format!("UPDATE migration SET plan = x'{other}'"));
    tamper(folder.path(), "DELETE FROM record WHERE seq = 2");
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    let document = store.document(&packed.digest).await.unwrap_err();
    assert!(matches!(document, StoreError::BadDocument { .. }), "{document}");
    assert!(matches!(store.plans().await, Err(StoreError::BadPlan { .. })));
    let records = store.records(&"a".parse().unwrap(), 0, 10).await;
    assert!(matches!(records, Err(StoreError::LostRecord { seq: 2, .. })));
}

#[tokio::test]
async fn a_file_that_is_no_whole_store_is_refused() {
    let no_database = tempfile::tempdir().unwrap();
    std::fs::write(
        no_database.path().join(FILE),
        "name: not a database, but long enough to be looked at\n".repeat(99),
    )
    .unwrap();
    let foreign = tempfile::tempdir().unwrap();
    tamper(foreign.path(), "CREATE TABLE other (x)");
    let torn = tempfile::tempdir().unwrap();
    {
        let (store, _) = SqliteStore::open(torn.path()).unwrap();
        save(&store, "a").await.unwrap();
        let group = (0..2_000).map(|attempt| append("a", attempt)).collect();
        store.append(group).await.unwrap();
    }
    let file = torn.path().join(FILE);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4_096].fill(0xaa);
    std::fs::write(&file, bytes).unwrap();

    for folder in [no_database, foreign, torn] {
        let error = open_error(folder.path());
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("restore data_dir"), "{error}");
    }
}

#[tokio::test]
async fn a_store_of_a_newer_release_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    tamper(folder.path(), "UPDATE meta SET schema_version = 99");
    assert!(matches!(open_error(folder.path()), StoreError::Newer { found: 99, .. }));
    tamper(folder.path(), "UPDATE meta SET schema_version = 1");
    assert_eq!(SqliteStore::open(folder.path()).unwrap().1.token, 2);
}

#[tokio::test]
async fn a_store_that_is_gone_empty_or_another_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    drop(open(folder.path()).unwrap());
    let whole = std::fs::read(&file).unwrap();
    let missed = |words: &str| match open_error(folder.path()) {
        StoreError::Damaged { what, .. } => assert!(what.contains(words), "{what}"),
        other => panic!("{other}"),
    };
    std::fs::remove_file(&file).unwrap();
    missed("it is gone");
    assert!(!file.exists(), "nothing is made in its place");
    for bytes in [&b""[..], b"x"] {
        std::fs::write(&file, bytes).unwrap();
        missed("no store is so small");
    }
    let other = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(other.path()).unwrap());
    std::fs::copy(other.path().join(FILE), &file).unwrap();
    missed("the folder has had the store");
    std::fs::write(&file, whole).unwrap();
    drop(open(folder.path()).unwrap());
    // One byte, in a folder that never had a store.
    let new = tempfile::tempdir().unwrap();
    std::fs::write(new.path().join(FILE), "x").unwrap();
    assert!(matches!(open_error(new.path()), StoreError::Damaged { .. }));
}

#[tokio::test]
async fn a_store_that_was_not_closed_is_not_opened_without_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let noted = folder.path().join("rekeeper.sqlite-open");
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    save(&store, "m").await.unwrap();
    assert!(noted.exists() && folder.path().join("rekeeper.sqlite-wal").exists());
    drop(store);
    // Closed, it has no log any more, and needs none.
    assert!(!noted.exists() && !folder.path().join("rekeeper.sqlite-wal").exists());
    drop(open(folder.path()).unwrap());
    // As a crash leaves it, and somebody who copies the main file alone.
    std::fs::write(&noted, "").unwrap();
    let error = open_error(folder.path()).to_string();
    assert!(error.contains("rekeeper.sqlite-wal beside it"), "{error}");
    std::fs::remove_file(&noted).unwrap();
    drop(open(folder.path()).unwrap());
}

#[tokio::test]
async fn a_record_that_was_changed_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let a: MigrationName = "a".parse().unwrap();
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    save(&store, "a").await.unwrap();
    store.append(vec![append("a", 1), append("a", 2)]).await.unwrap();
    drop(store);
    for change in [
        "UPDATE record SET body = replace(body, '\"attempt\":2', '\"attempt\":3') WHERE seq = 2",
        "UPDATE record SET time = '2026-01-01T00:00:00.000Z' WHERE seq = 2",
        "UPDATE record SET sum = replace(sum, substr(sum, 1, 1), 'g') WHERE seq = 2",
    ] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(folder.path().join(FILE), copy.path().join(FILE)).unwrap();
        tamper(copy.path(), change);
        let (store, _) = SqliteStore::open(copy.path()).unwrap();
        let found = store.records(&a, 0, 10).await;
        assert!(
            matches!(found, Err(StoreError::ChangedRecord { seq: 2, .. })),
            "{change}: {found:?}"
        );
    }
    // Of a release that had no checksums.
    tamper(folder.path(), "ALTER TABLE record DROP COLUMN sum");
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(store.records(&a, 0, 10).await.unwrap().len(), 2);
}

#[test]
fn the_store_is_for_its_own_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _store = SqliteStore::open(&data).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for file in [FILE, "rekeeper.sqlite-wal", "lock"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_lock_that_is_a_link_is_refused_and_what_it_names_not_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, "precious").unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&other, data.join("lock")).unwrap();
    assert!(matches!(open_error(&data), StoreError::Folder { .. }));
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
}
