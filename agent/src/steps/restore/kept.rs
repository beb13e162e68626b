//! What a restore leaves in `detached/` keeps its rows, and gives its name away.
//!
//! Parts that are covered, outdated or were dropped stay there under their old names, which the engine gives again to new
//! parts: the next migration of the table would be blocked (DETACHED_COLLISION), and ATTACH PARTITION would attach them.
//! Under the name that they get here, nothing but a person who renames them does. Measured: ClickHouse up to 26.1 leaves
//! outdated parts like that (50 rows became 100 by ATTACH PARTITION), 26.3 and later name them `ignored_*`.

use crate::rules::accounting::is_single;
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::step::Failure;

use super::work::Work;
use crate::steps::shared::folders::digests_of_checksums;
use crate::steps::shared::names::{attached, kept_name};

impl Work<'_> {
    /// Renames what this restore has put under `detached/` and does not need any more: the folders of the parts that the
    /// table had, known by their `checksums.txt`, also those that were cut off while a follower attached them (it has fetched
    /// them since). What lay there before stays as it is, and so does what users detached since.
    /// A folder that the agent may not rename keeps its name; the checks of the next plan find it.
    pub(super) async fn give_names_away(&self) -> Result<(), Failure> {
        let noted = |name: &str| {
            let active = self.manifest.checksums.get(name);
            active.or_else(|| self.manifest.outdated.get(name))
        };
        let dropped = self.restore_note()?.dropped;
        // A single part, or a whole partition.
        let detached: Vec<PartName> = dropped
            .iter()
            .filter(|entry| entry.detached)
            .filter_map(|entry| PartName::parse(&entry.range))
            .collect();
        let of_user = |name: &str| {
            PartName::parse(name).is_some_and(|part| {
                detached.iter().any(|range| {
                    *range == part || (range.partition == part.partition && !is_single(&range.to_string()))
                })
            })
        };
        let mut folders = self.detached_parts().await?;
        folders.retain(|folder| {
            let name = attached(&folder.name);
            noted(name).is_some() && !self.manifest.detached_before.contains(&folder.name) && !of_user(name)
        });
        let paths = folders.iter().map(|folder| (folder.name.clone(), folder.path.clone()));
        let digests = digests_of_checksums(paths.collect()).await;
        for folder in folders {
            let name = attached(&folder.name);
            if digests.get(&folder.name) != noted(name) {
                continue;
            }
            let to = folder.path.with_file_name(kept_name(&self.context.migration, name));
            let renamed = if to.exists() {
                Err(std::io::ErrorKind::AlreadyExists.into())
            } else {
                std::fs::rename(&folder.path, &to)
            };
            if let Err(error) = renamed {
                let (from, to) = (folder.path.display(), to.display());
                tracing::warn!(table = %self.table.name, %from, %to, %error, "a folder keeps its name");
            }
        }
        Ok(())
    }
}
