//! The embedded store: what it has acknowledged is there, whatever happens to the program, and what is damaged is
//! noticed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rekeeper_coordinator::progress::{Intent, Record};
use rekeeper_coordinator::store::{Append, Pending, SqliteStore, Store as _, StoreError};
use rekeeper_shared::domain::document::{self, Packed};
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::plan::{Plan, PlanRequest};
use rekeeper_shared::domain::step::{StepKind, Target};

const FOLDER: &str = "REKEEPER_TEST_STORE";
const FILE: &str = "rekeeper.sqlite";

/// Saves a small plan.
fn save(store: &SqliteStore, name: &str) -> Pending<()> {
    let plan = plan(name);
    store.save_plan(&plan, document::pack(&plan).unwrap())
}

fn plan(name: &str) -> Plan {
    Plan {
        name: name.parse().unwrap(),
        created: "2026-01-01T00:00:00.000Z".into(),
        created_by: "test".into(),
        request: PlanRequest::default(),
        hosts: vec![],
        tables: vec![],
        sets: vec![],
        waves: vec![],
        warnings: vec![],
        forecasts: vec![],
        attested: true,
    }
}

fn record(attempt: u64) -> Record {
    Record::Intent(Intent {
        attempt,
        host: 0,
        step: StepKind::Detach,
        target: Target::Table(0),
    })
}

fn append(migration: &str, attempt: u64) -> Append {
    Append {
        migration: migration.parse().unwrap(),
        record: record(attempt),
        document: None,
    }
}

fn some_document(content: u64) -> Packed {
    document::pack(&vec![content; 100]).unwrap()
}

/// Changes the database behind the store's back.
fn tamper(folder: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(folder.join(FILE)).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// Opens a store, for a while also one that is in use: a process that another test is about to start holds the lock of one
/// that was just closed.
fn open(folder: &Path) -> Result<SqliteStore, StoreError> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match SqliteStore::open(folder) {
            Err(StoreError::InUse(_)) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.map(|(store, _)| store),
        }
    }
}

fn open_error(folder: &Path) -> StoreError {
    open(folder).unwrap_err()
}

/// On a volume that is not mounted it would be there, and be gone when the volume is.
#[test]
fn no_store_is_made_below_a_folder_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let error = open_error(&folder.path().join("nope/deep/coord"));
    assert!(error.to_string().contains("nope/deep/coord"), "{error}");
    assert!(!folder.path().join("nope").exists());
}

#[tokio::test]
async fn what_was_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(&folder.path().join("new")).unwrap();
    save(&store, "b").await.unwrap();
    save(&store, "a").await.unwrap();
    assert_eq!(store.plans().await.unwrap(), [plan("b"), plan("a")]);

    let packed = some_document(1);
    let mut with_document = append("a", 2);
    with_document.document = Some(packed.clone());
    let group = vec![append("a", 1), append("b", 7), with_document];
    let written = store.append(group).await.unwrap();
    assert_eq!(written.iter().map(|w| w.seq).collect::<Vec<_>>(), [1, 1, 2]);
    humantime::parse_rfc3339(&written[0].time).unwrap();
    assert_eq!(written[0].time.len(), "2026-01-01T00:00:00.000Z".len());

    let a: MigrationName = "a".parse().unwrap();
    let all = store.records(&a, 0, 10).await.unwrap();
    assert_eq!(
        all.iter().map(|s| s.record.clone()).collect::<Vec<_>>(),
        [record(1), record(2)]
    );
    assert_eq!(all[1].time, written[2].time);
    assert_eq!(store.records(&a, 1, 10).await.unwrap(), all[1..]);
    assert_eq!(store.records(&a, 0, 1).await.unwrap(), all[..1]);

    assert_eq!(store.document(&packed.digest).await.unwrap(), Some(packed));
    assert_eq!(store.document("none").await.unwrap(), None);
}

#[tokio::test]
async fn what_cannot_be_written_leaves_the_rest_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    save(&store, "a").await.unwrap();
    // Queued together, so that some of them share a transaction.
    let (good, again, unknown, last) = (
        store.append(vec![append("a", 1)]),
        save(&store, "a"),
        store.append(vec![append("a", 99), append("no", 1)]),
        store.append(vec![append("a", 2)]),
    );
    assert!(matches!(again.await, Err(StoreError::NameTaken(name)) if name.as_str() == "a"));
    assert!(matches!(unknown.await, Err(StoreError::UnknownMigration(name)) if name.as_str() == "no"));
    assert_eq!(good.await.unwrap()[0].seq, 1);
    assert_eq!(last.await.unwrap()[0].seq, 2, "a group that was refused took no number");
}

#[tokio::test]
async fn each_opening_takes_a_higher_token_and_only_one_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let (first, opened) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(opened.token, 1);
    let refused = SqliteStore::open(folder.path()).unwrap_err();
    assert!(matches!(refused, StoreError::InUse(_)), "{refused}");
    assert!(
        refused.to_string().contains("in use by another coordinator"),
        "{refused}"
    );
    drop(first);
    let (_second, again) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(again.token, 2, "the opening that was refused took no token");
    assert_ne!(again.run, opened.run);
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
async fn an_append_that_nobody_waits_for_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    save(&store, "a").await.unwrap();
    drop(store.append(vec![append("a", 1)]));
    drop(store);
    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(store.records(&"a".parse().unwrap(), 0, 10).await.unwrap().len(), 1);
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

/// Not a test: the process that the tests below kill or starve. Four tasks append to two migrations, and print each
/// record that was acknowledged, with the digest of its document, until an append fails.
#[tokio::test]
#[ignore = "a process that other tests start"]
async fn process_that_appends() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (store, opened) = SqliteStore::open(Path::new(&folder)).unwrap();
    println!("token {}", opened.token);
    for name in ["a", "b"] {
        match save(&store, name).await {
            Ok(()) | Err(StoreError::NameTaken(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let tasks = (0_u64..4).map(|task| async move { (task, if task % 2 == 0 { "a" } else { "b" }) });
    let store = &store;
    let failures = futures::future::join_all(tasks.map(|task| async {
        let (task, name) = task.await;
        for number in 0_u64.. {
            let attempt = opened.token * 1_000_000_000 + task * 100_000_000 + number;
            let mut group = vec![append(name, attempt)];
            if number % 5 == 0 {
                group.push(append(name, attempt));
                group[1].document = Some(some_document(attempt));
            }
            match store.append(group).await {
                Err(error) => return error,
                Ok(written) => {
                    for (ix, written) in written.iter().enumerate() {
                        let digest = if ix == 1 {
                            some_document(attempt).digest
                        } else {
                            "-".into()
                        };
                        println!("ack {name} {} {attempt} {digest}", written.seq);
                    }
                }
            }
        }
        unreachable!()
    }))
    .await;
    for failure in failures {
        assert!(matches!(failure, StoreError::Failed(_)), "{failure}");
    }
    println!("failed {}", store.failed().await);
    let later = store.append(vec![append("a", 0)]).await.unwrap_err();
    assert!(matches!(later, StoreError::Failed(_)), "{later}");
    assert!(matches!(save(store, "c").await, Err(StoreError::Failed(_))));
}

/// Everything that the process has acknowledged, by migration and number: attempt and digest.
#[derive(Default)]
struct Acknowledged {
    records: HashMap<(String, u64), (u64, String)>,
    tokens: Vec<u64>,
    failure: Option<String>,
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ack", name, seq, attempt, digest] => {
                let key = (name.to_owned(), seq.parse().unwrap());
                let earlier = self.records.insert(key, (attempt.parse().unwrap(), digest.to_owned()));
                assert_eq!(earlier, None, "a number was given twice: {line}");
            }
            ["token", token] => self.tokens.push(token.parse().unwrap()),
            ["failed", ..] => self.failure = Some(line.to_owned()),
            _ => {}
        }
    }

    async fn check(&self, folder: &Path) -> u64 {
        let (store, opened) = SqliteStore::open(folder).unwrap();
        let mut found = HashMap::new();
        for plan in store.plans().await.unwrap() {
            // Reading fails at a gap.
            for stored in store.records(&plan.name, 0, usize::MAX).await.unwrap() {
                let Record::Intent(intent) = stored.record else {
                    panic!("not an intent")
                };
                found.insert((plan.name.to_string(), stored.seq), intent.attempt);
            }
        }
        for (key, (attempt, digest)) in &self.records {
            assert_eq!(found.get(key), Some(attempt), "{key:?} was acknowledged");
            if digest != "-" {
                assert!(
                    store.document(digest).await.unwrap().is_some(),
                    "{digest} was acknowledged"
                );
            }
        }
        opened.token
    }
}

fn appending(folder: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "process_that_appends", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped());
    command
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..20 {
        // Killed after a random number of lines; none is while it opens.
        let lines = if round % 5 == 0 {
            0
        } else {
            rand::rng().random_range(3..400)
        };
        let mut child = appending(folder.path(), "").spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        for (number, line) in output.lines().map_while(Result::ok).enumerate() {
            acknowledged.take(&line);
            if number == lines {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success());
        let token = acknowledged.check(folder.path()).await;
        let before = acknowledged.tokens.last().copied().unwrap_or(0);
        assert!(token > before, "token {token} after {before}");
        acknowledged.tokens.push(token);
    }
    assert!(
        acknowledged.tokens.is_sorted_by(|a, b| a < b),
        "{:?}",
        acknowledged.tokens
    );
    assert!(acknowledged.records.len() > 1_000, "{}", acknowledged.records.len());
}

#[tokio::test]
async fn after_a_write_that_failed_nothing_is_taken_any_more() {
    let folder = tempfile::tempdir().unwrap();
    // No file may grow beyond some megabytes: writes fail like those on a full disk.
    let mut child = appending(folder.path(), "trap '' XFSZ; ulimit -f 4000;")
        .spawn()
        .unwrap();
    let mut acknowledged = Acknowledged::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        acknowledged.take(&line.unwrap());
    }
    assert!(child.wait().unwrap().success());
    let failure = acknowledged.failure.clone().unwrap();
    assert!(failure.starts_with("failed a "), "{failure}");
    assert!(acknowledged.records.len() > 100);
    acknowledged.check(folder.path()).await;
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
