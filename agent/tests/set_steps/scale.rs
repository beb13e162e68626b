//! A table with very many nodes, and a list of more than one packet of ZooKeeper's own clients.

use std::time::{Duration, Instant};

use rekeeper_agent::steps::set::{clean, record};
use rekeeper_shared::domain::step::Done;

use super::support::table::{PART, put_all};
use super::{Agent, set, table};

/// ZooKeeper's `jute.maxbuffer`: what its server takes in one request, and its own clients in one answer.
const PACKET: usize = 1024 * 1024;

#[tokio::test]
async fn a_hundred_thousand_nodes_and_a_list_of_more_than_a_packet() {
    let (agent, path) = (Agent::start(), "/scale/t");
    let zookeeper = table(path).await;
    let part = |n: u32| format!("202601-a-long-partition-of-many-inserts_{n}_{n}_0");
    let names: usize = (100_000..130_000).map(|n| part(n).len() + 4).sum();
    assert!(names > PACKET, "{names}");
    let parts = (100_000..130_000)
        .flat_map(|n| ["r1", "r2"].map(|r| (format!("{path}/replicas/{r}/parts/{}", part(n)), PART.to_vec())));
    let blocks = (0..40_000).map(|n| (format!("{path}/blocks/202601_{n:020}"), n.to_string().into_bytes()));
    put_all(&zookeeper, parts.chain(blocks).collect()).await;

    let begun = Instant::now();
    let recorded = record(&agent.attempt(1), &set(path, false)).await.unwrap();
    let Done::Recorded {
        export: Some(export), ..
    } = recorded.done
    else {
        panic!("{:?}", recorded.done)
    };
    let read = begun.elapsed();
    let cleaned = clean(&agent.attempt(2), &set(path, true)).await.unwrap();
    let deleted = begun.elapsed() - read;
    println!("recorded and exported in {read:?}, deleted in {deleted:?}; {export:?}");
    assert!(export.nodes > 100_000);
    // An answer that was lost is not counted, and a machine that does much else may lose some.
    assert!(
        matches!(cleaned.done, Done::Cleaned { znodes, .. } if znodes > 90_000 && znodes < export.nodes),
        "{cleaned:?}"
    );
    assert!(zookeeper.check_stat(path).await.unwrap().is_none());
    assert!(read < Duration::from_secs(240) && deleted < Duration::from_secs(120));
}
