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
    /// The active parts now.
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
    let mut expected: Vec<(Origin<'_>, &ManifestPart)> = Vec::new();
    let mut content: HashMap<Origin<'_>, &ManifestPart> = HashMap::new();
    for (at, before) in evidence.before.iter().enumerate() {
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
mod tests {
    use super::super::tests::{manifest, part};
    use super::*;

    fn bring(names: &[&str]) -> Share {
        let parts = names.iter().map(|name| ((*name).to_owned(), Verdict::Bring)).collect();
        Share {
            replica: "r2".into(),
            parts,
        }
    }

    fn fates(
        own: &Manifest,
        share: &Share,
        before: &[Before<'_>],
        active: &[ManifestPart],
        detached: &[&str],
    ) -> Account {
        let detached = detached.iter().map(|s| (*s).to_owned()).collect();
        account_follower(FollowerEvidence {
            manifest: own,
            share,
            before,
            active,
            detached: &detached,
            dropped: &[],
            same_as_reference: false,
            merges_keep_rows: true,
        })
    }

    fn reference(manifest: &Manifest) -> Before<'_> {
        Before { manifest, share: None }
    }

    #[test]
    fn what_it_brings_is_open_until_its_folder_is_gone_and_it_is_active() {
        let first = manifest(vec![part("all_0_0_0", 5, "a")]);
        let own = manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 7, "b")]);
        let share = bring(&["all_1_1_0"]);
        let before = [reference(&first)];
        let cloned = [part("all_0_0_0", 5, "a")];
        let open = fates(&own, &share, &before, &cloned, &["all_0_0_0", "all_1_1_0"]);
        assert_eq!(
            (open.to_attach(), open.missing().len()),
            (vec!["all_1_1_0".to_owned()], 0)
        );
        let gone = fates(&own, &share, &before, &cloned, &["all_0_0_0"]);
        assert_eq!(gone.missing(), ["all_1_1_0"]);
        let active = [part("all_0_0_0", 5, "a"), part("all_1_1_0", 7, "b")];
        assert!(fates(&own, &share, &before, &active, &["all_0_0_0"]).is_complete());
    }

    #[test]
    fn equal_contents_of_different_blocks_are_two_parts() {
        // Each replica has a part that the other has not, and both hold the same row.
        let first = manifest(vec![part("all_3_3_0", 5, "same")]);
        let own = manifest(vec![part("all_7_7_0", 5, "same")]);
        let (share, before) = (bring(&["all_7_7_0"]), [reference(&first)]);
        let one = [part("all_0_0_0", 5, "same")];
        assert_eq!(
            fates(&own, &share, &before, &one, &["all_7_7_0"]).to_attach(),
            ["all_7_7_0"]
        );
        assert_eq!(fates(&own, &share, &before, &one, &[]).missing(), ["all_7_7_0"]);
        let two = [part("all_0_0_0", 5, "same"), part("all_1_1_0", 5, "same")];
        assert!(fates(&own, &share, &before, &two, &[]).is_complete());
    }

    #[test]
    fn it_holds_what_those_before_it_have_and_brought() {
        let first = manifest(vec![part("all_0_0_0", 100, "mine")]);
        let second = manifest(vec![part("all_0_0_0", 50, "yours")]);
        let brought = bring(&["all_0_0_0"]);
        let before = [
            reference(&first),
            Before {
                manifest: &second,
                share: Some(&brought),
            },
        ];
        // The third is one of the second's side: its part is the one that was brought.
        let share = bring(&[]);
        let only_first = [part("all_0_0_0", 100, "mine")];
        assert_eq!(
            fates(&second, &share, &before, &only_first, &[]).missing(),
            ["all_0_0_0"]
        );
        let both = [part("all_0_0_0", 100, "mine"), part("all_1_1_0", 50, "yours")];
        assert!(fates(&second, &share, &before, &both, &[]).is_complete());
        let merged = [part("all_0_1_1", 150, "both")];
        let account = fates(&second, &share, &before, &merged, &[]);
        assert!(matches!(&account.fates[..], [(_, Fate::Merged { .. })]), "{account:?}");
    }

    #[test]
    fn what_is_covered_needs_what_covers_it_and_as_many_rows() {
        let first = manifest(vec![part("all_0_1_1", 11, "ab")]);
        let own = |rows| manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", rows, "b")]);
        let by = || Verdict::Covered {
            by: vec!["all_0_1_1".into()],
        };
        let share = Share {
            replica: "r2".into(),
            parts: vec![("all_0_0_0".into(), by()), ("all_1_1_0".into(), by())],
        };
        let before = [reference(&first)];
        let active = [part("all_0_0_0", 11, "ab")];
        let left = ["all_0_0_0", "all_1_1_0"];
        assert!(fates(&own(6), &share, &before, &active, &left).is_complete());
        assert_eq!(fates(&own(7), &share, &before, &active, &left).missing().len(), 2);
        assert_eq!(fates(&own(6), &share, &before, &[], &left).missing().len(), 3);
    }

    #[test]
    fn what_was_to_be_dropped_stays_dropped() {
        let first = manifest(vec![part("all_5_5_0", 1, "n")]);
        let own = manifest(vec![part("all_0_0_0", 100, "old"), part("all_5_5_0", 1, "n")]);
        let share = Share {
            replica: "r2".into(),
            parts: vec![("all_0_0_0".into(), Verdict::Dropped { range: "r".into() })],
        };
        let account = fates(
            &own,
            &share,
            &[reference(&first)],
            &[part("all_0_0_0", 1, "n")],
            &["all_0_0_0"],
        );
        assert!(account.is_complete() && account.to_attach().is_empty(), "{account:?}");
    }

    #[test]
    fn what_it_has_to_bring_is_not_brought_into_a_partition_that_was_dropped_since() {
        let first = manifest(vec![part("2025_0_0_0", 1, "a"), part("2026_0_0_0", 2, "b")]);
        let own = manifest(vec![
            part("2025_0_0_0", 1, "a"),
            part("2025_1_1_0", 3, "c"),
            part("2026_0_0_0", 2, "b"),
            part("2026_1_1_0", 4, "d"),
        ]);
        let share = bring(&["2025_1_1_0", "2026_1_1_0"]);
        let before = [reference(&first)];
        let dropped = [Dropped {
            range: "2025_0_7_999999999".to_owned(),
            detached: false,
        }];
        let detached = ["2025_1_1_0", "2026_1_1_0"].map(str::to_owned).into();
        let found = account_follower(FollowerEvidence {
            manifest: &own,
            share: &share,
            before: &before,
            active: &[part("2026_0_0_0", 2, "b")],
            detached: &detached,
            dropped: &dropped,
            same_as_reference: false,
            merges_keep_rows: true,
        });
        assert_eq!(found.to_attach(), ["2026_1_1_0"]);
        assert_eq!(found.missing(), Vec::<&str>::new());
    }

    #[test]
    fn what_the_reference_has_not_got_any_more_is_gone_but_for_what_was_brought() {
        let first = manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 6, "b")]);
        let second = manifest(vec![part("all_0_0_0", 5, "a"), part("all_2_2_0", 7, "c")]);
        let brought = bring(&["all_2_2_0"]);
        let before = [
            reference(&first),
            Before {
                manifest: &second,
                share: Some(&brought),
            },
        ];
        let (own, share) = (
            manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 6, "b")]),
            bring(&[]),
        );
        let found = |active: &[ManifestPart], same_as_reference| {
            account_follower(FollowerEvidence {
                manifest: &own,
                share: &share,
                before: &before,
                active,
                detached: &HashSet::new(),
                dropped: &[],
                same_as_reference,
                merges_keep_rows: true,
            })
        };
        let without_b = [part("all_0_0_0", 5, "a"), part("all_2_2_0", 7, "c")];
        assert_eq!(found(&without_b, false).missing(), ["all_1_1_0"]);
        let gone = found(&without_b, true);
        assert!(
            gone.is_complete() && gone.count(|fate| *fate == Fate::Gone) == 1,
            "{gone:?}"
        );
        let without_c = [part("all_0_0_0", 5, "a"), part("all_1_1_0", 6, "b")];
        assert_eq!(found(&without_c, true).missing(), ["all_2_2_0"]);
    }

    #[test]
    fn a_part_whose_nodes_alone_differ_is_not_brought_beside_itself() {
        let first = manifest(vec![part("all_0_0_0", 5, "a")]);
        let own = manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 6, "b")]);
        let share = bring(&["all_0_0_0", "all_1_1_0"]);
        let active = [part("all_0_0_0", 5, "a")];
        let left = ["all_0_0_0", "all_1_1_0"];
        let found = fates(&own, &share, &[reference(&first)], &active, &left);
        assert_eq!(found.to_attach(), ["all_1_1_0"]);
        assert_eq!(found.missing(), Vec::<&str>::new());
    }
}
