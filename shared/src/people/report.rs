//! `rekeeper report`: where every part of every manifest is now, and what is left in `detached/` and why.
//! What people see of the accounts that Restore hands over; no I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::domain::account::{Fate, Folder, RestoreAccount};
use crate::domain::document::{Manifest, ManifestPart};
use crate::domain::ids::{HostName, MigrationName};
use crate::domain::problem::Problem;
use crate::people::view::{ExportStatus, State, TableStatus};

/// `rekeeper report NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportView {
    /// The name of its plan.
    pub name: MigrationName,
    /// As `status` shows it.
    pub state: State,
    /// Where what was in ZooKeeper is exported to, one for each path that is recorded.
    #[serde(default)]
    pub exports: Vec<ExportReport>,
    /// Every table replica of the plan.
    pub tables: Vec<TableReport>,
}

/// The export of the nodes of a table in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// Path in ZooKeeper, without the chroot.
    pub zookeeper_path: String,
    /// Where the file is, and its digest.
    #[serde(flatten)]
    pub export: ExportStatus,
}

/// A table replica in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// The host that has this replica.
    pub host: HostName,
    /// The database, without quotes.
    pub database: String,
    /// The table, without its database and without quotes.
    pub table: String,
    /// The path that it shares with the other replicas of its set.
    pub zookeeper_path: String,
    /// Its name below `replicas` of the path.
    pub replica_name: String,
    /// INIT, DETACHED, ZK_CLEANED or RESTORED.
    pub status: TableStatus,
    /// How it is restored; none before that is known.
    pub role: Option<ReplicaRole>,
    /// How many parts of the manifest have each fate, by the fate's word.
    pub fates: BTreeMap<PartFate, u64>,
    /// Every part of the manifest; none before it is written.
    pub parts: Option<Vec<PartReport>>,
    /// What the restore left under `detached/`, and what was there before; none before the table is restored.
    pub detached: Option<Vec<FolderReport>>,
    /// Why it is not restored; absent when it is.
    pub problem: Option<Problem>,
}

/// How a replica is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    /// First and alone.
    Reference,
    /// After the reference.
    Follower,
}

/// A part of a manifest in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    /// As it was when the set was recorded.
    pub name: String,
    /// Rows of the manifest, not read anew.
    pub rows: u64,
    /// What became of it.
    pub fate: PartFate,
    /// The part that has its rows now: its own new name, or the part that it was merged into or is covered by.
    pub now: Option<String>,
}

/// What became of a part, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartFate {
    /// The table is not restored yet.
    Open,
    /// Active: attached by the restore.
    Active,
    /// Active: attached from `detached/`, one by one, after an interrupted restore.
    AttachedAgain,
    /// Active: attached by the restore or again, and the agent's note of that was lost.
    Unclear,
    /// Active: an equal part was fetched from another replica, and the own one stayed in `detached/`.
    Fetched,
    /// Merged since.
    Merged,
    /// A part of the reference has its rows.
    Covered,
    /// A user dropped or detached it since.
    Dropped,
    /// Gone from the reference as well, which had accounted for it: merged, mutated or dropped since.
    Gone,
    /// Without rows: such parts vanish.
    Empty,
    /// In `detached/` and nowhere else.
    Detached,
    /// Nothing explains where it is.
    Missing,
}

impl PartFate {
    /// The word, for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Active => "active",
            Self::AttachedAgain => "attached again",
            Self::Unclear => "active or attached again",
            Self::Fetched => "fetched",
            Self::Merged => "merged",
            Self::Covered => "covered",
            Self::Dropped => "dropped",
            Self::Gone => "gone since",
            Self::Empty => "empty",
            Self::Detached => "detached",
            Self::Missing => "missing",
        }
    }
}

/// A folder under `detached/` in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderReport {
    /// Below `detached/` of the table.
    pub name: String,
    /// Why it is there.
    pub why: Why,
    /// The part of the manifest that it holds a copy of.
    pub part: Option<String>,
    /// The same as a sentence.
    pub text: String,
}

/// Why a folder lies under `detached/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was there before the restore: it is the operator's, and was not touched.
    ThereBefore,
    /// The restore moved it there, and the rows of this part are accounted for elsewhere.
    PartOfManifest,
    /// The server set it aside, and the manifest does not know it.
    SetAside,
    /// The agent set it aside when the table was attached: ZooKeeper did not have it for this replica.
    NotOnRecord,
}

/// The parts of a manifest and what is in `detached/`, with the account when the table is restored.
#[must_use]
pub fn parts_and_folders(
    manifest: &Manifest,
    account: Option<&RestoreAccount>,
) -> (Vec<PartReport>, Option<Vec<FolderReport>>) {
    let Some(account) = account else {
        return (manifest.parts.iter().map(open).collect(), None);
    };
    let before: HashSet<&str> = manifest.detached_before.iter().map(String::as_str).collect();
    let left: HashSet<&str> = account.folders.iter().map(|folder| folder.name.as_str()).collect();
    let again: HashSet<&str> = account.attached_again.iter().map(String::as_str).collect();
    let unclear: HashSet<&str> = account.unclear.iter().map(String::as_str).collect();
    let fates: HashMap<&str, &Fate> = account
        .account
        .fates
        .iter()
        .map(|(name, fate)| (&**name, fate))
        .collect();
    let report = |part: &ManifestPart| {
        let name = part.name.as_str();
        let Some(fate) = fates.get(name) else {
            return open(part);
        };
        let own_copy_is_left = left.contains(name) && !before.contains(name);
        let (fate, now) = match fate {
            Fate::Active { name: now } if again.contains(name) => (PartFate::AttachedAgain, Some(now)),
            // A restore moves every part to detached/, and what is attached from there is there no more.
            Fate::Active { name: now } if own_copy_is_left => (PartFate::Fetched, Some(now)),
            Fate::Active { name: now } if unclear.contains(name) => (PartFate::Unclear, Some(now)),
            Fate::Active { name: now } => (PartFate::Active, Some(now)),
            Fate::Merged { into } => (PartFate::Merged, Some(into)),
            Fate::Covered { by } => (PartFate::Covered, Some(by)),
            Fate::Dropped { .. } => (PartFate::Dropped, None),
            Fate::Gone => (PartFate::Gone, None),
            Fate::Empty => (PartFate::Empty, None),
            Fate::Detached => (PartFate::Detached, None),
            Fate::Missing => (PartFate::Missing, None),
        };
        PartReport {
            name: part.name.clone(),
            rows: part.rows,
            fate,
            now: now.cloned(),
        }
    };
    let parts: Vec<PartReport> = manifest.parts.iter().map(report).collect();
    let folders = folders(&before, &parts, account);
    (parts, Some(folders))
}

fn open(part: &ManifestPart) -> PartReport {
    PartReport {
        name: part.name.clone(),
        rows: part.rows,
        fate: PartFate::Open,
        now: None,
    }
}

fn folders(before: &HashSet<&str>, parts: &[PartReport], account: &RestoreAccount) -> Vec<FolderReport> {
    let set_aside: HashSet<&str> = account.set_aside.iter().map(String::as_str).collect();
    let of: HashMap<&str, &PartReport> = parts.iter().map(|part| (part.name.as_str(), part)).collect();
    let report = |folder: &Folder| {
        let part = folder.copy_of.as_deref().and_then(|name| of.get(name));
        let (why, text) = if set_aside.contains(folder.name.as_str()) {
            // They lay there before the restore too, but not before the migration.
            let text = "set aside: not on the record, ZooKeeper did not have it for this replica".to_owned();
            (Why::NotOnRecord, text)
        } else if before.contains(folder.name.as_str()) {
            (Why::ThereBefore, "was there before the restore; not touched".to_owned())
        } else if let Some(part) = part {
            (Why::PartOfManifest, text_of(part))
        } else {
            let text = "set aside by the server; no part of the manifest".to_owned();
            (Why::SetAside, text)
        };
        FolderReport {
            name: folder.name.clone(),
            why,
            part: part
                .filter(|_| why == Why::PartOfManifest)
                .map(|part| part.name.clone()),
            text,
        }
    };
    account.folders.iter().map(report).collect()
}

fn text_of(part: &PartReport) -> String {
    let now = part.now.as_deref().unwrap_or_default();
    match part.fate {
        PartFate::Open => format!("a copy of {}, which is not accounted for yet", part.name),
        PartFate::Active | PartFate::AttachedAgain | PartFate::Unclear => {
            format!("a second copy of {}, which is active as {now}", part.name)
        }
        PartFate::Fetched => format!("an equal part was fetched instead, active as {now}"),
        PartFate::Merged => format!("a copy of {}, whose rows are in {now} now", part.name),
        PartFate::Covered => format!(
            "a copy of {}, whose rows the reference has in its part {now}",
            part.name
        ),
        PartFate::Dropped => format!("{}, or a part of its name, was dropped or detached since", part.name),
        PartFate::Gone => format!("{} was merged, mutated or dropped since", part.name),
        PartFate::Empty => format!("{} has no rows", part.name),
        PartFate::Detached => format!("{} is nowhere else", part.name),
        PartFate::Missing => format!("a copy of {}, which nothing accounts for", part.name),
    }
}

/// How many parts have each fate.
#[must_use]
pub fn fates(parts: &[PartReport]) -> BTreeMap<PartFate, u64> {
    let mut counts = BTreeMap::new();
    for part in parts {
        *counts.entry(part.fate).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Account;
    use crate::domain::ids::TableName;

    fn manifest() -> Manifest {
        let part = |name: &str, rows| ManifestPart {
            name: name.into(),
            partition_id: "all".into(),
            rows,
            hash: name.into(),
        };
        Manifest {
            migration: "m".parse().unwrap(),
            host: "h".parse().unwrap(),
            table: TableName::new("d", "t"),
            uuid: "u".into(),
            replica_name: "r2".into(),
            parts: (0..6)
                .map(|n| part(&format!("all_{n}_{n}_0"), if n == 5 { 0 } else { n + 1 }))
                .collect(),
            detached_before: vec![
                "all_0_0_0".into(),
                "broken_all_9_9_0".into(),
                "ignored_all_5_9_2".into(),
            ],
            checksums: BTreeMap::new(),
            outdated: BTreeMap::new(),
            settings: crate::domain::document::FormerSettings::default(),
            version: 0,
        }
    }

    #[test]
    fn a_table_that_is_not_restored_is_open() {
        let (parts, folders) = parts_and_folders(&manifest(), None);
        assert_eq!(fates(&parts), [(PartFate::Open, 6)].into());
        assert_eq!(folders, None);
    }

    #[test]
    fn every_part_and_every_folder_has_its_word() {
        let active = |name: &str| Fate::Active { name: name.into() };
        let fates_found = [
            active("all_0_0_0"),
            active("all_1_1_0"),
            active("all_2_2_0"),
            Fate::Merged {
                into: "all_3_4_1".into(),
            },
            Fate::Covered { by: "all_4_9_1".into() },
            Fate::Empty,
        ];
        let names = manifest().parts.into_iter().map(|part| part.name);
        let folder = |name: &str, copy_of: Option<&str>| Folder {
            name: name.into(),
            copy_of: copy_of.map(str::to_owned),
        };
        let account = RestoreAccount {
            migration: "m".parse().unwrap(),
            host: "h".parse().unwrap(),
            manifest: "digest".into(),
            reference: false,
            account: Account {
                fates: names.zip(fates_found).collect(),
            },
            attached_again: vec!["all_1_1_0".into()],
            unclear: Vec::new(),
            set_aside: vec!["ignored_all_5_9_2".into()],
            folders: vec![
                // It bears a manifest's name, and lay there before: nothing was fetched for it.
                folder("all_0_0_0", Some("all_0_0_0")),
                folder("broken_all_9_9_0", None),
                folder("all_2_2_0", Some("all_2_2_0")),
                folder("ignored_all_7_7_0", Some("all_4_4_0")),
                folder("ignored_all_8_8_1", None),
                folder("ignored_all_5_9_2", None),
            ],
        };
        let (parts, folders) = parts_and_folders(&manifest(), Some(&account));
        let words: Vec<(PartFate, Option<&str>)> = parts.iter().map(|part| (part.fate, part.now.as_deref())).collect();
        assert_eq!(
            words,
            [
                (PartFate::Active, Some("all_0_0_0")),
                (PartFate::AttachedAgain, Some("all_1_1_0")),
                (PartFate::Fetched, Some("all_2_2_0")),
                (PartFate::Merged, Some("all_3_4_1")),
                (PartFate::Covered, Some("all_4_9_1")),
                (PartFate::Empty, None),
            ]
        );
        let whys: Vec<(Why, Option<String>)> = folders.unwrap().into_iter().map(|f| (f.why, f.part)).collect();
        assert_eq!(
            whys,
            [
                (Why::ThereBefore, None),
                (Why::ThereBefore, None),
                (Why::PartOfManifest, Some("all_2_2_0".into())),
                (Why::PartOfManifest, Some("all_4_4_0".into())),
                (Why::SetAside, None),
                (Why::NotOnRecord, None),
            ]
        );
    }
}
