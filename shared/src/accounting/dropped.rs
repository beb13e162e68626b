//! What users dropped or detached since the restore, by entries of the new path's log; never by absence alone.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Content, Evidence, content, order_of};
use crate::document::ManifestPart;
use crate::part::PartName;

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

/// The ranges over whole partitions, by partition. Every block that the restore gave comes before what a user could order
/// since: a table is read-only until then.
#[must_use]
pub fn whole_partitions(dropped: &[Dropped]) -> BTreeMap<String, String> {
    let whole = |entry: &Dropped| {
        let range = PartName::parse(&entry.range)?;
        (range.level >= RANGE_LEVEL && range.min_block == 0).then(|| (range.partition, entry.range.clone()))
    };
    dropped.iter().filter_map(whole).collect()
}

/// What the entries say of the parts of the reference's manifest.
pub(super) struct DroppedParts<'a> {
    /// Ranges over whole partitions, by partition.
    partitions: BTreeMap<String, String>,
    /// For parts of each content, the names under which such parts were dropped one by one.
    single: HashMap<Content<'a>, VecDeque<String>>,
    /// What DETACH has put under `detached/`: a folder of such a name is the user's.
    detached: HashSet<&'a str>,
}

impl<'a> DroppedParts<'a> {
    pub(super) fn new(evidence: Evidence<'a>) -> Self {
        let mut found = Self {
            partitions: whole_partitions(evidence.dropped),
            single: HashMap::new(),
            detached: HashSet::new(),
        };
        for dropped in evidence.dropped {
            let Some(range) = PartName::parse(&dropped.range) else {
                continue;
            };
            if range.level < RANGE_LEVEL {
                found.add_single(evidence, &range);
                if dropped.detached {
                    found.detached.insert(&dropped.range);
                }
            }
        }
        found
    }

    /// A part, or one that others were merged into: those that got its blocks in the restore, if it is certain which
    /// got which.
    fn add_single(&mut self, evidence: Evidence<'a>, range: &PartName) {
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
                .push_back(range.to_string());
        }
    }

    /// The range that took the whole partition of the part.
    pub(super) fn partition(&self, part: &ManifestPart) -> Option<String> {
        self.partitions.get(&part.partition_id).cloned()
    }

    /// The entry that took a part of this content; each counts once.
    pub(super) fn take(&mut self, part: &'a ManifestPart) -> Option<String> {
        self.partition(part)
            .or_else(|| self.single.get_mut(&content(part)).and_then(VecDeque::pop_front))
    }

    /// Whether the folder of that name under `detached/` is what a user detached.
    pub(super) fn is_of_user(&self, folder: &str) -> bool {
        self.detached.contains(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{manifest, part};
    use super::super::{Account, Fate, account};
    use super::*;
    use crate::document::Manifest;
    use crate::inventory::ActivePart;

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
