//! Detach beside other statements, and what depends on the table.

use rekeeper_agent::clickhouse::{Class, Statement};
use rekeeper_agent::steps;
use rekeeper_shared::domain::ids::TableName;

use crate::rig::Rig;
use crate::{create, insert};

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
