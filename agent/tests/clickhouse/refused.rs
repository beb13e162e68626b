//! What is not sure: a problem, and nothing is touched.

use rekeeper_agent::inspect::inspect;
use rekeeper_agent::steps;
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::inventory::ZookeeperFacts;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Role, TableRef};

use crate::rig::{Rig, witness};
use crate::{attached_without_metadata, code, create, insert, restore, write_witness};

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one host, and what it refuses one after another")]
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

    // Somebody restored it by hand before its manifest was written, and what is there is not the table of the plan.
    let record = rig.clean(&table, &["r1"]).await;
    write_witness(&rig, &witness(&table)).await;
    rig.sql(0, "ATTACH TABLE d.changed").await;
    rig.sql(0, "SYSTEM RESTORE REPLICA d.changed").await;
    let not_its_own = witness(&other);
    let late = steps::attach(&context, &table, &not_its_own, &record, None).await;
    assert_eq!(code(late), Code::PathExists);

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
