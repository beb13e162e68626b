//! Is a replica set settled? The rule of invariant 2 over what the set's nodes said; no I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::document::{PartNode, QueueOrder, ReplicaSnapshot, SetSnapshot};
use crate::domain::mutation::Mutation;
use crate::domain::part::PartName;

/// One thing that keeps a set from being settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Unsettled {
    /// ZooKeeper knows a replica that the plan does not, or the reverse.
    #[error("ZooKeeper has the replicas [{found}], the plan has [{planned}]")]
    Replicas {
        /// What ZooKeeper has.
        found: String,
        /// What the plan has.
        planned: String,
    },
    /// A server has the table attached.
    #[error("replica {replica} is active: a server has the table attached")]
    Active {
        /// The replica.
        replica: String,
    },
    /// ClickHouse marked the replica as lost.
    #[error("replica {replica} is marked as lost (is_lost)")]
    Lost {
        /// The replica.
        replica: String,
    },
    /// The replica has entries to execute that are no merges.
    #[error("replica {replica} has {entries} queue entries that are no merges (first: {first})")]
    Queue {
        /// The replica.
        replica: String,
        /// How many.
        entries: usize,
        /// Word of the first.
        first: String,
    },
    /// The replica has not taken all log entries.
    #[error("replica {replica} has taken the log up to {pointer}, and the log ends at {end}")]
    Log {
        /// The replica.
        replica: String,
        /// Its `log_pointer`.
        pointer: i64,
        /// One past the last entry.
        end: i64,
    },
    /// The replica's definition is not the table's.
    #[error("replica {replica} has other {what} than the table (an ALTER that it has not applied)")]
    Definition {
        /// The replica.
        replica: String,
        /// `metadata` or `columns`.
        what: String,
    },
    /// The replica gave up parts.
    #[error("replica {replica} has lost {count} parts (lost_part_count)")]
    LostParts {
        /// The replica.
        replica: String,
        /// How many.
        count: u64,
    },
    /// A part that one replica has and another has not, merges under way considered.
    #[error("replica {has} has {count} parts that {lacks} has not (first: {part})")]
    Parts {
        /// Who has it.
        has: String,
        /// Who lacks it.
        lacks: String,
        /// How many.
        count: usize,
        /// The first of them.
        part: String,
    },
    /// The same name, another content: split brain.
    #[error("part {part} differs between replica {one} and {other}: the same name, another content")]
    Content {
        /// One replica.
        one: String,
        /// The other.
        other: String,
        /// The part.
        part: String,
    },
    /// The replica has patch parts (lightweight UPDATE), which do not apply any more once part names have shifted.
    #[error(
        "replica {replica} has {count} patch parts (first: {part}), whose values a restore would lose: ALTER TABLE ... \
         APPLY PATCHES, and wait until system.parts has no active part with a partition_id of patch-..."
    )]
    PatchParts {
        /// The replica.
        replica: String,
        /// How many.
        count: usize,
        /// The first of them.
        part: String,
    },
    /// A mutation that must not be forgotten has not reached every part of the replica.
    #[error(
        "replica {replica} has not run mutation {mutation} on all of its parts (first: {part}): {commands}; do not KILL it: \
         SYSTEM START MERGES, and let it finish"
    )]
    Mutation {
        /// The replica.
        replica: String,
        /// The mutation.
        mutation: String,
        /// The first of them.
        part: String,
        /// What it does.
        commands: String,
    },
    /// What a replica has and the others have not, and nothing proves what to do with it.
    #[error("part {part} of replica {replica}: {why}")]
    Undecided {
        /// The replica.
        replica: String,
        /// The part.
        part: String,
        /// Why it cannot be decided.
        why: String,
    },
}

impl Unsettled {
    /// Whether replication can mend it when the tables are attached again for a while.
    #[must_use]
    pub fn may_catch_up(&self) -> bool {
        match self {
            Self::Queue { .. }
            | Self::Log { .. }
            | Self::Definition { .. }
            | Self::Parts { .. }
            | Self::Mutation { .. }
            | Self::Active { .. }
            | Self::Lost { .. } => true,
            Self::Replicas { .. }
            | Self::LostParts { .. }
            | Self::Content { .. }
            | Self::PatchParts { .. }
            | Self::Undecided { .. } => false,
        }
    }

    /// Whether `--allow DIVERGED` may go on in spite of it: the parts differ, and the union of them is to be made. What
    /// the table is, and that nobody uses it, is never left open.
    #[must_use]
    pub fn may_diverge(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Queue { .. } | Self::Log { .. } | Self::Parts { .. } | Self::Content { .. } => {
                true
            }
            Self::Replicas { .. }
            | Self::Active { .. }
            | Self::Definition { .. }
            | Self::LostParts { .. }
            | Self::Mutation { .. }
            | Self::PatchParts { .. }
            | Self::Undecided { .. } => false,
        }
    }
}

/// What may differ because the operator allowed it when the plan was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allowed {
    /// `--allow LOST_PARTS`.
    pub lost_parts: bool,
    /// `--allow MUTATIONS_UNFINISHED`: mutations that are queued are forgotten.
    pub mutations: bool,
    /// `--allow DIVERGED`, once the set did not settle otherwise.
    pub diverged: bool,
    /// `--allow FOREIGN_NODES`: nodes below the path that no ReplicatedMergeTree makes are deleted with it.
    #[serde(default)]
    pub foreign_nodes: bool,
}

/// Everything that keeps the set from being settled; settled when empty.
#[must_use]
pub fn judge(snapshot: &SetSnapshot, planned: &[String], allowed: Allowed) -> Vec<Unsettled> {
    let mut found = Vec::new();
    let names: BTreeSet<&str> = snapshot.replicas.iter().map(|r| r.name.as_str()).collect();
    let wanted: BTreeSet<&str> = planned.iter().map(String::as_str).collect();
    if names != wanted {
        let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(", ");
        found.push(Unsettled::Replicas {
            found: list(&names),
            planned: list(&wanted),
        });
    }
    for replica in &snapshot.replicas {
        found.extend(judge_replica(snapshot, replica, allowed));
    }
    let after_merges: Vec<_> = snapshot
        .replicas
        .iter()
        .map(|r| (r, parts_after_merges(r, allowed)))
        .collect();
    for pair in after_merges.windows(2) {
        compare(&pair[0], &pair[1], &mut found);
    }
    found
}

/// What the names of patch parts begin with (`patch-<hash>-<partition>_...`).
const PATCH: &str = "patch-";

fn judge_replica(snapshot: &SetSnapshot, replica: &ReplicaSnapshot, allowed: Allowed) -> Vec<Unsettled> {
    let name = || replica.name.clone();
    let mut found = Vec::new();
    if replica.active {
        found.push(Unsettled::Active { replica: name() });
    }
    if replica.lost {
        found.push(Unsettled::Lost { replica: name() });
    }
    let patches: Vec<&PartNode> = replica.parts.iter().filter(|p| p.name.starts_with(PATCH)).collect();
    if let Some(first) = patches.first() {
        found.push(Unsettled::PatchParts {
            replica: name(),
            count: patches.len(),
            part: first.name.clone(),
        });
    }
    let others: Vec<&str> = replica
        .queue
        .iter()
        .map(|entry| &entry.order)
        .filter(|order| replaces(order, allowed).is_none())
        .map(QueueOrder::word)
        .collect();
    if let Some(first) = others.first() {
        found.push(Unsettled::Queue {
            replica: name(),
            entries: others.len(),
            first: (*first).to_owned(),
        });
    }
    found.extend(unfinished_alters(snapshot, replica));
    let pointer = replica.log_pointer.unwrap_or(0);
    if pointer < snapshot.log_end {
        found.push(Unsettled::Log {
            replica: name(),
            pointer,
            end: snapshot.log_end,
        });
    }
    for (what, mine, table) in [
        ("metadata", &replica.metadata, &snapshot.metadata),
        ("columns", &replica.columns, &snapshot.columns),
    ] {
        if mine != table {
            found.push(Unsettled::Definition {
                replica: name(),
                what: what.to_owned(),
            });
        }
    }
    if replica.lost_part_count > 0 && !allowed.lost_parts {
        found.push(Unsettled::LostParts {
            replica: name(),
            count: replica.lost_part_count,
        });
    }
    found
}

/// Whatever is allowed: the parts lack what the table's definition has already. Merges that are stopped, or a mutation
/// that fails, leave nothing in the queue.
fn unfinished_alters(snapshot: &SetSnapshot, replica: &ReplicaSnapshot) -> Vec<Unsettled> {
    let alters = snapshot.mutations.iter().filter_map(|node| {
        let mutation = Mutation::parse(&node.content)?;
        mutation.alter.then_some((node, mutation))
    });
    let unfinished = alters.filter_map(|(node, mutation)| {
        let lacks = |part: &&PartNode| PartName::parse(&part.name).is_some_and(|name| mutation.lacks(&name));
        let part = uncovered(&replica.parts).into_iter().find(lacks)?;
        Some(Unsettled::Mutation {
            replica: replica.name.clone(),
            mutation: node.name.clone(),
            part: part.name.clone(),
            commands: mutation.commands,
        })
    });
    unfinished.collect()
}

/// The new part and its sources, of an entry that may still be queued: a merge, or a mutation that may be forgotten.
fn replaces(order: &QueueOrder, allowed: Allowed) -> Option<(&str, &[String])> {
    match order {
        QueueOrder::Merge { new_part, sources } => Some((new_part, sources)),
        QueueOrder::Mutate { new_part, source } if allowed.mutations => Some((new_part, std::slice::from_ref(source))),
        QueueOrder::Mutate { .. }
        | QueueOrder::Bring { .. }
        | QueueOrder::Drop { .. }
        | QueueOrder::Replace { .. }
        | QueueOrder::Other { .. } => None,
    }
}

/// The parts that no other part of the same replica covers. The nodes of outdated parts stay for minutes after a merge
/// or a mutation (`old_parts_lifetime`), and each replica removes them in its own time.
#[must_use]
pub fn uncovered(parts: &[PartNode]) -> Vec<&PartNode> {
    let mut kept = Vec::with_capacity(parts.len());
    let mut named = Vec::with_capacity(parts.len());
    for part in parts {
        match PartName::parse(&part.name) {
            Some(name) => named.push((name, part)),
            None => kept.push(part),
        }
    }
    // Ranges of one replica lie within each other or apart, so what covers a part is the last one kept before it.
    named.sort_by(|(a, _), (b, _)| {
        let wide_first = (b.max_block, b.level, b.mutation).cmp(&(a.max_block, a.level, a.mutation));
        (&a.partition, a.min_block)
            .cmp(&(&b.partition, b.min_block))
            .then(wide_first)
    });
    let mut last: Option<PartName> = None;
    for (name, part) in named {
        if !last.as_ref().is_some_and(|wide| wide.contains(&name)) {
            kept.push(part);
            last = Some(name);
        }
    }
    kept
}

/// The replica's parts as they will be once the merges of its queue have run: name to digest, no digest for a part
/// that does not exist yet. A merge whose sources are not all there changes nothing.
fn parts_after_merges(replica: &ReplicaSnapshot, allowed: Allowed) -> BTreeMap<&str, Option<&str>> {
    let mut parts: BTreeMap<&str, Option<&str>> = uncovered(&replica.parts)
        .into_iter()
        .map(|p| (p.name.as_str(), Some(p.digest.as_str())))
        .collect();
    let mut merges: Vec<(&str, &[String])> = replica
        .queue
        .iter()
        .filter_map(|entry| replaces(&entry.order, allowed))
        .collect();
    loop {
        let before = merges.len();
        merges.retain(|(new_part, sources)| {
            let ready = !sources.is_empty() && sources.iter().all(|s| parts.contains_key(s.as_str()));
            if ready {
                for source in *sources {
                    parts.remove(source.as_str());
                }
                parts.insert(new_part, None);
            }
            !ready
        });
        if merges.len() == before {
            return parts;
        }
    }
}

type Side<'a> = (&'a ReplicaSnapshot, BTreeMap<&'a str, Option<&'a str>>);

fn compare(left: &Side<'_>, right: &Side<'_>, found: &mut Vec<Unsettled>) {
    for (has, lacks) in [(left, right), (right, left)] {
        let missing: Vec<&str> = has
            .1
            .keys()
            .filter(|name| !lacks.1.contains_key(*name))
            .copied()
            .collect();
        if let Some(first) = missing.first() {
            found.push(Unsettled::Parts {
                has: has.0.name.clone(),
                lacks: lacks.0.name.clone(),
                count: missing.len(),
                part: (*first).to_owned(),
            });
        }
    }
    let differs = left.1.iter().find(|(name, digest)| match (digest, right.1.get(*name)) {
        (Some(mine), Some(Some(theirs))) => mine != theirs,
        _ => false,
    });
    if let Some((part, _)) = differs {
        found.push(Unsettled::Content {
            one: left.0.name.clone(),
            other: right.0.name.clone(),
            part: (*part).to_owned(),
        });
    }
}

#[cfg(test)]
mod tests;
