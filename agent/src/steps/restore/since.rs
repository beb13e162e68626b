//! What users did with a table since its restore: evidence for the account of its parts.

use std::collections::{BTreeMap, HashSet};

use crate::rules::accounting::{Dropped, attached_again, is_single, whole_partitions};
use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::document::Manifest;
use rekeeper_shared::domain::ids::quote_literal;
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use super::work::{CODE, Work};
use crate::clickhouse::is_zero_uuid;
use crate::steps::failed;
use crate::words::some_of;

impl Work<'_> {
    /// What the log says was dropped since, and said before: noted, since the log forgets it.
    pub(super) async fn dropped(&self) -> Result<Vec<Dropped>, Failure> {
        let mut seen = self.log_seen.lock().await;
        let (ensemble, path) = (&self.order.witness.ensemble, &self.table.path);
        let (new, next) = self.context.zookeeper.dropped_since(ensemble, path, *seen).await?;
        let mut note = self.restore_note()?;
        let known: HashSet<&Dropped> = note.dropped.iter().collect();
        let new: Vec<Dropped> = new.into_iter().filter(|entry| !known.contains(entry)).collect();
        if !new.is_empty() {
            note.dropped.extend(new);
            self.write_restore_note(&note)?;
        }
        *seen = next;
        // Blocks tell which part was dropped only where the reference began the path: in one that it joined, a drop may
        // be of what a stranger had there, and parts that nothing else explains are missing.
        if !note.dropped.is_empty() && self.path_was_joined().await? {
            return Ok(Vec::new());
        }
        // Whether it had collided is not known either.
        if note.collided || note.is_lost() {
            note.dropped.retain(|entry| !is_single(&entry.range));
        }
        Ok(note.dropped)
    }

    /// The partitions that somebody has detached since and attached again, at least in part.
    pub(super) async fn attached_again(&self) -> Result<BTreeMap<String, Dropped>, Failure> {
        let dropped = self.dropped().await?;
        if !dropped.iter().any(|entry| entry.detached) {
            return Ok(BTreeMap::new());
        }
        let active = self.context.clickhouse.active_parts(&self.table.name).await;
        let active = active.map_err(failed(CODE))?;
        let before = self.following.iter().flat_map(|following| &following.before);
        let before = before.flat_map(|(manifest, _)| &manifest.parts);
        Ok(attached_again(&dropped, &active, before.chain(&self.manifest.parts)))
    }

    /// No open part is of a partition that somebody detached and attached again while the part could not be attached with
    /// it. Whether it belongs there only a person can say, and is asked once; afterwards it is attached, unless the
    /// partition was detached again.
    pub(super) async fn nothing_open_was_attached_again(&self, account: &Account) -> Result<(), Failure> {
        let mut note = self.restore_note()?;
        if note.told_of_drop {
            return Ok(());
        }
        let again = self.attached_again().await?;
        let is_open = |(name, fate): &&(String, Fate)| {
            matches!(fate, Fate::Detached | Fate::Missing)
                && PartName::parse(name).is_some_and(|part| again.contains_key(&part.partition))
        };
        let open: Vec<String> = account
            .fates
            .iter()
            .filter(is_open)
            .map(|(name, _)| name.clone())
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        note.told_of_drop = true;
        self.write_restore_note(&note)?;
        let table = self.table.name.sql();
        let partitions: Vec<&str> = again.keys().map(String::as_str).collect();
        let text = format!(
            "somebody detached partition {} of {} and attached it again, or some of it, while {} parts of the table could not \
             be attached with it, since a restore that was cut had left them in detached/: {}",
            partitions.join(", "),
            self.table.name,
            open.len(),
            some_of(&open)
        );
        let statements: Vec<String> = partitions
            .iter()
            .map(|partition| format!("ALTER TABLE {table} DETACH PARTITION ID {}", quote_literal(partition)))
            .collect();
        let fix = format!(
            "if the partition is to stay away, on this host: {}; in any case rekeeper retry {}, which attaches those parts \
             otherwise",
            statements.join("; "),
            self.context.migration
        );
        Err(Failure::lasting(Code::PartsUnaccounted, text).with_fix(fix))
    }

    /// Between the last look and ATTACH PART somebody may still drop the partition: the rows are back then. Only a person
    /// can say whether that was meant, and is asked once.
    pub(super) async fn nothing_dropped_is_back(&self) -> Result<(), Failure> {
        let dropped = whole_partitions(&self.dropped().await?);
        let mut note = self.restore_note()?;
        if (note.attached.is_empty() && !note.is_lost()) || note.told_of_drop {
            return Ok(());
        }
        let parts = self.manifest.parts.iter();
        let attached: HashSet<(&str, u64, &str)> = parts
            .filter(|part| note.is_lost() || note.attached.contains(&part.name))
            .map(|part| (&*part.partition_id, part.rows, &*part.hash))
            .collect();
        let active = self.context.clickhouse.active_parts(&self.table.name).await;
        let active = active.map_err(failed(CODE))?;
        let is_back = |part: &&ActivePart| {
            let entry = dropped.get(&part.partition_id);
            let range = entry.and_then(|entry| PartName::parse(&entry.range));
            let name = PartName::parse(&part.name);
            attached.contains(&(&*part.partition_id, part.rows, &*part.hash))
                && matches!((range, name), (Some(range), Some(name)) if name.min_block > range.max_block)
        };
        let back: Vec<&ActivePart> = active.iter().filter(is_back).collect();
        let Some(first) = back.first() else {
            return Ok(());
        };
        note.told_of_drop = true;
        self.write_restore_note(&note)?;
        let table = self.table.name.sql();
        let names: Vec<String> = back
            .iter()
            .map(|part| format!("{} ({} rows)", part.name, part.rows))
            .collect();
        let text = format!(
            "somebody dropped partition {} of {} in the instant in which parts of it were attached again: {} may be rows that \
             were to be dropped",
            first.partition_id,
            self.table.name,
            some_of(&names)
        );
        let statements: Vec<String> = back
            .iter()
            .map(|part| format!("ALTER TABLE {table} DETACH PART {}", quote_literal(&part.name)))
            .collect();
        let fix = format!(
            "if they were, on this host: {}; in any case rekeeper retry {}",
            statements.join("; "),
            self.context.migration
        );
        Err(Failure::lasting(Code::PartsUnaccounted, text).with_fix(fix))
    }

    /// Whether the reference has no part that is not active here. It was accounted for before any follower began, so
    /// what neither has was merged, mutated or dropped since. Proved only if the replica is the very table of its
    /// manifest (one that was dropped and made anew has nothing) and has not lost a part to a disk.
    pub(super) async fn same_as_reference(&self, of: &Manifest, active: &[ActivePart]) -> Result<bool, Failure> {
        let (ensemble, path) = (&self.order.witness.ensemble, &self.table.path);
        let places = &self.context.zookeeper;
        let Some(now) = places.reference_now(ensemble, path, &of.replica_name).await? else {
            return Ok(false);
        };
        if now.created_by != of.uuid || is_zero_uuid(&of.uuid) || now.waits || now.lost_parts {
            return Ok(false);
        }
        let here: HashSet<&str> = active.iter().map(|part| part.name.as_str()).collect();
        let ranges: Vec<PartName> = active.iter().filter_map(|part| PartName::parse(&part.name)).collect();
        Ok(now.parts.iter().all(|name| {
            here.contains(name.as_str())
                || PartName::parse(name).is_some_and(|part| ranges.iter().any(|wide| wide.contains(&part)))
        }))
    }
}
