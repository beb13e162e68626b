//! When a set is settled, and what keeps it from being so.

use super::*;
use crate::rules::snapshots::{self, entry};

const LOG_END: i64 = 4;

/// A replica that has taken the whole log.
fn replica(name: &str, parts: &[(&str, &str)]) -> ReplicaSnapshot {
    ReplicaSnapshot {
        log_pointer: Some(LOG_END),
        ..snapshots::replica(name, parts)
    }
}

fn set(replicas: Vec<ReplicaSnapshot>) -> SetSnapshot {
    snapshots::set(replicas, LOG_END)
}

fn judged(replicas: Vec<ReplicaSnapshot>) -> Vec<Unsettled> {
    judge(&set(replicas), &["r1".into(), "r2".into()], Allowed::default())
}

#[test]
fn equal_replicas_are_settled() {
    assert_eq!(
        judged(vec![
            replica("r1", &[("all_0_0_0", "a")]),
            replica("r2", &[("all_0_0_0", "a")])
        ]),
        []
    );
}

#[test]
fn each_guard_sees_its_own_fault() {
    let good = || replica("r1", &[("all_0_0_0", "a")]);
    type Fault = fn(&mut ReplicaSnapshot);
    let faults: [(&str, Fault); 12] = [
        ("patch_parts", |r| {
            r.parts.push(PartNode {
                name: "patch-0f3c-all_1_1_0".into(),
                digest: "p".into(),
                hash: None,
            })
        }),
        ("active", |r| r.active = true),
        ("lost", |r| r.lost = true),
        ("queue", |r| {
            r.queue.push(entry(QueueOrder::Bring {
                part: "all_5_5_0".into(),
            }))
        }),
        ("log", |r| r.log_pointer = Some(LOG_END - 1)),
        ("log", |r| r.log_pointer = None),
        ("definition", |r| r.metadata = "other".into()),
        ("definition", |r| r.columns = "other".into()),
        ("lost_parts", |r| r.lost_part_count = 1),
        ("parts", |r| r.parts.clear()),
        ("content", |r| r.parts[0].digest = "b".into()),
        ("replicas", |r| r.name = "r3".into()),
    ];
    for (reason, fault) in faults {
        let mut bad = replica("r2", &[("all_0_0_0", "a")]);
        fault(&mut bad);
        let found = judged(vec![good(), bad]);
        let reasons: Vec<String> = found
            .iter()
            .map(|u| serde_json::to_value(u).unwrap()["reason"].as_str().unwrap().into())
            .collect();
        // A part of one replica alone is a difference of the parts as well.
        assert_eq!(reasons[0], reason);
        assert_eq!(reasons.len(), if reason == "patch_parts" { 2 } else { 1 });
    }
}

#[test]
fn a_merge_that_one_replica_has_not_run_is_no_difference() {
    let merged = replica("r1", &[("all_0_1_1", "ab"), ("all_2_2_0", "c")]);
    let mut waiting = replica("r2", &[("all_0_0_0", "a"), ("all_1_1_0", "b"), ("all_2_2_0", "c")]);
    waiting.queue.push(entry(QueueOrder::Merge {
        new_part: "all_0_1_1".into(),
        sources: vec!["all_0_0_0".into(), "all_1_1_0".into()],
    }));
    assert_eq!(judged(vec![merged.clone(), waiting.clone()]), []);
    // A merge whose source is missing explains nothing.
    waiting.parts.remove(1);
    assert!(!judged(vec![merged, waiting]).is_empty());
}

#[test]
fn a_mutation_that_may_be_forgotten_is_no_difference() {
    let mutated = replica("r1", &[("all_0_0_0_7", "a7"), ("all_1_1_0", "b")]);
    let mut waiting = replica("r2", &[("all_0_0_0", "a"), ("all_1_1_0", "b")]);
    waiting.queue.push(entry(QueueOrder::Mutate {
        new_part: "all_0_0_0_7".into(),
        source: "all_0_0_0".into(),
    }));
    assert!(!judged(vec![mutated.clone(), waiting.clone()]).is_empty());
    let allowed = Allowed {
        mutations: true,
        ..Allowed::default()
    };
    let both = set(vec![mutated, waiting]);
    assert_eq!(judge(&both, &["r1".into(), "r2".into()], allowed), []);
}

#[test]
fn outdated_parts_that_only_one_replica_still_has_are_no_difference() {
    let cleaned = replica("r1", &[("all_0_1_1", "ab"), ("all_2_2_0_5", "c5"), ("all_3_3_0", "d")]);
    let mut slower = replica(
        "r2",
        &[
            ("all_0_0_0", "a"),
            ("all_0_1_1", "ab"),
            ("all_1_1_0", "b"),
            ("all_2_2_0", "c"),
            ("all_2_2_0_5", "c5"),
            ("all_3_3_0", "d"),
        ],
    );
    assert_eq!(judged(vec![cleaned.clone(), slower.clone()]), []);
    // A part beyond the range is not covered.
    slower.parts.push(PartNode {
        name: "all_4_4_0".into(),
        digest: "e".into(),
        hash: None,
    });
    assert_eq!(judged(vec![cleaned, slower]).len(), 1);
}
