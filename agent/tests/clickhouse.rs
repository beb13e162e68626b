//! The steps against a real ClickHouse engine and a real ZooKeeper.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod rig;

use std::path::PathBuf;
use std::time::Duration;

use rekeeper_agent::clickhouse::{Class, Statement};
use rekeeper_agent::inspect::inspect;
use rekeeper_agent::state::{RestoreNote, State};
use rekeeper_agent::steps::{self, Hooks, Restore};
use rekeeper_shared::document::{Manifest, Packed, pack, unpack};
use rekeeper_shared::ids::TableName;
use rekeeper_shared::inventory::ZookeeperFacts;
use rekeeper_shared::problem::Code;
use rekeeper_shared::report::{PartFate, RestoreAccount, fates, parts_and_folders};
use rekeeper_shared::step::{Done, Failure, Restored, Role, TableRef, Witness};

use rig::{Rig, migration, witness};

/// A name that has to be quoted, and the same in ZooKeeper's path.
fn quoted() -> TableName {
    TableName::new("d`1", "it's a `tab\\le")
}

async fn create(rig: &Rig, name: &TableName, path: &str) {
    for host in 0..rig.hosts.len() {
        rig.sql(
            host,
            &format!(
                "CREATE DATABASE IF NOT EXISTS {}",
                rekeeper_shared::ids::quote_identifier(&name.database)
            ),
        )
        .await;
        rig.sql(
            host,
            &format!(
                "CREATE TABLE {} (p UInt8, x UInt64, s String DEFAULT toString(x)) \
                 ENGINE = ReplicatedMergeTree('/tables/{{shard}}/{path}', '{{replica}}') PARTITION BY p ORDER BY x",
                name.sql()
            ),
        )
        .await;
    }
}

/// Parts in two partitions, `rows` rows each.
async fn insert(rig: &Rig, name: &TableName, parts: std::ops::Range<u64>, rows: u64) {
    for n in parts {
        let values = format!("SELECT {n} % 2, number + {n} * 1000 FROM numbers({rows})");
        rig.sql(0, &format!("INSERT INTO {} (p, x) {values}", name.sql())).await;
    }
}

/// A number that every change of the rows changes.
async fn checksum(rig: &Rig, host: usize, name: &TableName) -> u64 {
    rig.number(
        host,
        &format!("SELECT sum(cityHash64(p, x, s)) + count() FROM {}", name.sql()),
    )
    .await
}

async fn restore(
    rig: &Rig,
    state: &State,
    host: usize,
    attempt: u64,
    table: &TableRef,
    own: &Packed,
    role: Role,
) -> Result<Restored, Failure> {
    let order = Restore {
        table,
        role: &role,
        manifest: own,
        witness: &witness(table),
        merges_keep_rows: true,
        keep_order: false,
        replicas: &["r1".to_owned(), "r2".to_owned()],
    };
    match steps::restore(&rig.context(state, host, attempt), &order).await?.done {
        Done::Restored { counts, .. } => Ok(counts),
        other => panic!("{other:?}"),
    }
}

/// Attaches and answers the manifest; the record has no part that is not there.
async fn attach(
    rig: &Rig,
    state: &State,
    host: usize,
    table: &TableRef,
    record: &Packed,
    known: Option<&Packed>,
) -> Packed {
    let context = rig.context(state, host, 20);
    let finished = steps::attach(&context, table, &witness(table), record, known)
        .await
        .unwrap();
    assert!(matches!(&finished.done, Done::Attached { .. }), "{finished:?}");
    finished.document.unwrap()
}

async fn write_witness(rig: &Rig, witness: &Witness) {
    rig.zookeeper(0).await.write_witness(witness).await.unwrap();
}

fn code(outcome: Result<impl std::fmt::Debug, Failure>) -> Code {
    outcome.unwrap_err().problem.code
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_go_all_the_way_and_every_step_may_be_repeated() {
    let rig = Rig::start(2);
    let (name, states) = (quoted(), [rig.state(0), rig.state(1)]);
    create(&rig, &name, "all the way").await;
    insert(&rig, &name, 0..6, 10).await;
    rig.sql(0, &format!("OPTIMIZE TABLE {} PARTITION 0", name.sql())).await;
    rig.sql(1, &format!("SYSTEM SYNC REPLICA {}", name.sql())).await;
    let before = checksum(&rig, 0, &name).await;
    assert_eq!(checksum(&rig, 1, &name).await, before);
    let tables = [rig.table(0, &name).await, rig.table(1, &name).await];

    for host in [0, 1] {
        let context = rig.context(&states[host], host, 10);
        for _ in 0..2 {
            steps::sync(&context, &tables[host]).await.unwrap();
        }
        // A plain DETACH does not outlive a restart: the step makes it permanent.
        rig.sql(host, &format!("DETACH TABLE {}", name.sql())).await;
        for _ in 0..2 {
            steps::detach(&context, &tables[host]).await.unwrap();
        }
        let permanently = "SELECT count() FROM system.detached_tables WHERE is_permanently";
        assert_eq!(rig.number(host, permanently).await, 1);
    }
    for _ in 0..2 {
        steps::reattach(&rig.context(&states[0], 0, 11), &tables[0])
            .await
            .unwrap();
    }
    assert_eq!(checksum(&rig, 0, &name).await, before);
    steps::detach(&rig.context(&states[0], 0, 12), &tables[0])
        .await
        .unwrap();

    let record = rig.clean(&tables[0], &["r1", "r2"]).await;
    let hook = rig.states.path().join("hook-ran");
    let hooks = Hooks {
        before_restart: vec![vec![
            "/bin/sh".into(),
            "-c".into(),
            format!(
                "echo $REKEEPER_MIGRATION $REKEEPER_HOST $REKEEPER_ATTEMPT >> {}",
                hook.display()
            ),
        ]],
        timeout: Duration::from_secs(5),
    };
    let context = rig.context(&states[0], 0, 13);
    let first = steps::restart(&context, &rig.restart_command(0), &hooks).await.unwrap();
    let again = steps::restart(&context, &rig.restart_command(0), &hooks).await.unwrap();
    assert!(matches!(first.done, Done::Restarted { .. }), "{again:?}");
    assert_eq!(std::fs::read_to_string(&hook).unwrap(), "move ch-01-1 13\n");

    // Without the witness nothing is attached.
    let early = steps::attach(
        &rig.context(&states[0], 0, 19),
        &tables[0],
        &witness(&tables[0]),
        &record,
        None,
    )
    .await;
    assert_eq!(code(early), Code::PlaceDiffers);
    write_witness(&rig, &witness(&tables[0])).await;
    let mut manifests = Vec::new();
    for host in [0, 1] {
        let manifest = attach(&rig, &states[host], host, &tables[host], &record, None).await;
        let same = attach(&rig, &states[host], host, &tables[host], &record, Some(&manifest)).await;
        assert_eq!(same, manifest);
        manifests.push(manifest);
    }

    let all = Restored {
        active: 4,
        ..Restored::default()
    };
    // A follower never goes first.
    let follower = Role::Follower {
        record: record.clone(),
        before: vec![manifests[0].clone()],
    };
    let early = restore(&rig, &states[1], 1, 29, &tables[1], &manifests[1], follower.clone()).await;
    assert_eq!(code(early), Code::PlaceDiffers);
    // The answer to RESTORE is lost.
    rig.faults(
        0,
        r#"[{"id": "1", "pattern": "RESTORE REPLICA", "drop": true, "after": true, "times": 1}]"#,
    );
    for attempt in [30, 31] {
        let restored = restore(&rig, &states[0], 0, attempt, &tables[0], &manifests[0], Role::Reference).await;
        assert_eq!(restored.unwrap(), all);
    }
    for attempt in [32, 33] {
        let restored = restore(
            &rig,
            &states[1],
            1,
            attempt,
            &tables[1],
            &manifests[1],
            follower.clone(),
        )
        .await;
        assert_eq!(restored.unwrap(), all);
    }
    for host in [0, 1, 0] {
        steps::finish(&rig.context(&states[host], host, 40), &tables[host])
            .await
            .unwrap();
        assert_eq!(checksum(&rig, host, &name).await, before);
    }
    let restores = rig
        .statements(0)
        .into_iter()
        .filter(|sql| sql.starts_with("SYSTEM RESTORE"))
        .count();
    assert_eq!(restores, 1);
    // It replicates.
    insert(&rig, &name, 6..7, 10).await;
    rig.sql(1, &format!("SYSTEM SYNC REPLICA {} LIGHTWEIGHT", name.sql()))
        .await;
    assert_eq!(checksum(&rig, 0, &name).await, checksum(&rig, 1, &name).await);
}

/// A table that is detached, cleaned and attached again, and its manifest.
async fn attached_without_metadata(rig: &Rig, state: &State, name: &TableName) -> (TableRef, Packed) {
    let table = rig.table(0, name).await;
    steps::detach(&rig.context(state, 0, 10), &table).await.unwrap();
    let record = rig.clean(&table, &["r1"]).await;
    write_witness(rig, &witness(&table)).await;
    let manifest = attach(rig, state, 0, &table, &record, None).await;
    (table, manifest)
}

/// A manifest of which the coordinator was never told, so that nothing was restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_nobody_knows_of_has_to_be_that_of_the_disk() {
    let rig = Rig::start(1);
    let (name, state) = (TableName::new("d", "unknown"), rig.state(0));
    create(&rig, &name, "unknown").await;
    insert(&rig, &name, 0..3, 10).await;
    let table = rig.table(0, &name).await;
    steps::detach(&rig.context(&state, 0, 10), &table).await.unwrap();
    let record = rig.clean(&table, &["r1"]).await;
    write_witness(&rig, &witness(&table)).await;
    let manifest = attach(&rig, &state, 0, &table, &record, None).await;
    let (context, file) = (rig.context(&state, 0, 21), state.manifest_file(&migration(), &table));

    // Altered, and still a manifest of this table.
    let whole: Manifest = unpack(&manifest.bytes, None).unwrap();
    let mut other = whole.clone();
    other.parts[1].rows += 1;
    state
        .replace_manifest(&other.migration, &table, &pack(&other).unwrap())
        .unwrap();
    let refused = steps::attach(&context, &table, &witness(&table), &record, None)
        .await
        .unwrap_err();
    assert_eq!(refused.problem.code, Code::ManifestLost);
    assert!(
        refused.problem.message.contains(&whole.parts[1].name),
        "{}",
        refused.problem
    );
    let remedy = format!("mv '{0}' '{0}.old'", file.display());
    assert!(refused.problem.fix.contains(&remedy), "{}", refused.problem.fix);
    std::fs::rename(&file, file.with_extension("manifest.old")).unwrap();
    assert_eq!(attach(&rig, &state, 0, &table, &record, None).await, manifest);

    // Damaged: kept for people, and made anew.
    std::fs::write(&file, &manifest.bytes[..manifest.bytes.len() / 2]).unwrap();
    assert_eq!(attach(&rig, &state, 0, &table, &record, None).await, manifest);
    assert!(file.with_extension("manifest.damaged").exists());

    // On record at the coordinator: the agent's own one does not matter, and one that both have lost is not made anew.
    std::fs::remove_file(&file).unwrap();
    let nobodys = Packed {
        bytes: Vec::new(),
        ..manifest.clone()
    };
    let lost = steps::attach(&context, &table, &witness(&table), &record, Some(&nobodys)).await;
    assert_eq!(code(lost), Code::ManifestLost);
    assert!(!file.exists());
    let lost = restore(&rig, &state, 0, 22, &table, &nobodys, Role::Reference).await;
    assert_eq!(code(lost), Code::ManifestLost);
    let packed = pack(&other).unwrap();
    state.replace_manifest(&other.migration, &table, &packed).unwrap();
    restore(&rig, &state, 0, 23, &table, &manifest, Role::Reference)
        .await
        .unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), manifest.bytes);
    let count = rig.number(0, "SELECT count() FROM d.unknown").await;
    assert_eq!(count, 30);
}

async fn part_folder(rig: &Rig, name: &TableName, part: &str) -> PathBuf {
    let client = clickhouse::Client::default().with_url(&rig.hosts[0].url);
    let path: String = client
        .query_raw(
            "SELECT path FROM system.parts WHERE database = {d:String} AND table = {t:String} AND name = {p:String}",
        )
        .param("d", &name.database)
        .param("t", &name.table)
        .param("p", part)
        .fetch_one()
        .await
        .unwrap();
    path.trim_end_matches('/').into()
}

/// Killed while it moved parts to `detached/`: RESTORE restores the others and answers OK. One folder bears the name
/// that the server gives while it attaches, which ATTACH PART refuses.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_restore_left_is_attached_again_identical_parts_too() {
    let mut rig = Rig::start(1);
    let (name, state) = (TableName::new("d", "t"), rig.state(0));
    create(&rig, &name, "t").await;
    let window = "replicated_deduplication_window";
    rig.sql(0, &format!("ALTER TABLE d.t MODIFY SETTING {window} = 0"))
        .await;
    rig.sql(0, &format!("SYSTEM STOP MERGES {}", name.sql())).await;
    insert(&rig, &name, 0..3, 10).await;
    // Four identical parts, in a partition of their own.
    for _ in 0..4 {
        rig.sql(0, "INSERT INTO d.t (p, x) VALUES (9, 1)").await;
    }
    rig.sql(0, &format!("ALTER TABLE d.t MODIFY SETTING {window} = 7"))
        .await;
    let before = checksum(&rig, 0, &name).await;
    let (table, manifest) = attached_without_metadata(&rig, &state, &name).await;

    let mut folders = Vec::new();
    for part in ["9_1_1_0", "9_3_3_0", "0_1_1_0"] {
        folders.push(part_folder(&rig, &name, part).await);
    }
    rig.order(0, "stop");
    for (folder, prefix) in folders.iter().zip(["", "", "attaching_"]) {
        let part = folder.file_name().unwrap().to_str().unwrap();
        std::fs::rename(
            folder,
            folder.with_file_name("detached").join(format!("{prefix}{part}")),
        )
        .unwrap();
    }
    rig.order(0, "start");
    let note = RestoreNote {
        sent: true,
        ..RestoreNote::default()
    };
    state.write_restore_note(&migration(), &table, &note).unwrap();

    let restored = restore(&rig, &state, 0, 30, &table, &manifest, Role::Reference)
        .await
        .unwrap();
    assert_eq!(
        (restored.attached_again > 0, restored.active + restored.attached_again),
        (true, 7),
        "{restored:?}"
    );
    assert_eq!(checksum(&rig, 0, &name).await, before);
    // Every part of the manifest is on the account, and those that were attached one by one are told from the others.
    let account = state.account(&migration(), &table).unwrap().unwrap();
    let account: RestoreAccount = unpack(&account.bytes, None).unwrap();
    let (parts, _) = parts_and_folders(&unpack::<Manifest>(&manifest.bytes, None).unwrap(), Some(&account));
    let expected = [
        (PartFate::Active, restored.active),
        (PartFate::AttachedAgain, restored.attached_again),
    ];
    assert_eq!(
        fates(&parts),
        expected.into_iter().filter(|(_, number)| *number > 0).collect()
    );
    let again = restore(&rig, &state, 0, 31, &table, &manifest, Role::Reference).await;
    assert_eq!(again.unwrap(), restored);
    let as_before = format!("SELECT count() FROM system.tables WHERE engine_full LIKE '%{window} = 7%'");
    assert_eq!(rig.number(0, &as_before).await, 1);
    assert_eq!(state.restore_note(&migration(), &table).unwrap().settings, None);
}

/// Killed when its parts were on the disk and not in ZooKeeper: ClickHouse refuses to start the replica (231) when these
/// are most of its rows. They are set aside, and known again under the names that they have got meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_refused_for_its_unexpected_parts_is_mended() {
    let mut rig = Rig::start(1);
    let (name, state) = (TableName::new("d", "t"), rig.state(0));
    create(&rig, &name, "t").await;
    rig.sql(0, "SYSTEM STOP MERGES d.t").await;
    insert(&rig, &name, 0..5, 10).await;
    rig.sql(0, "ALTER TABLE d.t DROP PARTITION 0").await;
    insert(&rig, &name, 5..8, 10).await;
    let before = checksum(&rig, 0, &name).await;
    let (table, manifest) = attached_without_metadata(&rig, &state, &name).await;
    restore(&rig, &state, 0, 30, &table, &manifest, Role::Reference)
        .await
        .unwrap();

    rig.order(0, "stop");
    let place = rig.zookeeper(0).await.place().clone();
    let zookeeper = zookeeper_client::Client::connect(&place.nodes.join(",")).await.unwrap();
    let parts = format!("{}/replicas/r1/parts", table.path);
    for part in zookeeper.list_children(&parts).await.unwrap() {
        zookeeper.delete(&format!("{parts}/{part}"), None).await.unwrap();
    }
    rig.order(0, "start");
    let note = RestoreNote {
        sent: true,
        ..RestoreNote::default()
    };
    state.write_restore_note(&migration(), &table, &note).unwrap();
    let restored = restore(&rig, &state, 0, 31, &table, &manifest, Role::Reference)
        .await
        .unwrap();
    assert_eq!((restored.active, restored.attached_again), (0, 5), "{restored:?}");
    assert_eq!(checksum(&rig, 0, &name).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sure_is_refused() {
    let rig = Rig::start(1);
    let state = rig.state(0);

    // Dropped and made anew, or renamed: another table.
    let name = TableName::new("d", "changed");
    create(&rig, &name, "changed").await;
    insert(&rig, &name, 0..1, 10).await;
    let table = rig.table(0, &name).await;
    let other = TableRef {
        uuid: "11111111-2222-3333-4444-555555555555".into(),
        ..table.clone()
    };
    let elsewhere = TableRef {
        replica_name: "r2".into(),
        ..table.clone()
    };
    let context = rig.context(&state, 0, 10);
    for wrong in [&other, &elsewhere] {
        assert_eq!(code(steps::detach(&context, wrong).await), Code::TableChanged);
        assert_eq!(code(steps::finish(&context, wrong).await), Code::TableChanged);
    }
    rig.sql(0, "RENAME TABLE d.changed TO d.renamed").await;
    assert_eq!(code(steps::sync(&context, &table).await), Code::TableChanged);
    rig.sql(0, "RENAME TABLE d.renamed TO d.changed").await;
    steps::detach(&context, &table).await.unwrap();
    assert_eq!(code(steps::detach(&context, &other).await), Code::TableChanged);

    // Somebody restored it by hand before its manifest was written.
    let record = rig.clean(&table, &["r1"]).await;
    write_witness(&rig, &witness(&table)).await;
    rig.sql(0, "ATTACH TABLE d.changed").await;
    rig.sql(0, "SYSTEM RESTORE REPLICA d.changed").await;
    let late = steps::attach(&context, &table, &witness(&table), &record, None).await;
    assert_eq!(code(late), Code::AttachFailed);

    // A name in detached/ that the restore would stumble over, and a table that somebody made at the path.
    let name = TableName::new("d", "collides");
    create(&rig, &name, "collides").await;
    insert(&rig, &name, 0..1, 10).await;
    rig.sql(0, "ALTER TABLE d.collides DETACH PARTITION 0").await;
    insert(&rig, &name, 2..3, 10).await;
    let (table, manifest) = attached_without_metadata(&rig, &state, &name).await;
    let inventory = inspect(
        &context.host,
        &context.clickhouse,
        &rig.hosts[0].config,
        true,
        &rig.connections,
    )
    .await
    .unwrap();
    let found = inventory.tables.iter().find(|t| t.name == name).unwrap();
    assert_eq!(
        (found.collisions.as_slice(), &found.zookeeper),
        (["0_0_0_0".to_owned()].as_slice(), &ZookeeperFacts::Absent)
    );
    assert_eq!(
        (found.rows, found.readonly, found.database_engine.as_str()),
        (10, true, "Atomic")
    );
    let refused = restore(&rig, &state, 0, 30, &table, &manifest, Role::Reference).await;
    assert_eq!(code(refused), Code::DetachedCollision);
    rig.sql(
        0,
        "ALTER TABLE d.collides DROP DETACHED PART '0_0_0_0' SETTINGS allow_drop_detached = 1",
    )
    .await;
    let squatter = "ReplicatedMergeTree('/tables/01/collides', 'other') ORDER BY x";
    rig.sql(
        0,
        &format!("CREATE TABLE d.squatter (p UInt8, x UInt64, s String) ENGINE = {squatter}"),
    )
    .await;
    let refused = restore(&rig, &state, 0, 31, &table, &manifest, Role::Reference).await;
    assert_eq!(code(refused), Code::PathExists);
    // Not found out afterwards: as a follower of that it would have lost its rows.
    let sent = rig.statements(0);
    assert!(
        !sent
            .iter()
            .any(|sql| sql.starts_with("SYSTEM RESTORE REPLICA `d`.`collides`")),
        "{sent:?}"
    );
    rig.sql(0, "DROP TABLE d.squatter SYNC").await;

    // The manifest is lost, or another one.
    let other = Packed {
        digest: "00".into(),
        ..manifest.clone()
    };
    assert_eq!(
        code(restore(&rig, &state, 0, 32, &table, &other, Role::Reference).await),
        Code::ManifestLost
    );
    let restored = restore(&rig, &state, 0, 33, &table, &manifest, Role::Reference)
        .await
        .unwrap();
    assert_eq!(restored.active, 1);
}

/// A SYNC of a former agent ends when the table is detached under it. A dictionary that is loaded from the table does not forbid it.
#[tokio::test(flavor = "multi_thread")]
async fn statements_of_a_former_agent_and_dependents_do_not_forbid_a_detach() {
    let rig = Rig::start(2);
    let (name, state) = (TableName::new("d", "t"), rig.state(1));
    create(&rig, &name, "t").await;
    let table = rig.table(1, &name).await;
    rig.sql(1, "SYSTEM STOP FETCHES d.t").await;
    insert(&rig, &name, 0..1, 10).await;
    let former = rig.context(&state, 1, 10).clickhouse;
    let name_of_it = name.clone();
    let hanging = tokio::spawn(async move {
        let sync = Statement::SyncReplicaLightweight(&name_of_it);
        former.execute_with(sync, &[("receive_timeout", "100")]).await
    });
    let dictionary =
        "(x UInt64, s String) PRIMARY KEY x SOURCE(CLICKHOUSE(DB 'd' TABLE 't')) LAYOUT(FLAT()) LIFETIME(0)";
    rig.sql(1, &format!("CREATE DICTIONARY d.dictionary {dictionary}"))
        .await;
    let context = rig.context(&state, 1, 11);
    steps::detach(&context, &table).await.unwrap();
    let ended = hanging.await.unwrap().unwrap_err();
    // ABORTED: "Shutdown is called for table".
    assert_eq!((ended.code(), ended.class()), (Some(236), Class::Passing), "{ended}");
    steps::reattach(&context, &table).await.unwrap();
    let silent = |text| panic!("{text}");
    context.clickhouse.wait_out_former_agent(silent).await.unwrap();
}

/// Kills the host after a while, twice, in the middle of what the step does by then, and lets it go on until it is done.
async fn restore_killed(
    rig: &mut Rig,
    state: &State,
    host: usize,
    after: Duration,
    table: &TableRef,
    own: &Packed,
    role: &Role,
) {
    for attempt in 30..40 {
        let restoring = restore(rig, state, host, attempt, table, own, role.clone());
        let outcome = if attempt < 32 {
            let file = std::fs::read_to_string(rig.hosts[host].directory.join("host.json")).unwrap();
            let pid = serde_json::from_str::<serde_json::Value>(&file).unwrap()["pid"].to_string();
            let kill = async {
                tokio::time::sleep(after).await;
                let killed = std::process::Command::new("kill").args(["-KILL", &pid]).status();
                assert!(killed.unwrap().success());
            };
            let (outcome, ()) = tokio::join!(restoring, kill);
            rig.order(host, "start");
            outcome
        } else {
            restoring.await
        };
        println!("killed after {after:?}: {outcome:?}");
        match outcome {
            Ok(_) if attempt >= 32 => return,
            Ok(_) => {}
            Err(failure) if failure.retry => {}
            Err(failure) => {
                let clickhouse = rig.context(state, host, 99).clickhouse;
                let folders = clickhouse.detached_parts(&table.name).await.unwrap();
                let parts = clickhouse.active_parts(&table.name).await.unwrap();
                panic!("{failure:?}\nin detached/: {folders:?}\nactive: {parts:?}");
            }
        }
    }
    panic!("it never ends");
}

/// Killed in the middle of RESTORE, at ten different moments, the reference and then the follower.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_restore_that_is_killed_at_any_moment_loses_nothing() {
    let mut rig = Rig::start(2);
    let states = [rig.state(0), rig.state(1)];
    for round in 0..10_u64 {
        let name = TableName::new(format!("d{round}"), "t");
        create(&rig, &name, &format!("t{round}")).await;
        rig.sql(0, &format!("SYSTEM STOP MERGES {}", name.sql())).await;
        rig.sql(1, &format!("SYSTEM STOP MERGES {}", name.sql())).await;
        insert(&rig, &name, 0..100, 10).await;
        rig.sql(1, &format!("SYSTEM SYNC REPLICA {} LIGHTWEIGHT", name.sql()))
            .await;
        let before = checksum(&rig, 0, &name).await;
        let mut tables = Vec::new();
        for host in [0, 1] {
            tables.push(rig.table(host, &name).await);
            steps::detach(&rig.context(&states[host], host, 10), &tables[host])
                .await
                .unwrap();
        }
        let record = rig.clean(&tables[0], &["r1", "r2"]).await;
        write_witness(&rig, &witness(&tables[0])).await;
        let mut manifests = Vec::new();
        for host in [0, 1] {
            manifests.push(attach(&rig, &states[host], host, &tables[host], &record, None).await);
        }
        let after = Duration::from_millis(120 + 60 * round);
        restore_killed(
            &mut rig,
            &states[0],
            0,
            after,
            &tables[0],
            &manifests[0],
            &Role::Reference,
        )
        .await;
        assert_eq!(checksum(&rig, 0, &name).await, before);
        let follower = Role::Follower {
            record: record.clone(),
            before: vec![manifests[0].clone()],
        };
        restore_killed(&mut rig, &states[1], 1, after, &tables[1], &manifests[1], &follower).await;
        for host in [0, 1] {
            steps::finish(&rig.context(&states[host], host, 50), &tables[host])
                .await
                .unwrap();
            assert_eq!(checksum(&rig, host, &name).await, before);
        }
    }
}
