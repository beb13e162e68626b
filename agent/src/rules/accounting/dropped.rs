//! What users dropped or detached since the restore, by entries of the new path's log; never by absence alone.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Content, Evidence, content};
use rekeeper_shared::domain::document::ManifestPart;
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::part::{PartName, order_of};

/// Whether an entry takes one part, not a range over a partition.
#[must_use]
pub fn is_single(range: &str) -> bool {
    PartName::parse(range).is_some_and(|name| name.level < RANGE_LEVEL)
}

/// The level of a range that is no part: what is written into `DROP PARTITION`, `TRUNCATE` and the like.
const RANGE_LEVEL: u32 = 999_999_999;

/// One entry of the log that takes parts away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dropped {
    /// The range, as the entry names it: a part's name, or a range over a partition from its first block on.
    pub range: String,
    /// DETACH: what it took lies in `detached/` under the names that the parts had then.
    pub detached: bool,
}

/// The entries that took whole partitions, by partition: the one that dropped it, else the last one that detached it.
/// Every block that the restore gave comes before what a user could order since: a table is read-only until then.
#[must_use]
pub fn whole_partitions(dropped: &[Dropped]) -> BTreeMap<String, Dropped> {
    let mut whole: BTreeMap<String, Dropped> = BTreeMap::new();
    for entry in dropped {
        let Some(range) = PartName::parse(&entry.range) else {
            continue;
        };
        let is_whole = range.level >= RANGE_LEVEL && range.min_block == 0;
        if is_whole && whole.get(&range.partition).is_none_or(|known| known.detached) {
            whole.insert(range.partition, entry.clone());
        }
    }
    whole
}

/// Of partitions that were detached as a whole, those that were attached again since, at least in part, and the entry:
/// something with a later block is what a part of the manifest was, or may have been made of one. The entry explains
/// nothing then. A part that was not active when it came, since it was cut off while it was attached, say, was not
/// detached, and is not attached again with the others.
#[must_use]
pub fn attached_again<'a>(
    dropped: &[Dropped],
    active: &[ActivePart],
    parts: impl IntoIterator<Item = &'a ManifestPart>,
) -> BTreeMap<String, Dropped> {
    let mut whole = whole_partitions(dropped);
    if whole.is_empty() {
        return whole;
    }
    let known: HashSet<Content<'_>> = parts.into_iter().map(content).collect();
    whole.retain(|partition, entry| {
        let Some(range) = PartName::parse(&entry.range).filter(|_| entry.detached) else {
            return false;
        };
        active.iter().any(|part| {
            PartName::parse(&part.name).is_some_and(|name| {
                name.partition == *partition
                    && name.max_block > range.max_block
                    && (name.level > 0 || name.mutation.is_some() || known.contains(&content(part)))
            })
        })
    });
    whole
}

/// What the entries say of the parts of the reference's manifest.
pub(super) struct DroppedParts<'a> {
    /// What took whole partitions and counts, by partition.
    partitions: BTreeMap<String, Dropped>,
    /// For parts of each content, the names under which such parts were dropped one by one, and whether they were
    /// detached.
    single: HashMap<Content<'a>, VecDeque<(String, bool)>>,
    /// What DETACH has put under `detached/`: a folder of such a name is the user's.
    detached: HashSet<&'a str>,
}

impl<'a> DroppedParts<'a> {
    pub(super) fn new(evidence: Evidence<'a>) -> Self {
        let again = attached_again(evidence.dropped, evidence.active, &evidence.reference.parts);
        let mut partitions = whole_partitions(evidence.dropped);
        partitions.retain(|partition, _| !again.contains_key(partition));
        let mut found = Self {
            partitions,
            single: HashMap::new(),
            detached: HashSet::new(),
        };
        for dropped in evidence.dropped {
            let Some(range) = PartName::parse(&dropped.range) else {
                continue;
            };
            if range.level < RANGE_LEVEL {
                found.add_single(evidence, &range, dropped.detached);
                if dropped.detached {
                    found.detached.insert(&dropped.range);
                }
            }
        }
        found.forget_attached_again(evidence);
        found
    }

    /// One that was detached by itself and attached again is active, under a later block than the restore gave: its entry
    /// is not about another part of the same content.
    fn forget_attached_again(&mut self, evidence: Evidence<'a>) {
        if self.single.is_empty() {
            return;
        }
        let mut given: HashMap<&str, i64> = HashMap::new();
        for part in &evidence.reference.parts {
            *given.entry(&part.partition_id).or_default() += 1;
        }
        for active in evidence.active {
            let given = given.get(&*active.partition_id).copied().unwrap_or(0);
            if PartName::parse(&active.name).is_none_or(|name| name.min_block < given) {
                continue;
            }
            if let Some(entries) = self.single.get_mut(&content(active))
                && let Some(at) = entries.iter().position(|(_, detached)| *detached)
            {
                entries.remove(at);
            }
        }
    }

    /// A part, or one that others were merged into: those that got its blocks in the restore, if it is certain which
    /// got which.
    fn add_single(&mut self, evidence: Evidence<'a>, range: &PartName, detached: bool) {
        let mut parts: Vec<&ManifestPart> = evidence
            .reference
            .parts
            .iter()
            .filter(|part| part.partition_id == range.partition)
            .collect();
        // A part without rows gets a block, and is dropped by the server itself soon: what has which is not certain.
        if parts.iter().any(|part| part.rows == 0) {
            return;
        }
        parts.sort_by_key(|part| (evidence.late.contains(&part.name), order_of(&part.name)));
        let at = |block: i64| usize::try_from(block).ok().and_then(|block| parts.get(block));
        // A part that was cut off while it was attached used up a block: then what is active contradicts.
        let contradicts = evidence.active.iter().any(|active| {
            PartName::parse(&active.name).is_some_and(|name| {
                name.partition == range.partition
                    && name.min_block == name.max_block
                    && name.mutation.is_none()
                    && at(name.min_block).is_some_and(|part| content(part) != content(active))
            })
        });
        if contradicts {
            return;
        }
        for part in (range.min_block..=range.max_block).map_while(at) {
            self.single
                .entry(content(part))
                .or_default()
                .push_back((range.to_string(), detached));
        }
    }

    /// The range that took the whole partition of the part.
    pub(super) fn partition(&self, part: &ManifestPart) -> Option<String> {
        let entry = self.partitions.get(&part.partition_id);
        entry.map(|entry| entry.range.clone())
    }

    /// The entry that took a part of this content; each counts once.
    pub(super) fn take(&mut self, part: &'a ManifestPart) -> Option<String> {
        self.partition(part).or_else(|| {
            let entry = self.single.get_mut(&content(part)).and_then(VecDeque::pop_front);
            entry.map(|(range, _)| range)
        })
    }

    /// Whether the folder of that name under `detached/` is what a user detached.
    pub(super) fn is_of_user(&self, folder: &str) -> bool {
        self.detached.contains(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::super::account;
    use super::super::tests::{manifest, part};
    use super::*;
    use rekeeper_shared::domain::account::{Account, Fate};
    use rekeeper_shared::domain::document::Manifest;
    use rekeeper_shared::domain::inventory::ActivePart;

    fn four(partition: &str) -> Vec<ManifestPart> {
        // The reference had merged and lost blocks before: names that say nothing of the new ones.
        let rows = |n: u64| n + 1;
        (0..4)
            .map(|n| {
                part(
                    &format!("{partition}_{}_{}_1", 10 * n, 10 * n + 3),
                    rows(n),
                    &format!("{partition}{n}"),
                )
            })
            .collect()
    }

    fn restored(parts: &[ManifestPart], left: &[usize]) -> Vec<ActivePart> {
        let partition = &parts[0].partition_id;
        let renamed = |&n: &usize| ManifestPart {
            name: format!("{partition}_{n}_{n}_0"),
            ..parts[n].clone()
        };
        left.iter().map(renamed).collect()
    }

    fn fates(own: &Manifest, active: &[ActivePart], detached: &[&str], dropped: &[(&str, bool)]) -> Account {
        let dropped: Vec<Dropped> = dropped
            .iter()
            .map(|(range, detached)| Dropped {
                range: (*range).into(),
                detached: *detached,
            })
            .collect();
        account(Evidence {
            manifest: own,
            reference: own,
            is_reference: true,
            active,
            detached: &detached.iter().map(|name| (*name).to_owned()).collect(),
            late: &HashSet::new(),
            dropped: &dropped,
            same_as_reference: false,
            merges_keep_rows: true,
        })
    }

    #[test]
    fn a_dropped_partition_is_told_from_a_lost_one() {
        let (a, b) = (four("a"), four("b"));
        let m = manifest([a.clone(), b.clone()].concat());
        let active = restored(&b, &[0, 1, 2, 3]);
        assert_eq!(fates(&m, &active, &[], &[]).missing().len(), 4);
        let entry = "a_0_3_999999999_2147483647";
        let found = fates(&m, &active, &[], &[(entry, false)]);
        assert!(found.is_complete(), "{found:?}");
        assert_eq!(found.count(|f| *f == Fate::Dropped { by: entry.into() }), 4);
        // The entry of another partition explains nothing.
        assert!(!fates(&m, &active, &[], &[("b_0_3_999999999_2147483647", false)]).is_complete());
        // ATTACH PARTITION FROM another table names a range that drops nothing.
        assert!(!fates(&m, &active, &[], &[("a_0_0_0", false)]).is_complete());
    }

    #[test]
    fn what_was_left_of_a_dropped_partition_is_not_attached_again() {
        let m = manifest(four("a"));
        let found = fates(
            &m,
            &[],
            &["a_20_23_1", "a_30_33_1"],
            &[("a_0_1_999999999_2147483647", false)],
        );
        assert_eq!(found.to_attach(), Vec::<String>::new());
        assert!(found.is_complete(), "{found:?}");
    }

    #[test]
    fn a_dropped_part_is_known_by_the_block_that_the_restore_gave_it() {
        let a = four("a");
        let m = manifest(a.clone());
        let found = fates(&m, &restored(&a, &[0, 1, 3]), &[], &[("a_2_2_0", false)]);
        assert!(found.is_complete(), "{found:?}");
        // Another part than the one that is missing was dropped.
        assert_eq!(
            fates(&m, &restored(&a, &[0, 1, 3]), &[], &[("a_1_1_0", false)]).missing(),
            ["a_20_23_1"]
        );
        // The server drops empty parts by itself.
        let with_empty = manifest([vec![part("a_0_0_0", 0, "empty")], a.clone()].concat());
        assert!(!fates(&with_empty, &restored(&a, &[1, 2, 3]), &[], &[("a_0_0_0", false)]).is_complete());
        // The blocks have a gap, so the third block is not the third part.
        let mut shifted = restored(&a, &[0, 1]);
        shifted.push(ManifestPart {
            name: "a_4_4_0".into(),
            ..a[3].clone()
        });
        assert!(fates(&m, &shifted, &[], &[("a_2_2_0", false)]).is_complete());
        // A part before the gap stands where another should: what had the third block is not known.
        shifted[1].name = "a_3_3_0".into();
        assert!(!fates(&m, &shifted, &[], &[("a_2_2_0", false)]).is_complete());
    }

    #[test]
    fn a_detached_partition_that_came_back_excuses_nothing() {
        let a = four("a");
        let m = manifest(a.clone());
        // Two parts were active when it was detached; they and one that lay in `detached/` were attached. The last one was
        // cut off while it was attached.
        let again = |left: &[usize], from: usize| -> Vec<ActivePart> {
            let mut parts = restored(&a, left);
            for (n, part) in parts.iter_mut().enumerate() {
                part.name = format!("a_{0}_{0}_0", from + n);
            }
            parts
        };
        let entry = ("a_0_2_999999999_2147483647", true);
        assert_eq!(fates(&m, &again(&[0, 1, 2], 3), &[], &[entry]).missing(), ["a_30_33_1"]);
        let left = fates(&m, &again(&[0, 1], 3), &["a_20_23_1"], &[entry]);
        assert_eq!((left.to_attach().len(), left.missing().len()), (1, 1));
        // Merged since, so that it cannot be said of what.
        let mut merged = again(&[0], 3);
        merged[0] = part("a_3_5_1", 6, "merged");
        assert!(!fates(&m, &merged, &[], &[entry]).is_complete());
        // It stays away, whatever is written into it, or was detached or dropped once more.
        let written = [part("a_3_3_0", 7, "new")];
        assert!(fates(&m, &written, &[], &[entry]).is_complete());
        for (range, detached) in [
            ("a_0_6_999999999_2147483647", true),
            ("a_0_6_999999999_2147483647", false),
        ] {
            assert!(fates(&m, &[], &[], &[entry, (range, detached)]).is_complete());
        }
        let dropped_before = ("a_0_1_999999999_2147483647", false);
        assert!(fates(&m, &again(&[0, 1], 3), &[], &[dropped_before, entry]).is_complete());
    }

    #[test]
    fn a_part_that_was_detached_and_attached_again_excuses_no_equal_one() {
        let equal: Vec<ManifestPart> = (0..3).map(|n| part(&format!("a_{n}_{n}_0"), 1, "equal")).collect();
        let m = manifest(equal.clone());
        let entry = ("a_1_1_0", true);
        // One is detached: the other two are active.
        assert!(
            fates(
                &m,
                &[part("a_0_0_0", 1, "equal"), part("a_2_2_0", 1, "equal")],
                &[],
                &[entry]
            )
            .is_complete()
        );
        // It was attached again, and one that was cut off is not there.
        let active = [part("a_0_0_0", 1, "equal"), part("a_3_3_0", 1, "equal")];
        assert_eq!(fates(&m, &active, &[], &[entry]).missing().len(), 1);
    }

    #[test]
    fn what_a_user_detached_is_not_attached_again_as_a_leftover() {
        // The names that the restore gave are those that the parts had.
        let parts: Vec<ManifestPart> = (0..3)
            .map(|n| part(&format!("a_{n}_{n}_0"), n + 1, &n.to_string()))
            .collect();
        let m = manifest(parts.clone());
        let found = fates(&m, &restored(&parts, &[0, 2]), &["a_1_1_0"], &[("a_1_1_0", true)]);
        assert!(found.is_complete() && found.to_attach().is_empty(), "{found:?}");
        let range = ("a_0_2_999999999_2147483647", true);
        let found = fates(&m, &[], &["a_0_0_0", "a_1_1_0", "a_2_2_0"], &[range]);
        assert!(found.is_complete() && found.to_attach().is_empty(), "{found:?}");
    }
}
