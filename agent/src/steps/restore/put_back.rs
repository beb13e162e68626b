//! A restore of the reference that was cut while it moved parts to `detached/`, made as if it had never begun.
//!
//! The next one would attach only what it still finds active, and what was moved had to be attached after that: the
//! engines for which the later part is the newer one would then take old rows for new ones (measured: of 300 parts of a
//! ReplacingMergeTree, 107 moved when the server was killed, row 1060 won over 2990).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use super::work::Work;
use crate::clickhouse::{DetachedPart, Statement};
use crate::steps::failed;
use crate::steps::shared::folders::digests_of_checksums;
use crate::steps::shared::read_only::until_without_metadata;
use crate::words::mv;

impl Work<'_> {
    /// Moves parts of the manifest from `detached/` back among the parts, while the table is read-only and has no
    /// metadata yet; answers whether there were any.
    pub(super) async fn put_back(&self) -> Result<bool, Failure> {
        let moved = self.moved_parts().await?;
        if moved.is_empty() {
            return Ok(false);
        }
        if let Some(unproved) = self.unproved(&moved).await? {
            if !self.order.keep_order {
                return Ok(false); // They are attached afterwards.
            }
            return Err(match unproved {
                Unproved::Unread(folder) => {
                    self.cannot_put_back(&moved, &format!("it cannot read {}", folder.display()))
                }
                Unproved::Other(folder) => self.another_part(&folder),
            });
        }
        self.doing(format!(
            "puts {} parts back that a restore had moved when it was cut",
            moved.len()
        ));
        self.execute(Statement::DetachPermanently(&self.table.name)).await?;
        let put = moved.iter().try_for_each(|folder| put(&folder.path));
        self.execute(Statement::AttachTable(&self.table.name)).await?;
        self.stop_merges().await?;
        until_without_metadata(self.context, self.table).await?;
        match put {
            Ok(()) => Ok(true),
            Err(_) if !self.order.keep_order => Ok(false), // As above.
            Err(why) => Err(self.cannot_put_back(&self.moved_parts().await?, &why)),
        }
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

    /// Of which folder it is not certain that it is the part of the manifest; none when all are.
    async fn unproved(&self, moved: &[DetachedPart]) -> Result<Option<Unproved>, Failure> {
        let noted = &self.manifest.checksums;
        let folders = moved.iter().map(|folder| (folder.name.clone(), folder.path.clone()));
        let digests = digests_of_checksums(folders.collect()).await;
        let unproved = moved.iter().find_map(|folder| {
            let name = &folder.name;
            match (noted.get(name), digests.get(name)) {
                (Some(noted), Some(found)) if noted == found => None,
                (Some(_), Some(_)) => Some(Unproved::Other(folder.path.clone())),
                _ => Some(Unproved::Unread(folder.path.clone())),
            }
        });
        Ok(unproved)
    }

    fn another_part(&self, folder: &Path) -> Failure {
        let text = format!(
            "a restore of {} was cut while it moved parts to detached/, and {} is another part than the one of that name",
            self.table.name,
            folder.display()
        );
        let fix = format!(
            "look at what it holds and move it out of detached/; where a folder of its name with _tryN behind it is \
             there, that is the part, and gets the name; then rekeeper retry {}",
            self.context.migration
        );
        Failure::lasting(Code::PartsOutOfOrder, text).with_fix(fix)
    }

    /// With the statements and commands that put all of them back.
    fn cannot_put_back(&self, moved: &[DetachedPart], why: &str) -> Failure {
        let text = format!(
            "a restore of {} was cut while it moved parts to detached/, and the agent cannot put them back: {why}",
            self.table.name
        );
        let commands = moved
            .iter()
            .filter_map(|folder| Some(mv(&folder.path, &among_the_parts(&folder.path)?)));
        let fix = self.by_a_user_who_may(&self.while_detached(commands));
        Failure::lasting(Code::PartsOutOfOrder, text).with_fix(fix)
    }
}

/// A folder in `detached/` with the name of a part of the manifest.
enum Unproved {
    /// The agent cannot read it.
    Unread(PathBuf),
    /// It holds another part.
    Other(PathBuf),
}

/// Where `<table>/detached/<part>` was: `<table>/<part>`.
fn among_the_parts(folder: &Path) -> Option<PathBuf> {
    Some(folder.parent()?.parent()?.join(folder.file_name()?))
}

fn put(folder: &Path) -> Result<(), String> {
    let to = among_the_parts(folder).ok_or_else(|| format!("{} is no folder of a part", folder.display()))?;
    // A rename replaces an empty folder silently.
    if to.exists() {
        return Err(format!("{} exists", to.display()));
    }
    std::fs::rename(folder, &to).map_err(|e| format!("{} cannot be moved: {e}", folder.display()))
}
