//! Snapshots and queue entries for tests.

use rekeeper_shared::domain::document::{PartNode, QueueEntry, QueueOrder, ReplicaSnapshot, SetSnapshot};
use rekeeper_shared::domain::place::{Place, ZkPath};

/// A replica with these parts (name and digest), which has taken nothing of the log.
pub(crate) fn replica(name: &str, parts: &[(&str, &str)]) -> ReplicaSnapshot {
    let part = |(name, digest): &(&str, &str)| PartNode {
        name: (*name).into(),
        digest: (*digest).into(),
        hash: None,
    };
    ReplicaSnapshot {
        name: name.into(),
        active: false,
        lost: false,
        metadata: "m".into(),
        columns: "c".into(),
        log_pointer: Some(0),
        mutation_pointer: String::new(),
        lost_part_count: 0,
        queue: vec![],
        parts: parts.iter().map(part).collect(),
    }
}

/// The set of these replicas, with a log of so many entries.
pub(crate) fn set(replicas: Vec<ReplicaSnapshot>, log_end: i64) -> SetSnapshot {
    SetSnapshot {
        place: Place {
            ensemble: "default".into(),
            nodes: vec![],
            secure: false,
            chroot: String::new(),
        },
        path: ZkPath::parse("/t").unwrap(),
        czxid: 1,
        metadata: "m".into(),
        columns: "c".into(),
        version: 0,
        log_end,
        mutations: vec![],
        replicas,
    }
}

/// A queue's entry.
pub(crate) fn entry(order: QueueOrder) -> QueueEntry {
    QueueEntry {
        name: "queue-0000000001".into(),
        order,
        content: String::new(),
    }
}
