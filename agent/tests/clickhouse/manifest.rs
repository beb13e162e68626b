//! A manifest that the agent or the coordinator has lost.

use rekeeper_agent::steps;
use rekeeper_shared::domain::document::{Manifest, Packed, pack, unpack};
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Role;

use crate::rig::{Rig, migration, witness};
use crate::{attach, code, create, insert, restore, write_witness};

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
