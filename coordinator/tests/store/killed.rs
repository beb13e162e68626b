//! What a store has acknowledged is there, whatever happens to the process that wrote it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rand::RngExt as _;
use rekeeper_coordinator::progress::Record;
use rekeeper_coordinator::store::{Store, StoreError};

use super::support::{append, save, some_document};

const FOLDER: &str = "REKEEPER_TEST_STORE";

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

    async fn check<S: Store>(&self, folder: &Path) -> u64 {
        let (store, opened) = S::open(folder).unwrap();
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

/// The process that the tests below kill or starve. Four tasks append to two migrations, and print each
/// record that was acknowledged, with the digest of its document, until an append fails.
pub(crate) async fn process_that_appends<S: Store>() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (store, opened) = S::open(Path::new(&folder)).unwrap();
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

fn appending(process: &str, folder: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", process, "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped());
    command
}

pub(crate) async fn what_was_acknowledged_survives_sigkill<S: Store>(process: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..20 {
        // Killed after a random number of lines; none is while it opens.
        let lines = if round % 5 == 0 {
            0
        } else {
            rand::rng().random_range(3..400)
        };
        let mut child = appending(process, folder.path(), "").spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        for (number, line) in output.lines().map_while(Result::ok).enumerate() {
            acknowledged.take(&line);
            if number == lines {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success());
        let token = acknowledged.check::<S>(folder.path()).await;
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

pub(crate) async fn after_a_write_that_failed_nothing_is_taken_any_more<S: Store>(process: &str) {
    let folder = tempfile::tempdir().unwrap();
    // No file may grow beyond some megabytes: writes fail like those on a full disk.
    let mut child = appending(process, folder.path(), "trap '' XFSZ; ulimit -f 4000;")
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
    acknowledged.check::<S>(folder.path()).await;
}
