//! Where did every part of a manifest go? The rule of invariant 8, over lists; no I/O.

mod dropped;
mod follower;
mod merges;
mod order;

use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::document::{Manifest, ManifestPart};
use crate::inventory::ActivePart;
use crate::part::PartName;

use dropped::DroppedParts;
pub use dropped::{Dropped, is_single, whole_partitions};
pub use follower::{Before, FollowerEvidence, account_follower};
pub use order::out_of_order;

/// What became of one part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    /// It has no rows; such parts vanish.
    Empty,
    /// It is active under this name: same rows, same hash.
    Active {
        /// Its name now.
        name: String,
    },
    /// Parts of a replica that was restored before have its rows: it was decided so when the set was recorded.
    Covered {
        /// Those parts, as their manifests name them.
        by: String,
    },
    /// It was merged since, into this part.
    Merged {
        /// The active part that has its rows now.
        into: String,
    },
    /// A user dropped or detached it since, says the log; or its replica had still to drop it when it was detached.
    Dropped {
        /// The range of the log's entry.
        by: String,
    },
    /// It is gone from the reference as well, which had accounted for all of its parts: merged, mutated or dropped
    /// since.
    Gone,
    /// It lies in `detached/` and is not active: to be attached.
    Detached,
    /// Nothing explains where it is.
    Missing,
}

/// The whole account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// Name in the manifest and fate, in the manifest's order.
    pub fates: Vec<(String, Fate)>,
}

impl Account {
    /// The parts to attach, in the order (partition, min block) that keeps the order of inserts.
    #[must_use]
    pub fn to_attach(&self) -> Vec<String> {
        let mut names: Vec<&String> = self
            .fates
            .iter()
            .filter(|(_, fate)| *fate == Fate::Detached)
            .map(|(name, _)| name)
            .collect();
        names.sort_by_key(|name| order_of(name));
        names.into_iter().cloned().collect()
    }

    /// The parts that nothing explains.
    #[must_use]
    pub fn missing(&self) -> Vec<&str> {
        self.fates
            .iter()
            .filter(|(_, fate)| *fate == Fate::Missing)
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Whether every part is on record as active, merged, covered, dropped, gone or empty.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.fates
            .iter()
            .all(|(_, fate)| !matches!(fate, Fate::Detached | Fate::Missing))
    }

    /// How many parts have a fate for which `wanted` answers true.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(&Fate) -> bool) -> u64 {
        self.fates.iter().filter(|(_, fate)| wanted(fate)).count() as u64
    }
}

fn order_of(name: &str) -> (String, i64, String) {
    PartName::parse(name).map_or_else(
        || (String::new(), 0, name.to_owned()),
        |part| (part.partition, part.min_block, name.to_owned()),
    )
}

/// What the account is made of.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The replica's own manifest.
    pub manifest: &'a Manifest,
    /// The reference's manifest: the replica's own when it is the reference.
    pub reference: &'a Manifest,
    /// The account is that of the reference, on its own host.
    pub is_reference: bool,
    /// The active parts now.
    pub active: &'a [ActivePart],
    /// The folders under `detached/` now.
    pub detached: &'a HashSet<String>,
    /// On the reference: parts that lay in `detached/` already when RESTORE was sent, since an earlier one was cut while
    /// it moved them there. They got their blocks after the others.
    pub late: &'a HashSet<String>,
    /// What users dropped since, by the log of the new path.
    pub dropped: &'a [Dropped],
    /// On a follower: the reference has no part any more that is not active here under the same name.
    pub same_as_reference: bool,
    /// Whether a merge keeps the number of rows (plain MergeTree) or may lower it (Replacing, Collapsing ...).
    pub merges_keep_rows: bool,
}

impl Evidence<'_> {
    /// Its folder lies in `detached/`, put there by a restore.
    fn left_behind(&self, part: &ManifestPart) -> bool {
        self.detached.contains(&part.name) && !self.manifest.detached_before.contains(&part.name)
    }
}

type Content<'a> = (&'a str, u64, &'a str);

fn content(part: &ManifestPart) -> Content<'_> {
    (&part.partition_id, part.rows, &part.hash)
}

/// Accounts for every part of the replica's manifest.
///
/// What is active with the same rows and hash is found first, as a multiset, so that of four identical parts each needs
/// its own. Of identical parts, those whose folders lie in `detached/` are the ones that are not active; on the
/// reference such a folder was never attached, whatever else looks like it (RESTORE moves what it attaches).
#[must_use]
pub fn account<'a>(evidence: Evidence<'a>) -> Account {
    let mut merges = merges::merged_since(evidence);
    let mut gone: HashMap<Content<'_>, usize> = HashMap::new();
    for part in &evidence.reference.parts {
        *gone.entry(content(part)).or_default() += 1;
    }
    let mut actives: HashMap<Content<'_>, VecDeque<&str>> = HashMap::new();
    for part in evidence.active {
        actives.entry(content(part)).or_default().push_back(&part.name);
    }
    let is_reference = evidence.is_reference;
    let mut dropped = DroppedParts::new(evidence);
    let left: HashSet<&str> = {
        let parts = evidence.manifest.parts.iter();
        let left = parts.filter(|part| evidence.left_behind(part) && !dropped.is_of_user(&part.name));
        left.map(|part| part.name.as_str()).collect()
    };
    let left_behind = |part: &ManifestPart| left.contains(part.name.as_str());
    let mut fate_of = |part: &'a ManifestPart| {
        let key = content(part);
        let may_be_gone = gone.get_mut(&key).is_some_and(|left| {
            let was_left = *left > 0;
            *left = left.saturating_sub(1);
            was_left && evidence.same_as_reference
        });
        if part.rows == 0 {
            Fate::Empty
        } else if is_reference && left_behind(part) {
            // To attach it would bring back what somebody has dropped since; its folder stays where it is.
            dropped
                .partition(part)
                .map_or(Fate::Detached, |by| Fate::Dropped { by })
        } else if let Some(name) = actives.get_mut(&key).and_then(VecDeque::pop_front) {
            Fate::Active { name: name.to_owned() }
        } else if let Some(into) = merges.get_mut(&key).and_then(VecDeque::pop_front) {
            Fate::Merged { into }
        } else if let Some(by) = dropped.take(part) {
            Fate::Dropped { by }
        } else if may_be_gone {
            Fate::Gone
        } else if left_behind(part) {
            Fate::Detached
        } else {
            Fate::Missing
        }
    };
    let parts = || evidence.manifest.parts.iter().enumerate();
    let mut fates: Vec<(usize, Fate)> = Vec::with_capacity(evidence.manifest.parts.len());
    for last in [false, true] {
        let these = parts().filter(|(_, part)| left_behind(part) == last);
        fates.extend(these.map(|(n, part)| (n, fate_of(part))));
    }
    fates.sort_by_key(|(n, _)| *n);
    let names = evidence.manifest.parts.iter().map(|part| part.name.clone());
    Account {
        fates: names.zip(fates.into_iter().map(|(_, fate)| fate)).collect(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::accounting) fn part(name: &str, rows: u64, hash: &str) -> ManifestPart {
        let partition_id = PartName::parse(name).unwrap().partition;
        ManifestPart {
            name: name.into(),
            partition_id,
            rows,
            hash: hash.into(),
        }
    }

    pub(in crate::accounting) fn manifest(parts: Vec<ManifestPart>) -> Manifest {
        Manifest {
            migration: "m".parse().unwrap(),
            host: "h".parse().unwrap(),
            table: crate::ids::TableName::new("d", "t"),
            uuid: "u".into(),
            replica_name: "r1".into(),
            parts,
            detached_before: vec!["all_9_9_0".into()],
        }
    }

    fn fates(own: &Manifest, reference: &Manifest, active: &[ManifestPart], detached: &[&str]) -> Account {
        let detached = detached.iter().map(|s| (*s).to_owned()).collect();
        account(Evidence {
            manifest: own,
            reference,
            is_reference: own == reference,
            active,
            detached: &detached,
            late: &HashSet::new(),
            dropped: &[],
            same_as_reference: false,
            merges_keep_rows: true,
        })
    }

    #[test]
    fn renamed_parts_are_found_by_rows_and_hash() {
        let m = manifest(vec![
            part("all_3_3_0", 5, "a"),
            part("all_4_7_1", 6, "b"),
            part("all_8_8_0", 0, "e"),
        ]);
        let found = fates(&m, &m, &[part("all_0_0_0", 5, "a"), part("all_1_1_0", 6, "b")], &[]);
        assert!(found.is_complete());
        assert_eq!(found.count(|f| matches!(f, Fate::Active { .. })), 2);
    }

    #[test]
    fn identical_parts_are_counted_each() {
        let m = manifest((0..4).map(|n| part(&format!("all_{n}_{n}_0"), 5, "same")).collect());
        let found = fates(&m, &m, &[part("all_0_0_0", 5, "same")], &["all_1_1_0", "all_2_2_0"]);
        assert_eq!(found.to_attach(), ["all_1_1_0", "all_2_2_0"]);
        assert_eq!(found.missing(), ["all_3_3_0"]);
    }

    #[test]
    fn of_identical_parts_the_ones_in_detached_are_left() {
        // Sorted as text, all_10 comes first; RESTORE attached all_2 and left the others.
        let m = manifest(vec![
            part("all_10_10_0", 5, "same"),
            part("all_2_2_0", 5, "same"),
            part("all_3_3_0", 5, "same"),
        ]);
        let found = fates(&m, &m, &[part("all_0_0_0", 5, "same")], &["all_10_10_0", "all_3_3_0"]);
        assert_eq!(found.to_attach(), ["all_3_3_0", "all_10_10_0"]);
        assert_eq!(found.missing(), Vec::<&str>::new());
        // Somebody wrote the same rows again meanwhile: the folders are still to be attached.
        let again = [part("all_0_0_0", 5, "same"), part("all_1_1_0", 5, "same")];
        let found = fates(&m, &m, &again, &["all_10_10_0", "all_3_3_0"]);
        assert_eq!(found.to_attach(), ["all_3_3_0", "all_10_10_0"]);
    }

    #[test]
    fn identical_parts_may_be_active_and_merged() {
        let m = manifest((0..3).map(|n| part(&format!("all_{n}_{n}_0"), 5, "same")).collect());
        let found = fates(
            &m,
            &m,
            &[part("all_0_1_1", 10, "ab"), part("all_2_2_0", 5, "same")],
            &[],
        );
        assert!(found.is_complete(), "{found:?}");
    }

    #[test]
    fn what_lay_in_detached_before_is_never_attached() {
        let m = manifest(vec![part("all_9_9_0", 5, "a")]);
        let found = fates(&m, &m, &[], &["all_9_9_0"]);
        assert_eq!(found.to_attach(), Vec::<String>::new());
        assert_eq!(found.missing(), ["all_9_9_0"]);
    }

    #[test]
    fn attach_order_is_numeric() {
        let m = manifest(vec![
            part("all_10_10_0", 1, "x"),
            part("all_9_9_1", 1, "y"),
            part("all_2_2_0", 1, "z"),
        ]);
        let found = fates(&m, &m, &[], &["all_10_10_0", "all_2_2_0", "all_9_9_1"]);
        assert_eq!(found.to_attach(), ["all_2_2_0", "all_9_9_1", "all_10_10_0"]);
    }

    #[test]
    fn a_merge_since_explains_only_its_own_blocks_and_only_with_their_rows() {
        let m = manifest(vec![
            part("all_5_5_0", 5, "a"),
            part("all_6_6_0", 6, "b"),
            part("all_7_7_0", 7, "c"),
        ]);
        let found = fates(&m, &m, &[part("all_0_1_1", 11, "ab"), part("all_2_2_0", 7, "c")], &[]);
        assert!(found.is_complete());
        let lying = fates(&m, &m, &[part("all_0_2_1", 11, "ab")], &[]);
        assert_eq!(lying.missing().len(), 3);
    }

    #[test]
    fn what_expired_or_was_deleted_since_is_known_by_its_blocks() {
        let m = manifest(vec![
            part("all_0_0_1", 0, "empty"),
            part("all_5_5_0", 5, "a"),
            part("all_6_6_0", 6, "b"),
            part("all_7_7_0", 7, "c"),
        ]);
        // The empty part had block 0; what has a mutation was mutated since.
        let deleted = fates(&m, &m, &[part("all_1_2_1", 11, "ab"), part("all_3_3_0_4", 0, "-")], &[]);
        assert!(deleted.is_complete(), "{deleted:?}");
        let none = HashSet::new();
        let expired = account(Evidence {
            manifest: &m,
            reference: &m,
            is_reference: true,
            active: &[part("all_1_2_1", 3, "ab"), part("all_3_3_0", 7, "c")],
            detached: &none,
            late: &none,
            dropped: &[],
            same_as_reference: false,
            merges_keep_rows: false,
        });
        assert!(expired.is_complete(), "{expired:?}");
        // Where rows cannot expire, they have to add up.
        let lost = fates(&m, &m, &[part("all_1_2_1", 3, "ab"), part("all_3_3_0", 7, "c")], &[]);
        assert_eq!(lost.missing(), ["all_5_5_0", "all_6_6_0"]);
    }

    #[test]
    fn a_gap_in_the_blocks_is_seen_by_the_rows() {
        // Block 2 was lost to a part that was cut off while it was attached; all_2 is block 3, and so on.
        let m = manifest(
            (0..6)
                .map(|n| part(&format!("all_{n}_{n}_0"), 10 + n, &n.to_string()))
                .collect(),
        );
        let active = [
            part("all_0_1_1", 21, "01"),
            part("all_3_4_1", 25, "23"),
            part("all_5_5_0", 14, "4"),
            part("all_6_6_0", 15, "5"),
            part("all_7_7_0", 99, "of a user"),
        ];
        assert!(fates(&m, &m, &active, &[]).is_complete());
        // A part less is not made up for by its neighbours.
        let less = [
            active[0].clone(),
            part("all_3_4_1", 13, "3"),
            active[2].clone(),
            active[3].clone(),
        ];
        assert!(!fates(&m, &m, &less, &[]).is_complete());
    }

    #[test]
    fn parts_that_an_earlier_restore_had_moved_come_last() {
        let m = manifest(
            (0..4)
                .map(|n| part(&format!("all_{n}_{n}_0"), n + 1, &n.to_string()))
                .collect(),
        );
        // RESTORE found all_2 and all_3 active, they became block 0 and 1 and were merged; then the others were attached.
        let active = [
            part("all_0_1_1", 7, "23"),
            part("all_2_2_0", 1, "0"),
            part("all_3_3_0", 2, "1"),
        ];
        let late = ["all_0_0_0", "all_1_1_0"].map(str::to_owned).into();
        let evidence = Evidence {
            manifest: &m,
            reference: &m,
            is_reference: true,
            active: &active,
            detached: &HashSet::new(),
            late: &late,
            dropped: &[],
            same_as_reference: false,
            merges_keep_rows: true,
        };
        assert!(account(evidence).is_complete());
        let none = HashSet::new();
        assert_eq!(
            account(Evidence {
                late: &none,
                ..evidence
            })
            .missing()
            .len(),
            2
        );
    }

    #[test]
    fn what_the_reference_has_not_got_any_more_is_gone_and_no_more_than_it_had() {
        let reference = manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 6, "b")]);
        let none = HashSet::new();
        let evidence = Evidence {
            manifest: &reference,
            reference: &reference,
            is_reference: false,
            active: &[],
            detached: &none,
            late: &none,
            dropped: &[],
            same_as_reference: true,
            merges_keep_rows: true,
        };
        assert!(account(evidence).is_complete());
        let unknown = account(Evidence {
            same_as_reference: false,
            ..evidence
        });
        assert_eq!(unknown.missing().len(), 2);
        // The reference never had the second one, and a merge that it had run explains nothing: that is for the union.
        let twice = manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 5, "a")]);
        let found = account(Evidence {
            manifest: &twice,
            ..evidence
        });
        assert_eq!(found.missing(), ["all_1_1_0"]);
        let merged = manifest(vec![part("all_0_1_1", 11, "ab")]);
        let found = account(Evidence {
            reference: &merged,
            active: &[part("all_0_0_0", 11, "ab")],
            ..evidence
        });
        assert_eq!(found.missing(), ["all_0_0_0", "all_1_1_0"]);
    }
}
