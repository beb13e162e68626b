use super::super::tests::{manifest, part};
use super::*;

fn bring(names: &[&str]) -> Share {
    let parts = names.iter().map(|name| ((*name).to_owned(), Verdict::Bring)).collect();
    Share {
        replica: "r2".into(),
        parts,
    }
}

fn fates(own: &Manifest, share: &Share, before: &[Before<'_>], active: &[ManifestPart], detached: &[&str]) -> Account {
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
