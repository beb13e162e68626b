//! A restore that is killed at any moment.

use std::time::Duration;

use rekeeper_agent::state::State;
use rekeeper_agent::steps;
use rekeeper_shared::domain::document::Packed;
use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::step::{Role, TableRef};

use crate::rig::{Rig, witness};
use crate::{attach, checksum, create, insert, restore, write_witness};

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
#[ignore = "takes half an hour: tests/run.sh --matrix"]
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
