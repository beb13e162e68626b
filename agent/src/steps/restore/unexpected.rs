//! Parts that a killed server had on the disk and not yet in ZooKeeper.
//!
//! ClickHouse sets such parts aside itself when it starts (`detached/ignored_...`), unless they hold more than half of the
//! rows: then it refuses to start the replica (code 231), and offers only `force_restore_data`, which would adopt what
//! it should not. A server that was killed early in a restore has few parts, so this is not rare.

use std::path::{Path, PathBuf};

use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::step::Failure;

use super::work::{CODE, Work};
use crate::clickhouse::Statement;
use crate::steps::failed;
use crate::steps::shared::folders::set_aside;
use crate::words::mv;

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
        let mut refused: Option<(std::io::Error, Vec<String>)> = None;
        for (name, folder) in &unexpected {
            if let Err((aside, error)) = set_aside(name, folder) {
                let (_, commands) = refused.get_or_insert_with(|| (error, Vec::new()));
                commands.push(mv(folder, &aside));
            }
        }
        self.execute(Statement::AttachTable(&table.name)).await?;
        self.stop_merges().await?;
        if let Some((error, commands)) = refused {
            let text = format!(
                "the server was killed while it restored {}, and refuses to start the replica (code 231) because of \
                 parts that ZooKeeper does not have; the agent cannot set them aside: {error}",
                table.name
            );
            let fix = self.by_a_user_who_may(&self.while_detached(commands.into_iter()));
            let fix = format!("{fix}; do not use force_restore_data");
            return Err(Failure::lasting(CODE, text).with_fix(fix));
        }
        Ok(true)
    }

    /// A replica that does not come into service may be refused for such parts: where the agent cannot read the table's
    /// folder, that is what has to be mended first.
    pub(super) async fn can_tell_why(&self, state: &str) -> Result<(), Failure> {
        let folders = self.context.clickhouse.data_folders(&self.table.name).await;
        let folders = folders.map_err(failed(CODE))?;
        let unread = folders
            .iter()
            .find_map(|folder| Some((folder, std::fs::read_dir(folder).err()?)));
        let Some((folder, error)) = unread else {
            return Ok(());
        };
        let text = format!(
            "{} has metadata and is not in service: {state}; whether the server refuses it because of parts that \
             ZooKeeper does not have (code 231 in its log), the agent cannot tell: it cannot read {} ({error})",
            self.table.name,
            folder.display()
        );
        let fix = format!(
            "let the agent of {} read and rename the folders of ClickHouse's parts (as root, or as ClickHouse's user); \
             then rekeeper retry {}; do not use force_restore_data",
            self.context.host, self.context.migration
        );
        Err(Failure::lasting(CODE, text).with_fix(fix))
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
