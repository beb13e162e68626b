//! Turns: who waited for one for long looks again before it burdens the server, since the table may be another by then.

use std::time::Duration;

use rekeeper_agent::clickhouse::ClickHouse;
use rekeeper_agent::steps;
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Failure, Role, TableRef};

use crate::rig::{Rig, witness};
use crate::{attach, code, create, write_witness};

/// Longer than a look is believed, and than the first look takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(4);

/// A handle with one turn of each kind.
fn with_one_turn(rig: &Rig) -> ClickHouse {
    ClickHouse::limited(&rig.access(0), 1, 1)
}

/// Another table takes the name of `d.t` while `step` waits for its turn: the step says so, and the other one is as it was.
async fn swapped_while_it_waits<T: std::fmt::Debug>(
    rig: &Rig,
    turn: impl Future,
    step: impl Future<Output = Result<T, Failure>>,
) {
    let held = turn.await;
    let swap = async {
        // By then it has looked.
        tokio::time::sleep(LONG).await;
        rig.sql(0, "EXCHANGE TABLES d.t AND d.other").await;
        drop(held);
    };
    let (outcome, ()) = tokio::join!(step, swap);
    assert_eq!(code(outcome), Code::TableChanged);
}

async fn two_tables(rig: &Rig) -> [TableRef; 2] {
    let names = [TableName::new("d", "t"), TableName::new("d", "other")];
    for name in &names {
        create(rig, name, &name.table).await;
        rig.sql(
            0,
            &format!("INSERT INTO {} (p, x) SELECT 0, number FROM numbers(10)", name.sql()),
        )
        .await;
    }
    [rig.table(0, &names[0]).await, rig.table(0, &names[1]).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_exchanged_while_a_detach_waited_is_not_detached() {
    let rig = Rig::start(1);
    let [table, _] = two_tables(&rig).await;
    let state = rig.state(0);
    let mut context = rig.context(&state, 0, 10);
    context.clickhouse = with_one_turn(&rig);
    let turn = context.clickhouse.table_turn();
    swapped_while_it_waits(&rig, turn, steps::detach(&context, &table)).await;
    assert_eq!(rig.number(0, "SELECT count() FROM d.t").await, 10);
    assert_eq!(rig.number(0, "SELECT count() FROM system.detached_tables").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_exchanged_while_a_restore_waited_is_not_restored() {
    let rig = Rig::start(1);
    let tables = two_tables(&rig).await;
    let state = rig.state(0);
    let mut manifests = Vec::new();
    for table in &tables {
        steps::detach(&rig.context(&state, 0, 10), table).await.unwrap();
        let record = rig.clean(table, &["r1"]).await;
        write_witness(&rig, &witness(table)).await;
        manifests.push(attach(&rig, &state, 0, table, &record, None).await);
    }
    let mut context = rig.context(&state, 0, 30);
    context.clickhouse = with_one_turn(&rig);
    let witness = witness(&tables[0]);
    let order = steps::Restore {
        table: &tables[0],
        role: &Role::Reference,
        manifest: &manifests[0],
        witness: &witness,
        merges_keep_rows: true,
        keep_order: false,
        replicas: &["r1".to_owned()],
    };
    let turn = context.clickhouse.restore_turn();
    swapped_while_it_waits(&rig, turn, steps::restore(&context, &order)).await;
    let sent = rig.statements(0);
    assert!(!sent.iter().any(|sql| sql.contains("RESTORE REPLICA")), "{sent:?}");
}
