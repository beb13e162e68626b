//! Accounts of the reference, and of replicas that are equal to it.

use rekeeper_shared::domain::part::PartName;

use super::*;

pub(in crate::rules::accounting) fn part(name: &str, rows: u64, hash: &str) -> ManifestPart {
    let partition_id = PartName::parse(name).unwrap().partition;
    ManifestPart {
        name: name.into(),
        partition_id,
        rows,
        hash: hash.into(),
    }
}

pub(in crate::rules::accounting) fn manifest(parts: Vec<ManifestPart>) -> Manifest {
    Manifest {
        migration: "m".parse().unwrap(),
        host: "h".parse().unwrap(),
        table: rekeeper_shared::domain::ids::TableName::new("d", "t"),
        uuid: "u".into(),
        replica_name: "r1".into(),
        parts,
        detached_before: vec!["all_9_9_0".into()],
        checksums: std::collections::BTreeMap::new(),
        outdated: std::collections::BTreeMap::new(),
        settings: rekeeper_shared::domain::document::FormerSettings::default(),
        version: 0,
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
