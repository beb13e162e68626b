//! Where did every part of a manifest go? The rule of invariant 8, over lists; no I/O.

mod dropped;
mod follower;
mod merges;
mod order;

use std::collections::{HashMap, HashSet, VecDeque};

use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::document::{Manifest, ManifestPart};
use rekeeper_shared::domain::inventory::ActivePart;

use dropped::DroppedParts;
pub use dropped::{Dropped, attached_again, is_single, whole_partitions};
pub use follower::{Before, FollowerEvidence, account_follower};
pub use order::out_of_order;

/// What the account is made of.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What the replica had when the set was recorded.
    pub manifest: &'a Manifest,
    /// The reference's manifest: the replica's own when it is the reference.
    pub reference: &'a Manifest,
    /// The account is that of the reference, on its own host.
    pub is_reference: bool,
    /// What the server has active, asked after its RESTORE.
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
pub(super) mod tests;
