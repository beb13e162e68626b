//! What an interrupted restore left in `detached/` of the reference, attached again: in order, each once, and nothing
//! that is not on the manifest.

use std::path::Path;
use std::time::Duration;

use rekeeper_shared::accounting::Fate;
use rekeeper_shared::problem::Code;
use rekeeper_shared::step::Failure;
use tokio::time::Instant;

use super::failed;
use super::restore::{Work, some_of};
use super::wait::POLL;
use crate::clickhouse::{DetachedPart, Statement};
use crate::state::Window;

/// The prefix of a folder that was being attached when the server died; ATTACH PART refuses it under both names.
const ATTACHING: &str = "attaching_";
/// How long entries that could fetch or attach a part by themselves may be queued.
const QUEUE_PATIENCE: Duration = Duration::from_secs(60);

/// Attaches what is left; answers how many parts. When it answers well, every part of the manifest is accounted for.
pub(super) async fn attach(work: &Work<'_>) -> Result<u64, Failure> {
    finish_renames(work).await?;
    let account = work.account().await?;
    let left = account.to_attach();
    let mut attached = 0;
    if !left.is_empty() {
        keep_identical_parts_apart(work).await?;
        let outcome = attach_all(work, &left).await;
        // Also after a failure; the note of the former value stays until this succeeded.
        put_window_back(work).await?;
        attached = outcome?;
    } else if work.restore_note()?.window.is_some() {
        put_window_back(work).await?;
    }
    let account = work.account().await?;
    if account.is_complete() {
        Ok(attached)
    } else {
        Err(work.unaccounted(&account))
    }
}

/// Gives folders the name back under which they can be attached. Only those of the manifest, and only where the server
/// was killed while it attached them: nothing is being attached now, since this attempt is alone.
async fn finish_renames(work: &Work<'_>) -> Result<(), Failure> {
    let folders = folders(work).await?;
    let has = |name: &str| folders.iter().any(|folder| folder.name == name);
    let missing: Vec<String> = {
        let account = work.account().await?;
        account
            .fates
            .into_iter()
            .filter_map(|(name, fate)| (fate == Fate::Missing).then_some(name))
            .collect()
    };
    for name in missing {
        let attaching = format!("{ATTACHING}{name}");
        let Some(folder) = folders.iter().find(|folder| folder.name == attaching) else {
            continue;
        };
        if has(&name) || work.manifest.detached_before.contains(&attaching) {
            continue;
        }
        let to = folder.path.with_file_name(&name);
        work.doing(format!("renames {attaching}, which the server left when it was killed"));
        std::fs::rename(&folder.path, &to).map_err(|e| {
            let text = format!(
                "the server was killed while it attached {name}, and the agent cannot rename the folder ({e}): as a \
                 user who may, mv '{}' '{}', then retry",
                folder.path.display(),
                to.display()
            );
            Failure::lasting(Code::PartsUnaccounted, text)
        })?;
    }
    Ok(())
}

async fn folders(work: &Work<'_>) -> Result<Vec<DetachedPart>, Failure> {
    let clickhouse = &work.context.clickhouse;
    clickhouse
        .detached_parts(&work.table.name)
        .await
        .map_err(failed(Code::RestoreFailed))
}

/// ATTACH PART takes equal parts for one and says OK; only this setting of the table keeps it from that.
async fn keep_identical_parts_apart(work: &Work<'_>) -> Result<(), Failure> {
    let mut note = work.restore_note()?;
    if note.window.is_none() {
        let clickhouse = &work.context.clickhouse;
        let former = clickhouse.deduplication_window(&work.table.name).await;
        note.window = Some(Window {
            value: former.map_err(failed(Code::RestoreFailed))?,
        });
        work.write_restore_note(&note)?;
    }
    work.execute(Statement::DeduplicationWindow(&work.table.name, 0)).await
}

async fn put_window_back(work: &Work<'_>) -> Result<(), Failure> {
    let mut note = work.restore_note()?;
    let Some(window) = note.window else {
        return Ok(());
    };
    let name = &work.table.name;
    work.execute(match window.value {
        Some(value) => Statement::DeduplicationWindow(name, value),
        None => Statement::ResetDeduplicationWindow(name),
    })
    .await?;
    note.window = None;
    work.write_restore_note(&note)
}

async fn attach_all(work: &Work<'_>, left: &[String]) -> Result<u64, Failure> {
    // The reference is alone, so what is queued from here on comes of its own attaching.
    until_nothing_is_queued(work).await?;
    let folders = folders(work).await?;
    let mut attached = 0;
    for (done, name) in left.iter().enumerate() {
        work.doing(format!("attaches {name} again, {done} of {} done", left.len()));
        let Some(folder) = folders.iter().find(|folder| folder.name == *name) else {
            continue; // The account that follows decides.
        };
        check_rows(work, name, &folder.path)?;
        // If this fails, it is not sent again before the next attempt has looked: it could double the rows.
        work.execute(Statement::AttachPart(&work.table.name, name)).await?;
        attached += 1;
    }
    Ok(attached)
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
