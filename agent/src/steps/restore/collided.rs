//! A name under `detached/` that somebody took between the last look and RESTORE.
//!
//! Measured: RESTORE moves parts to `detached/` and attaches them from there by their names. Where a name is taken, the
//! good part becomes `<name>_try1`, and what lay there is attached in its place, without an error: 100 rows became the
//! stale 5. To attach the good part then would keep the stale one beside it.

use std::collections::HashMap;

use rekeeper_shared::domain::ids::quote_literal;
use rekeeper_shared::domain::inventory::ActivePart;
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use super::work::{CODE, Work};
use crate::clickhouse::DetachedPart;
use crate::steps::failed;
use crate::steps::shared::names::kept_name;
use crate::words::{mv, some_of};

/// What ClickHouse appends, with a number, to a name that is taken.
const TRY: &str = "_try";

impl Work<'_> {
    /// On the reference, where `moved` are folders that hold parts of the manifest under other names: none is there
    /// because its own name was taken, or what took it is neither active nor in the way any more.
    pub(super) async fn nothing_stale(&self, moved: &[&DetachedPart]) -> Result<(), Failure> {
        let is_on_the_manifest = |name: &str| self.manifest.parts.iter().any(|part| part.name == name);
        let named = |folder: &&DetachedPart| {
            let (name, tried) = folder.name.rsplit_once(TRY)?;
            (is_on_the_manifest(name) && tried.parse::<u32>().is_ok()).then(|| (name.to_owned(), folder.path.clone()))
        };
        let taken: Vec<(String, std::path::PathBuf)> = moved.iter().filter_map(named).collect();
        if self.following.is_some() || taken.is_empty() {
            return Ok(());
        }
        let active = self.context.clickhouse.active_parts(&self.table.name).await;
        let active = active.map_err(failed(CODE))?;
        let stale = self.foreign(&active);
        let folders = self.detached_parts().await?;
        let in_the_way: Vec<&DetachedPart> = folders
            .iter()
            .filter(|folder| taken.iter().any(|(name, _)| *name == folder.name))
            .collect();
        if stale.is_empty() && in_the_way.is_empty() {
            return Ok(());
        }
        if !stale.is_empty() {
            // What is said of them is no word of a user about the table's own parts.
            let mut note = self.restore_note()?;
            note.collided = true;
            self.write_restore_note(&note)?;
        }
        let table = self.table.name.sql();
        let mut statements: Vec<String> = stale
            .iter()
            .map(|part| format!("ALTER TABLE {table} DETACH PART {}", quote_literal(&part.name)))
            .collect();
        let detached = taken.iter().find_map(|(_, path)| path.parent());
        let paths = stale
            .iter()
            .filter_map(|part| detached.map(|detached| detached.join(&part.name)));
        let paths = paths.chain(in_the_way.iter().map(|folder| folder.path.clone()));
        statements.extend(paths.map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let to = path.with_file_name(kept_name(&self.context.migration, &name));
            mv(&path, &to)
        }));
        let names: Vec<String> = taken.into_iter().map(|(name, _)| name).collect();
        let attached: Vec<String> = stale
            .iter()
            .map(|part| format!("{} with {} rows", part.name, part.rows))
            .collect();
        let what = if attached.is_empty() {
            "is in the way".to_owned()
        } else {
            format!("was attached in their place ({})", some_of(&attached))
        };
        let text = format!(
            "right before {} was restored, somebody made folders under detached/ with the names of its parts {}: the \
             parts are in detached/ too, with {TRY}N behind their names, and what has their names {what}",
            self.table.name,
            some_of(&names)
        );
        let fix = format!(
            "on this host: {}; then rekeeper retry {}, which attaches the table's own parts; what was moved may be \
             looked at, and attached, afterwards",
            statements.join("; "),
            self.context.migration
        );
        Err(Failure::lasting(Code::DetachedCollision, text).with_fix(fix))
    }

    /// Active parts with blocks that RESTORE gave, beyond those of the manifest; users get later blocks.
    fn foreign<'p>(&self, active: &'p [ActivePart]) -> Vec<&'p ActivePart> {
        let mut blocks: HashMap<&str, i64> = HashMap::new();
        let mut own: HashMap<(&str, u64, &str), u64> = HashMap::new();
        for part in &self.manifest.parts {
            *blocks.entry(&part.partition_id).or_default() += 1;
            *own.entry((&part.partition_id, part.rows, &part.hash)).or_default() += 1;
        }
        let is_of_restore = |part: &&ActivePart| {
            PartName::parse(&part.name).is_some_and(|name| {
                name.level == 0 && name.min_block < blocks.get(&*part.partition_id).copied().unwrap_or(0)
            })
        };
        let mut foreign: Vec<&ActivePart> = active.iter().filter(is_of_restore).collect();
        foreign.retain(
            |part| match own.get_mut(&(&*part.partition_id, part.rows, &*part.hash)) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    false
                }
                _ => true,
            },
        );
        foreign
    }
}
