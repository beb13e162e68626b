//! Where did every part of a manifest go? The rule of invariant 8, over lists; no I/O.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::document::{Manifest, ManifestPart};
use crate::inventory::ActivePart;
use crate::part::PartName;

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
    /// A part of the reference has its rows: the reference had run a merge that this replica had not.
    Covered {
        /// The reference's part, as its manifest names it.
        by: String,
    },
    /// It was merged since, into this part.
    Merged {
        /// The active part that has its rows now.
        into: String,
    },
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

    /// Whether every part is on record as active, merged, covered or empty.
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
    /// The active parts now.
    pub active: &'a [ActivePart],
    /// The folders under `detached/` now.
    pub detached: &'a HashSet<String>,
    /// Whether a merge keeps the number of rows (plain MergeTree) or may lower it (Replacing, Collapsing ...).
    pub merges_keep_rows: bool,
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
    let merged = MergedSince::new(evidence);
    let mut in_reference: HashMap<Content<'_>, usize> = HashMap::new();
    for part in &evidence.reference.parts {
        *in_reference.entry(content(part)).or_default() += 1;
    }
    let mut actives: HashMap<Content<'_>, VecDeque<&str>> = HashMap::new();
    for part in evidence.active {
        actives.entry(content(part)).or_default().push_back(&part.name);
    }
    let is_active: HashSet<Content<'_>> = actives.keys().copied().collect();
    let mut merges = merged.by_content();
    let is_reference = evidence.manifest == evidence.reference;
    let left_behind = |part: &ManifestPart| {
        evidence.detached.contains(&part.name) && !evidence.manifest.detached_before.contains(&part.name)
    };
    let mut fate_of = |part: &'a ManifestPart| {
        let key = content(part);
        if part.rows == 0 {
            Fate::Empty
        } else if is_reference && left_behind(part) {
            Fate::Detached
        } else if let Some(name) = actives.get_mut(&key).and_then(VecDeque::pop_front) {
            Fate::Active { name: name.to_owned() }
        } else if let Some(into) = merges.get_mut(&key).and_then(VecDeque::pop_front) {
            Fate::Merged { into }
        } else if let Some(by) = covered(evidence, part, &in_reference, &is_active, &merged) {
            Fate::Covered { by }
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

/// A part of the reference whose range contains this one's and which is itself accounted for here. Both histories are
/// one (the set was settled), and the rows must add up, since ranges alone can lie.
fn covered(
    evidence: Evidence<'_>,
    part: &ManifestPart,
    in_reference: &HashMap<Content<'_>, usize>,
    is_active: &HashSet<Content<'_>>,
    merged: &MergedSince<'_>,
) -> Option<String> {
    if in_reference.contains_key(&content(part)) {
        return None; // The reference has the very part: it must become active here, and is not covered by another.
    }
    let range = PartName::parse(&part.name)?;
    evidence.reference.parts.iter().find_map(|by| {
        let wide = PartName::parse(&by.name)?;
        if by.name == part.name || !wide.contains(&range) {
            return None;
        }
        let here = is_active.contains(&content(by)) || merged.has(by);
        let inside: u64 = evidence
            .manifest
            .parts
            .iter()
            .filter(|p| PartName::parse(&p.name).is_some_and(|p| wide.contains(&p)))
            .map(|p| p.rows)
            .sum();
        let rows_agree = inside == by.rows || (!evidence.merges_keep_rows && inside > by.rows);
        (here && rows_agree).then(|| by.name.clone())
    })
}

/// Merges that ran since the restore. A restore gives the n-th part of a partition the block n, so that the range of an
/// active part tells which parts of the reference's manifest went into it.
struct MergedSince<'a> {
    /// Per content of a part: the blocks it was given.
    blocks: HashMap<Content<'a>, Vec<(i64, &'a str)>>,
    /// Per partition: active parts of more than one block, and the rows that they must have.
    wide: BTreeMap<&'a str, Vec<(PartName, u64, u64)>>,
    merges_keep_rows: bool,
}

impl<'a> MergedSince<'a> {
    fn new(evidence: Evidence<'a>) -> Self {
        let mut by_partition: BTreeMap<&str, Vec<&ManifestPart>> = BTreeMap::new();
        for part in evidence.reference.parts.iter().filter(|p| p.rows > 0) {
            by_partition.entry(&part.partition_id).or_default().push(part);
        }
        let mut blocks: HashMap<Content<'a>, Vec<(i64, &str)>> = HashMap::new();
        let mut wide: BTreeMap<&str, Vec<(PartName, u64, u64)>> = BTreeMap::new();
        for (partition, parts) in &mut by_partition {
            parts.sort_by_key(|p| order_of(&p.name));
            for (block, part) in (0_i64..).zip(parts.iter()) {
                blocks.entry(content(part)).or_default().push((block, &part.name));
            }
            for active in evidence.active.iter().filter(|a| a.partition_id == *partition) {
                let Some(name) = PartName::parse(&active.name) else {
                    continue;
                };
                if name.level == 0 || name.max_block == name.min_block {
                    continue;
                }
                let sources: u64 = (0_i64..)
                    .zip(parts.iter())
                    .filter(|(block, _)| (name.min_block..=name.max_block).contains(block))
                    .map(|(_, part)| part.rows)
                    .sum();
                wide.entry(partition).or_default().push((name, active.rows, sources));
            }
        }
        Self {
            blocks,
            wide,
            merges_keep_rows: evidence.merges_keep_rows,
        }
    }

    /// For parts of each content, the active parts that such parts were merged into.
    fn by_content(&self) -> HashMap<Content<'a>, VecDeque<String>> {
        let into = |content: &Content<'a>, blocks: &[(i64, &str)]| {
            let found = blocks.iter().filter_map(|(block, _)| self.of(content.0, *block));
            found.collect()
        };
        self.blocks
            .iter()
            .map(|(key, blocks)| (*key, into(key, blocks)))
            .collect()
    }

    fn has(&self, part: &ManifestPart) -> bool {
        let blocks = self.blocks.get(&content(part)).into_iter().flatten();
        blocks
            .into_iter()
            .any(|(block, _)| self.of(&part.partition_id, *block).is_some())
    }

    fn of(&self, partition: &str, block: i64) -> Option<String> {
        let found = self.wide.get(partition)?.iter().find(|(name, rows, sources)| {
            // Blocks that users wrote since may have been merged in: more rows than the sources had are right.
            (name.min_block..=name.max_block).contains(&block) && (rows >= sources || !self.merges_keep_rows)
        })?;
        Some(found.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, rows: u64, hash: &str) -> ManifestPart {
        let partition_id = PartName::parse(name).unwrap().partition;
        ManifestPart {
            name: name.into(),
            partition_id,
            rows,
            hash: hash.into(),
        }
    }

    fn manifest(parts: Vec<ManifestPart>) -> Manifest {
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
            active,
            detached: &detached,
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
    fn a_merge_of_the_reference_covers_when_rows_agree() {
        let reference = manifest(vec![part("all_0_1_1", 11, "ab")]);
        let own = manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 6, "b")]);
        let found = fates(
            &own,
            &reference,
            &[part("all_0_0_0", 11, "ab")],
            &["all_0_0_0", "all_1_1_0"],
        );
        assert!(found.is_complete(), "{found:?}");
        let more = manifest(vec![part("all_0_0_0", 5, "a"), part("all_1_1_0", 7, "b")]);
        let found = fates(
            &more,
            &reference,
            &[part("all_0_0_0", 11, "ab")],
            &["all_0_0_0", "all_1_1_0"],
        );
        assert!(!found.is_complete());
    }
}
