//! The ZooKeeper module against a real ZooKeeper.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not see as tests"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rekeeper_agent::zookeeper::{
    Access, CleanError, Connections, Ensembles, Outcome, WitnessFound, ZkError, ZooKeeper,
};
use rekeeper_shared::document::QueueOrder;
use rekeeper_shared::ids::MigrationName;
use rekeeper_shared::place::{Place, ZkPath};
use rekeeper_shared::settle::{Allowed, judge};
use rekeeper_shared::step::{SetRef, Witness};
use support::proxy::{Fault, Proxy};
use support::server;
use support::table::{self, client, entry, make, put, put_all, tree};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

fn migration() -> MigrationName {
    "move-1".parse().unwrap()
}

fn place(port: u16) -> Place {
    Place {
        ensemble: "default".into(),
        nodes: vec![format!("127.0.0.1:{port}")],
        secure: false,
        chroot: String::new(),
    }
}

/// A session through a proxy, which the set's place then names as well.
async fn through(port: u16) -> ZooKeeper {
    ZooKeeper::connect(&place(port), &Access::default()).await.unwrap()
}

fn set(zookeeper: &ZooKeeper, path: &str, replicas: &[&str]) -> SetRef {
    SetRef {
        place: zookeeper.place().clone(),
        path: ZkPath::parse(path).unwrap(),
        replicas: replicas.iter().map(|r| (*r).to_owned()).collect(),
        allowed: Allowed::default(),
        recorded: true,
    }
}

async fn delete(zookeeper: &ZooKeeper, path: &str, attempt: u64) -> Result<u64, CleanError> {
    let set = set(zookeeper, path, &["r1", "r2"]);
    zookeeper.delete(&set, &migration(), attempt, &|_| {}).await
}

async fn fence(zookeeper: &ZooKeeper, path: &str, attempt: u64) -> Result<(), CleanError> {
    zookeeper
        .fence(&set(zookeeper, path, &["r1", "r2"]), &migration(), attempt)
        .await
}

async fn release(zookeeper: &ZooKeeper, path: &str, attempt: u64) -> Result<(), CleanError> {
    zookeeper
        .release(&set(zookeeper, path, &["r1", "r2"]), &migration(), attempt)
        .await
}

async fn exists(client: &Client, path: &str) -> bool {
    client.check_stat(path).await.unwrap().is_some()
}

async fn activate(client: &Client, path: &str, replica: &str) {
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let node = format!("{path}/replicas/{replica}/is_active");
    client.create(&node, b"UUID_'0'", &options).await.unwrap();
}

/// A direct client, a session of the module, and a table of two replicas that lies at `path`.
async fn start(path: &str) -> (Client, ZooKeeper) {
    let port = server::port();
    let direct = client(port).await;
    make(&direct, path, &["r1", "r2"], 3).await;
    (direct, through(port).await)
}

// Reading.

#[tokio::test]
async fn a_snapshot_says_what_the_nodes_say() {
    let path = "/read/t";
    let (direct, zookeeper) = start(path).await;
    let zk_path = ZkPath::parse(path).unwrap();
    let settled = zookeeper.snapshot(&zk_path).await.unwrap().unwrap();
    assert_eq!(judge(&settled, &["r1".into(), "r2".into()], Allowed::default()), []);
    assert_eq!((settled.log_end, settled.metadata.as_str()), (19, table::METADATA));
    assert!(settled.mutations[0].content.contains("UPDATE v"));

    let below = format!("{path}/replicas/r2");
    let merge = entry("merge\nall_0_0_0\nall_1_1_0\ninto\nall_0_1_1\ndeduplicate: 0\npart_type: Compact\n");
    put(&direct, &format!("{below}/queue/queue-0000000002"), merge.as_bytes()).await;
    put(
        &direct,
        &format!("{below}/queue/queue-0000000001"),
        entry("drop\n0_0_9_9\n").as_bytes(),
    )
    .await;
    // The format of before minimalistic part headers.
    put(&direct, &format!("{below}/parts/all_7_7_0"), b"").await;
    put(&direct, &format!("{below}/parts/all_7_7_0/columns"), b"c").await;
    put(&direct, &format!("{below}/parts/all_7_7_0/checksums"), b"s").await;
    direct.set_data(&format!("{below}/is_lost"), b"1", None).await.unwrap();
    direct
        .set_data(&format!("{below}/log_pointer"), b"", None)
        .await
        .unwrap();
    direct
        .set_data(&format!("{path}/lost_part_count"), b"2", None)
        .await
        .unwrap();
    put(
        &direct,
        &format!("{path}/replicas/r1/is_active"),
        b"a hold, and no server",
    )
    .await;
    activate(&direct, path, "r2").await;

    let found = zookeeper.snapshot(&zk_path).await.unwrap().unwrap();
    let (r1, r2) = (&found.replicas[0], &found.replicas[1]);
    assert_eq!((r1.active, r2.active, r1.lost, r2.lost), (false, true, false, true));
    assert_eq!((r1.log_pointer, r2.log_pointer), (Some(19), None));
    assert_eq!((r1.mutation_pointer.as_str(), r1.lost_part_count), ("0000000000", 2));
    assert_eq!(r2.queue[0].order, QueueOrder::Other { word: "drop".into() });
    assert!(matches!(&r2.queue[1].order, QueueOrder::Merge { new_part, sources }
        if new_part == "all_0_1_1" && sources.len() == 2));
    assert_eq!(r2.queue[1].content, merge);
    assert_eq!(r2.parts.len(), 4);
    assert_eq!(r1.parts[0], r2.parts[0]);
    assert_ne!(r2.parts[3].digest, r2.parts[2].digest);
    let old = r2.parts[3].digest.clone();
    direct
        .set_data(&format!("{below}/parts/all_7_7_0/checksums"), b"S", None)
        .await
        .unwrap();
    assert_ne!(
        zookeeper.snapshot(&zk_path).await.unwrap().unwrap().replicas[1].parts[3].digest,
        old
    );
}

#[tokio::test]
async fn what_is_no_table_is_not_read_as_one() {
    let (direct, zookeeper) = start("/noread/t").await;
    let path = |s| ZkPath::parse(s).unwrap();
    assert_eq!(zookeeper.snapshot(&path("/noread/other")).await.unwrap(), None);
    assert!(matches!(
        zookeeper.snapshot(&path("/noread")).await,
        Err(ZkError::NotATable { .. })
    ));
    direct
        .set_data("/noread/t/replicas/r1/log_pointer", b"many", None)
        .await
        .unwrap();
    assert!(matches!(
        zookeeper.snapshot(&path("/noread/t")).await,
        Err(ZkError::Unreadable { .. })
    ));
}

#[tokio::test]
async fn facts_of_many_paths_come_in_their_order() {
    let (direct, zookeeper) = start("/facts/a").await;
    make(&direct, "/facts/b", &["r1"], 0).await;
    direct
        .set_data("/facts/a/replicas/r2/columns", b"other", None)
        .await
        .unwrap();
    activate(&direct, "/facts/b", "r1").await;
    put(&direct, "/facts/a/replicas/r1/is_active", b"a hold").await;
    let paths = ["/facts/b", "/facts/none", "/facts", "/facts/a"].map(|p| ZkPath::parse(p).unwrap());
    let found = zookeeper.facts_of_paths(&paths).await;
    let b = found[0].as_ref().unwrap().as_ref().unwrap();
    assert!(b.replicas[0].active);
    assert_eq!(b.replicas[0].definition, b.definition);
    assert!(found[1].as_ref().unwrap().is_none());
    assert!(matches!(found[2], Err(ZkError::NotATable { .. })));
    let a = found[3].as_ref().unwrap().as_ref().unwrap();
    assert_eq!(
        (a.replicas[0].active, &a.replicas[0].definition),
        (false, &a.definition)
    );
    assert_ne!(a.replicas[1].definition, a.definition);
    let stat = direct.check_stat("/facts/a").await.unwrap().unwrap();
    assert_eq!((a.czxid, a.ctime), (stat.czxid, stat.ctime));
}

#[tokio::test]
async fn a_restore_is_finished_when_nothing_is_missing() {
    let path = "/restored/t";
    let (direct, zookeeper) = start(path).await;
    let zk_path = ZkPath::parse(path).unwrap();
    let both = ["r1".to_owned(), "r2".to_owned(), "r3".to_owned()];
    let merge = entry("merge\na_0_0_0\ninto\na_0_0_1\n");
    let queue = format!("{path}/replicas/r1/queue/queue-");
    put(&direct, &format!("{queue}0000000001"), merge.as_bytes()).await;
    put(
        &direct,
        &format!("{queue}0000000002"),
        entry("mutate\na_0_0_0\nto\na_0_0_0_4\n").as_bytes(),
    )
    .await;
    activate(&direct, path, "r1").await;
    let state = zookeeper.restored_state(&zk_path).await.unwrap().unwrap();
    assert_eq!(state.missing(&both[..1]), Vec::<String>::new());
    assert_eq!(state.missing(&both).len(), 2, "{:?}", state.missing(&both));
    put(
        &direct,
        &format!("{queue}0000000003"),
        entry("get\na_1_1_0\n").as_bytes(),
    )
    .await;
    put(&direct, &format!("{path}/log/log-0000000019"), b"").await;
    let state = zookeeper.restored_state(&zk_path).await.unwrap().unwrap();
    assert_eq!(state.missing(&both[..1]).len(), 2, "{:?}", state.missing(&both[..1]));
    let nowhere = ZkPath::parse("/restored/none").unwrap();
    assert_eq!(zookeeper.restored_state(&nowhere).await.unwrap(), None);
}

// Places.

#[tokio::test]
async fn a_root_that_is_missing_is_said_and_one_that_is_there_is_entered() {
    let (direct, _) = start("/chroot/deep/t").await;
    let config = |root: &str| {
        format!(
            "<clickhouse><zookeeper><node><host>127.0.0.1</host><port>{}</port></node><root>{root}</root></zookeeper>\
             </clickhouse>",
            server::port()
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.xml");
    std::fs::write(&file, config("/chroot/deep")).unwrap();
    let ensembles = Ensembles::read(&file).unwrap();
    let there = ensembles.place("default").unwrap();
    let zookeeper = ZooKeeper::connect(&there, &ensembles.access(&there)).await.unwrap();
    fence(&zookeeper, "/t", 1).await.unwrap();
    delete(&zookeeper, "/t", 2).await.unwrap();
    assert!(!exists(&direct, "/chroot/deep/t").await && exists(&direct, "/chroot/deep").await);

    std::fs::write(&file, config("/chroot/nowhere")).unwrap();
    let nowhere = Ensembles::read(&file).unwrap().place("default").unwrap();
    let error = ZooKeeper::connect(&nowhere, &Access::default()).await.unwrap_err();
    assert!(matches!(error, ZkError::NoChroot { .. }));
    assert!(error.to_string().contains("the root /chroot/nowhere of"));
    assert!(Ensembles::read(Path::new("/no/such/config.xml")).is_err());
}

#[tokio::test]
async fn an_ensemble_that_does_not_answer_or_wants_tls_is_said_soon() {
    let mut nowhere = place(1);
    let begun = Instant::now();
    let error = ZooKeeper::connect(&nowhere, &Access::default()).await.unwrap_err();
    assert!(error.may_pass() && error.outcome() == Outcome::NotApplied, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(11));
    nowhere.secure = true;
    let error = ZooKeeper::connect(&nowhere, &Access::default()).await.unwrap_err();
    assert!(matches!(error, ZkError::TlsUnsupported { .. }));
}

#[tokio::test]
async fn a_session_is_shared_until_it_ends_and_nothing_is_sent_while_it_is_cut() {
    let (_, _) = start("/pool/t").await;
    let proxy = Proxy::start(server::port(), Fault::CrashBefore(1)).await;
    let access = Access {
        session_timeout: Duration::from_secs(1),
        ..Access::default()
    };
    let connections = Connections::new();
    let place = place(proxy.port);
    let first = connections.get(&place, &access).await.unwrap();
    let path = ZkPath::parse("/pool/t").unwrap();
    assert!(!first.path_absent(&path).await.unwrap());
    let error = fence(&first, "/pool/t", 1).await.unwrap_err();
    let CleanError::ZooKeeper(error) = error else {
        panic!("{error}")
    };
    assert!(error.may_pass(), "{error}");
    assert!(first.path_absent(&path).await.is_err());
    assert!(first.is_ended());
    // The proxy accepts nobody any more: the pool tries anew instead of handing out the dead session.
    assert!(matches!(
        connections.get(&place, &access).await,
        Err(ZkError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn a_witness_proves_a_place() {
    let zookeeper = through(server::port()).await;
    let mut witness = Witness {
        ensemble: "default".into(),
        path: ZkPath::parse("/witness/t").unwrap(),
        node: "rekeeper-witness-move-1-0".into(),
        content: "nonce".into(),
    };
    assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Absent);
    for _ in 0..2 {
        zookeeper.write_witness(&witness).await.unwrap();
        assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Matches);
    }
    witness.content = "another".into();
    let found = zookeeper.read_witness(&witness).await.unwrap();
    assert_eq!(found, WitnessFound::Differs { found: "nonce".into() });
    zookeeper.write_witness(&witness).await.unwrap();
    assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Matches);
    for _ in 0..2 {
        zookeeper.remove_witness(&witness).await.unwrap();
        assert_eq!(zookeeper.read_witness(&witness).await.unwrap(), WitnessFound::Absent);
    }
    for node in ["clickhouse", "rekeeper-a/b"] {
        witness.node = node.into();
        assert!(zookeeper.write_witness(&witness).await.is_err(), "{node}");
    }
    assert!(zookeeper.path_absent(&witness.path).await.unwrap());
}

// The fence.

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

// Deleting.

/// A table with all that may be found in one: old part nodes, locks in partitions, leftovers, strange nodes.
async fn make_rich(direct: &Client, path: &str) {
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
            "/strange",
            "/strange/a",
            "/strange/a/b",
            "/strange/a/b/c",
            "/strange/ü ß",
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
    fence(&zookeeper, "/all/t", 4).await.unwrap();
    let nodes = tree(&direct, "/all/t").await.len() as u64;
    let others = tree(&direct, "/all/t2").await;
    let told = Mutex::new(Vec::new());
    let set = set(&zookeeper, "/all/t", &["r1", "r2"]);
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
async fn twenty_thousand_nodes_go_in_seconds() {
    let path = "/many/t";
    let (direct, zookeeper) = start(path).await;
    let nodes = (10..10_010)
        .flat_map(|n| ["r1", "r2"].map(|r| (format!("{path}/replicas/{r}/parts/all_{n}_{n}_0"), table::PART.to_vec())));
    put_all(&direct, nodes.collect()).await;
    fence(&zookeeper, path, 1).await.unwrap();
    let begun = Instant::now();
    let snapshot = zookeeper
        .snapshot(&ZkPath::parse(path).unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(snapshot.replicas[1].parts.len(), 10_003);
    let read = begun.elapsed();
    assert!(delete(&zookeeper, path, 2).await.unwrap() > 20_000);
    println!("read in {read:?}, deleted in {:?}", begun.elapsed() - read);
    assert!(begun.elapsed() < Duration::from_secs(20));
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
    let (direct, zookeeper) = (client(port).await, through(port).await);
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
        delete(&zookeeper, &path, 3).await.unwrap();
        assert!(!exists(&direct, &path).await);
    }
}

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
    let direct = client(port).await;
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
    let port = server::port();
    let direct = client(port).await;
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
    let direct = client(port).await;
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
    let direct = client(port).await;
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
