//! A restore of the reference that was cut while it moved parts to `detached/`, made as if it had never begun.
//!
//! The next one would attach only what it still finds active, and what was moved had to be attached after that: the
//! engines for which the later part is the newer one would then take old rows for new ones (measured: of 300 parts of a
//! ReplacingMergeTree, 107 moved when the server was killed, row 1060 won over 2990).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rekeeper_shared::problem::Code;
use rekeeper_shared::step::Failure;

use super::attach::until_without_metadata;
use super::leftovers::digests_of_checksums;
use super::restore::{Work, some_of};
use super::{failed, state_failed};
use crate::clickhouse::{DetachedPart, Statement};

impl Work<'_> {
    /// Moves parts of the manifest from `detached/` back among the parts, while the table is read-only and has no
    /// metadata yet; answers whether there were any.
    pub(super) async fn put_back(&self) -> Result<bool, Failure> {
        let moved = self.moved_parts().await?;
        if moved.is_empty() {
            return Ok(false);
        }
        let names: Vec<String> = moved.iter().map(|folder| folder.name.clone()).collect();
        if let Some(why) = self.unproved(&moved).await? {
            if !self.order.keep_order {
                return Ok(false); // They are attached afterwards.
            }
            return Err(self.cannot_put_back(&names, &why));
        }
        self.doing(format!(
            "puts {} parts back that a restore had moved when it was cut",
            moved.len()
        ));
        self.execute(Statement::DetachPermanently(&self.table.name)).await?;
        let put = moved.iter().try_for_each(|folder| put(&folder.path));
        self.execute(Statement::AttachTable(&self.table.name)).await?;
        self.stop_merges().await?;
        put.map_err(|why| self.cannot_put_back(&names, &why))?;
        until_without_metadata(self.context, self.table).await?;
        Ok(true)
    }

    /// The folders under `detached/` that bear a name of the manifest, were not there before, and are not active.
    async fn moved_parts(&self) -> Result<Vec<DetachedPart>, Failure> {
        let (clickhouse, table) = (&self.context.clickhouse, &self.table.name);
        let active = clickhouse.active_parts(table).await;
        let active = active.map_err(failed(Code::RestoreFailed))?;
        let mut open: HashSet<&str> = self.manifest.parts.iter().map(|part| part.name.as_str()).collect();
        let before = self.manifest.detached_before.iter().map(String::as_str);
        for name in before.chain(active.iter().map(|part| part.name.as_str())) {
            open.remove(name);
        }
        let mut folders = self.detached_parts().await?;
        folders.retain(|folder| open.contains(folder.name.as_str()));
        Ok(folders)
    }

    /// Why it is not certain that the folders are the parts of the manifest; none when it is.
    async fn unproved(&self, moved: &[DetachedPart]) -> Result<Option<String>, Failure> {
        let noted = self.context.state.checksums(&self.context.migration, self.table);
        let noted = noted.map_err(state_failed(Code::RestoreFailed))?;
        let folders = moved.iter().map(|folder| (folder.name.clone(), folder.path.clone()));
        let digests = digests_of_checksums(folders.collect()).await;
        let unproved = moved.iter().find_map(|folder| {
            let name = &folder.name;
            match (noted.get(name), digests.get(name)) {
                (Some(noted), Some(found)) if noted == found => None,
                (Some(_), Some(_)) => Some(format!("detached/{name} is another part than the one of that name")),
                _ => Some(format!("the agent cannot read {}", folder.path.display())),
            }
        });
        Ok(unproved)
    }

    fn cannot_put_back(&self, names: &[String], why: &str) -> Failure {
        let table = self.table.name.sql();
        Failure::lasting(
            Code::PartsOutOfOrder,
            format!(
                "a restore of {} was cut while it moved parts to detached/, and they cannot be put back ({why}): \
                 DETACH TABLE {table} PERMANENTLY SYNC; move these folders from detached/ to the folder above it: {}; \
                 ATTACH TABLE {table}",
                self.table.name,
                some_of(names)
            ),
        )
    }
}

/// Renames `<table>/detached/<part>` to `<table>/<part>`.
fn put(folder: &Path) -> Result<(), String> {
    let to: Option<PathBuf> = match (folder.parent().and_then(Path::parent), folder.file_name()) {
        (Some(table), Some(name)) => Some(table.join(name)),
        _ => None,
    };
    let to = to.ok_or_else(|| format!("{} is no folder of a part", folder.display()))?;
    // A rename replaces an empty folder silently.
    if to.exists() {
        return Err(format!("{} exists", to.display()));
    }
    std::fs::rename(folder, &to).map_err(|e| format!("{} cannot be moved: {e}", folder.display()))
}
