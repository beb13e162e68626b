//! What an interrupted restore left in `detached/` of the reference, attached again: in sequence, each once, and
//! nothing that is not on the manifest.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use crate::rules::accounting::whole_partitions;
use rekeeper_shared::domain::account::{Account, Fate};
use rekeeper_shared::domain::part::PartName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;
use tokio::time::Instant;

use super::settings::change_settings;
use super::work::Work;
use crate::clickhouse::{DetachedPart, Statement};
use crate::steps::failed;
use crate::steps::shared::folders::digests_of_checksums;
use crate::steps::shared::names::ATTACHING;
use crate::steps::shared::wait::POLL;
use crate::words::{mv, some_of};

/// The prefix of a folder that a server set aside when it was started again.
const IGNORED: &str = "ignored_";
/// How long entries that could fetch or attach a part by themselves may be queued.
const QUEUE_PATIENCE: Duration = Duration::from_secs(60);

/// Attaches what is left. When it answers well, every part of the manifest is accounted for.
pub(super) async fn attach(work: &Work<'_>) -> Result<(), Failure> {
    give_names_back(work).await?;
    let left = work.account().await?.to_attach();
    if !left.is_empty() {
        change_settings(work).await?;
        attach_all(work, &left).await?;
    }
    let account = work.account_in_time().await?;
    if !account.is_complete() {
        work.nothing_open_was_attached_again(&account).await?;
        return Err(work.unaccounted(&account).await);
    }
    work.nothing_dropped_is_back().await
}

/// Gives folders back the names under which they can be attached: those of missing parts that a server left under
/// another one when it was killed while it attached them. Measured: `attaching_<name>`, which ATTACH PART refuses under
/// both names, and after the next start `ignored_<its new name>`. A folder is known by its `checksums.txt`. Nothing is
/// being attached now, since this attempt is alone.
pub(super) async fn give_names_back(work: &Work<'_>) -> Result<(), Failure> {
    let account = work.account().await?;
    let detached = work.detached_parts().await?;
    let others = replaced(work, &account.to_attach(), &detached).await?;
    let mut missing = account.missing();
    if work.following.is_none() {
        missing.extend(others.iter().map(String::as_str));
    }
    // A follower attaches only what it has to bring.
    let attaches = |name: &&str| work.following.as_ref().is_none_or(|following| following.brings(name));
    missing.retain(attaches);
    let dropped = whole_partitions(&work.restore_note()?.dropped).into_values();
    let away: HashSet<String> = dropped
        .filter(|entry| entry.detached)
        .map(|entry| entry.range)
        .collect();
    if missing.is_empty() && away.is_empty() && work.following.is_some() {
        return Ok(());
    }
    let noted = &work.manifest.checksums;
    let mut free = strangers(work, detached).await;
    if work.following.is_none() || !away.is_empty() {
        missing.extend(cut_off(&account, &away, noted, &free).into_iter().filter(attaches));
    }
    let mut found: Vec<(&str, DetachedPart)> = Vec::new();
    for name in missing {
        let attaching = format!("{ATTACHING}{name}");
        let is_it = |(folder, digest): &(DetachedPart, Option<String>)| match (noted.get(name), digest) {
            (Some(noted), Some(digest)) => noted == digest,
            _ => folder.name == attaching,
        };
        if let Some(at) = free.iter().position(is_it) {
            found.push((name, free.swap_remove(at).0));
        }
    }
    let folders: Vec<&DetachedPart> = found.iter().map(|(_, folder)| folder).collect();
    work.nothing_stale(&folders).await?;
    let mut refused: Option<(std::io::Error, Vec<String>)> = None;
    for (name, folder) in found {
        let to = folder.path.with_file_name(name);
        work.doing(format!(
            "renames {}, which the server left when it was killed, to {name}",
            folder.name
        ));
        if let Err(error) = std::fs::rename(&folder.path, &to) {
            let (_, commands) = refused.get_or_insert_with(|| (error, Vec::new()));
            commands.push(mv(&folder.path, &to));
        }
    }
    let Some((error, commands)) = refused else {
        return Ok(());
    };
    let text = format!(
        "the server was killed while it attached parts of {}, and the agent cannot rename the folders that it left: {error}",
        work.table.name
    );
    let fix = work.by_a_user_who_may(&commands);
    Err(Failure::lasting(Code::PartsUnaccounted, text).with_fix(fix))
}

/// Parts that were cut off while they were attached, and count as merged since, by their blocks: a server that is killed
/// leaves a gap in the blocks, over which it may merge what users wrote. Or they count as detached with their partition:
/// under the name that they get they can be attached with it.
fn cut_off<'a>(
    account: &'a Account,
    detached: &HashSet<String>,
    noted: &BTreeMap<String, String>,
    free: &[(DetachedPart, Option<String>)],
) -> Vec<&'a str> {
    let left = |digest: &String| {
        free.iter().any(|(folder, found)| {
            let by_server = folder.name.starts_with(ATTACHING) || folder.name.starts_with(IGNORED);
            by_server && found.as_ref() == Some(digest)
        })
    };
    let is_cut_off = |(name, fate): &&(String, Fate)| {
        let counts = match fate {
            Fate::Merged { .. } => true,
            Fate::Dropped { by } => detached.contains(by),
            _ => false,
        };
        counts && noted.get(name).is_some_and(left)
    };
    let parts = account.fates.iter().filter(is_cut_off);
    parts.map(|(name, _)| name.as_str()).collect()
}

/// Of these parts, which lie under `detached/` by their names, those whose folder is known to hold another part.
async fn replaced(work: &Work<'_>, parts: &[String], detached: &[DetachedPart]) -> Result<Vec<String>, Failure> {
    let folders = detached.iter().filter(|folder| parts.contains(&folder.name));
    let paths = folders.map(|folder| (folder.name.clone(), folder.path.clone()));
    let found = digests_of_checksums(paths.collect()).await;
    let noted = &work.manifest.checksums;
    let differs = |(name, digest): &(String, String)| noted.get(name).is_some_and(|noted| noted != digest);
    Ok(found.into_iter().filter(differs).map(|(name, _)| name).collect())
}

/// The folders that bear no name of the manifest and were not there before, each with the digest of its `checksums.txt`,
/// where it can be read.
async fn strangers(work: &Work<'_>, mut folders: Vec<DetachedPart>) -> Vec<(DetachedPart, Option<String>)> {
    let parts = work.manifest.parts.iter().map(|part| &part.name);
    let known: HashSet<&String> = parts.chain(&work.manifest.detached_before).collect();
    folders.retain(|folder| !known.contains(&folder.name));
    let paths = folders.iter().map(|folder| (folder.name.clone(), folder.path.clone()));
    let digests = digests_of_checksums(paths.collect()).await;
    let with_digest = |folder: DetachedPart| {
        let digest = digests.get(&folder.name).cloned();
        (folder, digest)
    };
    folders.into_iter().map(with_digest).collect()
}

async fn attach_all(work: &Work<'_>, left: &[String]) -> Result<(), Failure> {
    // The reference is alone, so what is queued from here on comes of its own attaching.
    until_nothing_is_queued(work).await?;
    let folders = work.detached_parts().await?;
    let mut note = work.restore_note()?;
    note.attached.extend(left.iter().cloned());
    work.write_restore_note(&note)?;
    let noted = &work.manifest.checksums;
    // Partitions that somebody detached and attached again, and was asked about.
    let again = match note.told_of_drop {
        true => work.attached_again().await?,
        false => BTreeMap::new(),
    };
    for (done, name) in left.iter().enumerate() {
        let dropped = whole_partitions(&work.dropped().await?);
        let is_away = |part: PartName| {
            let entry = dropped.get(&part.partition);
            entry.is_some() && entry != again.get(&part.partition)
        };
        if PartName::parse(name).is_some_and(is_away) {
            continue; // Users can write already, and somebody has dropped its partition.
        }
        work.doing(format!("attaches {name} again, {done} of {} done", left.len()));
        let Some(folder) = folders.iter().find(|folder| folder.name == *name) else {
            continue; // The account that follows decides.
        };
        check_rows(work, name, &folder.path)?;
        check_files(work, name, &folder.path, noted.get(name)).await?;
        // If this fails, it is not sent again before the next attempt has looked: it could double the rows.
        work.execute(Statement::AttachPart(&work.table.name, name)).await?;
    }
    Ok(())
}

/// A folder with a manifest's name and other rows is another part. Skipped where the agent cannot read the folder, or
/// the disk keeps something else in its place: the account by hashes follows in any case.
fn check_rows(work: &Work<'_>, name: &str, folder: &Path) -> Result<(), Failure> {
    let Some(part) = work.manifest.parts.iter().find(|part| part.name == name) else {
        return Ok(());
    };
    let count = std::fs::read_to_string(folder.join("count.txt")).ok();
    match count.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(rows) if rows != part.rows => Err(Failure::lasting(
            Code::PartsUnaccounted,
            format!(
                "detached/{name} of {} has {rows} rows, and the part had {}: it is another one, and was not attached",
                work.table.name, part.rows
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

/// The same for the hashes of its files, as they were noted at the attach.
async fn check_files(work: &Work<'_>, name: &str, folder: &Path, noted: Option<&String>) -> Result<(), Failure> {
    let found = digests_of_checksums(vec![(name.to_owned(), folder.to_owned())]).await;
    match (noted, found.get(name)) {
        (Some(noted), Some(found)) if noted != found => Err(Failure::lasting(
            Code::PartsUnaccounted,
            format!(
                "detached/{name} of {} has other files than the part of that name had: it is another one, and was not \
                 attached",
                work.table.name
            ),
        )),
        _ => Ok(()),
    }
}

/// An entry that fetches or attaches could bring the part by itself.
async fn until_nothing_is_queued(work: &Work<'_>) -> Result<(), Failure> {
    let deadline = Instant::now() + QUEUE_PATIENCE;
    loop {
        let queued = work.context.clickhouse.queued_but_merges(&work.table.name).await;
        let mut queued = queued.map_err(failed(Code::RestoreFailed))?;
        queued.retain(|entry| ["GET", "ATTACH", "REPLACE"].iter().any(|word| entry.starts_with(word)));
        if queued.is_empty() {
            return Ok(());
        }
        let text = format!("{} entries are queued: {}", queued.len(), some_of(&queued));
        if Instant::now() >= deadline {
            return Err(Failure::passing(Code::RestoreFailed, text));
        }
        work.doing(text);
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_was_cut_off_is_known_by_its_files_whatever_its_blocks_say() {
        let merged = |name: &str| {
            let into = "all_0_4_1".to_owned();
            (name.to_owned(), Fate::Merged { into })
        };
        let account = Account {
            fates: vec![merged("all_0_0_0"), merged("all_2_2_0"), merged("all_3_3_0")],
        };
        let noted = ["all_0_0_0", "all_2_2_0", "all_3_3_0"].map(|name| (name.to_owned(), format!("files of {name}")));
        let noted = BTreeMap::from(noted);
        let folder = |name: &str, of: &str| {
            let folder = DetachedPart {
                name: name.to_owned(),
                path: PathBuf::from(name),
            };
            (folder, Some(format!("files of {of}")))
        };
        // What people put there is not the server's.
        let free = [
            folder("ignored_all_2_2_0", "all_2_2_0"),
            folder("kept_by_me", "all_3_3_0"),
        ];
        assert_eq!(cut_off(&account, &HashSet::new(), &noted, &free), ["all_2_2_0"]);
    }
}
