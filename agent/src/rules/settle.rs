//! Is a replica set settled? The rule of invariant 2 over what the set's nodes said; no I/O.

use std::collections::{BTreeMap, BTreeSet};

use rekeeper_shared::domain::document::{PartNode, QueueOrder, ReplicaSnapshot, SetSnapshot};
use rekeeper_shared::domain::mutation::Mutation;
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::unsettled::{Allowed, Unsettled};

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
