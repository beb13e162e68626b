//! Disks that take no writes. RESTORE renames every part, so one on such a disk stops it half-way, after the nodes are gone.

use std::fs::{OpenOptions, remove_file};
use std::io::ErrorKind;
use std::path::Path;

use rekeeper_shared::domain::inventory::Disk;

use super::around::if_there;
use crate::clickhouse::{ClickHouse, Error};

/// Adds to the disks why each of them takes no writes, as far as it is told or seen.
///
/// `is_read_only` alone is not enough: a folder that was mounted read-only had 0 there on 26.9, also after a restart, and
/// a restore gave 20 of 40 rows. So a file is made and taken away again on local disks that the agent sees.
pub(super) async fn unwritable(clickhouse: &ClickHouse, disks: &mut [Disk]) -> Result<(), Error> {
    // Older servers have no such columns.
    let told: Vec<(String, String)> = if_there(
        clickhouse,
        "SELECT FROM system.disks",
        "SELECT name, multiIf(is_broken, 'is_broken', is_read_only, 'is_read_only', is_write_once, 'is_write_once', '') AS why \
         FROM system.disks WHERE why != ''",
    )
    .await?;
    let local: Vec<(String, String)> = clickhouse
        .rows(
            "SELECT FROM system.disks",
            "SELECT name, path FROM system.disks WHERE lower(toString(type)) = 'local'",
        )
        .await?;
    for disk in disks {
        let told = told.iter().find(|(name, _)| *name == disk.name);
        disk.unwritable = match told {
            Some((_, why)) => Some(format!("system.disks says {why}")),
            None => match local.iter().find(|(name, _)| *name == disk.name).cloned() {
                Some((_, path)) => tokio::task::spawn_blocking(move || refuses(Path::new(&path)))
                    .await
                    .unwrap_or_default(),
                None => None,
            },
        };
    }
    Ok(())
}

/// Why nothing can be written there. What the agent does not see, or has no right to, says nothing of the server.
fn refuses(folder: &Path) -> Option<String> {
    let file = folder.join(format!(".rekeeper-writes-{}", std::process::id()));
    let error = match OpenOptions::new().write(true).create_new(true).open(&file) {
        Ok(_) => remove_file(&file).err()?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => remove_file(&file).err()?,
        Err(error) => error,
    };
    (error.kind() == ErrorKind::ReadOnlyFilesystem).then(|| format!("{}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_where_it_was_tried() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refuses(folder.path()), None);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        assert_eq!(refuses(&folder.path().join("not-here")), None);
        // The kernel's own.
        assert!(refuses(Path::new("/proc/sys")).is_none_or(|why| why.contains("Read-only")));
    }
}
