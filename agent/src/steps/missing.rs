//! Parts that vanished or broke while the server was restarted: seen before anything is restored.

use std::collections::HashSet;

use rekeeper_shared::inventory::ActivePart;
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::{Failure, TableRef};

use super::Context;
use super::restore::some_of;

/// Of these names, those that no active part bears.
pub(super) fn not_active(names: &[String], active: &[ActivePart]) -> Vec<String> {
    let active: HashSet<&str> = active.iter().map(|part| part.name.as_str()).collect();
    let missing = names.iter().filter(|name| !active.contains(name.as_str()));
    missing.cloned().collect()
}

/// What a person can do about parts that are not on the disk of this replica.
pub(super) async fn parts_missing(context: &Context, table: &TableRef, missing: &[String]) -> Failure {
    let name = &table.name;
    let mut text = format!(
        "{} parts of {name}, which ZooKeeper had on record for this replica, are not active: {}",
        missing.len(),
        some_of(missing)
    );
    // What cannot be asked now is left out.
    let detached = context.clickhouse.detached_parts(name).await.unwrap_or_default();
    let is_copy = |folder: &str| missing.iter().any(|part| folder.ends_with(part.as_str()));
    let copies = detached.into_iter().map(|folder| folder.name);
    let copies: Vec<String> = copies.filter(|folder| is_copy(folder)).collect();
    if !copies.is_empty() {
        text.push_str(&format!("; detached/ holds {}", some_of(&copies)));
    }
    let folders = context.clickhouse.data_folders(name).await.unwrap_or_default();
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let fix = format!(
        "see the server's log for why; bring the folders of these parts back into {}, owned by the server's user: from \
         detached/ if one is whole there, or, but for disks on object storage, from the table's folder on another replica, which has \
         the same files under the same names; then rekeeper retry {}, which attaches the table anew",
        folders.join(" or "),
        context.migration
    );
    Failure::lasting(Code::RecordedPartsMissing, text).with_fix(fix)
}
