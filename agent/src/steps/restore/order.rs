//! The sequence of parts, where the engine takes the later one for the newer.

use crate::rules::accounting::out_of_order;
use rekeeper_shared::domain::ids::quote_literal;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use super::work::{CODE, Work};
use crate::steps::failed;
use crate::steps::shared::names::kept_name;

impl Work<'_> {
    /// Where the sequence of parts matters, it has to be that of the manifest, with what users wrote since at the end.
    pub(super) async fn check_order(&self) -> Result<(), Failure> {
        if !self.order.keep_order || self.following.is_some() {
            return Ok(()); // A follower has its parts of the reference, under the same names.
        }
        let active = self.context.clickhouse.active_parts(&self.table.name).await;
        let active = active.map_err(failed(CODE))?;
        let again = out_of_order(&self.manifest.parts, &active);
        if again.is_empty() {
            return Ok(());
        }
        let table = self.table.name.sql();
        let folders = self.detached_parts().await?;
        let statements = again.iter().map(|name| {
            let part = quote_literal(name);
            // ATTACH PART would take what lies there for the part.
            let in_the_way = folders.iter().find(|folder| folder.name == *name);
            let away = in_the_way.map_or_else(String::new, |folder| {
                let to = folder.path.with_file_name(kept_name(&self.context.migration, name));
                format!("mv '{}' '{}'; ", folder.path.display(), to.display())
            });
            format!("{away}ALTER TABLE {table} DETACH PART {part}; ALTER TABLE {table} ATTACH PART {part} SETTINGS insert_deduplicate = 0")
        });
        let statements: Vec<String> = statements.collect();
        let text = format!(
            "all rows of {} are there, but {} parts stand before older ones, so that their rows count as older: {}",
            self.table.name,
            again.len(),
            statements.join("; ")
        );
        Err(Failure::lasting(Code::PartsOutOfOrder, text))
    }
}
