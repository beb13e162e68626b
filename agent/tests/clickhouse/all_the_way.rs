//! Two replicas, from SYNC to their account.

use std::time::Duration;

use rekeeper_agent::steps::{self, Hooks};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Restored, Role};

use crate::rig::{Rig, witness};
use crate::{attach, checksum, code, create, insert, quoted, restore, write_witness};

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one way, told from its beginning to its end")]
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
    // Nor does a first one at a place that is not proved.
    let place = rig.zookeeper(0).await;
    place.remove_witness(&witness(&tables[0])).await.unwrap();
    let unproved = restore(&rig, &states[0], 0, 29, &tables[0], &manifests[0], Role::Reference).await;
    assert_eq!(code(unproved), Code::PlaceDiffers);
    assert!(place.path_absent(&tables[0].path).await.unwrap());
    write_witness(&rig, &witness(&tables[0])).await;
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
