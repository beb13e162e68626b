//! What is on record on the word of another host alone.

use rekeeper_agent::steps;
use rekeeper_shared::domain::document::{PartSetOfRecord, pack, unpack};
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Role;

use crate::rig::{Rig, witness};
use crate::{attach, attested, code, create, insert, restore, write_witness};

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_this_agent_has_not_attested_sets_nothing_aside() {
    let rig = Rig::start(1);
    let (name, state) = (TableName::new("d", "told"), rig.state(0));
    create(&rig, &name, "told").await;
    insert(&rig, &name, 0..3, 10).await;
    let table = rig.table(0, &name).await;
    steps::detach(&rig.context(&state, 0, 10), &table).await.unwrap();
    let record = rig.clean(&table, &["r1"]).await;
    write_witness(&rig, &witness(&table)).await;
    let mut forged: PartSetOfRecord = unpack(&record.bytes, None).unwrap();
    let gone = forged.snapshot.replicas[0].parts.remove(0);
    let forged = pack(&forged).unwrap();

    // With its note lost the agent cannot tell, and with it it can.
    let context = rig.context(&state, 0, 20);
    let refused = steps::attach(&context, &table, &witness(&table), &forged, None).await;
    let refused = refused.unwrap_err().problem;
    assert_eq!(refused.code, Code::PartsNotOnRecord, "{refused}");
    assert!(refused.message.contains(&gone.name), "{refused}");
    attested(&state, &table, &record);
    let refused = steps::attach(&context, &table, &witness(&table), &forged, None).await;
    assert_eq!(code(refused), Code::RecordDisputed);
    let manifest = attach(&rig, &state, 0, &table, &record, None).await;

    // Nor does it follow a forged one.
    let role = Role::Follower {
        record: forged,
        before: vec![manifest.clone()],
    };
    let refused = restore(&rig, &state, 0, 30, &table, &manifest, role).await;
    assert_eq!(code(refused), Code::RecordDisputed);
    let restored = restore(&rig, &state, 0, 31, &table, &manifest, Role::Reference).await;
    assert_eq!(restored.unwrap().active, 3);
}
