//! What an agent tells without its document, or with another one: the end of its attempt, and nothing else is ordered.

use rekeeper_coordinator::progress::OperatorOrder;
use rekeeper_shared::domain::document::{self, Packed, PartSetOfRecord, ReplicaSnapshot, SetSnapshot};
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, StepKind};
use rekeeper_shared::domain::union::Union;

use super::driver::{Whole, acknowledged, done, done_with, gets_nothing, migration, ordered, plan};

/// The part set of record of the plan's set, by this attempt.
pub(super) fn part_set(attempt: u64) -> PartSetOfRecord {
    let set = plan().sets.remove(0);
    let replica = |name: &str| ReplicaSnapshot {
        name: name.into(),
        active: false,
        lost: false,
        metadata: String::new(),
        columns: String::new(),
        log_pointer: Some(1),
        mutation_pointer: String::new(),
        lost_part_count: 0,
        queue: vec![],
        parts: vec![],
    };
    PartSetOfRecord {
        migration: migration(),
        attempt,
        snapshot: SetSnapshot {
            place: set.place,
            path: set.path,
            czxid: 7,
            metadata: String::new(),
            columns: String::new(),
            version: 0,
            log_end: 1,
            mutations: vec![],
            replicas: vec![replica("r1"), replica("r2")],
        },
        union: Union {
            order: vec!["r1".into(), "r2".into()],
            shares: vec![],
        },
    }
}

/// What an agent tells that has recorded it.
pub(super) fn recorded(record: &PartSetOfRecord) -> (Done, Packed) {
    let packed = document::pack(record).unwrap();
    let done = Done::Recorded {
        digest: Some(packed.digest.clone()),
        unsettled: vec![],
        order: vec!["r1".into(), "r2".into()],
        one_by_one: false,
        export: None,
    };
    (done, packed)
}

/// What is told of an attempt to record, and with which document.
type Lie = (&'static str, fn(u64) -> (Done, Option<Packed>));

fn with(attempt: u64, change: impl FnOnce(&mut PartSetOfRecord)) -> (Done, Option<Packed>) {
    let mut record = part_set(attempt);
    change(&mut record);
    let (done, packed) = recorded(&record);
    (done, Some(packed))
}

const LIES: &[Lie] = &[
    ("is not with it", |attempt| (recorded(&part_set(attempt)).0, None)),
    ("and it names", |attempt| {
        let (done, _) = recorded(&part_set(attempt));
        (done, Some(recorded(&part_set(attempt + 1)).1))
    }),
    ("its digest is", |attempt| {
        let (done, packed) = recorded(&part_set(attempt));
        let bytes = recorded(&part_set(attempt + 1)).1.bytes;
        (done, Some(Packed { bytes, ..packed }))
    }),
    ("of migration other", |attempt| {
        with(attempt, |record| record.migration = "other".parse().unwrap())
    }),
    ("attempt 0 of", |attempt| with(attempt, |record| record.attempt = 0)),
    ("that of /u at", |attempt| {
        with(attempt, |record| record.snapshot.path = ZkPath::parse("/u").unwrap())
    }),
    ("at other:2181", |attempt| {
        with(attempt, |record| {
            record.snapshot.place.nodes = vec!["other:2181".into()]
        })
    }),
    ("does not have replica r2", |attempt| {
        with(attempt, |record| drop(record.snapshot.replicas.pop()))
    }),
    ("in another order", |attempt| {
        with(attempt, |record| record.union.order.reverse())
    }),
    ("not of the expected form", |attempt| {
        let packed = document::pack(&"record").unwrap();
        let (done, _) = recorded(&part_set(attempt));
        let Done::Recorded {
            unsettled,
            order,
            one_by_one,
            export,
            ..
        } = done
        else {
            panic!()
        };
        let digest = Some(packed.digest.clone());
        (
            Done::Recorded {
                digest,
                unsettled,
                order,
                one_by_one,
                export,
            },
            Some(packed),
        )
    }),
];

#[tokio::test]
async fn what_an_agent_tells_of_a_record_is_taken_only_with_that_record() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, mut second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    for (number, step) in [StepKind::Sync, StepKind::Detach].into_iter().enumerate() {
        for agent in [&mut first, &mut second] {
            let attempt = ordered(agent, step).await;
            done(agent, number as u64 + 1, attempt, Done::Plain).await;
        }
    }
    let settle = ordered(&mut first, StepKind::Settle).await;
    done(&first, 3, settle, Done::Settled(vec![])).await;
    for (sequence, (why, lie)) in (4..).zip(LIES) {
        let attempt = ordered(&mut first, StepKind::Record).await;
        let (told, document) = lie(attempt);
        done_with(&first, sequence, attempt, told, document).await;
        acknowledged(&mut first, sequence).await;
        let (plan, progress) = whole.driver.progress(&migration()).await.unwrap();
        assert_eq!(progress.sets[0].record, None, "{why}");
        let problem = progress.problem_of(&plan, 0).unwrap();
        assert_eq!(problem.code, Code::EvidenceRefused, "{why}: {problem}");
        assert!(problem.message.contains(why), "{why}: {problem}");
        let (table, host) = (None, None);
        let retry = OperatorOrder::Retry { table, host };
        whole.driver.order(&migration(), "anna".into(), retry).await.unwrap();
    }
    acknowledged(&mut second, 2).await;
    gets_nothing(&mut second).await;
    let attempt = ordered(&mut first, StepKind::Record).await;
    let (told, document) = recorded(&part_set(attempt));
    done_with(&first, 100, attempt, told, Some(document)).await;
    ordered(&mut second, StepKind::Attest).await;
}

#[tokio::test]
async fn a_record_is_no_evidence_of_another_step() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::started(folder.path()).await;
    let (mut first, _second) = (whole.agent("h1", 0).await, whole.agent("h2", 0).await);
    let attempt = ordered(&mut first, StepKind::Sync).await;
    let (told, document) = recorded(&part_set(attempt));
    done_with(&first, 1, attempt, told, Some(document)).await;
    acknowledged(&mut first, 1).await;
    let (plan, progress) = whole.driver.progress(&migration()).await.unwrap();
    let problem = progress.problem_of(&plan, 0).unwrap();
    assert_eq!(problem.code, Code::EvidenceRefused, "{problem}");
}
