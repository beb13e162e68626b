//! What is decided of sets whose replicas differ, case by case, and over random histories.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::rules::snapshots::{entry, replica, set};
use rekeeper_shared::domain::document::QueueOrder;

fn queued(mut replica: ReplicaSnapshot, orders: Vec<QueueOrder>) -> ReplicaSnapshot {
    replica.queue = orders.into_iter().map(entry).collect();
    replica
}

fn merge(new_part: &str, sources: &[&str]) -> QueueOrder {
    QueueOrder::Merge {
        new_part: new_part.into(),
        sources: sources.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn drop_all() -> QueueOrder {
    QueueOrder::Drop {
        range: "all_0_9_999999999_2147483647".into(),
    }
}

fn verdicts(union: &Union) -> Vec<(String, Verdict)> {
    union.shares.iter().flat_map(|share| share.parts.clone()).collect()
}

fn undecided(replicas: Vec<ReplicaSnapshot>) -> usize {
    decide(&set(replicas, 0), &[]).unwrap_err().len()
}

#[test]
fn the_replica_that_has_more_goes_first_and_nothing_has_to_be_brought() {
    let less = replica("r1", &[("all_0_0_0", "a")]);
    let more = replica("r2", &[("all_0_0_0", "a"), ("all_1_1_0", "b")]);
    let union = decide(&set(vec![less, more], 0), &[]).unwrap();
    assert_eq!(union.order, ["r2", "r1"]);
    assert!(verdicts(&union).is_empty() && !union.brings());
}

#[test]
fn what_only_one_has_is_brought_once() {
    let shared = ("all_0_0_0", "a");
    let r1 = replica("r1", &[shared, ("all_1_1_0", "b"), ("all_4_4_0", "e")]);
    let r2 = replica("r2", &[shared, ("all_2_2_0", "c")]);
    let r3 = replica("r3", &[shared, ("all_2_2_0", "c"), ("all_3_3_0", "d")]);
    let union = decide(&set(vec![r1, r2, r3], 0), &[]).unwrap();
    let brought: Vec<String> = verdicts(&union).into_iter().map(|(name, _)| name).collect();
    // r3 finds all_2_2_0 there when r2 has brought it.
    assert_eq!(union.order, ["r1", "r2", "r3"]);
    assert_eq!(brought, ["all_2_2_0", "all_3_3_0"]);
    assert!(union.brings());
}

#[test]
fn a_merge_that_one_has_not_run_covers_in_both_directions() {
    let order = || merge("all_0_1_1", &["all_0_0_0", "all_1_1_0"]);
    let merged = || replica("r1", &[("all_0_1_1", "ab"), ("all_2_2_0", "c"), ("all_3_3_0", "d")]);
    let waiting = || {
        queued(
            replica("r2", &[("all_0_0_0", "a"), ("all_1_1_0", "b"), ("all_2_2_0", "c")]),
            vec![order()],
        )
    };
    let union = decide(&set(vec![merged(), waiting()], 0), &[]).unwrap();
    assert_eq!(union.order, ["r1", "r2"]);
    assert!(
        verdicts(&union)
            .iter()
            .all(|(_, v)| matches!(v, Verdict::Covered { by } if by == &["all_0_1_1"]))
    );
    // The one that waits has more: the merged part is covered by the two that it was made of.
    let mut more = waiting();
    more.parts
        .extend(replica("", &[("all_3_3_0", "d"), ("all_4_4_0", "e")]).parts);
    let union = decide(&set(vec![merged(), more], 0), &[]).unwrap();
    assert_eq!(union.order, ["r2", "r1"]);
    let by = vec!["all_0_0_0".to_owned(), "all_1_1_0".to_owned()];
    assert_eq!(verdicts(&union), [("all_0_1_1".to_owned(), Verdict::Covered { by })]);
}

#[test]
fn blocks_that_overlap_without_a_merge_that_says_so_are_left_open() {
    let r1 = || replica("r1", &[("all_0_2_1", "x")]);
    assert_eq!(undecided(vec![r1(), replica("r2", &[("all_1_1_0", "b")])]), 1);
    // Different merges of the same blocks, and nothing tells what is in them.
    let merged = |name, part| replica(name, &[part, ("all_9_9_0", "z")]);
    assert_eq!(
        undecided(vec![
            merged("r1", ("all_0_1_1", "ab")),
            merged("r2", ("all_1_2_1", "bc"))
        ]),
        1
    );
}

#[test]
fn parts_that_were_given_up_make_every_range_a_lie() {
    let order = vec![merge("all_0_2_1", &["all_0_0_0", "all_1_1_0", "all_2_2_0"])];
    let r1 = queued(replica("r1", &[("all_0_2_1", "15 rows")]), order);
    let r2 = replica("r2", &[("all_0_0_0", "a"), ("all_1_1_0", "7 rows"), ("all_2_2_0", "c")]);
    assert!(decide(&set(vec![r1.clone(), r2.clone()], 0), &[]).is_ok());
    let given_up = |mut r: ReplicaSnapshot| {
        r.lost_part_count = 1;
        r
    };
    assert_eq!(undecided(vec![given_up(r1), given_up(r2)]), 1);
}

#[test]
fn split_brain_is_never_covered() {
    let r1 = replica("r1", &[("all_0_0_0", "100 rows"), ("all_1_1_0", "x")]);
    let r2 = replica("r2", &[("all_0_0_0", "50 rows")]);
    let union = decide(&set(vec![r1.clone(), r2], 0), &[]).unwrap();
    assert_eq!(verdicts(&union), [("all_0_0_0".to_owned(), Verdict::Bring)]);
    // In such a partition a merge says nothing of what another replica has under the names of its sources.
    let sources = replica("r2", &[("all_0_0_0", "50 rows"), ("all_1_1_0", "other")]);
    let merged = queued(
        replica("r1", &[("all_0_1_1", "m"), ("all_0_0_0", "100 rows")]),
        vec![merge("all_0_1_1", &["all_0_0_0", "all_1_1_0"])],
    );
    assert!(decide(&set(vec![merged, sources], 0), &[]).is_err());
    // Two merged parts of one name may have rows in common.
    let one = replica("r1", &[("all_0_1_1", "x")]);
    assert_eq!(undecided(vec![one, replica("r2", &[("all_0_1_1", "y")])]), 1);
}

#[test]
fn what_a_laggard_had_still_to_drop_does_not_come_back() {
    let ahead = replica("r1", &[("all_5_5_0", "new")]);
    let lagging = || replica("r2", &[("all_0_0_0", "old"), ("all_1_1_0", "old too")]);
    let union = decide(&set(vec![ahead.clone(), queued(lagging(), vec![drop_all()])], 0), &[]).unwrap();
    assert_eq!(union.order, ["r1", "r2"]);
    assert!(
        verdicts(&union)
            .iter()
            .all(|(_, v)| matches!(v, Verdict::Dropped { .. }))
    );
    // The sequence is in the log only.
    let log = [LogEntry {
        number: 0,
        order: drop_all(),
    }];
    let union = decide(&set(vec![queued(ahead.clone(), vec![]), lagging()], 1), &log);
    // r1 has taken it, r2 has not.
    let mut taken = ahead.clone();
    taken.log_pointer = Some(1);
    assert!(
        union.is_err(),
        "r1 had still to drop nothing, but its own log pointer is behind as well"
    );
    let union = decide(&set(vec![taken.clone(), lagging()], 1), &log).unwrap();
    assert_eq!(verdicts(&union).len(), 2);
    // The log does not reach back far enough, or the replica was given up: nobody knows.
    assert!(decide(&set(vec![taken.clone(), lagging()], 1), &[]).is_err());
    let mut lost = lagging();
    (lost.lost, lost.log_pointer) = (true, Some(1));
    assert!(decide(&set(vec![taken, lost], 1), &log).is_err());
}

#[test]
fn a_partition_that_was_attached_from_another_table_drops_nothing() {
    let replace = |range: &str| QueueOrder::Replace { range: range.into() };
    let r1 = replica("r1", &[("all_5_5_0", "new"), ("all_6_6_0", "newer")]);
    let with = |order| queued(replica("r2", &[("all_0_0_0", "old")]), vec![order]);
    let union = decide(&set(vec![r1.clone(), with(replace("all_0_0_0"))], 0), &[]).unwrap();
    assert_eq!(verdicts(&union), [("all_0_0_0".to_owned(), Verdict::Bring)]);
    let union = decide(
        &set(vec![r1.clone(), with(replace("all_0_4_999999999_2147483647"))], 0),
        &[],
    )
    .unwrap();
    assert!(matches!(&verdicts(&union)[..], [(_, Verdict::Dropped { .. })]));
    let other = QueueOrder::Other {
        word: "clear_column".into(),
    };
    assert!(decide(&set(vec![r1, with(other)], 0), &[]).is_err());
}

/// A set that replicates as ClickHouse does: a log, replicas that take it when they like, blocks that are rows.
#[derive(Default)]
struct Model {
    log: Vec<QueueOrder>,
    replicas: Vec<ModelReplica>,
    next_block: i64,
    dropped: BTreeSet<i64>,
}

#[derive(Default, Clone)]
struct ModelReplica {
    taken: usize,
    parts: BTreeMap<String, BTreeSet<i64>>,
    /// Entries that an accident took away: what they would have brought never comes.
    lost: BTreeSet<usize>,
}

impl Model {
    fn insert(&mut self, at: usize) {
        let name = format!("all_{0}_{0}_0", self.next_block);
        self.catch_up(at, usize::MAX);
        self.replicas[at].parts.insert(name.clone(), [self.next_block].into());
        self.next_block += 1;
        self.log.push(QueueOrder::Bring { part: name });
        self.replicas[at].taken = self.log.len();
    }

    fn merge(&mut self, at: usize) {
        self.catch_up(at, usize::MAX);
        let parts: Vec<(PartName, String)> = self.replicas[at]
            .parts
            .keys()
            .map(|name| (PartName::parse(name).unwrap(), name.clone()))
            .collect();
        let mut parts = parts;
        parts.sort_by_key(|(name, _)| name.min_block);
        let Some([(first, a), (second, b)]) = parts.first_chunk::<2>().cloned() else {
            return;
        };
        let level = first.level.max(second.level) + 1;
        let new_part = format!("all_{}_{}_{level}", first.min_block, second.max_block);
        let entry = QueueOrder::Merge {
            new_part,
            sources: vec![a, b],
        };
        self.log.push(entry);
        self.catch_up(at, usize::MAX);
    }

    fn drop_everything(&mut self, at: usize) {
        self.catch_up(at, usize::MAX);
        let range = format!("all_0_{}_999999999_2147483647", self.next_block);
        self.dropped.extend(0..self.next_block);
        self.next_block += 1;
        self.log.push(QueueOrder::Drop { range });
        self.catch_up(at, usize::MAX);
    }

    /// The replica executes as many entries as it is given; what it needs it fetches from whoever has it.
    fn catch_up(&mut self, at: usize, entries: usize) {
        for _ in 0..entries.min(self.log.len() - self.replicas[at].taken) {
            let number = self.replicas[at].taken;
            self.replicas[at].taken += 1;
            if self.replicas[at].lost.contains(&number) {
                continue;
            }
            match self.log[number].clone() {
                QueueOrder::Bring { part } => {
                    if let Some(rows) = self.replicas.iter().find_map(|r| r.parts.get(&part).cloned()) {
                        self.replicas[at].parts.insert(part, rows);
                    }
                }
                QueueOrder::Merge { new_part, sources } => {
                    let own = &mut self.replicas[at].parts;
                    if sources.iter().all(|s| own.contains_key(s)) {
                        let rows = sources.iter().filter_map(|s| own.remove(s)).flatten().collect();
                        // As the server does: what lies within the range is outdated from then on.
                        let range = PartName::parse(&new_part).unwrap();
                        own.retain(|name, _| !range.contains(&PartName::parse(name).unwrap()));
                        own.insert(new_part, rows);
                    }
                }
                QueueOrder::Drop { range } => {
                    let range = PartName::parse(&range).unwrap();
                    self.replicas[at]
                        .parts
                        .retain(|name, _| !range.contains(&PartName::parse(name).unwrap()));
                }
                _ => {}
            }
        }
    }

    fn snapshot(&self) -> (SetSnapshot, Vec<LogEntry>) {
        let of = |(n, model): (usize, &ModelReplica)| {
            let mut found = replica(&format!("r{n}"), &[]);
            found.log_pointer = Some(i64::try_from(model.taken).unwrap());
            found.parts = model
                .parts
                .iter()
                .map(|(name, rows)| PartNode {
                    name: name.clone(),
                    digest: format!("{rows:?}"),
                    hash: None,
                })
                .collect();
            found
        };
        let replicas = self.replicas.iter().enumerate().map(of).collect();
        let log = (0..).zip(&self.log).map(|(number, order)| LogEntry {
            number,
            order: order.clone(),
        });
        (set(replicas, i64::try_from(self.log.len()).unwrap()), log.collect())
    }

    /// The blocks of the reference and of what is brought, each as often as it would be there.
    fn result(&self, union: &Union) -> Vec<i64> {
        let parts = |name: &str| &self.replicas[name[1..].parse::<usize>().unwrap()].parts;
        let mut blocks: Vec<i64> = parts(&union.order[0]).values().flatten().copied().collect();
        for share in &union.shares {
            let brought = share.parts.iter().filter(|(_, verdict)| *verdict == Verdict::Bring);
            blocks.extend(brought.flat_map(|(name, _)| &parts(&share.replica)[name]).copied());
        }
        blocks.sort_unstable();
        blocks
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_union_has_every_block_once_or_is_left_open(choices in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut model = Model { replicas: vec![ModelReplica::default(); 3], ..Model::default() };
        for choice in choices {
            let at = usize::from(choice / 32) % 3;
            match choice % 32 {
                0..=9 => model.insert(at),
                10..=15 => model.merge(at),
                16 => model.drop_everything(at),
                17..=26 => model.catch_up(at, usize::from(choice % 3) + 1),
                _ => {
                    // An accident: an entry that this replica has not taken is gone for it.
                    let next = model.replicas[at].taken;
                    if matches!(model.log.get(next), Some(QueueOrder::Bring { .. } | QueueOrder::Merge { .. })) {
                        model.replicas[at].lost.insert(next);
                    }
                }
            }
        }
        let (snapshot, log) = model.snapshot();
        if let Ok(union) = decide(&snapshot, &log) {
            let everything: BTreeSet<i64> = model.replicas.iter().flat_map(|r| r.parts.values().flatten()).copied().collect();
            let wanted: Vec<i64> = everything.difference(&model.dropped).copied().collect();
            prop_assert_eq!(model.result(&union), wanted, "{:?} of {:?}", union, snapshot);
        }
    }
}
