//! Merges that ran since the restore: which parts of the reference's manifest went into which active part.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Content, Evidence, content};
use rekeeper_shared::domain::document::ManifestPart;
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::part::{PartName, order_of};

type Sources<'a> = Vec<(&'a ManifestPart, String)>;
type Actives<'a> = [(PartName, &'a ActivePart)];

#[derive(Default)]
struct Partition<'a> {
    parts: Vec<&'a ManifestPart>,
    actives: Vec<(PartName, &'a ActivePart)>,
}

/// For parts of each content, the active parts that such parts were merged into.
pub(super) fn merged_since<'a>(evidence: Evidence<'a>) -> HashMap<Content<'a>, VecDeque<String>> {
    let mut partitions: BTreeMap<&str, Partition<'_>> = BTreeMap::new();
    for part in &evidence.reference.parts {
        partitions.entry(&part.partition_id).or_default().parts.push(part);
    }
    for active in evidence.active {
        if let (Some(name), Some(partition)) = (
            PartName::parse(&active.name),
            partitions.get_mut(active.partition_id.as_str()),
        ) {
            partition.actives.push((name, active));
        }
    }
    let mut merged: HashMap<Content<'a>, VecDeque<String>> = HashMap::new();
    for Partition { mut parts, mut actives } in partitions.into_values() {
        parts.sort_by_key(|p| (evidence.late.contains(&p.name), order_of(&p.name)));
        actives.sort_by_key(|(name, _)| name.min_block);
        let in_sequence = evidence.merges_keep_rows.then(|| {
            let is_attached = |part: &&ManifestPart| !(evidence.is_reference && evidence.left_behind(part));
            let attached = parts.iter().copied().filter(|part| part.rows > 0).filter(is_attached);
            by_sequence(attached.collect(), &actives)
        });
        let into = in_sequence.flatten();
        for (part, name) in into.unwrap_or_else(|| by_blocks(&parts, &actives, evidence.merges_keep_rows)) {
            merged.entry(content(part)).or_default().push_back(name);
        }
    }
    merged
}

/// Parts are attached in sequence, and merges are of neighbours: so the active parts, in sequence, are the parts of the
/// manifest, in sequence, either themselves or exactly so many of them as have the rows of a merged one. None when that
/// does not come out even for the whole partition.
///
/// This holds also where blocks have gaps: a part that was cut off while it was attached has used up a block.
fn by_sequence<'a>(parts: Vec<&'a ManifestPart>, actives: &Actives<'_>) -> Option<Sources<'a>> {
    let (mut next, mut into) = (0, Vec::new());
    for (name, active) in actives {
        if parts.get(next).is_some_and(|part| content(part) == content(active)) {
            next += 1;
            continue;
        }
        if name.level == 0 {
            continue; // Somebody wrote it since, or a part before it is missing: then it does not come out even.
        }
        let (first, mut rows) = (next, 0);
        while rows < active.rows {
            rows += parts.get(next)?.rows;
            next += 1;
        }
        let blocks = usize::try_from(name.max_block - name.min_block + 1).ok()?;
        if rows != active.rows || next - first > blocks {
            return None;
        }
        into.extend(parts[first..next].iter().map(|part| (*part, name.to_string())));
    }
    (next == parts.len()).then_some(into)
}

/// A restore gives the n-th part of a partition the block n, also to one without rows, so that the range of an active
/// part tells what went into it.
fn by_blocks<'a>(parts: &[&'a ManifestPart], actives: &Actives<'_>, merges_keep_rows: bool) -> Sources<'a> {
    let mut into = Vec::new();
    for (name, active) in actives {
        // A restore gives names without a mutation, so one that has any was mutated since, by order of a user.
        let mutated = name.mutation.is_some();
        if !mutated && (name.level == 0 || name.max_block == name.min_block) {
            continue;
        }
        let blocks = name.min_block..=name.max_block;
        let sources = (0_i64..).zip(parts).filter(|(block, _)| blocks.contains(block));
        let sources: Vec<&ManifestPart> = sources.map(|(_, part)| *part).collect();
        let rows: u64 = sources.iter().map(|part| part.rows).sum();
        // Blocks that users wrote since may have been merged in: more rows than the sources had are right.
        if active.rows >= rows || mutated || !merges_keep_rows {
            into.extend(sources.into_iter().map(|part| (part, name.to_string())));
        }
    }
    into
}
