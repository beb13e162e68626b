//! What is read of a table's nodes.

use rekeeper_agent::rules::settle::judge;
use rekeeper_agent::zookeeper::ZkError;
use rekeeper_shared::domain::document::QueueOrder;
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::unsettled::Allowed;

use crate::support::table::{self, entry, make, put};
use crate::{activate, start};

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
    let range = "0_0_9_9".into();
    assert_eq!(r2.queue[0].order, QueueOrder::Drop { range });
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
