//! Engines other than MergeTree take the later part of two for the newer one: is the sequence of inserts kept? Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Content, content};
use rekeeper_shared::domain::document::ManifestPart;
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::part::{PartName, order_of};

type Partition<'a> = (Vec<&'a ManifestPart>, Vec<(PartName, &'a ActivePart)>);

/// The active parts that have to be detached and attached again, in this sequence, so that in every partition the parts
/// of the manifest stand in the sequence of their inserts, and what users wrote since comes after them. None when they
/// do.
///
/// `RESTORE` attaches in sequence; what was left of one that was cut is attached after what is active already, and
/// after what users wrote in between.
#[must_use]
pub fn out_of_order(manifest: &[ManifestPart], active: &[ActivePart]) -> Vec<String> {
    let mut partitions: BTreeMap<&str, Partition<'_>> = BTreeMap::new();
    for part in manifest.iter().filter(|part| part.rows > 0) {
        partitions.entry(&part.partition_id).or_default().0.push(part);
    }
    for active in active.iter().filter(|part| part.rows > 0) {
        if let (Some(name), Some(partition)) = (
            PartName::parse(&active.name),
            partitions.get_mut(active.partition_id.as_str()),
        ) {
            partition.1.push((name, active));
        }
    }
    let of_partition = |(mut parts, mut actives): Partition<'_>| {
        parts.sort_by_key(|part| order_of(&part.name));
        actives.sort_by_key(|(name, _)| name.min_block);
        again(&wanted(&parts, &actives))
    };
    partitions.into_values().flat_map(of_partition).collect()
}

/// The active parts of a partition in the sequence in which they should stand; what was merged of the first parts of
/// the manifest alone is left out, since it stands well.
fn wanted<'a>(parts: &[&'a ManifestPart], actives: &'a [(PartName, &'a ActivePart)]) -> Vec<&'a PartName> {
    let mut positions: HashMap<Content<'_>, VecDeque<i64>> = HashMap::new();
    for (position, part) in (0..).zip(parts) {
        positions.entry(content(part)).or_default().push_back(position);
    }
    let mut known: Vec<(i64, &PartName)> = Vec::new();
    let mut others: Vec<&PartName> = Vec::new();
    for (name, active) in actives {
        match positions.get_mut(&content(active)).and_then(VecDeque::pop_front) {
            Some(position) => known.push((position, name)),
            None => others.push(name),
        }
    }
    others.retain(|name| {
        let after = known.iter().filter(|(_, part)| part.min_block > name.max_block);
        // The restore gave the first parts the first blocks, before anybody could write.
        let first_after = after.map(|(position, _)| *position).min();
        let merged = name.min_block < name.max_block;
        !(merged && first_after.is_some_and(|first| name.max_block < first))
    });
    known.sort();
    known.into_iter().map(|(_, name)| name).chain(others).collect()
}

/// From the first part on that stands before one that should come before it.
fn again(wanted: &[&PartName]) -> Vec<String> {
    let stands = wanted
        .windows(2)
        .take_while(|pair| pair[0].max_block < pair[1].min_block)
        .count();
    let rest = wanted.get(stands + 1..).unwrap_or_default();
    rest.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::part;
    use super::*;

    fn again_of(active: &[ActivePart]) -> Vec<String> {
        let parts: Vec<ManifestPart> = (0..4)
            .map(|n| part(&format!("all_{n}_{n}_0"), n + 1, &n.to_string()))
            .collect();
        out_of_order(&parts, active)
    }

    fn at(block: i64, n: u64) -> ActivePart {
        part(&format!("all_{block}_{block}_0"), n + 1, &n.to_string())
    }

    fn of_user(block: i64) -> ActivePart {
        part(&format!("all_{block}_{block}_1"), 9, &format!("user {block}"))
    }

    #[test]
    fn parts_in_order_and_what_came_after_them_stand_well() {
        let none: [String; 0] = [];
        assert_eq!(again_of(&[at(0, 0), at(1, 1), at(3, 2), at(4, 3), of_user(5)]), none);
        assert_eq!(
            again_of(&[part("all_0_1_1", 3, "01"), at(2, 2), at(3, 3), of_user(4)]),
            none
        );
        assert_eq!(again_of(&[part("all_0_4_1", 9, "all of them and more")]), none);
        assert_eq!(again_of(&[]), none);
    }

    #[test]
    fn what_users_wrote_before_leftovers_were_attached_comes_again() {
        assert_eq!(
            again_of(&[at(0, 0), at(1, 1), of_user(2), at(3, 2), at(4, 3)]),
            ["all_2_2_1"]
        );
        assert_eq!(
            again_of(&[of_user(0), at(1, 0), at(2, 1), at(3, 2), of_user(4), at(5, 3)]),
            ["all_0_0_1", "all_4_4_1"]
        );
        // Merged with something that is not of the manifest.
        assert_eq!(
            again_of(&[part("all_0_2_1", 12, "01u"), at(3, 2), at(4, 3)]),
            ["all_0_2_1"]
        );
    }

    #[test]
    fn parts_that_an_earlier_restore_had_moved_come_before_the_others() {
        assert_eq!(
            again_of(&[at(0, 2), at(1, 3), at(2, 0), at(3, 1), of_user(4)]),
            ["all_0_0_0", "all_1_1_0", "all_4_4_1"]
        );
    }
}
