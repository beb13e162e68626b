//! Attest: nothing is deleted, and later nothing set aside, on the word of another host alone.
//!
//! One agent records the parts of all replicas. Before that record counts, the agent of each of them compares it with what
//! it reads itself while the marker of the record holds the path, and notes which record it has found true. From then on it
//! takes no other.

use crate::rules::settle::judge;
use crate::rules::union::decide;
use rekeeper_shared::domain::document::{Packed, PartNode, PartSetOfRecord, ReplicaSnapshot, SetSnapshot, unpack};
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure, SetRef, TableRef};
use rekeeper_shared::domain::unsettled::Unsettled;

use super::shared::attested::disputed;
use super::{Context, StepResult, state_failed};
use crate::state::AttestedNote;
use crate::words::{in_full, some_of};
use crate::zookeeper::{Marker, ZkError, ZooKeeper};

const CODE: Code = Code::RecordFailed;

/// Compares the record with what this agent reads, and notes that it is the same.
///
/// # Errors
/// RECORD_DISPUTED, RECORD_FAILED, STORED_DOCUMENT_LOST.
pub async fn attest(context: &Context, table: &TableRef, set: &SetRef, record: &Packed) -> StepResult {
    context.doing(format!("compares what is on record of {}", table.path));
    let document: PartSetOfRecord = unpack(&record.bytes, Some(&record.digest)).map_err(|e| {
        let text = format!("the part set of record of {}: {}", table.path, in_full(&e));
        Failure::lasting(Code::StoredDocumentLost, text)
    })?;
    let differs = if is_own(context, record, &document) {
        None
    } else {
        differs(context, table, set, &document).await?
    };
    if let Some(what) = differs {
        return Err(disputed(context, table, record, &what));
    }
    let note = AttestedNote {
        record: record.digest.clone(),
    };
    let noted = context.state.note_attested(&context.migration, table, &note);
    noted.map_err(state_failed(CODE))?;
    Ok(Done::Plain.into())
}

/// Whether this very agent has made the record, and told the coordinator of it. One that it has not, or has lost, is
/// compared with the nodes.
fn is_own(context: &Context, record: &Packed, document: &PartSetOfRecord) -> bool {
    let own = context.state.record(&context.migration, document.attempt);
    own.ok().flatten().is_some_and(|own| own.digest == record.digest)
}

/// What is on record otherwise than this agent reads it, if anything.
async fn differs(
    context: &Context,
    table: &TableRef,
    set: &SetRef,
    document: &PartSetOfRecord,
) -> Result<Option<String>, Failure> {
    let recorded = &document.snapshot;
    if document.migration != context.migration || recorded.path != set.path || recorded.place != set.place {
        let of = (&document.migration, &recorded.path, &recorded.place);
        return Ok(Some(format!(
            "it is that of {} at {} in migration {}",
            of.1, of.2, of.0
        )));
    }
    let unsettled = judge(recorded, &set.replicas, set.allowed);
    let may_differ = set.allowed.diverged && unsettled.iter().all(Unsettled::may_diverge);
    if let Some(reason) = unsettled.first().filter(|_| !may_differ) {
        return Ok(Some(format!("by it the replicas are not equal ({reason})")));
    }
    let zookeeper = context.zookeeper.planned(&set.place, CODE).await?;
    let marker = Marker::new(&context.migration, document.attempt);
    let held = async || zookeeper.is_held_by(&set.path, &marker).await.map_err(failed);
    let not_held = || format!("{} does not bear its marker {marker}", set.path);
    if !held().await? {
        return Ok(Some(not_held()));
    }
    let found = compare(&zookeeper, table, document, unsettled.is_empty()).await;
    let found = found.map_err(failed)?;
    // What was read in between was read under the marker.
    if !held().await? {
        return Ok(Some(not_held()));
    }
    Ok(found)
}

fn failed(error: ZkError) -> Failure {
    error.into_failure(CODE)
}

/// Of a settled set the own replica says what the others have; of one that is not, all have to be read.
async fn compare(
    zookeeper: &ZooKeeper,
    table: &TableRef,
    document: &PartSetOfRecord,
    is_settled: bool,
) -> Result<Option<String>, ZkError> {
    let recorded = &document.snapshot;
    let only = is_settled.then_some(table.replica_name.as_str());
    let Some((read, names)) = zookeeper.snapshot_of(&table.path, only).await? else {
        return Ok(Some(format!("{} does not exist", table.path)));
    };
    let log = match is_settled {
        true => Vec::new(),
        false => zookeeper.log(&table.path).await?,
    };
    Ok(other_set(recorded, &read, &names).or_else(|| {
        let union = decide(recorded, &log);
        let is_decided = union.as_ref().is_ok_and(|union| *union == document.union);
        (!is_decided).then(|| "it decides otherwise what becomes of the parts".to_owned())
    }))
}

fn other_set(recorded: &SetSnapshot, read: &SetSnapshot, names: &[String]) -> Option<String> {
    let on_record: Vec<&str> = recorded.replicas.iter().map(|replica| replica.name.as_str()).collect();
    if !names.iter().eq(on_record.iter()) {
        return Some(format!(
            "ZooKeeper has the replicas {}, and it has {}",
            names.join(", "),
            on_record.join(", ")
        ));
    }
    let same_table = (recorded.czxid, recorded.log_end) == (read.czxid, read.log_end)
        && (&recorded.metadata, &recorded.columns) == (&read.metadata, &read.columns)
        && recorded.mutations == read.mutations;
    if !same_table {
        return Some("it has another definition, log or mutations".to_owned());
    }
    read.replicas.iter().find_map(|own| {
        let recorded = recorded.replicas.iter().find(|replica| replica.name == own.name)?;
        other_replica(recorded, own)
    })
}

fn other_replica(recorded: &ReplicaSnapshot, own: &ReplicaSnapshot) -> Option<String> {
    if recorded == own {
        return None;
    }
    let lacking = |has: &[PartNode], lacks: &[PartNode]| -> Vec<String> {
        let lacking = has.iter().filter(|part| lacks.binary_search(part).is_err());
        lacking.map(|part| part.name.clone()).collect()
    };
    let (missing, more) = (
        lacking(&own.parts, &recorded.parts),
        lacking(&recorded.parts, &own.parts),
    );
    let name = &own.name;
    Some(if !missing.is_empty() {
        format!(
            "it lacks {} parts that replica {name} has: {}",
            missing.len(),
            some_of(&missing)
        )
    } else if !more.is_empty() {
        format!(
            "it has {} parts that replica {name} has not: {}",
            more.len(),
            some_of(&more)
        )
    } else {
        format!("of replica {name} it has another queue, log pointer or definition")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekeeper_shared::domain::place::{Place, ZkPath};

    fn part(name: &str) -> PartNode {
        PartNode {
            name: name.into(),
            digest: "d".into(),
            hash: None,
        }
    }

    fn snapshot() -> SetSnapshot {
        let replica = |name: &str| ReplicaSnapshot {
            name: name.into(),
            active: false,
            lost: false,
            metadata: "m".into(),
            columns: "c".into(),
            log_pointer: Some(1),
            mutation_pointer: String::new(),
            lost_part_count: 0,
            queue: vec![],
            parts: vec![part("all_0_0_0"), part("all_1_1_0")],
        };
        SetSnapshot {
            place: Place {
                ensemble: "default".into(),
                nodes: vec![],
                secure: false,
                chroot: String::new(),
            },
            path: ZkPath::parse("/t").unwrap(),
            czxid: 7,
            metadata: "m".into(),
            columns: "c".into(),
            version: 0,
            log_end: 1,
            mutations: vec![],
            replicas: vec![replica("r1"), replica("r2")],
        }
    }

    #[test]
    fn each_thing_that_is_on_record_otherwise_is_noticed() {
        let names = ["r1".to_owned(), "r2".to_owned()];
        let read = snapshot();
        assert_eq!(other_set(&snapshot(), &read, &names), None);
        type Forgery = (&'static str, fn(&mut SetSnapshot));
        let forgeries: &[Forgery] = &[
            ("lacks 1 parts", |set| drop(set.replicas[1].parts.pop())),
            ("has 1 parts", |set| set.replicas[1].parts.push(part("all_2_2_0"))),
            ("lacks 1 parts", |set| set.replicas[1].parts[0].digest = "e".into()),
            ("another queue", |set| set.replicas[1].log_pointer = Some(2)),
            ("another definition", |set| set.log_end = 2),
            ("another definition", |set| set.czxid = 8),
            ("ZooKeeper has the replicas", |set| drop(set.replicas.pop())),
        ];
        for (what, forge) in forgeries {
            let mut forged = snapshot();
            forge(&mut forged);
            let found = other_set(&forged, &read, &names);
            assert!(
                found.as_ref().is_some_and(|found| found.contains(what)),
                "{what}: {found:?}"
            );
        }
    }
}
