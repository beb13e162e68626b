//! What is told of drops by a table's log, and of the reference by its nodes.

use rekeeper_shared::domain::place::ZkPath;

use crate::start;
use crate::support::table::{entry, put};

#[tokio::test]
async fn drops_are_read_once_and_single_ones_are_no_evidence_where_parts_were_lost() {
    let path = "/dropped/t";
    let (direct, zookeeper) = start(path).await;
    let zk_path = ZkPath::parse(path).unwrap();
    let (_, end) = zookeeper.dropped_since(&zk_path, 0).await.unwrap();
    let range = "all_0_3_999999999_2147483647";
    let put_entries = async |from: i64| {
        for (number, text) in (from..).zip([format!("drop\n{range}\n"), "detach\nall_5_5_0\n".into()]) {
            put(
                &direct,
                &format!("{path}/log/log-{number:010}"),
                entry(&text).as_bytes(),
            )
            .await;
        }
    };
    put_entries(end).await;
    let (found, next) = zookeeper.dropped_since(&zk_path, end).await.unwrap();
    let found: Vec<(&str, bool)> = found.iter().map(|d| (d.range.as_str(), d.detached)).collect();
    assert_eq!(found, [(range, false), ("all_5_5_0", true)]);
    assert_eq!(next, end + 2);
    assert_eq!(zookeeper.dropped_since(&zk_path, next).await.unwrap(), (vec![], next));

    // ClickHouse drops the empty part that it puts in the place of one that it gave up.
    let lost = format!("{path}/lost_part_count");
    direct.set_data(&lost, b"1", None).await.unwrap();
    put_entries(next).await;
    let (found, _) = zookeeper.dropped_since(&zk_path, next).await.unwrap();
    let found: Vec<&str> = found.iter().map(|d| d.range.as_str()).collect();
    assert_eq!(found, [range]);
}

#[tokio::test]
async fn the_reference_tells_what_it_has_and_whether_it_is_the_same() {
    let path = "/reference/t";
    let (direct, zookeeper) = start(path).await;
    let zk_path = ZkPath::parse(path).unwrap();
    assert_eq!(zookeeper.reference_now(&zk_path, "nobody").await.unwrap(), None);
    let replica = format!("{path}/replicas/r1");
    let creator = format!("{replica}/creator_info");
    direct.set_data(&creator, b"1-2-3|0-0-0", None).await.unwrap();
    for part in ["x_0_0_0", "x_0_1_1", "x_1_1_0"] {
        put(&direct, &format!("{replica}/parts/{part}"), b"").await;
    }
    let now = zookeeper.reference_now(&zk_path, "r1").await.unwrap().unwrap();
    assert_eq!(
        (now.created_by.as_str(), now.waits, now.lost_parts),
        ("1-2-3", false, false)
    );
    assert!(now.parts.contains(&"x_0_1_1".to_owned()) && !now.parts.contains(&"x_1_1_0".to_owned()));
    // A part that was found broken is fetched again.
    let get = entry("get\nx_2_2_0\n");
    put(&direct, &format!("{replica}/queue/queue-0000000099"), get.as_bytes()).await;
    direct
        .set_data(&format!("{path}/lost_part_count"), b"1", None)
        .await
        .unwrap();
    let now = zookeeper.reference_now(&zk_path, "r1").await.unwrap().unwrap();
    assert!(now.waits && now.lost_parts, "{now:?}");
}
