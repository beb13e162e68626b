//! What users did with a table since its restore: evidence for the account of its parts.

use std::collections::HashSet;

use rekeeper_shared::accounting::{Dropped, is_single, whole_partitions};
use rekeeper_shared::document::Manifest;
use rekeeper_shared::ids::quote_literal;
use rekeeper_shared::inventory::ActivePart;
use rekeeper_shared::part::PartName;
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::Failure;

use super::failed;
use super::restore::{CODE, Work, some_of};
use crate::clickhouse::is_zero_uuid;

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
            let range = dropped.get(&part.partition_id).and_then(|range| PartName::parse(range));
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
