//! The account that Restore hands over: what became of every part of a manifest. The rule that finds it is the agent's.

use serde::{Deserialize, Serialize};

use crate::domain::ids::{HostName, MigrationName};
use crate::domain::part::order_of;

/// What became of one part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    /// It has no rows; such parts vanish.
    Empty,
    /// It is active under this name: same rows, same hash.
    Active {
        /// The name under which its rows are active now: RESTORE gives other block numbers.
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

/// What became of every part of a manifest, and of what lies in `detached/`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// Name in the manifest and fate, in the manifest's sequence.
    pub fates: Vec<(String, Fate)>,
}

impl Account {
    /// The parts to attach, in the sequence (partition, min block) that keeps the sequence of inserts.
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

/// The whole account of a restored table replica, made once, when every part of its manifest was accounted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreAccount {
    /// The migration that made it.
    pub migration: MigrationName,
    /// The host whose agent accounted for it.
    pub host: HostName,
    /// Digest of the manifest that it accounts for.
    pub manifest: String,
    /// The replica was restored first and alone; the others cloned it.
    pub reference: bool,
    /// The fates of the manifest's parts.
    pub account: Account,
    /// Parts of the manifest that were attached from `detached/`, one by one, after an interrupted restore.
    pub attached_again: Vec<String>,
    /// Active parts of which it is not known whether they were attached again: the agent's note of that was lost.
    #[serde(default)]
    pub unclear: Vec<String>,
    /// The folders under `detached/` of parts that the agent has set aside: ZooKeeper did not have them for this replica.
    #[serde(default)]
    pub set_aside: Vec<String>,
    /// What lay under `detached/` then.
    pub folders: Vec<Folder>,
}

/// A folder under `detached/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// Below `detached/` of the table.
    pub name: String,
    /// The part of the manifest that it holds a copy of, by its name or by its `checksums.txt`.
    pub copy_of: Option<String>,
}
