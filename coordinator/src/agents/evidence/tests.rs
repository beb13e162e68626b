use rekeeper_shared::domain::account;
use rekeeper_shared::domain::document::{FormerSettings, ManifestPart, pack};

use super::*;

fn table(manifest: Option<(String, u64)>) -> Subject {
    Subject::Table {
        name: TableName::new("d", "t"),
        uuid: "u".into(),
        replica_name: "r1".into(),
        manifest,
    }
}

fn examined<T: serde::Serialize>(
    subject: &Subject,
    document: &T,
    done: impl FnOnce(String) -> Done,
) -> Result<(), String> {
    let packed = pack(document).unwrap();
    let (host, migration) = ("h1".parse().unwrap(), "m".parse().unwrap());
    let whose = Whose {
        host: &host,
        migration: &migration,
        attempt: 3,
        subject,
    };
    examine(whose, &Outcome::Done(done(packed.digest.clone())), &packed)
}

fn manifest() -> document::Manifest {
    let part = |name: &str| ManifestPart {
        name: name.into(),
        partition_id: "all".into(),
        rows: 5,
        hash: name.into(),
    };
    document::Manifest {
        migration: "m".parse().unwrap(),
        host: "h1".parse().unwrap(),
        table: TableName::new("d", "t"),
        uuid: "u".into(),
        replica_name: "r1".into(),
        parts: vec![part("all_0_0_0"), part("all_1_1_0")],
        detached_before: vec![],
        checksums: std::collections::BTreeMap::new(),
        outdated: std::collections::BTreeMap::new(),
        settings: FormerSettings::default(),
        version: 0,
    }
}

#[test]
fn a_manifest_is_that_of_the_table_and_host_that_were_ordered() {
    let told = |(parts, rows)| move |digest| Done::Attached { digest, parts, rows };
    let of = |manifest: &document::Manifest, counts| examined(&table(None), manifest, told(counts));
    of(&manifest(), (2, 10)).unwrap();
    for counts in [(1, 10), (2, 11)] {
        assert!(
            of(&manifest(), counts).unwrap_err().contains("it tells of"),
            "{counts:?}"
        );
    }
    let others: &[fn(&mut document::Manifest)] = &[
        |m| m.migration = "other".parse().unwrap(),
        |m| m.host = "h2".parse().unwrap(),
        |m| m.table = TableName::new("d", "other"),
        |m| m.uuid = "other".into(),
        |m| m.replica_name = "r2".into(),
    ];
    for other in others {
        let mut changed = manifest();
        other(&mut changed);
        let refused = of(&changed, (2, 10)).unwrap_err();
        assert!(refused.contains("the manifest with it is that of"), "{refused}");
    }
    examined(&Subject::Other, &manifest(), told((2, 10))).unwrap_err();
}

#[test]
fn an_account_is_that_of_the_manifest_on_record_and_whole() {
    let fate = |name: &str, fate| (name.to_owned(), fate);
    let account = || account::RestoreAccount {
        migration: "m".parse().unwrap(),
        host: "h1".parse().unwrap(),
        manifest: "digest".into(),
        reference: true,
        account: account::Account {
            fates: vec![
                fate(
                    "all_0_0_0",
                    account::Fate::Active {
                        name: "all_0_0_0".into(),
                    },
                ),
                fate("all_1_1_0", account::Fate::Gone),
            ],
        },
        attached_again: vec![],
        unclear: vec![],
        set_aside: vec![],
        folders: vec![],
    };
    let counts = Restored {
        active: 1,
        dropped: 1,
        ..Restored::default()
    };
    let of = |account: &account::RestoreAccount, counts, manifest: &str, parts| {
        let told = |account| Done::Restored { counts, account };
        examined(&table(Some((manifest.to_owned(), parts))), account, told)
    };
    of(&account(), counts, "digest", 2).unwrap();
    of(&account(), counts, "other", 2).unwrap_err();
    of(&account(), counts, "digest", 3).unwrap_err();
    of(&account(), Restored::default(), "digest", 2).unwrap_err();
    let others: &[fn(&mut account::RestoreAccount)] = &[
        |a| a.migration = "other".parse().unwrap(),
        |a| a.host = "h2".parse().unwrap(),
        |a| a.account.fates[1].1 = account::Fate::Missing,
        |a| a.attached_again.push("all_0_0_0".into()),
        |a| a.set_aside.push("ignored_all_7_7_0".into()),
    ];
    for other in others {
        let mut changed = account();
        other(&mut changed);
        of(&changed, counts, "digest", 2).unwrap_err();
    }
}
