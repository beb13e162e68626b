//! The steps on replica sets, against a real ZooKeeper.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "helpers of tests, which clippy does not see as tests, and of which not every file uses all"
)]

#[path = "set_steps/export.rs"]
mod export;
#[path = "set_steps/scale.rs"]
mod scale;
mod support;
#[path = "set_steps/znodes.rs"]
mod znodes;

use std::path::Path;
use std::sync::Arc;

use rekeeper_agent::clickhouse::{Access, ClickHouse};
use rekeeper_agent::state::State;
use rekeeper_agent::steps::set::{clean, record, release, settle, witness};
use rekeeper_agent::steps::{Context, ServerPlaces};
use rekeeper_agent::zookeeper::Connections;
use rekeeper_shared::domain::document::{Packed, PartSetOfRecord, unpack};
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, SetRef, Witness};
use rekeeper_shared::domain::unsettled::{Allowed, Unsettled};
use support::server;
use support::table::{PART, client, make, put, tree};
use tempfile::TempDir;
use zookeeper_client::{Acls, Client, CreateMode};

struct Agent {
    folder: TempDir,
    context: Context,
}

fn write_config(folder: &Path, port: u16, root: &str) {
    let xml = format!(
        "<clickhouse><zookeeper><node><host>127.0.0.1</host><port>{port}</port></node><root>{root}</root></zookeeper>\
         </clickhouse>"
    );
    std::fs::write(folder.join("config.xml"), xml).unwrap();
}

impl Agent {
    /// Its server is configured for the ZooKeeper of the tests, without a root.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_config(folder.path(), server::port(), "");
        let access = Access {
            url: "http://127.0.0.1:1".into(),
            trust: None,
            user: "default".into(),
            password: None,
        };
        let context = Context {
            clickhouse: ClickHouse::new(&access),
            zookeeper: ServerPlaces::new(folder.path().join("config.xml"), Connections::new()),
            state: State::open(&folder.path().join("state")).unwrap(),
            host: "ch-1".parse().unwrap(),
            migration: "m".parse().unwrap(),
            attempt: 0,
            export_limit: 1 << 30,
            report: Arc::new(|_| {}),
        };
        Self { folder, context }
    }

    fn attempt(&self, attempt: u64) -> Context {
        Context {
            attempt,
            ..self.context.clone()
        }
    }
}

fn set(path: &str, recorded: bool) -> SetRef {
    SetRef {
        place: Place {
            ensemble: "default".into(),
            nodes: vec![format!("127.0.0.1:{}", server::port())],
            secure: false,
            chroot: String::new(),
        },
        path: ZkPath::parse(path).unwrap(),
        replicas: vec!["r1".into(), "r2".into()],
        allowed: Allowed::default(),
        recorded,
    }
}

async fn table(path: &str) -> Client {
    let zookeeper = client().await;
    make(&zookeeper, path, &["r1", "r2"], 3).await;
    zookeeper
}

async fn names(zookeeper: &Client, path: &str) -> Vec<String> {
    tree(zookeeper, path).await.into_keys().collect()
}

async fn recorded(context: &Context, path: &str) -> Packed {
    let finished = record(context, &set(path, false)).await.unwrap();
    let document = finished
        .document
        .clone()
        .unwrap_or_else(|| panic!("{:?}", finished.done));
    let Done::Recorded { export, .. } = &finished.done else {
        panic!("not recorded")
    };
    assert!(export.is_some());
    let done = Done::Recorded {
        digest: Some(document.digest.clone()),
        unsettled: vec![],
        order: vec!["r1".into(), "r2".into()],
        one_by_one: false,
        export: export.clone(),
    };
    assert_eq!(finished.done, done);
    document
}

#[tokio::test]
async fn a_settled_set_is_recorded_and_cleaned_however_often_it_is_ordered() {
    let (agent, path) = (Agent::start(), "/steps/settled");
    let zookeeper = table(path).await;
    let before = tree(&zookeeper, path).await;
    let settled = settle(&agent.attempt(1), &set(path, false)).await.unwrap();
    assert_eq!(settled.done, Done::Settled(vec![]));
    assert_eq!(tree(&zookeeper, path).await, before);

    let first = recorded(&agent.attempt(2), path).await;
    assert_eq!(recorded(&agent.attempt(2), path).await, first);
    assert_eq!(
        agent.context.state.record(&agent.context.migration, 2).unwrap(),
        Some(first)
    );
    // An attempt after one whose event was lost takes over its marker.
    let second = recorded(&agent.attempt(3), path).await;
    let document: PartSetOfRecord = unpack(&second.bytes, Some(&second.digest)).unwrap();
    let parts: Vec<usize> = document.snapshot.replicas.iter().map(|r| r.parts.len()).collect();
    assert_eq!((document.attempt, parts), (3, vec![3, 3]));

    let refused = clean(&agent.attempt(4), &set(path, false)).await.unwrap_err();
    assert_eq!((refused.problem.code, refused.retry), (Code::CleanFailed, false));
    let cleaned = clean(&agent.attempt(5), &set(path, true)).await.unwrap();
    let Done::Cleaned { znodes, export } = cleaned.done else {
        panic!("not cleaned")
    };
    assert!(znodes >= before.len() as u64, "{znodes}");
    assert!(export.is_some());
    assert!(zookeeper.check_stat(path).await.unwrap().is_none());
    let again = clean(&agent.attempt(5), &set(path, true)).await.unwrap();
    let gone = Done::Cleaned {
        znodes: 0,
        export: None,
    };
    assert_eq!(again.done, gone);
}

#[tokio::test]
async fn a_set_that_is_not_settled_is_let_go() {
    let (agent, path) = (Agent::start(), "/steps/unsettled");
    let zookeeper = table(path).await;
    put(&zookeeper, &format!("{path}/replicas/r1/parts/all_9_9_0"), PART).await;
    let before = names(&zookeeper, path).await;
    let reasons = vec![Unsettled::Parts {
        has: "r1".into(),
        lacks: "r2".into(),
        count: 1,
        part: "all_9_9_0".into(),
    }];
    let settled = settle(&agent.attempt(1), &set(path, false)).await.unwrap();
    assert_eq!(settled.done, Done::Settled(reasons.clone()));
    let finished = record(&agent.attempt(2), &set(path, false)).await.unwrap();
    let done = Done::Recorded {
        digest: None,
        unsettled: reasons,
        order: vec![],
        one_by_one: false,
        export: None,
    };
    assert_eq!((finished.done, finished.document), (done, None));
    assert_eq!(names(&zookeeper, path).await, before);
    assert_eq!(agent.context.state.record(&agent.context.migration, 2).unwrap(), None);
}

#[tokio::test]
async fn a_set_that_a_server_has_attached_is_not_settled() {
    let (agent, path) = (Agent::start(), "/steps/active");
    let zookeeper = table(path).await;
    let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let node = format!("{path}/replicas/r2/is_active");
    zookeeper.create(&node, b"server", &ephemeral).await.unwrap();
    let before = names(&zookeeper, path).await;
    let finished = record(&agent.attempt(1), &set(path, false)).await.unwrap();
    let done = Done::Recorded {
        digest: None,
        unsettled: vec![Unsettled::Active { replica: "r2".into() }],
        order: vec![],
        one_by_one: false,
        export: None,
    };
    assert_eq!(finished.done, done);
    assert_eq!(names(&zookeeper, path).await, before);
}

#[tokio::test]
async fn a_record_that_cannot_be_saved_leaves_no_marker() {
    let (agent, path) = (Agent::start(), "/steps/unsaved");
    let zookeeper = table(path).await;
    let before = names(&zookeeper, path).await;
    // A file is where the folder of the migration has to be.
    std::fs::write(agent.folder.path().join("state/migrations/m"), "").unwrap();
    let failure = record(&agent.attempt(1), &set(path, false)).await.unwrap_err();
    assert_eq!((failure.problem.code, failure.retry), (Code::RecordFailed, false));
    assert_eq!(names(&zookeeper, path).await, before);
}

#[tokio::test]
async fn a_recorded_set_is_released() {
    let (agent, path) = (Agent::start(), "/steps/released");
    let zookeeper = table(path).await;
    let before = names(&zookeeper, path).await;
    recorded(&agent.attempt(1), path).await;
    assert_ne!(names(&zookeeper, path).await, before);
    for _ in 0..2 {
        release(&agent.attempt(2), &set(path, false)).await.unwrap();
        assert_eq!(names(&zookeeper, path).await, before);
    }
}

#[tokio::test]
async fn cleaning_goes_to_the_place_of_the_plan_and_the_witness_to_the_current_one() {
    let (agent, path) = (Agent::start(), "/steps/moved");
    let zookeeper = table(path).await;
    recorded(&agent.attempt(1), path).await;
    put(&zookeeper, "/new-root", b"").await;
    write_config(agent.folder.path(), server::port(), "/new-root");
    let order = Witness {
        ensemble: "default".into(),
        path: ZkPath::parse(path).unwrap(),
        node: "rekeeper-witness-m".into(),
        content: "c".into(),
        replicas: vec![],
    };
    clean(&agent.attempt(2), &set(path, true)).await.unwrap();
    assert!(zookeeper.check_stat(path).await.unwrap().is_none());
    for _ in 0..2 {
        witness(&agent.attempt(3), &order).await.unwrap();
    }
    let (content, _) = zookeeper.get_data("/new-root/rekeeper-witness-m").await.unwrap();
    assert_eq!(content, b"c");

    put(&zookeeper, &format!("/new-root{path}"), b"").await;
    let failure = witness(&agent.attempt(4), &order).await.unwrap_err();
    assert_eq!(failure.problem.code, Code::PathExists);
}

#[tokio::test]
async fn a_failure_says_whether_it_may_pass() {
    let agent = Agent::start();
    // A ZooKeeper that has just opened its port accepts no session yet; this waits until it does.
    drop(client().await);
    let mut unreachable = set("/steps/none", true);
    unreachable.place.nodes = vec!["127.0.0.1:1".into()];
    let failure = clean(&agent.attempt(1), &unreachable).await.unwrap_err();
    assert_eq!((failure.problem.code, failure.retry), (Code::ZookeeperAway, true));
    let absent = set("/steps/none", false);
    for failure in [
        settle(&agent.attempt(1), &absent).await.unwrap_err(),
        record(&agent.attempt(1), &absent).await.unwrap_err(),
    ] {
        let (code, text) = (failure.problem.code, failure.problem.message);
        assert_eq!((code, failure.retry), (Code::RecordFailed, false), "{text}");
    }
}
