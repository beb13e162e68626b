//! The account of a replica that is restored after the reference: by what was decided when the set was recorded.

use std::collections::{HashMap, HashSet};

use super::dropped::{attached_again, whole_partitions};
use super::{Dropped, Evidence, account};
use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::document::{Manifest, ManifestPart};
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::part::order_of;
use rekeeper_shared::domain::union::{Share, Verdict};

/// The manifest of a replica that was restored before, and what it brought.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The parts with which it was attached.
    pub manifest: &'a Manifest,
    /// Its share; none for the reference, of which everything counts.
    pub share: Option<&'a Share>,
}

/// What the account of a follower is made of.
#[derive(Debug, Clone, Copy)]
pub struct FollowerEvidence<'a> {
    /// The parts with which the follower itself was attached.
    pub manifest: &'a Manifest,
    /// What was decided of its parts.
    pub share: &'a Share,
    /// The reference, and those that brought parts, in the sequence in which they were restored.
    pub before: &'a [Before<'a>],
    /// What the server has active, asked after its RESTORE.
    pub active: &'a [ActivePart],
    /// The folders under `detached/` now.
    pub detached: &'a HashSet<String>,
    /// See [`Evidence::dropped`].
    pub dropped: &'a [Dropped],
    /// See [`Evidence::same_as_reference`]. It excuses parts of the reference, which had accounted for all of them, and
    /// never those that another replica brought: the reference may not have fetched these yet.
    pub same_as_reference: bool,
    /// See [`Evidence::merges_keep_rows`].
    pub merges_keep_rows: bool,
}

/// Replica (its place in the sequence) and name of a part that has to be there.
type Origin<'a> = (usize, &'a str);

/// Accounts for every part of a follower's manifest, and for what it has to hold of the replicas before it.
///
/// What has to be active are the parts of the reference, those that others brought, and its own that it had to bring and
/// that do not lie in `detached/` any more: in this sequence they got their blocks.
#[must_use]
pub fn account_follower(evidence: FollowerEvidence<'_>) -> Account {
    let own = evidence.before.len();
    let mut expected = brought_before(evidence.before);
    let content: HashMap<Origin<'_>, &ManifestPart> = expected.iter().copied().collect();
    // Their nodes differed, and yet they are one part: ClickHouse writes them in two formats.
    let is_there_already =
        |part: &ManifestPart| brings(evidence.share, &part.name) && same(part, own, &content).is_some();
    let left_behind = |part: &ManifestPart| {
        evidence.detached.contains(&part.name) && !evidence.manifest.detached_before.contains(&part.name)
    };
    let mut brought: Vec<&ManifestPart> = evidence.manifest.parts.iter().collect();
    brought.retain(|part| brings(evidence.share, &part.name) && !left_behind(part) && !is_there_already(part));
    brought.sort_by_key(|part| order_of(&part.name));
    expected.extend(brought.into_iter().map(|part| ((own, part.name.as_str()), part)));

    let mut now = fates_now(evidence, &expected);
    if evidence.same_as_reference {
        let of_reference = now.iter_mut().filter(|((at, _), _)| *at == 0);
        for (_, fate) in of_reference.filter(|(_, fate)| !is_there(fate)) {
            *fate = Fate::Gone;
        }
    }
    let again = attached_again(
        evidence.dropped,
        evidence.active,
        expected.iter().map(|(_, part)| *part).chain(&evidence.manifest.parts),
    );
    let partitions = whole_partitions(evidence.dropped);
    let covered = |by: &[String]| {
        let there = |name: &String| {
            let origins = (0..own).map(|at| (at, name.as_str()));
            origins.filter_map(|origin| now.get(&origin)).any(is_there)
        };
        !by.is_empty() && by.iter().all(there)
    };
    let mut answered: HashSet<Origin<'_>> = HashSet::new();
    let mut fates = Vec::with_capacity(evidence.manifest.parts.len());
    for part in &evidence.manifest.parts {
        let verdict = evidence.share.verdict(&part.name);
        let fate = match verdict.filter(|_| !is_there_already(part)) {
            _ if part.rows == 0 => Fate::Empty,
            None => same(part, own, &content).map_or(Fate::Missing, |origin| {
                answered.insert(origin);
                now.get(&origin).cloned().unwrap_or(Fate::Missing)
            }),
            Some(Verdict::Covered { by }) if covered(by) && !says_too_little(evidence, by) => {
                Fate::Covered { by: by.join(", ") }
            }
            Some(Verdict::Covered { .. }) => Fate::Missing,
            Some(Verdict::Dropped { range }) => Fate::Dropped { by: range.clone() },
            // To attach it would bring back what somebody has dropped since; its folder stays where it is.
            Some(Verdict::Bring) if left_behind(part) => {
                let range = partitions.get(&part.partition_id);
                let range = range.filter(|_| !again.contains_key(&part.partition_id));
                range.map_or(Fate::Detached, |entry| Fate::Dropped {
                    by: entry.range.clone(),
                })
            }
            Some(Verdict::Bring) => now.get(&(own, part.name.as_str())).cloned().unwrap_or(Fate::Missing),
        };
        fates.push((part.name.clone(), fate));
    }
    // Whatever its own parts were, it has to hold what those before it have.
    for (origin, _) in expected.iter().filter(|((at, _), _)| *at < own) {
        if !answered.contains(origin) && !now.get(origin).is_some_and(is_there) {
            fates.push((origin.1.to_owned(), Fate::Missing));
        }
    }
    Account { fates }
}

/// The parts of the reference, and those that the others before this replica brought, as they got their blocks. What one
/// brought that was there already counts once.
fn brought_before<'a>(before: &[Before<'a>]) -> Vec<(Origin<'a>, &'a ManifestPart)> {
    let mut expected: Vec<(Origin<'_>, &ManifestPart)> = Vec::new();
    let mut content: HashMap<Origin<'_>, &ManifestPart> = HashMap::new();
    for (at, before) in before.iter().enumerate() {
        let counts = |part: &&ManifestPart| {
            before
                .share
                .is_none_or(|share| brings(share, &part.name) && same(part, at, &content).is_none())
        };
        let mut parts: Vec<&ManifestPart> = before.manifest.parts.iter().filter(counts).collect();
        parts.sort_by_key(|part| order_of(&part.name));
        let parts = parts.into_iter().map(|part| ((at, part.name.as_str()), part));
        content.extend(parts.clone());
        expected.extend(parts);
    }
    expected
}

fn brings(share: &Share, part: &str) -> bool {
    share.verdict(part) == Some(&Verdict::Bring)
}

fn is_same(one: &ManifestPart, other: &ManifestPart) -> bool {
    (one.rows, &one.hash) == (other.rows, &other.hash)
}

fn is_there(fate: &Fate) -> bool {
    !matches!(fate, Fate::Detached | Fate::Missing)
}

/// The part of a replica before this one that has its name and its content: a split brain has one name for several.
fn same<'a>(
    part: &'a ManifestPart,
    replicas: usize,
    content: &HashMap<Origin<'_>, &ManifestPart>,
) -> Option<Origin<'a>> {
    let mut origins = (0..replicas).map(|at| (at, part.name.as_str()));
    origins.find(|origin| content.get(origin).is_some_and(|other| is_same(other, part)))
}

/// Where each of the expected parts is now, by the rule for the reference: they got their blocks in this sequence, so
/// under names that say it they are accounted for like the parts of one replica.
fn fates_now<'a>(
    evidence: FollowerEvidence<'_>,
    expected: &[(Origin<'a>, &ManifestPart)],
) -> HashMap<Origin<'a>, Fate> {
    let mut blocks: HashMap<&str, u64> = HashMap::new();
    let mut renamed = evidence.manifest.clone();
    renamed.parts = expected
        .iter()
        .map(|(_, part)| {
            let block = blocks.entry(&part.partition_id).or_default();
            let name = format!("{}_{block}_{block}_0", part.partition_id);
            *block += u64::from(part.rows > 0);
            ManifestPart {
                name,
                ..(*part).clone()
            }
        })
        .collect();
    let (none, not_late) = (HashSet::new(), HashSet::new());
    let found = account(Evidence {
        manifest: &renamed,
        reference: &renamed,
        is_reference: true,
        active: evidence.active,
        detached: &none,
        late: &not_late,
        dropped: evidence.dropped,
        same_as_reference: false,
        merges_keep_rows: evidence.merges_keep_rows,
    });
    let origins = expected.iter().map(|(origin, _)| *origin);
    origins.zip(found.fates.into_iter().map(|(_, fate)| fate)).collect()
}

/// Whether the parts that are said to have the rows of this replica's parts have fewer rows than those.
fn says_too_little(evidence: FollowerEvidence<'_>, by: &[String]) -> bool {
    let parts = || evidence.before.iter().flat_map(|before| &before.manifest.parts);
    let there: u64 = by
        .iter()
        .filter_map(|name| parts().find(|part| part.name == *name))
        .map(|part| part.rows)
        .sum();
    let same_cover = |part: &&ManifestPart| matches!(evidence.share.verdict(&part.name), Some(Verdict::Covered { by: other }) if other == by);
    let own: u64 = evidence
        .manifest
        .parts
        .iter()
        .filter(same_cover)
        .map(|part| part.rows)
        .sum();
    let mutated = by.iter().any(|name| name.split('_').count() == 5);
    evidence.merges_keep_rows && !mutated && own > there
}

#[cfg(test)]
mod tests;
