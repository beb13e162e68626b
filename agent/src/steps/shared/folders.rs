//! The folders of parts: known by their `checksums.txt` whatever they are called, and set aside under `detached/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rekeeper_shared::domain::document::digest;

/// Digests of the `checksums.txt` of parts, by name. It holds the hashes of all files of a part and does not change when
/// the part is renamed. A part whose file cannot be read is left out.
pub(in crate::steps) async fn digests_of_checksums(parts: Vec<(String, PathBuf)>) -> BTreeMap<String, String> {
    let read = move || {
        let read = |(name, folder): (String, PathBuf)| {
            let content = std::fs::read(folder.join("checksums.txt")).ok()?;
            Some((name, digest(&content)))
        };
        parts.into_iter().filter_map(read).collect()
    };
    // A reader that panicked has read nothing.
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Renames the folder of a part to where it is set aside; where it cannot, which name that is.
pub(in crate::steps) fn set_aside(name: &str, folder: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    let aside = free_aside(name, folder);
    std::fs::rename(folder, &aside).map_err(|error| (aside, error))
}

/// Where the folder of a part is set aside: `detached/ignored_<part>`, as ClickHouse does, or the next free name like that.
pub(in crate::steps) fn free_aside(name: &str, folder: &Path) -> PathBuf {
    let detached = folder.with_file_name("detached");
    let mut aside = detached.join(format!("ignored_{name}"));
    for n in 1.. {
        if !aside.exists() {
            break;
        }
        aside = detached.join(format!("ignored_{name}_try{n}"));
    }
    aside
}
