//! Names under `detached/` that a restore would stumble over. Pure.

use std::collections::{BTreeSet, HashMap};

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::part::PartName;

/// What ClickHouse puts before the name of a part while it attaches it; ATTACH PART refuses such a folder.
pub(in crate::steps) const ATTACHING: &str = "attaching_";

/// Those of the names under `detached/` that a restore would use for something else: the names of active and of
/// outdated parts, which it moves there, and the names that it gives. It gives the n-th part of a partition the block
/// n, so a restore that has to be repeated moves parts of such names. The same with `attaching_` before them, which is
/// what a part is called while it is attached.
///
/// Measured: with a stale `all_0_0_0` in `detached/` the good part of that name becomes `all_0_0_0_try1`, and the stale
/// one is attached; with a stale `attaching_all_0_0_0`, RESTORE fails half way (1001, Directory not empty).
pub fn collisions<'a>(
    active: impl IntoIterator<Item = &'a str>,
    outdated: impl IntoIterator<Item = &'a str>,
    detached: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let mut taken: BTreeSet<&str> = outdated.into_iter().collect();
    let mut parts_of: HashMap<String, i64> = HashMap::new();
    for name in active {
        taken.insert(name);
        if let Some(part) = PartName::parse(name) {
            *parts_of.entry(part.partition).or_default() += 1;
        }
    }
    let is_given = |name: &str| {
        PartName::parse(name).is_some_and(|part| {
            let parts = parts_of.get(&part.partition).copied().unwrap_or(0);
            part.min_block == part.max_block
                && part.level == 0
                && part.mutation.is_none()
                && (0..parts).contains(&part.min_block)
        })
    };
    let found: BTreeSet<&str> = detached
        .into_iter()
        .filter(|name| {
            let name = attached(name);
            taken.contains(name) || is_given(name)
        })
        .collect();
    found.into_iter().map(str::to_owned).collect()
}

/// The name under which a folder of that part is kept in `detached/` without being in the way of anything: the engine
/// would read it as a part of a partition that no table has.
pub(in crate::steps) fn kept_name(migration: &MigrationName, part: &str) -> String {
    format!("rekeeper-{}_{part}", migration.as_str().replace('_', "-"))
}

/// The name of the part that ClickHouse was attaching in the folder, or the folder's own.
pub(in crate::steps) fn attached(folder: &str) -> &str {
    folder.strip_prefix(ATTACHING).unwrap_or(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_and_names_that_a_restore_gives_collide() {
        let active = ["all_5_9_1", "all_12_12_0", "7_3_3_0"];
        let outdated = ["all_5_5_0"];
        let detached = [
            "all_12_12_0",
            "all_5_5_0",
            "all_1_1_0",
            "all_2_2_0",
            "all_0_0_1",
            "7_0_0_0",
            "7_1_1_0",
            "broken_all_0_0_0",
            "ignored_all_12_12_0",
            "attaching_all_12_12_0",
            "attaching_all_7_7_0",
        ];
        assert_eq!(
            collisions(active, outdated, detached),
            [
                "7_0_0_0",
                "all_12_12_0",
                "all_1_1_0",
                "all_5_5_0",
                "attaching_all_12_12_0"
            ]
        );
    }
}
