//! Parts that a killed server had on the disk and not yet in ZooKeeper.
//!
//! ClickHouse sets such parts aside itself when it starts (`detached/ignored_...`), unless they hold more than half of the
//! rows: then it refuses to start the replica (code 231), and offers only `force_restore_data`, which would adopt what
//! it should not. A server that was killed early in a restore has few parts, so this is not rare.

use std::path::{Path, PathBuf};

use rekeeper_shared::part::PartName;
use rekeeper_shared::step::Failure;

use super::failed;
use super::restore::{CODE, Work};
use crate::clickhouse::Statement;

impl Work<'_> {
    /// Sets the parts aside that ZooKeeper does not have for this replica, as ClickHouse does; answers whether there were
    /// any. Nothing is deleted: where such a part is one of the manifest, the account finds its folder.
    pub(super) async fn set_unexpected_parts_aside(&self) -> Result<bool, Failure> {
        let table = self.table;
        let folders = self.context.clickhouse.data_folders(&table.name).await;
        let folders = folders.map_err(failed(CODE))?;
        if self.unexpected_in(&folders).await?.is_empty() {
            return Ok(false);
        }
        self.execute(Statement::DetachPermanently(&table.name)).await?;
        // Looked at again, now that the server changes nothing any more.
        let unexpected = self.unexpected_in(&folders).await?;
        self.doing(format!(
            "sets {} parts aside that ZooKeeper does not have",
            unexpected.len()
        ));
        let moved = unexpected.iter().try_for_each(|(name, folder)| set_aside(name, folder));
        self.execute(Statement::AttachTable(&table.name)).await?;
        self.stop_merges().await?;
        moved.map_err(|(folder, error)| {
            let text = format!(
                "the server was killed while it restored {}, and refuses to start the replica (code 231) because of the \
                 part {}, which the agent cannot move ({error}): DETACH the table, move the folder into detached/ of \
                 the table under the name ignored_..., ATTACH the table, then retry; do not use force_restore_data",
                table.name,
                folder.display()
            );
            Failure::lasting(CODE, text)
        })?;
        Ok(true)
    }

    /// Name and folder of the parts on the disk that ZooKeeper does not have for this replica. Not from system.parts,
    /// which does not show what was refused.
    async fn unexpected_in(&self, folders: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, Failure> {
        let (table, ensemble) = (self.table, &self.order.witness.ensemble);
        let places = &self.context.zookeeper;
        let registered = places
            .registered_parts(ensemble, &table.path, &table.replica_name)
            .await?;
        let mut parts: Vec<(String, PathBuf)> = folders.iter().flat_map(|folder| parts_in(folder)).collect();
        parts.retain(|(name, _)| !registered.contains(name));
        Ok(parts)
    }
}

/// The parts in a table's folder; none when the agent cannot read it.
fn parts_in(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    named.filter(|(name, _)| PartName::parse(name).is_some()).collect()
}

/// Renames the folder of a part to `detached/ignored_<part>`, as ClickHouse does, or to the next free name like that.
pub(super) fn set_aside(name: &str, folder: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    let failed = |error| (folder.to_owned(), error);
    let detached = folder.with_file_name("detached");
    let free = (0..)
        .map(|n| match n {
            0 => detached.join(format!("ignored_{name}")),
            n => detached.join(format!("ignored_{name}_try{n}")),
        })
        .find(|path| !path.exists());
    free.map_or(Ok(()), |free| std::fs::rename(folder, free))
        .map_err(failed)
}
