//! What a killed restore left in `detached/`, or on the disk alone.

use rekeeper_agent::state::RestoreNote;
use rekeeper_shared::domain::account::RestoreAccount;
use rekeeper_shared::domain::document::{Manifest, pack, unpack};
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::step::Role;
use rekeeper_shared::people::report::{PartFate, fates, parts_and_folders};

use crate::rig::{Rig, migration};
use crate::{attached_without_metadata, checksum, create, insert, part_folder, restore};

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
    // An account that is not the one that was noted is made anew.
    let made = state.account(&migration(), &table).unwrap().unwrap();
    let other = pack(&["another"]).unwrap();
    state.write_account(&migration(), &table, &other).unwrap();
    let anew = restore(&rig, &state, 0, 32, &table, &manifest, Role::Reference).await;
    assert_eq!(anew.unwrap(), restored);
    assert_eq!(state.account(&migration(), &table).unwrap(), Some(made));
    let as_before = format!("SELECT count() FROM system.tables WHERE engine_full LIKE '%{window} = 7%'");
    assert_eq!(rig.number(0, &as_before).await, 1);
    let merges = "SELECT count() FROM system.tables WHERE engine_full LIKE '%max_replicated_merges_in_queue%'";
    assert_eq!(rig.number(0, merges).await, 0);
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
